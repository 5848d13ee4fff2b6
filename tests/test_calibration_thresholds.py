"""Thresholds: the best by brute force, covering intervals, and a check that knows a moved point
from a lost ranking."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from gendebug_torch import Cause, Records, Severity
from gendebug_torch.calibration import choose_threshold, confusion_matrix, operating_point
from gendebug_torch.calibration.checks.ece import confidence_equals_accuracy
from gendebug_torch.calibration.checks.production_ece import production_confidence_equals_accuracy
from gendebug_torch.calibration.checks.threshold import threshold_is_near_the_best
from gendebug_torch.calibration.thresholds.threshold_choice import confusion_table
from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import binary, drawn, scores_moved, settled


def sample(seed=0, n=400, share=0.3):
    records = binary(seed, n, share)
    return records.logits.sigmoid(), records.targets


def counts(probs, targets, threshold):
    decided = [p > threshold for p in probs.tolist()]
    pairs = list(zip(decided, targets.tolist(), strict=True))
    return [
        sum(1 for s, t in pairs if s == a and t == b)
        for a, b in ((True, 1), (True, 0), (False, 1), (False, 0))
    ]


def score(objective, tp, fp, fn, n):
    if objective == "cost":
        return -(2 * fp + 5 * fn) / n
    if objective == "f_beta":
        return 5 * tp / max(5 * tp + fp + 4 * fn, 1e-12)
    precision, recall = tp / max(tp + fp, 1e-12), tp / max(tp + fn, 1e-12)
    if objective == "precision":
        return recall if precision >= 0.8 and tp else -math.inf
    return precision if recall >= 0.8 and tp else -math.inf


@pytest.mark.parametrize("objective", ["cost", "f_beta", "precision", "recall"])
def test_the_choice_is_the_best_of_all_thresholds(objective):
    probs, targets = sample()
    options = {"false_positive_cost": 2.0, "false_negative_cost": 5.0, "beta": 2.0, "floor": 0.8}
    found = choose_threshold(probs, targets, objective=objective, **options)
    grid = [0.0, *probs.tolist()]
    best = max(score(objective, *counts(probs, targets, t)[:3], len(probs)) for t in grid)
    assert abs(found.value) == pytest.approx(abs(best), abs=1e-12)
    assert list(counts(probs, targets, found.threshold)) == [
        found.confusion.true_positive,
        found.confusion.false_positive,
        found.confusion.false_negative,
        found.confusion.true_negative,
    ]
    assert found.low <= found.threshold <= found.high
    assert found.feasible
    ax = axes()
    assert found.plot(ax) is ax
    assert len(found.table()) == len(found.candidates)


def test_a_floor_that_nothing_keeps_is_reported():
    found = choose_threshold(
        torch.tensor([0.2, 0.4, 0.9]), torch.tensor([0, 0, 0]), objective="precision"
    )
    assert not found.feasible
    assert math.isnan(found.value)


def test_intervals_cover_the_best_threshold_of_many_rows():
    truth = choose_threshold(*sample(999, 200_000), replicates=2)
    inside = 0
    for seed in range(40):
        found = choose_threshold(*sample(seed, 1000))
        inside += found.value_interval[0] <= truth.value <= found.value_interval[1]
    assert inside >= 33
    few, many = (choose_threshold(*sample(1, n)) for n in (100, 10_000))
    assert few.high - few.low > many.high - many.low


def test_calibrated_probabilities_stand_in_for_labels():
    probs, targets = sample(3, 20_000)
    with_labels, without = choose_threshold(probs, targets), choose_threshold(probs, probs)
    assert without.threshold == pytest.approx(0.5, abs=0.01)
    assert without.value == pytest.approx(with_labels.value, abs=0.01)
    assert confusion_matrix(probs, probs).precision == pytest.approx(
        confusion_matrix(probs, targets).precision, abs=0.03
    )


def test_row_order_does_not_matter():
    probs, targets = sample(4, 5000)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    one, other = choose_threshold(probs, targets), choose_threshold(probs[order], targets[order])
    assert (one.threshold, one.low, one.high) == (other.threshold, other.low, other.high)


def test_area_and_its_error():
    points = []
    for seed in range(60):
        records = binary(seed, 500)
        sides = (records.logits.round(), records.targets)
        points.append(operating_point(*sides, *sides))
        area = roc_auc_score(records.targets, records.logits.round())
        assert points[-1].auc == pytest.approx((area, area), abs=1e-12)
    auc, error = (
        torch.tensor([getattr(point, name)[0] for point in points], dtype=torch.float64)
        for name in ("auc", "auc_error")
    )
    assert float(error.mean()) == pytest.approx(float(auc.std()), rel=0.25)
    assert float(error.max()) < 0.04


def test_the_operating_point_gives_the_saving():
    given = scores_moved(0)
    parts = [given[side] for side in ("validation", "production")]
    found = operating_point(*(part for side in parts for part in (side.logits, side.targets)))
    assert found.best_threshold > 0.8
    assert found.cost == pytest.approx(0.5, abs=0.06)
    assert found.saving_interval[0] > 0.2
    assert found.ranking_unchanged
    assert list(found.table()["decision"]) == [
        "validation",
        "production",
        "production, best threshold",
    ]
    assert found.after.precision > found.production.precision
    assert "precision_low" in confusion_table({"a": found.after})


def alarms(make, seeds, check=threshold_is_near_the_best):
    return sum(
        check(**make(seed))[0].severity.level >= Severity.WARN.level for seed in range(seeds)
    )


def test_the_check_fires_where_the_point_moved_and_nowhere_else():
    def prior_moved(seed):
        return {"validation": binary(seed), "production": binary(seed + 5000, 3000, share=0.05)}

    def overconfident(seed):
        return {"validation": binary(seed), "production": binary(seed + 5000, scale=2.5)}

    def ranking_lost(seed):
        production = binary(seed + 5000)
        noise = 4 * torch.randn(
            len(production), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        return {
            "validation": binary(seed),
            "production": type(production)(
                targets=production.targets, logits=production.logits + noise
            ),
        }

    assert alarms(scores_moved, 20) == 20
    assert alarms(prior_moved, 20) == 20
    assert alarms(settled, 60) == 0
    assert alarms(overconfident, 20) == 0
    assert alarms(ranking_lost, 20) == 0
    assert (
        production_confidence_equals_accuracy(overconfident(0)["production"])[0].severity.level
        >= Severity.WARN.level
    )
    (finding,) = threshold_is_near_the_best(**scores_moved(0))
    assert finding.cause is Cause.THRESHOLD
    assert "Move the threshold to" in finding.remedy


def test_a_reversed_ranking_is_not_called_held():
    def negated(seed, **options):
        records = binary(seed, **options)
        return type(records)(targets=records.targets, logits=-records.logits)

    given = {"validation": negated(0), "production": negated(5000, moved=2.0)}
    (finding,) = threshold_is_near_the_best(**given)
    assert finding.severity is Severity.NOTE
    assert "ranking is reversed" in finding.summary
    assert "unchanged" not in finding.summary
    assert "swapped" in finding.remedy
    noise = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blind = {
        side: type(binary(0))(targets=binary(0).targets, logits=noise[at::2])
        for at, side in enumerate(("validation", "production"))
    }
    assert "reversed" not in threshold_is_near_the_best(**blind)[0].summary


def test_a_deployed_threshold_and_a_cost_may_be_given():
    given = settled(0)
    assert threshold_is_near_the_best(**given, threshold=0.2)[0].severity is Severity.OK
    assert (
        threshold_is_near_the_best(**given, threshold=0.5, cost=0.05)[0].severity.level
        >= Severity.WARN.level
    )


def test_the_check_of_calibration_is_quiet_on_calibrated_draws_and_sees_a_temperature():
    for n, k in ((300, 2), (3000, 10), (3000, 100)):
        assert (
            alarms(
                lambda seed, n=n, k=k: {"validation": drawn(seed, n, k)},
                20,
                confidence_equals_accuracy,
            )
            == 0
        )
    assert (
        alarms(
            lambda seed: {"validation": drawn(seed, 3000, 10, scale=1.3)},
            20,
            confidence_equals_accuracy,
        )
        == 20
    )


def labels(seed, scales=(1.0, 1.0, 1.0, 1.0), n=1500, name="validation"):
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(n, len(scales), generator=generator, dtype=torch.float64) - 1
    y = torch.bernoulli(z.sigmoid(), generator=generator).long()
    return Records(logits=z * torch.tensor(scales).double(), targets=y, name=name)


def test_labels_of_a_multilabel_head_are_judged_one_by_one():
    for check, side in (
        (confidence_equals_accuracy, "validation"),
        (production_confidence_equals_accuracy, "production"),
    ):
        calm = [
            check(**{side: labels(seed, name=side)})[0].severity is Severity.OK
            for seed in range(40)
        ]
        assert sum(calm) >= 39, "P(more than 1 alarm of 40 at 0.2 %) is under 0.4 %"
        found = [
            check(**{side: labels(seed, (1.0, 2.5, 1.0, 1.0), name=side)})[0] for seed in range(20)
        ]
        assert sum(finding.severity.level >= Severity.WARN.level for finding in found) >= 19
        assert all(
            finding.subject == "label 1"
            for finding in found
            if finding.severity.level >= Severity.WARN.level
        )
    # Two labels that err in opposite ways cancel in one diagram, not here.
    (finding,) = confidence_equals_accuracy(labels(0, (2.5, 0.3)))
    assert finding.numbers["miscalibrated"] == 2
    (finding,) = production_confidence_equals_accuracy(
        labels(0, (2.5, 1.0), name="production"), labels(1, (1.0, 1.0))
    )
    assert "in validation" in finding.summary
    assert finding.numbers["validation_ece"] < finding.numbers["worst_ece"]
    few = Records(logits=torch.zeros(5, 2), targets=torch.zeros(5, 2).long())
    assert confidence_equals_accuracy(few)[0].severity is Severity.NOTE


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: choose_threshold(torch.tensor([1.5]), torch.tensor([1])), "probs"),
        (lambda: choose_threshold(torch.zeros(0), torch.zeros(0)), "probs"),
        (lambda: choose_threshold(torch.tensor([0.5]), torch.tensor([2])), "targets"),
        (
            lambda: choose_threshold(torch.tensor([0.5]), torch.tensor([1]), objective="luck"),
            "objective",
        ),
        (lambda: choose_threshold(torch.tensor([0.5]), torch.tensor([1]), floor=1.5), "floor"),
        (
            lambda: operating_point(*[torch.zeros(3), torch.tensor([0, 1, 1])] * 2, threshold=1.0),
            "threshold",
        ),
        (lambda: operating_point(*[torch.zeros(3), torch.tensor([1, 1, 1])] * 2), "targets"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError, match=f"^`{argument}"):
        call()
