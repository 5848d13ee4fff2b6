"""The deployed threshold is near the best one in production."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.calibration.checks._confidence import BINARY_ROWS, BinaryRows, rows_of_binary
from gendebug_torch.calibration.thresholds.operating_point import OperatingPoint, operating_point
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records

# With fewer rows of a class on a side no threshold can be judged.
_MIN_ROWS = 20


def _cost(given: Mapping[str, Any]) -> Cost:
    """Sorts and areas under the curve of two classes, as measured; others are not read."""
    sides = [side for side in map(given.get, ("validation", "production")) if side is not None]
    shapes = [side.logits.shape[1:] for side in sides if side.logits is not None]
    if any(len(shape) > 1 or shape[0] > 2 for shape in shapes if shape):
        return Cost(elements=1e6)
    return Cost(elements=5e7 + sum(4200.0 * len(side) for side in sides))


@check(
    "calibration.threshold",
    cause=Cause.THRESHOLD,
    needs=("validation.logits", "validation.targets", "production.logits", "production.targets"),
    cost=_cost,
    derived=(BINARY_ROWS,),
)
def threshold_is_near_the_best(
    validation: Records,
    production: Records,
    binary_rows: BinaryRows = rows_of_binary,
    *,
    threshold: float = 0.5,
    cost: float | None = None,
    limit: float = 0.1,
    alpha: float = 0.001,
) -> Iterator[Finding]:
    """The deployed threshold costs about as little in production as the best one would.

    For two classes, and where the ranking is unchanged (area under the ROC curve), since no
    threshold restores a lost ranking; a ranking that is reversed on both sides is reported as such.
    Confidence that is wrong but symmetric about the threshold is left to
    `calibration.production_ece`.

    Source: Elkan (2001), IJCAI; DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.

    Args:
        validation: labeled records with logits of two classes.
        production: labeled records from production with logits of two classes.
        binary_rows: how logits and class ids are read of records, derived.
        threshold: deployed threshold on the probability of class 1.
        cost: cost of a false positive in (0, 1), that of a false negative being 1 less it; default:
            the cost for which the threshold is optimal in validation.
        limit: least share of the cost in production that another threshold must save, on unseen
            rows.
        alpha: probability of a false alarm.
    """
    this = threshold_is_near_the_best
    before, after = binary_rows(validation), binary_rows(production)
    if before is None or after is None:
        yield this.finding(
            Severity.NOTE,
            "The threshold is checked for models of two classes; these records have other outputs "
            "or targets.",
        )
        return
    rarest = min(int(torch.bincount(targets, minlength=2).min()) for _, targets in (before, after))
    if rarest < _MIN_ROWS:
        yield this.finding(
            Severity.NOTE,
            f"{rarest} rows of the rarer class are too few to judge the threshold.",
            remedy=f"Collect at least {_MIN_ROWS} labeled rows of each class on each side.",
        )
        return
    point = operating_point(*before, *after, threshold=threshold, cost=cost)
    yield _threshold_finding(this, point, limit, alpha)


def _threshold_finding(this: Check, point: OperatingPoint, limit: float, alpha: float) -> Finding:
    numbers = _numbers(point)
    auc = f"AUC {point.auc[0]:.3f} in validation, {point.auc[1]:.3f} in production"
    if point.ranking_reversed:
        return this.finding(
            Severity.NOTE,
            f"The ranking is reversed ({auc}): rows of class 1 score lower than rows of class 0, "
            "so no threshold can help.",
            numbers=numbers,
            remedy="Check which class the logit belongs to. If the classes are swapped or the "
            "score is negated, correct the label mapping or negate the logit.",
            evidence=point,
        )
    if not point.ranking_unchanged:
        text = f"The ranking itself is worse in production ({auc}), so no threshold can help."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=point)
    low, high = point.saving_interval
    saving = f"would save {point.saving:.0%} of the cost (95 % interval {low:.0%} to {high:.0%})"
    if point.saving < limit or point.p_value >= alpha:
        text = (
            f"The threshold {point.threshold:.3g} is near the best in production: "
            f"{point.best_threshold:.3g} {saving}; {auc}."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=point)
    before, now, after = point.validation, point.production, point.after
    lower, upper = point.best_interval
    return this.finding(
        Severity.FAIL if low >= 3 * limit else Severity.WARN,
        f"The threshold {point.threshold:.3g} does not fit production: precision "
        f"{_percent(before.precision)} → {_percent(now.precision)}, recall "
        f"{_percent(before.recall)} → {_percent(now.recall)}, while the ranking hardly changed "
        f"({auc}). Another threshold {saving}.",
        numbers=numbers,
        remedy=f"Move the threshold to {point.best_threshold:.3g} (95 % interval {lower:.3g} to "
        f"{upper:.3g}): precision {_percent(after.precision)}, recall {_percent(after.recall)} on "
        "rows on which it was not chosen. Or add the difference of the logits to the last bias.",
        evidence=point,
    )


def _numbers(point: OperatingPoint) -> dict[str, Any]:
    sides = (point.validation, point.production, point.after)
    return {
        "threshold": point.threshold,
        "best_threshold": point.best_threshold,
        "best_interval": list(point.best_interval),
        "saving": point.saving,
        "saving_interval": list(point.saving_interval),
        "p_value": point.p_value,
        "auc_validation": point.auc[0],
        "auc_production": point.auc[1],
        "precision": [side.precision for side in sides],
        "recall": [side.recall for side in sides],
        "false_positive_rate": [side.false_positive_rate for side in sides],
    }


def _percent(value: float) -> str:
    return f"{value:.0%}" if value == value else "undefined"
