"""Every form in which logits and labels come: one answer, or a message that names both readings."""

import math

import pytest
import torch
from torch import nn

from gendebug_torch import Records, Severity, diagnose
from gendebug_torch.calibration import (
    calibration_sums,
    classwise_bins,
    dense_records,
    fit_affine,
    fit_isotonic,
    fit_temperature,
    fit_top_label_map,
    recalibrate,
    reliability_bins,
)
from gendebug_torch.calibration.checks.ece import confidence_equals_accuracy
from gendebug_torch.calibration.recorder import CalibrationRecorder
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import binary, drawn, multilabel

MASKS = {
    "-1e4": -1e4,
    "-1e9": -1e9,
    "-1e30": -1e30,
    "float32": torch.finfo(torch.float32).min,
    "bfloat16": torch.finfo(torch.bfloat16).min,
}


def masked_rows(value, n=3000, k=20, share=0.3, dtype=torch.float32):
    """Logits twice too sharp, of which a share is masked by a value; the target never is."""
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    mask = torch.rand(n, k, generator=generator) < share
    mask[:, 0] = False
    allowed = z.masked_fill(mask, -math.inf)
    y = torch.multinomial((allowed / 2).softmax(1), 1, generator=generator)[:, 0]
    return z.to(dtype).masked_fill(mask, value), y


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("value", MASKS.values(), ids=MASKS)
def test_a_large_negative_number_masks_a_class_as_infinity_does(value, share):
    (finite, y), (infinite, _) = (masked_rows(v, share=share) for v in (value, -math.inf))
    assert fit_temperature(finite, y).temperature == pytest.approx(
        fit_temperature(infinite, y).temperature, rel=1e-6
    )
    for family in ("temperature", "bias_corrected"):
        one, other = (fit_affine(z, y, family=family) for z in (finite, infinite))
        assert torch.allclose(one.scale, other.scale, rtol=1e-4)
        assert not one.unbounded
    assert reliability_bins(finite, y).ece == pytest.approx(reliability_bins(infinite, y).ece)
    assert calibration_sums(finite, y).nll == pytest.approx(calibration_sums(infinite, y).nll)


def test_masks_are_recalibrated_in_every_form():
    expected = recalibrate(
        None, Records(logits=masked_rows(-math.inf)[0], targets=masked_rows(0)[1])
    )
    for value in (-1e4, -1e30):
        z, y = masked_rows(value)
        found = recalibrate(None, Records(logits=z, targets=y))
        assert found.chosen == expected.chosen != "none"
        assert found.temperature.temperature == pytest.approx(2.0, rel=0.1)
        assert found.after.ece == pytest.approx(expected.after.ece, abs=1e-4)
        assert torch.equal(found(z).argmax(1), z.argmax(1))


def test_a_masked_target_is_named_and_large_logits_are_no_masks():
    z, y = masked_rows(-1e30)
    with pytest.raises(InputError, match=r"^`targets`.* 1 rows"):
        fit_temperature(z.scatter(1, y[:1, None], -1e30), y)
    records = drawn(0, 2000, 5, scale=2.0)
    for scale in (1e4, 1e12):
        assert fit_temperature(
            scale * records.logits, records.targets
        ).temperature == pytest.approx(
            scale * fit_temperature(records.logits, records.targets).temperature, rel=1e-6
        )


FORMS = {
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.to(torch.uint8),
    "bool": lambda y: y.bool(),
    "float": lambda y: y.float(),
    "double": lambda y: y.double(),
    "column": lambda y: y[:, None],
    "float column": lambda y: y.float()[:, None],
}


@pytest.mark.parametrize("form", FORMS)
def test_binary_labels_of_every_form_give_one_answer(form):
    records = binary(0, 1500, scale=2.5)
    z, y, given = records.logits, records.targets, FORMS[form](records.targets)
    for logits in (z, z[:, None]):
        assert reliability_bins(logits, given).ece == reliability_bins(z, y).ece
        assert calibration_sums(logits, given).nll == calibration_sums(z, y).nll
        assert fit_temperature(logits, given) == fit_temperature(z, y)
        assert fit_top_label_map(logits, given) == fit_top_label_map(z, y)
        assert torch.equal(fit_isotonic(logits, given).levels, fit_isotonic(z, y).levels)
        assert torch.equal(classwise_bins(logits, given).ece, classwise_bins(z, y).ece)
    assert torch.equal(fit_affine(z, given).scale, fit_affine(z, y).scale)
    found, expected = (recalibrate(nn.Identity(), [(z, labels)]) for labels in (given, y))
    assert found.comparison().equals(expected.comparison())
    assert found.chosen != "none"


@pytest.mark.parametrize("form", ["int32", "bool", "float", "double"])
def test_labels_of_a_multilabel_head_may_be_of_every_type(form):
    records = multilabel(0, 1500, scale=3.0)
    z, y = records.logits, records.targets
    assert torch.equal(classwise_bins(z, FORMS[form](y)).ece, classwise_bins(z, y).ece)
    found, expected = (recalibrate(nn.Identity(), [(z, t)]) for t in (FORMS[form](y), y))
    assert found.comparison().equals(expected.comparison())


def test_floats_beside_k_logits_are_asked_with_the_argument_that_decides():
    records = drawn(0, 200, 5)
    z, y = records.logits, records.targets
    for call in (
        lambda: reliability_bins(z, y.float()),
        lambda: fit_temperature(z, y.double()),
        lambda: recalibrate(nn.Identity(), [(z, y.float())]),
    ):
        with pytest.raises(InputError, match=r"^`targets`.*whole numbers.*targets\.long\(\)"):
            call()
    with pytest.raises(InputError, match=r"^`targets`.*quantities"):
        reliability_bins(z, y + 0.5)


def classes(y, missing):
    """Class ids, of which the first 100 are missing."""
    y = y.clone()
    y[:100] = missing
    return y


@pytest.mark.parametrize(
    ("missing", "ignore_index"), [(-100, None), (-100, -100), (255, 255), (-1, -1)]
)
def test_rows_without_a_class_are_left_out_and_counted(missing, ignore_index):
    records = drawn(1, 1500, 4, scale=2.0)
    z, y = records.logits, classes(records.targets, missing)
    calls = [
        lambda: reliability_bins(z, y, ignore_index=ignore_index).ece,
        lambda: fit_temperature(z, y, ignore_index=ignore_index).temperature,
        lambda: recalibrate(nn.Identity(), [(z, y)], ignore_index=ignore_index).before.ece,
    ]
    expected = [
        reliability_bins(z[100:], y[100:]).ece,
        fit_temperature(z[100:], y[100:]).temperature,
        reliability_bins(z[100:], y[100:]).ece,
    ]
    for call, value in zip(calls, expected, strict=True):
        if ignore_index is None:
            with pytest.warns(UserWarning, match="100 of 1,500 labels are missing"):
                assert call() == pytest.approx(value, rel=1e-9)
        else:
            assert call() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("missing", "ignore_index"), [(math.nan, -100), (-100.0, -100), (7, 7)])
def test_floats_of_one_logit_may_be_missing(missing, ignore_index):
    records = binary(1, 1500, scale=2.5)
    z, y = records.logits, records.targets.double()
    y[:100] = missing
    expected = fit_temperature(z[100:], records.targets[100:])
    found = fit_temperature(z, y, ignore_index=ignore_index)
    assert found.temperature == pytest.approx(expected.temperature)


@pytest.mark.parametrize("missing", [math.nan, -100.0])
def test_missing_labels_of_a_multilabel_head_leave_the_others(missing):
    records = multilabel(0, 1500, scale=3.0)
    z, y = records.logits, records.targets.double()
    y[:300, 1] = missing
    y[:10] = missing
    found = classwise_bins(z, y)
    assert int(found.count[1].sum()) == 1200
    assert torch.allclose(found.ece[1], classwise_bins(z[300:, 1], records.targets[300:, 1]).ece[0])
    with pytest.warns(UserWarning, match="330 of 6,000 labels are missing"):
        result = recalibrate(nn.Identity(), [(z, y)])
    assert result.before.total == 6000 - 330
    assert result.chosen == "label_temperature"
    expected = fit_affine(z[300:, 1], records.targets[300:, 1], family="temperature")
    assert float(result.fitted.scale[1]) == pytest.approx(float(expected.scale))
    declared = recalibrate(nn.Identity(), [(z, y)], ignore_index=-100)
    assert declared.comparison().equals(result.comparison())


def test_one_hot_rows_are_read_as_classes_with_a_warning():
    records = drawn(2, 1500, 5, scale=2.5)
    z, y = records.logits, records.targets
    one_hot = nn.functional.one_hot(y, 5)
    expected = recalibrate(nn.Identity(), [(z, y)])
    for given in (one_hot, one_hot.float(), one_hot.bool()):
        with pytest.warns(UserWarning, match=r"one-hot classes.*`multilabel=True`"):
            found = recalibrate(nn.Identity(), [(z, given)])
        assert found.comparison().equals(expected.comparison())
        said = recalibrate(nn.Identity(), [(z, given)], multilabel=False)
        assert said.comparison().equals(expected.comparison())
        labels = recalibrate(nn.Identity(), [(z, given)], multilabel=True)
        assert labels.before.total == 5 * 1500
        with pytest.warns(UserWarning, match=r"separate labels.*argmax"):
            classwise_bins(z, given)
        with pytest.raises(InputError, match=r"^`targets`.*one-hot.*argmax\(1\)"):
            reliability_bins(z, given)
    with pytest.raises(InputError, match=r"^`multilabel`"):
        recalibrate(nn.Identity(), [(z, y)], multilabel=True)
    with pytest.raises(InputError, match=r"^`multilabel`"):
        recalibrate(None, multilabel(0), multilabel=False)


def test_outputs_that_look_like_probabilities_are_named():
    records = drawn(3, 1500, 4, scale=2.0)
    with pytest.warns(UserWarning, match="ends in a softmax or sigmoid"):
        found = recalibrate(nn.Softmax(dim=1), [(records.logits.float(), records.targets)])
    assert any("sums to 1" in text for text in found.warnings)
    one = binary(0, 1500, scale=2.0)
    with pytest.warns(UserWarning, match="lies in \\[0, 1\\], but"):
        recalibrate(nn.Sigmoid(), [(one.logits, one.targets)])
    with pytest.warns(UserWarning, match="declare the columns as `probs`"):
        probs = Records(logits=records.logits.softmax(1), targets=records.targets)
    (finding,) = confidence_equals_accuracy(probs)
    assert finding.severity is Severity.WARN
    right = reliability_bins(records.logits, records.targets).ece
    assert f"read as probabilities, its ECE is {right:.1%}" in finding.summary
    assert diagnose(validation=probs, only="calibration.ece").decision == "fix_data"
    assert not Records(logits=torch.rand(50) / 3, targets=torch.ones(50)).probs.isnan().any()


class Classes(nn.Module):
    """Logits with the classes second, or last."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, x):
        return x if self.last else x.movedim(-1, 1)


def sequences(length, k=5, b=60):
    records = drawn(4, b * length, k, scale=2.5)
    return records.logits.view(b, length, k).float(), records.targets.view(b, length)


@pytest.mark.filterwarnings("ignore:.*no finite")
def test_classes_that_are_last_are_found_out():
    x, y = sequences(7)
    expected = recalibrate(Classes(False), [(x, y)])
    assert expected.before.total == 420
    for call in (
        lambda: recalibrate(Classes(True), [(x, y)]),
        lambda: fit_temperature(x, y),
        lambda: dense_records(x, y),
    ):
        with pytest.raises(InputError, match=r"classes second.*`logits\.movedim\(-1, 1\)`"):
            call()
    square, y = sequences(5)
    with pytest.warns(UserWarning, match=r"classes last the accuracy would be .*movedim"):
        reliability_bins(square, y)
    with pytest.warns(UserWarning, match="movedim"):
        recalibrate(Classes(True), [(square, y)])
    recalibrate(Classes(False), [(square, y)])


def test_one_logit_per_position_is_a_binary_head():
    records = binary(5, 4096, scale=2.5)
    flat = records.logits.float(), records.targets
    z, y = flat[0].view(64, 1, 8, 8), flat[1].view(64, 8, 8)
    for given in (y, y[:, None], y.float(), y[:, None].float(), y.bool(), y.to(torch.uint8)):
        assert fit_temperature(z, given).temperature == pytest.approx(
            fit_temperature(*flat).temperature
        )
        assert reliability_bins(z, given).ece == pytest.approx(reliability_bins(*flat).ece)
        assert len(dense_records(z, given)) == 4096
    background = reliability_bins(z, torch.zeros_like(y))
    assert background.accuracy == pytest.approx(float((z <= 0).double().mean()))
    conv = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.zero_()
    for name in ("temperature", "top_platt", "isotonic"):
        found = recalibrate(
            conv, [(z, y[:, None].float())], candidates=[name], keep_predictions=False
        )
        assert found.chosen == name
        assert found.model(z).shape == z.shape
        assert torch.allclose(found.model(z).flatten(), found(flat[0]), atol=1e-4)
        if name == "temperature":
            assert torch.allclose(found.fold()(z), found.model(z), atol=1e-5)
    with pytest.raises(InputError, match=r"^`targets`.*`logits\[:, None\]`"):
        fit_temperature(z[:, 0], y)


def recorded(batches, **options):
    recorder = CalibrationRecorder(**options)
    for logits, targets in batches:
        recorder.add(logits, targets)
    recorder.close_epoch(0, recorder.epoch_sums())
    return recorder.history[0]


def test_a_monitor_counts_batches_of_every_shape():
    parts = [sequences(length) for length in (7, 4, 7, 9)]
    whole = (
        torch.cat([x.flatten(0, 1) for x, _ in parts]),
        torch.cat([y.flatten() for _, y in parts]),
    )
    counted = recorded([(x.movedim(-1, 1), y) for x, y in parts])
    assert counted.cells.total == len(whole[1])
    assert counted.nll == pytest.approx(calibration_sums(*whole).nll, rel=1e-6)
    records = binary(6, 65)
    z, y = records.logits, records.targets
    expected = calibration_sums(z, y).nll
    squeezed = [(z[:64], y[:64]), (z[64], y[64])]
    assert recorded(squeezed).nll == pytest.approx(expected)
    assert recorded([(z[:64], y[:64].float()), (z[64:], y[64:, None])]).nll == pytest.approx(
        expected
    )
    softmax = drawn(8, 65, 4)
    rows = softmax.logits, softmax.targets
    squeezed = [tuple(part[:64] for part in rows), tuple(part[64] for part in rows)]
    assert recorded(squeezed).nll == pytest.approx(calibration_sums(*rows).nll)
    labels = multilabel(0, 300)
    rows = labels.logits.flatten(), labels.targets.flatten()
    for given in (labels.targets, labels.targets.float()):
        assert recorded([(labels.logits, given)]).nll == pytest.approx(calibration_sums(*rows).nll)
    softmax = drawn(7, 300, 4)
    one_hot = nn.functional.one_hot(softmax.targets, 4).float()
    assert recorded([(softmax.logits, one_hot)]).nll == pytest.approx(
        calibration_sums(softmax.logits, softmax.targets).nll
    )


def test_each_label_is_judged_on_the_rows_that_have_it():
    """A label that is known for few rows is left out; the others keep all of theirs."""
    whole = multilabel(7, n=3000, scale=2.5)
    holes = whole.targets.clone()
    generator = torch.Generator().manual_seed(0)
    holes[torch.rand(3000, generator=generator) < 0.5, 0] = -100
    holes[20:, 1] = -100
    rows = dict.fromkeys(("validation", "production"))
    for side in rows:
        rows[side] = Records(targets=holes, logits=whole.logits, schema=whole.schema, name=side)
    diagnosis = diagnose(**rows, only="calibration")
    found = [f for f in diagnosis.findings if f.check.endswith("ece")]
    (full,) = confidence_equals_accuracy(whole)
    for finding in found:
        assert finding.subject == "label 3"
        assert finding.numbers["rows"] == finding.numbers["label_rows"] == 3000
        assert finding.numbers["worst_ece"] == pytest.approx(full.numbers["worst_ece"])
    few = Records(targets=holes[:, :2], logits=whole.logits[:, :2] * 3, schema=whole.schema)
    (finding,) = confidence_equals_accuracy(few)
    assert finding.subject == "label 0"
    assert 1400 < finding.numbers["label_rows"] < 1600
    assert "that have it" in finding.summary
    none = Records(targets=holes[20:, 1:2].expand(-1, 2), logits=whole.logits[20:, :2])
    (finding,) = confidence_equals_accuracy(none)
    assert finding.severity == "note"
