"""Checks that tell the kinds of change apart: class shares, what inputs mean, how inputs are
computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import _cost, kinds_between
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.column_transforms import Undo
from gendebug_torch.shift.kinds.moved_columns import FeatureChange


@check(
    "shift.serving_skew", cause=Cause.TRAIN_SERVE_SKEW, needs=("production.features",), cost=_cost
)
def inputs_are_computed_as_before(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    limit: int = 20,
) -> Iterator[Finding]:
    """No feature is computed differently in production: another unit, standardised, stuck at a
    default, exchanged.

    A move that a map explains is skew if the map is telling (a turned sign, a logarithm, a unit far
    off, new names for old levels), or if the labels follow the old value; without a map, if the
    change keeps to the column and labels do not follow it.

    Source: Sculley et al. (2015), NeurIPS 28, and Breck et al. (2017), IEEE Big Data, on
    training/serving skew; the test is ours: Kolmogorov-Smirnov distances that a map leaves, and
    paired losses of a network fitted before.

    Args:
        production: records with features; with targets where known.
        validation: the reference.
        train: the reference without validation.
        limit: most features reported one by one.
    """
    this = inputs_are_computed_as_before
    kinds = kinds_between(production, validation, train)
    if kinds is None or not kinds.judged:
        lacking = ["validation.features"]
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs validation.features or train.features.",
            numbers={"lacks": lacking},
        )
        return
    skewed = [feature for feature in kinds.features if feature.kind == "skew"]
    for feature in skewed[:limit]:
        yield _skew_finding(feature, kinds)
    if not skewed:
        unsure = [feature for feature in kinds.features if not feature.certain]
        numbers = {"features": kinds.judged, "moved": len(kinds.features), "unsure": len(unsure)}
        if unsure:
            labels = (
                "the labels do not depend on it enough"
                if kinds.labeled
                else "that cannot be told without labels"
            )
            text = (
                f"{unsure[0].name} may be computed differently ({unsure[0].how}), or its world "
                f"moved: {labels}."
            )
            yield this.finding(
                Severity.NOTE, text, subject=unsure[0].name, numbers=numbers, evidence=kinds
            )
        else:
            text = (
                f"None of {kinds.judged} features looks computed differently "
                f"({len(kinds.features)} moved)."
            )
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=kinds)


def _skew_finding(feature: FeatureChange, kinds: ChangeKinds) -> Finding:
    name = feature.name
    numbers: dict[str, Any] = {"statistic": feature.statistic}
    remedy = (
        f"Compare how serving computes {name} with how training did, on the same rows, and "
        "mend serving; do not retrain on it."
    )
    if feature.undone is not None:
        numbers |= {"map": feature.undone.kind, "left": feature.undone.statistic}
        if isinstance(feature.undone, Undo) and feature.undone.kind != "logarithm":
            numbers |= {"factor": feature.undone.factor, "offset": feature.undone.offset}
    summary = (
        f"{name} is computed differently in production: {feature.how} (distance "
        f"{feature.statistic:.2f})."
    )
    return inputs_are_computed_as_before.finding(
        Severity.FAIL, summary, subject=name, numbers=numbers, remedy=remedy, evidence=kinds
    )
