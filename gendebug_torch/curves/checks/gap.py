"""`curves.gap`: the generalization gap at the end of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.curves.generalization_gap import Gap, generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves


@check("curves.gap", cause=Cause.OVERFITTING, cost=lambda given: Cost(elements=1.0))
def validation_loss_is_near_training_loss(
    curves: LearningCurves, *, max_gap: float = 0.75, max_share: float = 0.15, window: int = 5
) -> Iterator[Finding]:
    """At the end of the training the validation loss is not far above the training loss.

    Far is both: by more than `max_gap` of the training loss, and by more than `max_share` of what
    the training took off the loss. Both losses must measure the same: label smoothing or class
    weights in the training loss alone make the gap smaller than it is, or larger.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2, for the
    generalization gap.

    Args:
        curves: losses per epoch.
        max_gap: largest height of the validation loss above the training loss, relative to it.
        max_share: largest part of what was learned that the validation rows may not get.
        window: number of epochs averaged at the end.
    """
    this = validation_loss_is_near_training_loss
    gap = generalization_gap(curves, window=window)
    both = int((curves.val_loss.isfinite() & curves.fitted_loss.isfinite()).sum())
    if both < window:
        summary = (
            f"The generalization gap is not judged: fewer than {window} {curves.unit}s have both "
            "losses."
        )
        yield this.finding(Severity.NOTE, summary, numbers={"recorded": both})
        return
    numbers = asdict(gap) | {"interval": gap.interval}
    if math.isnan(gap.relative):
        summary = "The generalization gap is not judged: the training loss is not positive."
        yield this.finding(Severity.NOTE, summary, numbers=numbers)
        return
    losses = _losses(gap, window, curves.unit)
    low = gap.interval[0]
    if low <= max_gap * gap.train or low <= max_share * gap.absolute / gap.share:
        summary = f"The generalization gap is small: {losses}."
        yield this.finding(Severity.OK, summary, numbers=numbers, evidence=curves)
        return
    summary = (
        f"Large generalization gap: {losses}. The validation rows get "
        f"{max(1 - gap.share, 0):.0%} of what was learned."
    )
    remedy = (
        "Add regularization, stop earlier, or get more varied data. Check that both losses are "
        "computed in the same way."
    )
    yield this.finding(Severity.WARN, summary, numbers=numbers, remedy=remedy, evidence=curves)


def _losses(gap: Gap, window: int, unit: str) -> str:
    mode = "both in evaluation mode" if gap.basis == "train_eval" else "the latter in training mode"
    return (
        f"over the last {window} {unit}s the validation loss is {gap.validation:.4g} and the "
        f"training loss {gap.train:.4g} ({gap.relative:+.0%}; {mode})"
    )
