"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.curves.curves import LearningCurves
from gendebug_torch.curves.diagnosis import diagnose_curves
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.registry import Cost, check

_BOOTSTRAP = 4e8


@check("curves.regime", cause=Cause.OVERFITTING, cost=lambda given: Cost(elements=_BOOTSTRAP))
def training_ended_well(
    curves: LearningCurves, *, window: int = 5, tolerance: float = 0.025, alpha: float = 0.05, fail_rise: float = 0.25
) -> Iterator[Finding]:
    """The training neither overfits nor underfits: its validation loss has converged.

    Source: Prechelt (1998), Early Stopping - But When?; Barlow, Bartholomew, Bremner and Brunk (1972),
    Statistical Inference under Order Restrictions, for the test.

    Args:
        curves: losses per epoch.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change of the loss that counts as none.
        alpha: chance of calling a falling curve overfit.
        fail_rise: relative rise of the validation loss from which overfitting is a failure.
    """
    found = diagnose_curves(curves, window=window, tolerance=tolerance, alpha=alpha)
    keys = ("regime", "inflection_epoch", "interval", "confidence", "best_epoch", "rise", "slope", "gap", "noise")
    numbers = {key: getattr(found, key) for key in keys}
    cause, severity, remedy = Cause.OVERFITTING, Severity.OK, ""
    if found.regime == "overfit":
        severity = Severity.FAIL if found.rise >= fail_rise else Severity.WARN
        remedy = f"Stop at epoch {found.inflection_epoch} or take that checkpoint; then try more data, augmentation or weight decay."
    elif found.regime in ("underfit", "diverged"):
        cause, severity = Cause.UNDERFITTING, Severity.FAIL if found.regime == "diverged" else Severity.WARN
        remedy = "Check that the labels belong to the rows; then lower or raise the learning rate, or take a larger model."
    elif found.regime in ("still_learning", "too_noisy"):
        severity = Severity.NOTE
        remedy = "Train longer." if found.regime == "still_learning" else "Train longer, or validate on more rows."
    this = training_ended_well
    yield this.finding(severity, found.summary, cause=cause, numbers=numbers, remedy=remedy, evidence=found)


@check("curves.gap", cause=Cause.OVERFITTING, cost=lambda given: Cost(elements=1.0))
def validation_loss_is_near_training_loss(curves: LearningCurves, *, limit: float = 0.5, window: int = 5) -> Iterator[Finding]:
    """At the end of the training the validation loss is not far above the training loss.

    Both must measure the same: dropout, augmentation, label smoothing or class weights in the training loss
    alone make the gap smaller than it is, or larger.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2, for the generalisation gap.

    Args:
        curves: losses per epoch.
        limit: relative height of the validation loss above the training loss that matters.
        window: epochs averaged at the end.
    """
    this = validation_loss_is_near_training_loss
    train = curves.train_loss[curves.train_loss.isfinite()]
    val = curves.val_loss[curves.val_loss.isfinite()]
    if min(len(train), len(val)) < window:
        yield this.finding(Severity.NOTE, f"Fewer than {window} epochs: the gap is not judged.")
        return
    ends = [side[-window:] for side in (train, val)]
    trained, validated = (float(end.mean()) for end in ends)
    if trained <= 0:
        told = "The training loss is not positive: a relative gap means nothing."
        yield this.finding(Severity.NOTE, told, numbers={"train_loss": trained})
        return
    gap = validated / trained - 1
    error = float(sum(end.var() / window for end in ends)) ** 0.5 / trained
    numbers = {"gap": gap, "interval": [gap - 2 * error, gap + 2 * error], "train_loss": trained, "val_loss": validated}
    told = f"over the last {window} epochs the validation loss is {validated:.4g}, the training loss {trained:.4g} ({gap:+.0%})"
    if gap - 2 * error > limit:
        remedy = "Regularise, stop earlier, or get more varied data; check that both losses are computed alike."
        yield this.finding(Severity.WARN, f"Training and validation are apart: {told}.", numbers=numbers, remedy=remedy, evidence=curves)
    else:
        yield this.finding(Severity.OK, f"Training and validation are close: {told}.", numbers=numbers, evidence=curves)
