"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.curves.checks.residuals import (
    nothing_is_left_to_learn as nothing_is_left_to_learn,
)
from gendebug_torch.curves.generalization_gap import generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves


@check("curves.gap", cause=Cause.OVERFITTING, cost=lambda given: Cost(elements=1.0))
def validation_loss_is_near_training_loss(
    curves: LearningCurves, *, limit: float = 0.75, share: float = 0.15, window: int = 5
) -> Iterator[Finding]:
    """At the end of the training the validation loss is not far above the training loss.

    Far is both: by more than `limit` of the training loss, and by more than `share` of what the
    training took off the loss. Both losses must measure the same: label smoothing or class weights
    in the training loss alone make the gap smaller than it is, or larger.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2, for the
    generalization gap.

    Args:
        curves: losses per epoch.
        limit: relative height of the validation loss above the training loss that matters.
        share: part of what was learned that the validation rows do not get, from which it matters.
        window: epochs averaged at the end.
    """
    this = validation_loss_is_near_training_loss
    gap = generalization_gap(curves, window=window)
    both = int((curves.val_loss.isfinite() & curves.fitted_loss.isfinite()).sum())
    if both < window:
        told = f"Fewer than {window} {curves.unit}s have both losses: the gap is not judged."
        yield this.finding(Severity.NOTE, told, numbers={"recorded": both})
        return
    numbers = asdict(gap) | {"interval": gap.interval}
    if math.isnan(gap.relative):
        told = "The training loss is not positive: a relative gap means nothing."
        yield this.finding(Severity.NOTE, told, numbers=numbers)
        return
    measured = (
        "evaluated alike"
        if gap.basis == "train_eval"
        else "the training loss as it ran, in training mode"
    )
    losses = (
        f"the validation loss is {gap.validation:.4g}, the training loss {gap.train:.4g} "
        f"({gap.relative:+.0%}; {measured})"
    )
    told = f"over the last {window} {curves.unit}s {losses}"
    low = gap.interval[0]
    if low > limit * gap.train and low > share * gap.absolute / gap.share:
        remedy = (
            "Regularise, stop earlier, or get more varied data; check that both losses are "
            "computed alike."
        )
        lost = f"; these get {max(1 - gap.share, 0):.0%} of what was learned"
        summary, severity = f"Training and validation are apart: {told}{lost}.", Severity.WARN
    else:
        summary, severity, remedy = f"Training and validation are close: {told}.", Severity.OK, ""
    yield this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=curves)
