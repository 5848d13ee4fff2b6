"""The check of the decision threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.calibration.thresholds.operating_point import OperatingPoint, operating_point
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, Cost, check
from gendebug_torch.data.records import Records

# Rows of each class on each side below which an operating point is anecdote.
_FEWEST = 20


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("validation", "production")]
    return Cost(elements=1.0 + sum(200.0 * len(side) for side in sides if side is not None))


@check(
    "calibration.threshold",
    cause=Cause.THRESHOLD,
    needs=("validation.logits", "validation.targets", "production.logits", "production.targets"),
    cost=_cost,
)
def threshold_is_where_it_should_be(
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    cost: float | None = None,
    limit: float = 0.1,
    alpha: float = 0.001,
) -> Iterator[Finding]:
    """The deployed threshold still costs about the least that any threshold can in production.

    Two classes. Asked only where the ranking held (area under the ROC curve), since no threshold
    mends a lost one; a ranking that is reversed on both sides (areas below 0.5 beyond noise) is
    said to be so. Confidence that is wrong but symmetric about the threshold is left to
    `calibration.production_ece`.

    Source: Elkan (2001), IJCAI; DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.

    Args:
        validation: labeled records with logits of two classes.
        production: the same from production.
        threshold: deployed, on the probability of class 1.
        cost: of a false alarm in (0, 1), that of a missed case being 1 less it; default: what the
            threshold stood for in validation.
        limit: share of the cost in production that moving the threshold must save, on rows it has
            not seen.
        alpha: chance of a false alarm.
    """
    this = threshold_is_where_it_should_be
    scores = [_binary_logits(records) for records in (validation, production)]
    if (
        scores[0] is None
        or scores[1] is None
        or validation.targets is None
        or production.targets is None
    ):
        yield this.finding(
            Severity.NOTE,
            "The threshold of a model of two classes is asked; these records hold other outputs "
            "or targets.",
        )
        return
    fewest = min(
        int(torch.bincount(records.targets, minlength=2).min())
        for records in (validation, production)
        if records.targets is not None
    )
    if fewest < _FEWEST:
        remedy = f"Collect at least {_FEWEST} labeled rows of each class on each side."
        yield this.finding(
            Severity.NOTE,
            f"{fewest} rows of the rarer class are too few to judge the threshold.",
            remedy=remedy,
        )
        return
    found = operating_point(
        scores[0], validation.targets, scores[1], production.targets, threshold=threshold, cost=cost
    )
    yield _judged(this, found, limit, alpha)


def _binary_logits(records: Records) -> Tensor | None:
    z, targets = records.logits, records.targets
    if z is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    if z.ndim == 2 and z.shape[1] == 2:
        return z[:, 1] - z[:, 0]
    return z if z.ndim == 1 else None


def _judged(this: Check, found: OperatingPoint, limit: float, alpha: float) -> Finding:
    before, now, after = found.validation, found.production, found.after
    numbers = {
        "threshold": found.threshold,
        "moved": found.moved,
        "moved_interval": list(found.moved_interval),
        "saved": found.saved,
        "saved_interval": list(found.saved_interval),
        "p_value": found.p_value,
        "auc_validation": found.areas[0],
        "auc_production": found.areas[1],
        "precision": [before.precision, now.precision, after.precision],
        "recall": [before.recall, now.recall, after.recall],
        "false_positive_rate": [
            before.false_positive_rate,
            now.false_positive_rate,
            after.false_positive_rate,
        ],
    }
    areas = (
        f"area under the ROC curve {found.areas[0]:.3f} in validation, {found.areas[1]:.3f} "
        "in production"
    )
    if found.ranking_reversed:
        text = (
            f"The ranking is reversed ({areas}): rows of class 1 score lower than the others, "
            "so that no threshold mends production."
        )
        remedy = (
            "Check which class the logit stands for: swapped classes or a negated score; map "
            "the labels anew, or negate the logit."
        )
        return this.finding(Severity.NOTE, text, numbers=numbers, remedy=remedy, evidence=found)
    if not found.ranking_held:
        text = f"The ranking itself fell ({areas}), so that no threshold mends production."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    low, high = found.saved_interval
    saving = f"{found.saved:.0%} of the cost (95 % interval {low:.0%} to {high:.0%})"
    if found.saved < limit or found.p_value >= alpha:
        text = (
            f"The threshold {found.threshold:.3g} is where it should be: moving it to "
            f"{found.moved:.3g} would save {saving}; {areas}."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    change = (
        f"precision {_percent(before.precision)} → {_percent(now.precision)}, recall "
        f"{_percent(before.recall)} → {_percent(now.recall)}"
    )
    text = (
        f"The ranking held ({areas}), but the threshold {found.threshold:.3g} no longer fits: "
        f"{change}; another saves {saving}."
    )
    lower, upper = found.moved_interval
    remedy = (
        f"Move the threshold to {found.moved:.3g} (95 % interval {lower:.3g} to {upper:.3g}): "
        f"precision {_percent(after.precision)}, "
        f"recall {_percent(after.recall)} on rows it has not seen; or add the shift to the last "
        "bias."
    )
    severity = Severity.FAIL if low >= 3 * limit else Severity.WARN
    return this.finding(severity, text, numbers=numbers, remedy=remedy, evidence=found)


def _percent(value: float) -> str:
    return f"{value:.0%}" if value == value else "undefined"
