"""Rows that are not independent count once: dense outputs, groups of the schema; and rows with
weights."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.calibration import (
    calibration_sums,
    classwise_bins,
    dense_records,
    fit_temperature,
    recalibrate,
    reliability_bins,
)
from gendebug_torch.calibration.checks.ece import confidence_equals_accuracy
from gendebug_torch.calibration.checks.production_ece import production_confidence_equals_accuracy
from gendebug_torch.calibration.measures.dependent_rows import group_sums
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import drawn


def images(seed, samples=60, size=6, k=4, scale=1.0):
    """Dense outputs in which all pixels of an image say the same and have the same label: one row
    of evidence each."""
    one = drawn(seed, samples, k, scale=scale)
    z = one.logits[:, :, None, None].expand(-1, -1, size, size)
    return z, one.targets[:, None, None].expand(-1, size, size), one


def test_groups_of_one_row_are_independent_rows():
    records = drawn(0, 3000, 5, scale=1.5)
    grouped = {
        m.measure: m
        for m in group_sums(records.logits, records.targets, torch.arange(3000)).measures()
    }
    plain = {
        m.measure: m
        for m in calibration_sums(records.logits, records.targets).measures(replicates=200)
    }
    plain["ece"] = reliability_bins(records.logits, records.targets).measure()
    for name, found in grouped.items():
        assert found.value == pytest.approx(plain[name].value, abs=1e-9)
        assert found.high - found.value == pytest.approx(
            plain[name].high - plain[name].value, rel=0.15
        )
    assert grouped["ece"].low == pytest.approx(plain["ece"].low, abs=0.006)
    assert grouped["ece"].null == pytest.approx(plain["ece"].null, rel=0.15)


def test_pixels_of_an_image_are_one_observation():
    z, y, one = images(1, scale=2.0)
    by_image, by_row = (
        group_sums(z, y).measures(),
        group_sums(one.logits, one.targets, torch.arange(60)).measures(),
    )
    for found, expected in zip(by_image, by_row, strict=True):
        assert [found.value, found.low, found.high, found.p_value] == pytest.approx(
            [expected.value, expected.low, expected.high, expected.p_value], abs=1e-9, nan_ok=True
        )
    taken_for_rows = reliability_bins(z, y).measure()
    assert taken_for_rows.high - taken_for_rows.low < 0.5 * (by_image[-1].high - by_image[-1].low)


def test_calibrated_images_do_not_alarm_though_their_pixels_agree():
    by_group, by_pixel = 0, 0
    for seed in range(60):
        z, y, _ = images(seed, samples=100)
        by_group += group_sums(z, y).measures(replicates=200)[-1].p_value < 0.05
        by_pixel += reliability_bins(z, y).measure(replicates=200).p_value < 0.05
    assert by_group <= 8, "P(more than 8 of 60 at 5 %) is under 1 %"
    assert by_pixel >= 55


def test_checks_go_by_the_group_of_the_schema():
    records = dense_records(*images(3, samples=100)[:2])
    assert records.schema.group == "sample"
    alone = Records(logits=records.logits, targets=records.targets)
    assert confidence_equals_accuracy(records)[0].severity is Severity.OK
    assert confidence_equals_accuracy(alone)[0].severity.level >= Severity.WARN.level
    for this in (confidence_equals_accuracy, production_confidence_equals_accuracy):
        (finding,) = this(dense_records(*images(4, samples=300, scale=3.0)[:2]))
        assert finding.severity.level >= Severity.WARN.level
        assert finding.numbers["groups"] == 300
        assert "300 groups" in finding.summary


def test_dense_records_are_recalibrated_as_the_network_is():
    z, y, _ = images(5, samples=80, scale=2.5)
    y = y.clone()
    y[:, :2] = 255
    direct = recalibrate(
        nn.Identity(), [(z.float()[:30], y[:30]), (z.float()[30:], y[30:])], ignore_index=255
    )
    flat = recalibrate(None, dense_records(z.float(), y, ignore_index=255))
    assert direct.chosen == flat.chosen
    assert direct.comparison().equals(flat.comparison())
    assert direct.table().equals(flat.table())
    whole = fit_temperature(z, y, ignore_index=255)
    assert direct.temperature.temperature == pytest.approx(whole.temperature, rel=1e-6)
    # 24 pixels that agree tell no more than one.
    assert direct.temperature.standard_error == pytest.approx(
        whole.standard_error * math.sqrt(24), rel=0.02
    )


def test_weights_are_repetitions_in_recalibration():
    records = drawn(6, 900, 4, scale=2.0)
    weights = torch.arange(900) % 3
    weighted = recalibrate(None, records, weights=weights)
    frame = pd.DataFrame({"row": torch.arange(900).repeat_interleave(weights).numpy()})
    # Whole rows go to one fold, those of weight 0 too.
    kept = weights > 0
    again = recalibrate(None, records.select(kept), weights=weights[kept])
    repeated = Records(
        None,
        records.targets.repeat_interleave(weights),
        records.logits.repeat_interleave(weights, 0),
        frame,
        Schema(group="row"),
    )
    grouped = recalibrate(None, repeated)
    assert again.chosen == grouped.chosen == weighted.chosen
    for name in ("none", "temperature", "top_beta"):
        one, two = again.candidate(name), grouped.candidate(name)
        assert [one.gain, one.ece, one.sums.nll] == pytest.approx(
            [two.gain, two.ece, two.sums.nll], rel=1e-9
        )
    assert weighted.temperature.temperature == pytest.approx(
        grouped.temperature.temperature, rel=1e-9
    )
    assert weighted.before.ece == pytest.approx(grouped.before.ece, rel=1e-12)


def test_weights_move_the_fit_of_every_head():
    generator = torch.Generator().manual_seed(7)
    calm, bold = drawn(8, 600, 3, scale=1.0), drawn(9, 600, 3, scale=3.0)
    z, y = torch.cat([calm.logits, bold.logits]), torch.cat([calm.targets, bold.targets])
    first = (torch.arange(1200) < 600).double()
    assert recalibrate(None, Records(logits=z, targets=y), weights=first).chosen == "none"
    assert (
        recalibrate(None, Records(logits=z, targets=y), weights=1 - first).temperature.temperature
        > 2.5
    )
    labels = torch.bernoulli((z / 2).sigmoid(), generator=generator).long()
    found = recalibrate(
        None, Records(logits=z, targets=labels), weights=1 - first, candidates=["label_temperature"]
    )
    expected = recalibrate(
        None, Records(logits=z[600:], targets=labels[600:]), candidates=["label_temperature"]
    )
    assert torch.allclose(found.fitted.scale, expected.fitted.scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_mapped_without_changing_a_prediction(dtype):
    class Half(nn.Module):
        def forward(self, x):
            return x.to(dtype)

    records = drawn(10, 3000, 10, scale=2.5)
    z = records.logits.float()
    found = recalibrate(Half(), [(z, records.targets)])
    assert found.chosen != "none"
    assert all(candidate.changed == 0 for candidate in found.candidates)
    mapped = found.model(z)
    assert mapped.dtype == torch.float32
    assert torch.equal(mapped.argmax(1), z.to(dtype).argmax(1))
    given = recalibrate(None, Records(logits=z.to(dtype), targets=records.targets))
    assert given.chosen == found.chosen


def test_classwise_takes_dense_outputs_weights_and_ignored_labels():
    records = drawn(11, 1200, 4, scale=1.5)
    z, y = records.logits, records.targets
    expected = classwise_bins(z, y)
    dense = classwise_bins(z.view(12, 10, 10, 4).movedim(-1, 1), y.view(12, 10, 10))
    assert torch.equal(dense.count, expected.count)
    assert torch.allclose(dense.ece, expected.ece)
    marked = classwise_bins(
        torch.cat([z, z[:100]]), torch.cat([y, torch.full((100,), -100)]), ignore_index=-100
    )
    assert torch.allclose(marked.ece, expected.ece)
    weights = torch.arange(1200) % 3
    weighted = classwise_bins(z, y, weights=weights)
    repeated = classwise_bins(z.repeat_interleave(weights, 0), y.repeat_interleave(weights))
    assert torch.allclose(weighted.ece, repeated.ece)
    labels = torch.bernoulli(z.sigmoid(), generator=torch.Generator().manual_seed(0)).long()
    unknown = labels.clone()
    unknown[:300, 2] = -1
    found = classwise_bins(z, unknown, ignore_index=-1)
    assert torch.allclose(found.ece[2], classwise_bins(z[300:, 2], labels[300:, 2]).ece[0])
    assert torch.allclose(found.ece[:2], classwise_bins(z, labels).ece[:2])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda z, y: group_sums(z, y, torch.arange(7)), "groups"),
        (lambda z, y: group_sums(z, y * 0 + 9, ignore_index=9), "targets"),
        (lambda z, y: group_sums(z / 0, y), "logits"),
        (lambda z, y: dense_records(z, y[:3]), "targets"),
        (
            lambda z, y: recalibrate(None, Records(logits=z, targets=y), weights=torch.ones(3)),
            "weights",
        ),
        (
            lambda z, y: recalibrate(None, Records(logits=z, targets=y), weights=-torch.ones(50)),
            "weights",
        ),
        (
            lambda z, y: recalibrate(None, Records(logits=z, targets=y), weights=torch.zeros(50)),
            "weights",
        ),
    ],
)
def test_bad_input_is_named(call, argument):
    records = drawn(12, 50)
    with pytest.raises(InputError, match=rf"^`{argument}`"):
        call(records.logits, records.targets)
