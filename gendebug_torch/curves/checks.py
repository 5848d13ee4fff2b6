"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
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
def learning_carries_over(curves: LearningCurves, *, limit: float = 0.5, window: int = 5) -> Iterator[Finding]:
    """What is learned on the training rows is learned for the validation rows too.

    Of the fall of the training loss since its first epoch, the share by which the validation loss fell too.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2, for the generalisation gap.

    Args:
        curves: losses per epoch.
        limit: smallest share that must carry over.
        window: epochs averaged at the end.
    """
    this = learning_carries_over
    train = curves.train_loss[curves.train_loss.isfinite()]
    val = curves.val_loss[curves.val_loss.isfinite()]
    if min(len(train), len(val)) < 2 * window:
        yield this.finding(Severity.NOTE, f"Fewer than {2 * window} epochs: the gap is not judged.")
        return
    learned = float(train[0] - train[-window:].mean())
    carried = float(val[0] - val[-window:].mean())
    # The first losses must be comparable, and something must have been learned, for the share to mean anything.
    if learned <= 0.1 * abs(float(train[0])):
        yield this.finding(Severity.OK, "The training loss hardly fell: there is no gap to judge.", numbers={"learned": learned})
        return
    share = carried / learned
    scatter = float(val.diff()[-2 * window :].std()) / learned
    numbers = {"share": share, "learned": learned, "carried_over": carried, "scatter": scatter}
    told = f"the validation loss fell by {carried:.3g} while the training loss fell by {learned:.3g}: {share:.0%} carried over"
    if share + 2 * scatter / math.sqrt(window) < limit:
        remedy = "Regularise, stop earlier, or get more varied data; check that the split is not harder than the training rows."
        severity = Severity.WARN
        yield this.finding(severity, f"Learning does not carry over: {told}.", numbers=numbers, remedy=remedy, evidence=curves)
    else:
        yield this.finding(Severity.OK, f"Learning carries over: {told}.", numbers=numbers, evidence=curves)
