"""`shift.estimated_accuracy`: the accuracy to expect where labels have not arrived."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, root_cause
from gendebug_torch.shift.checks._costs import logits_cost
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.scores.estimated_accuracy import (
    ASSUMPTIONS,
    EstimatedAccuracy,
    estimated_accuracy,
)

# Rows below which the standard error of an estimated accuracy is itself a guess.
_MIN_ROWS = 20


def _cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=5.0 * logits_cost(given).elements)


@check(
    "shift.estimated_accuracy",
    cause=Cause.COVARIATE_SHIFT,
    needs=("validation.targets", "validation.logits", "production.logits"),
    cost=_cost,
    derived=(CHANGE_KINDS,),
)
def accuracy_is_expected_to_hold(
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None = None,
    *,
    min_drop: float = 0.05,
    errors: float = 3.5,
) -> Iterator[Finding]:
    """The accuracy that the scores of production rows imply is that of validation.

    Two estimates without labels have to fall both; where only the class shares changed, the one by
    classes alone. They are invalid under concept drift, and where inputs shifted out of the range
    of validation; the finding says so where that is found.

    Source: Garg et al. (2022), ICLR, arXiv:2201.04234 (ATC); Guillory et al. (2021), ICCV,
    arXiv:2107.03315.

    Args:
        validation: records with targets and logits.
        production: records with logits.
        change_kinds: kinds of change, derived.
        min_drop: smallest fall of the accuracy that matters.
        errors: standard errors by which the estimates have to fall.
    """
    this = accuracy_is_expected_to_hold
    targets = validation.targets
    if (
        targets is None
        or targets.ndim != 1
        or targets.is_floating_point()
        or validation.schema.multilabel
    ):
        yield this.finding(Severity.NOTE, "Not judged: accuracy needs one class per row.")
        return
    sizes = len(validation), len(production)
    if validation.logits is None or production.logits is None or min(sizes) < _MIN_ROWS:
        text = f"Not judged: too few rows, {sizes[0]} against {sizes[1]}."
        yield this.finding(Severity.NOTE, text)
        return
    live_targets = production.targets
    if live_targets is not None and live_targets.dtype != targets.dtype:
        live_targets = None
    found = estimated_accuracy(
        validation.logits, targets, production.logits, live_targets=live_targets
    )
    kinds = () if change_kinds is None else change_kinds.kinds
    label_shift = kinds[:1] == ("label_shift",) and "classes" in found.estimates
    methods = ("classes",) if label_shift else ("confidence", "threshold")
    drops = [found.drop(method) for method in methods]
    falls = all(drop >= max(min_drop, errors * error) for drop, error in drops)
    if _counted_otherwise(found, methods[0], falls, min_drop):
        yield _contradicted_finding(found, methods)
    else:
        yield _accuracy_finding(found, methods, falls, change_kinds)


def _counted_otherwise(found: EstimatedAccuracy, method: str, falls: bool, min_drop: float) -> bool:
    """Whether labels of production count another accuracy than the one estimated, by its test."""
    if found.counted is None:
        return False
    if falls:
        return found.before[0] - found.counted[0] < min_drop
    (value, error), (counted, own) = found.estimates[method], found.counted
    return value - counted > max(min_drop, 3.5 * math.hypot(error, own))


def _contradicted_finding(found: EstimatedAccuracy, methods: tuple[str, ...]) -> Finding:
    return accuracy_is_expected_to_hold.finding(
        Severity.NOTE,
        f"The labels contradict what the scores imply: {_text(found, methods)}. So it does not "
        f"hold that {ASSUMPTIONS[methods[0]]}.",
        numbers=_numbers(found),
        evidence=found,
    )


def _accuracy_finding(
    found: EstimatedAccuracy,
    methods: tuple[str, ...],
    falls: bool,
    change_kinds: ChangeKinds | None,
) -> Finding:
    shifted = [] if change_kinds is None else change_kinds.features
    names = [f.name for f in shifted if f.kind in ("covariate_shift", "train_serve_skew")]
    caveat = f"This assumes that {ASSUMPTIONS[methods[0]]}."
    if names:
        caveat = f"The estimates may be wrong, since inputs shifted: {', '.join(names[:3])}."
    severity, cause, remedy = Severity.OK, None, ""
    if falls:
        text, severity, cause = "A fall is expected", Severity.WARN, root_cause(change_kinds)
        remedy = (
            "Label a few hundred production rows to measure it, and find what shifted; until "
            "then, treat the model as that much worse."
        )
    elif names:
        text, severity = "No fall is expected, but that is not reliable", Severity.NOTE
    else:
        text = "No fall is expected"
    return accuracy_is_expected_to_hold.finding(
        severity,
        f"{text}: {_text(found, methods)}. {caveat}",
        cause=cause,
        numbers=_numbers(found),
        remedy=remedy,
        evidence=found,
    )


def _text(found: EstimatedAccuracy, methods: tuple[str, ...]) -> str:
    parts = []
    for method in methods:
        low, high = found.interval(method)
        parts.append(f"{found.estimates[method][0]:.1%} by {method} ({low:.1%} to {high:.1%})")
    counted = "" if found.counted is None else f", counted {found.counted[0]:.1%}"
    return (
        f"accuracy {found.before[0]:.1%} in validation, estimated in production "
        f"{' and '.join(parts)}{counted}"
    )


def _numbers(found: EstimatedAccuracy) -> dict[str, Any]:
    numbers: dict[str, Any] = {"before": found.before[0]}
    for method, (value, _) in found.estimates.items():
        low, high = found.interval(method)
        numbers |= {method: value, f"{method}_low": low, f"{method}_high": high}
    return numbers if found.counted is None else numbers | {"counted": found.counted[0]}
