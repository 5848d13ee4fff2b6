"""Checks of all columns together, and of the accuracy that can be expected where labels have not
arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import cause_of_symptom, kinds_between
from gendebug_torch.shift.scores.estimated_accuracy import ASSUMPTIONS, estimated_accuracy

# Rows under which the standard error of an estimated accuracy is itself a guess.
_FEWEST_JUDGED = 20


def _accuracy_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(
        elements=100.0
        * sum(
            float(r.logits.numel())
            for r in map(given.get, ("validation", "production"))
            if r is not None
        )
    )


@check(
    "shift.estimated_accuracy",
    cause=Cause.COVARIATE_SHIFT,
    needs=("validation.targets", "validation.logits", "production.logits"),
    cost=_accuracy_cost,
)
def accuracy_is_expected_to_hold(
    validation: Records, production: Records, *, min_drop: float = 0.05, errors: float = 3.5
) -> Iterator[Finding]:
    """By what the model says of production rows, it is right as often as in validation.

    Two estimates without labels, of which both have to fall; where class shares moved and nothing
    else, the one by classes alone. They are void under concept drift, and where inputs moved to
    places that validation does not know; the finding says so where that is seen.

    Source: Garg et al. (2022), ICLR, arXiv:2201.04234 (ATC); Guillory et al. (2021), ICCV,
    arXiv:2107.03315.

    Args:
        validation: records with targets and logits.
        production: records with logits.
        min_drop: smallest fall of the accuracy that matters.
        errors: standard errors by which both estimates have to fall.
    """
    this = accuracy_is_expected_to_hold
    if (
        validation.targets is None
        or validation.targets.ndim != 1
        or validation.targets.is_floating_point()
        or validation.schema.multilabel
    ):
        yield this.finding(Severity.NOTE, "Not judged: accuracy needs one class per row.")
        return
    if (
        validation.logits is None
        or production.logits is None
        or min(len(validation), len(production)) < _FEWEST_JUDGED
    ):
        yield this.finding(
            Severity.NOTE,
            f"Too few rows to expect anything: {len(validation)} against {len(production)}.",
        )
        return
    told = (
        production.targets
        if production.targets is not None and production.targets.dtype == validation.targets.dtype
        else None
    )
    found = estimated_accuracy(
        validation.logits, validation.targets, production.logits, live_targets=told
    )
    kinds = kinds_between(production, validation)
    moved = (
        []
        if kinds is None
        else [feature.name for feature in kinds.features if feature.kind in ("inputs", "skew")]
    )
    of_classes = (
        kinds is not None and kinds.kinds[:1] == ("classes",) and "classes" in found.estimates
    )
    methods = ("classes",) if of_classes else ("confidence", "threshold")
    numbers: dict[str, Any] = {"before": found.before[0]}
    parts = []
    for method, (value, _) in found.estimates.items():
        low, high = found.interval(method)
        numbers |= {method: value, f"{method}_low": low, f"{method}_high": high}
        parts += [f"{value:.1%} by {method} ({low:.1%} to {high:.1%})"] * (method in methods)
    text = (
        f"accuracy {found.before[0]:.1%} in validation, expected in production "
        f"{' and '.join(parts)}"
    )
    if found.counted is not None:
        numbers["counted"] = found.counted[0]
        text += f", counted {found.counted[0]:.1%}"
    drops = [found.drop(method) for method in methods]
    falls = all(drop >= max(min_drop, errors * error) for drop, error in drops)
    caveat = (
        f"Void where inputs are new to the model: {', '.join(moved[:3])} moved."
        if moved
        else f"Assumes: {ASSUMPTIONS[methods[0]]}."
    )
    if not falls:
        said = (
            "Withdrawn, since the estimates need inputs that the model knows"
            if moved
            else "No fall is expected"
        )
        yield this.finding(
            Severity.NOTE if moved else Severity.OK,
            f"{said}: {text}. {caveat}",
            numbers=numbers,
            evidence=found,
        )
        return
    remedy = (
        "Label a few hundred production rows to know; until then treat the model as that "
        "much worse, and find what moved."
    )
    cause = cause_of_symptom(production, validation)
    yield this.finding(
        Severity.WARN,
        f"A fall is expected: {text}. {caveat}",
        cause=cause,
        numbers=numbers,
        remedy=remedy,
        evidence=found,
    )
