import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity, diagnose
from gendebug_torch.checks.evidence import png
from gendebug_torch.shift.checks.quality import quality_is_that_of_validation
from gendebug_torch.shift.quality.metrics import area_metric, error_metric, mean_metric
from gendebug_torch.shift.quality.outcomes import decision_scores
from gendebug_torch.shift.quality.quality_change import quality_change
from gendebug_torch.stats.auc import auc_placements, rank_auc
from gendebug_torch.stats.dependence.design_effects import block_effect, group_effect
from tests.sequential import assert_rate


def random(seed):
    return torch.Generator().manual_seed(seed)


def two_classes(n, seed, *, gap=2.0, moved=0.0, name="validation"):
    """Scores that are log odds, `moved` away from them."""
    generator = random(seed)
    y = (torch.rand(n, generator=generator) < 0.4).long()
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    z = gap * (noise + gap * (y - 0.5)) + math.log(0.4 / 0.6)
    return Records(targets=y, logits=z + moved, name=name)


def test_placements_are_those_of_the_area_and_its_variance():
    generator = random(0)
    scores = torch.randint(0, 20, (300, 3), generator=generator).double()
    positive = torch.rand(300, 3, generator=generator) < 0.3
    placements = auc_placements(scores, positive)
    for i in range(3):
        expected = rank_auc(scores[:, i], positive[:, i])
        assert float(placements[positive[:, i], i].mean()) == pytest.approx(float(expected.auc))
        assert float(placements[~positive[:, i], i].mean()) == pytest.approx(float(expected.auc))
        metric = area_metric("AUC", placements[:, [i]], positive[:, [i]], ~positive[:, [i]])
        assert metric.value == pytest.approx(float(expected.auc))
        assert float(metric.influence.sum()) == pytest.approx(0.0, abs=1e-9)
        variance = float(metric.influence.square().mean()) / 300
        assert variance == pytest.approx(float(expected.variance), rel=0.02)
    assert auc_placements(scores[:5], torch.ones(5, 3, dtype=torch.bool)).isnan().all()


def test_an_accuracy_of_one_has_a_width():
    center, variance = mean_metric("accuracy", torch.ones(98)).moments(1.0)
    assert center == pytest.approx(0.99)
    assert variance == pytest.approx(0.99 * 0.01 / 100)
    positive = torch.arange(100)[:, None] % 2 == 0
    perfect = area_metric("AUC", auc_placements(positive.double(), positive), positive, ~positive)
    value, variance = perfect.moments(1.0)
    assert value == 1
    assert 0.005 < variance**0.5 < 0.03
    # Where many pairs are discordant, the width is DeLong's.
    generator = random(3)
    positive = torch.rand(5000, 1, generator=generator) < 0.25
    scores = torch.randn(5000, 1, generator=generator).double() + 1.8 * positive
    metric = area_metric("AUC", auc_placements(scores, positive), positive, ~positive)
    expected = rank_auc(scores[:, 0], positive[:, 0]).variance
    assert metric.moments(1.0)[1] ** 0.5 == pytest.approx(float(expected) ** 0.5, rel=0.05)
    # Sixteen times as many dependent rows are worth as much.
    assert mean_metric("accuracy", torch.ones(98 * 16)).moments(16.0)[0] == pytest.approx(0.99)


def test_a_threshold_says_what_errors_cost():
    z, y = torch.tensor([3.0, 3.0, -3.0, -3.0]), torch.tensor([1, 0, 1, 0])
    assert decision_scores(z, y, 0.5).tolist() == [1, 0, 0, 1]
    assert decision_scores(z, y, 0.9).tolist() == pytest.approx([1, -0.8, 0.8, 1])


def test_the_error_of_quantities_and_its_interval():
    generator = random(1)
    errors = torch.randn(4000, generator=generator, dtype=torch.float64)
    metric = error_metric("RMSE", errors)
    assert metric.value == pytest.approx(float(errors.square().mean().sqrt()))
    center, variance = metric.moments(1.0)
    assert variance == pytest.approx(1 / (2 * 4000), rel=0.05)
    assert metric.back(metric.value, center + math.log(1.1) - center) == pytest.approx(
        0.1 * metric.value
    )


def test_an_error_after_perfect_predictions_is_a_fall():
    errors = torch.randn(200, generator=random(8), dtype=torch.float64)
    schema = Schema(regression=True)
    perfect = Records(targets=torch.zeros(200), logits=torch.zeros(200), schema=schema)
    worse = replace(perfect, targets=errors)
    (change,) = quality_change(perfect, worse).metrics
    assert change.fell
    assert change.low < float(errors.square().mean().sqrt()) < change.high
    assert not quality_change(perfect, perfect).fell


def test_rows_of_one_group_count_once():
    generator = random(2)
    values = torch.randn(200, generator=generator, dtype=torch.float64).repeat_interleave(5)
    groups = torch.arange(200).repeat_interleave(5)
    assert group_effect(values - values.mean(), groups) == pytest.approx(5, rel=0.05)
    assert group_effect(values, torch.zeros(1000, dtype=torch.int64)) == 1
    before = two_classes(1000, 0)
    copied = two_classes(200, 1, gap=1.8).select(groups)
    metadata = pd.DataFrame({"shop": groups.numpy()})
    grouped = replace(copied, metadata=metadata, schema=Schema(group="shop"))
    plain = quality_change(before, copied).metrics[1]
    wide = quality_change(before, grouped).metrics[1]
    assert wide.high - wide.low > 1.4 * (plain.high - plain.low)


def test_neighbours_in_time_count_by_how_they_vary_together():
    noise = torch.randn(200, 3600, generator=random(3), dtype=torch.float64)
    effects = torch.tensor([block_effect(row) for row in noise])
    assert (effects == 1).double().mean() > 0.85
    assert effects.mean() < 1.15
    spells = [block_effect(row[:120].repeat_interleave(30)) for row in noise]
    # Enlarged by what few blocks may have hidden.
    assert 30 < sum(spells) / len(spells) < 50
    broken = noise[0] + torch.arange(3600).gt(1800)
    assert block_effect(broken) > 30
    assert block_effect(broken, parts=4) < 2
    assert block_effect(torch.zeros(500)) == block_effect(noise[0, :20]) == 1
    # Ranks that swing through each day say nothing of the few rows that make the variance.
    cycle = 1e-3 * (torch.arange(3600) * (2 * math.pi / 100)).sin()
    rare = (noise[1] > 2.3) * noise[2]
    assert block_effect(rare + cycle) == 1


def in_spells(rng, rows=3000):
    """Scores that are log odds but in bad spells, which last some fifty rows; few positives."""
    shocks, spell = rng.normal(size=rows), np.zeros(rows)
    for i in range(1, rows):
        spell[i] = 0.98 * spell[i - 1] + 0.2 * shocks[i]
    z = 2 * rng.normal(size=rows) - 4
    y = z + rng.logistic(size=rows) * np.exp(spell) > 0
    metadata = pd.DataFrame({"time": np.arange(rows)})
    logits, targets = torch.from_numpy(z), torch.from_numpy(y).long()
    return Records(targets=targets, logits=logits, metadata=metadata, schema=Schema(time="time"))


@pytest.mark.slow
def test_bad_spells_on_both_sides_seldom_seem_a_fall():
    """By ranks of the contributions 13 % of such pairs fell."""

    def outcome(seed):
        rng = np.random.default_rng(seed)
        found = quality_change(in_spells(rng), in_spells(rng))
        return not found.fell, str(found)

    assert_rate(outcome, itertools.count(), 0.985, 0.87)


def test_the_class_that_fell_is_named():
    generator = random(3)
    y = torch.randint(0, 4, (3000,), generator=generator)
    z = torch.nn.functional.one_hot(y, 4).double() * 6
    z += torch.randn(3000, 4, generator=generator, dtype=torch.float64)
    schema = Schema(classes=("ant", "bee", "cat", "dog"))
    before = Records(targets=y, logits=z, schema=schema, name="validation")
    confused = z.clone()
    rows = (y == 2) & (torch.rand(3000, generator=generator) < 0.5)
    confused[rows] = confused[rows].flip(1)
    (finding,) = quality_is_that_of_validation(before, replace(before, logits=confused))
    assert finding.severity is Severity.FAIL
    assert finding.cause is Cause.UNKNOWN
    assert finding.numbers["worst_part"] == "recall of cat"
    assert "1 of 4 classes fell beyond doubt, most of all: recall of cat" in finding.summary
    change = finding.evidence
    assert change.metrics[0].before == pytest.approx(float(before.correct.double().mean()))
    assert list(change.table()["part"]) == ["all", *4 * ["class"]]
    assert len(png(change)) > 1000


def test_the_label_and_the_output_that_fell_are_named():
    generator = random(4)
    y = (torch.rand(2000, 3, generator=generator) < 0.3).long()
    z = 3.0 * y - 1.5 + torch.randn(2000, 3, generator=generator)
    before = Records(targets=y, logits=z, schema=Schema(multilabel=True), name="validation")
    worse = z.clone()
    worse[:, 1] = z[torch.randperm(2000, generator=generator), 1]
    change = quality_change(before, replace(before, logits=worse))
    assert [metric.name for metric in change.fallen] == ["mean AUC of the labels", "label accuracy"]
    assert change.worst_part.name == "AUC of label 1"

    x = torch.randn(2000, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e3])
    truth = x + torch.randn(2000, 2, generator=generator) * torch.tensor([0.3, 300.0])
    schema = Schema(regression=True)
    before = Records(targets=truth, logits=x, schema=schema, name="validation")
    shifted = replace(before, logits=x + torch.tensor([0.0, 400.0]))
    change = quality_change(before, shifted)
    assert change.fell
    assert change.worst_part.name == "RMSE of output 1"
    assert change.worst_part.after == pytest.approx(500, rel=0.05)
    (line,) = change.remedies
    assert line.restores
    assert line.gain == pytest.approx(line.lost, rel=0.05)


def test_missing_labels_are_left_out_one_by_one():
    generator = random(7)
    y = (torch.rand(3000, 3, generator=generator) < 0.4).long()
    z = 2.0 * y - 1 + torch.randn(3000, 3, generator=generator)
    schema = Schema(multilabel=True)
    whole = Records(targets=y, logits=z, schema=schema, name="validation")
    missing = torch.rand(3000, 3, generator=generator) < 0.5
    partly = replace(whole, targets=y.masked_fill(missing, -100), name="production")
    change = quality_change(whole, partly)
    assert not change.fell
    assert change.metrics[0].rows == (3000, int((~missing).any(1).sum()))
    for i, part in enumerate(change.parts):
        known = ~missing[:, i]
        expected = rank_auc(z[known, i].double(), y[known, i] == 1)
        assert part.after == pytest.approx(float(expected.auc))
    assert change.remedy("recalibrate").rows == int((~missing).all(1).sum())

    x = torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    truth = x + torch.randn(3000, 2, generator=generator)
    before = Records(targets=truth, logits=x, schema=Schema(regression=True), name="validation")
    after = replace(before, targets=truth.masked_fill(missing[:, :2], torch.nan))
    change = quality_change(before, after)
    assert not change.fell
    errors = (x - truth)[~missing[:, 1], 1]
    assert change.parts[1].after == pytest.approx(float(errors.square().mean().sqrt()))


def test_a_remedy_counts_where_it_wins_back_on_held_out_rows():
    before = two_classes(2000, 0)
    moved = two_classes(2000, 1, moved=2.5, name="production")
    (finding,) = quality_is_that_of_validation(before, moved)
    change = finding.evidence
    assert [metric.name for metric in change.fallen] == ["accuracy"]
    assert change.restored_by("move_threshold")
    assert finding.cause is Cause.THRESHOLD
    trial = change.remedy("move_threshold")
    assert trial.gain == pytest.approx(trial.lost, abs=0.03)
    assert f"{trial.lost:.3f} was lost" in finding.remedy

    weaker = two_classes(2000, 1, gap=1.0, moved=2.5, name="production")
    (finding,) = quality_is_that_of_validation(before, weaker)
    assert finding.cause is Cause.UNKNOWN
    assert not finding.evidence.restored_by("move_threshold")
    assert "without restoring it" in finding.remedy


def quantities(seed, n, offset=0.0, scale=1.0, noise=1.0, outputs=1):
    rng = np.random.default_rng(seed)
    answer = rng.normal(20.0, 3.0, (n, outputs))
    truth = scale * answer + offset + noise * rng.normal(size=(n, outputs))
    sides = (torch.from_numpy(part[:, 0] if outputs == 1 else part) for part in (truth, answer))
    return Records(None, *sides, schema=Schema(regression=True))


@pytest.mark.parametrize("outputs", [1, 2])
def test_quantities_in_another_scale_are_recalibrated(outputs):
    before = quantities(0, 600, outputs=outputs)
    moved = quantities(1, 500, offset=-5.0, scale=1.1, outputs=outputs)
    change = quality_change(before, moved)
    trial = change.remedy("recalibrate")
    assert change.fell
    assert change.restored_by("recalibrate")
    assert change.remedy("move_threshold") is None
    assert trial.gain == pytest.approx(change.metrics[0].fall, rel=0.1)
    assert diagnose(validation=before, production=moved, only="shift").decision == "recalibrate"
    (finding,) = diagnose(validation=before, production=moved, only="shift.quality").findings
    assert finding.cause is Cause.MISCALIBRATION
    assert ("(output x 1.1" in finding.remedy) == (outputs == 1)


def test_a_line_does_not_restore_noise():
    before, noisy = quantities(0, 600), quantities(1, 500, noise=2.0)
    change = quality_change(before, noisy)
    assert change.fell
    assert not change.restored_by("recalibrate")
    assert not change.remedy("recalibrate").helps


def test_a_bias_of_several_classes_is_recalibrated():
    generator = random(5)
    y = torch.randint(0, 3, (3000,), generator=generator)
    z = torch.nn.functional.one_hot(y, 3).double() * 2
    z += torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    before = Records(targets=y, logits=z, name="validation")
    moved = replace(before, logits=z + torch.tensor([2.0, 0.0, 0.0]), name="production")
    (finding,) = quality_is_that_of_validation(before, moved)
    assert finding.cause is Cause.MISCALIBRATION
    assert finding.evidence.restored_by("recalibrate")


def test_masked_classes_and_declared_thresholds():
    generator = random(6)
    y = torch.randint(0, 4, (800,), generator=generator)
    z = torch.nn.functional.one_hot(y, 4).double() * 3
    z += torch.randn(800, 4, generator=generator, dtype=torch.float64)
    masked = z.clone()
    masked[torch.arange(800), (y + 1) % 4] = -math.inf
    before = Records(targets=y, logits=masked, name="validation")
    change = quality_change(before, before)
    assert not change.fell
    assert math.isfinite(change.remedy("recalibrate").loss[0])

    strict = replace(two_classes(1000, 0), schema=Schema(threshold=0.8))
    weighted = quality_change(strict, strict).metrics[1]
    assert weighted.name == "weighted accuracy (threshold 0.8)"
    positive = strict.probs > 0.8
    wrong = torch.where(positive, 1.6 * (1 - strict.targets), 0.4 * strict.targets)
    assert weighted.before == pytest.approx(1 - float(wrong.mean()), abs=1e-6)


def test_what_cannot_be_judged_is_said():
    few = two_classes(20, 0)
    (finding,) = quality_is_that_of_validation(few, few)
    assert finding.severity is Severity.NOTE
    assert "30 labeled rows" in finding.summary
    outputs = torch.zeros(50, 3)
    other = Records(targets=torch.zeros(50, dtype=torch.int64), logits=outputs)
    assert quality_change(two_classes(50, 0), other) is None


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_equal_errors_of_quantities_seldom_seem_to_fall(kind):
    """At half of 1 % false alarms, more than four in two hundred have a chance under 0.4 %."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        errors = rng.normal(size=(2, 400))
        if kind == "heavy tails":
            errors = rng.standard_t(4, size=(2, 400))
        schema = Schema(regression=True)
        sides = [
            Records(targets=torch.from_numpy(e), logits=torch.zeros(400), schema=schema)
            for e in errors
        ]
        alarms += quality_change(*sides).fell
    assert alarms <= 4
