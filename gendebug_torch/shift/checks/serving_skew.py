"""`shift.serving_skew`: features that serving computes in another way than training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.column_transforms import FeatureTransform
from gendebug_torch.shift.kinds.moved_columns import FeatureChange


@check(
    "shift.serving_skew",
    cause=Cause.TRAIN_SERVE_SKEW,
    needs=("production.features",),
    cost=lambda given: Cost(elements=100.0),
    derived=(CHANGE_KINDS,),
)
def inputs_are_computed_as_before(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    change_kinds: ChangeKinds | None = None,
    *,
    limit: int = 20,
) -> Iterator[Finding]:
    """No feature is computed differently in production: unit, scale, default value, exchange.

    A shift that a transform explains is skew if drift is unlikely to do the same (a reversed sign,
    a logarithm, a large factor, renamed levels), or if the labels follow the original value;
    without a transform, if nothing else changed and labels do not follow the column.

    Source: Sculley et al. (2015), NeurIPS 28, and Breck et al. (2017), IEEE Big Data, on
    training/serving skew; the test is ours: Kolmogorov-Smirnov distances after a transform, and
    paired losses of a network fitted on the reference.

    Args:
        production: records with features, and with targets where known.
        validation: reference.
        train: reference without validation.
        change_kinds: kinds of change, derived.
        limit: most features reported one by one.
    """
    this = inputs_are_computed_as_before
    if change_kinds is None or not change_kinds.judged:
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs validation.features or train.features.",
            numbers={"lacks": ["validation.features"]},
        )
        return
    skewed = [feature for feature in change_kinds.features if feature.kind == "train_serve_skew"]
    for feature in skewed[:limit]:
        yield _skew_finding(feature, change_kinds)
    if not skewed:
        yield _no_skew_finding(change_kinds)


def _no_skew_finding(change_kinds: ChangeKinds) -> Finding:
    unsure = [feature for feature in change_kinds.features if not feature.certain]
    shifted, judged = len(change_kinds.features), change_kinds.judged
    numbers = {"features": judged, "moved": shifted, "unsure": len(unsure)}
    severity, subject = Severity.OK, ""
    text = f"None of {judged} features looks computed differently ({shifted} shifted)."
    if unsure:
        severity, subject = Severity.NOTE, unsure[0].name
        reason = (
            "the labels do not depend on it enough to decide"
            if change_kinds.labeled
            else "without labels this cannot be decided"
        )
        text = (
            f"{subject} may be computed differently ({unsure[0].description}), or what it measures "
            f"may have changed: {reason}."
        )
    return inputs_are_computed_as_before.finding(
        severity, text, subject=subject, numbers=numbers, evidence=change_kinds
    )


def _skew_finding(feature: FeatureChange, change_kinds: ChangeKinds) -> Finding:
    numbers: dict[str, Any] = {"statistic": feature.statistic}
    transform = feature.transform
    if transform is not None:
        numbers |= {"map": transform.kind, "left": transform.statistic}
        if isinstance(transform, FeatureTransform) and transform.kind != "logarithm":
            numbers |= {"factor": transform.factor, "offset": transform.offset}
    return inputs_are_computed_as_before.finding(
        Severity.FAIL,
        f"{feature.name} is computed differently in production: {feature.description} (distance "
        f"{feature.statistic:.2f}).",
        subject=feature.name,
        numbers=numbers,
        remedy=(
            f"Compute {feature.name} in serving and in training on the same rows, and correct "
            "serving where they differ; do not retrain on it."
        ),
        evidence=change_kinds,
    )
