"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict

import torch

from gendebug_torch.curves.checks_residuals import nothing_is_left_to_learn as nothing_is_left_to_learn
from gendebug_torch.curves.curves import LearningCurves
from gendebug_torch.curves.diagnosis import CurveDiagnosis, diagnose_curves
from gendebug_torch.curves.gap import generalization_gap
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check

_SIMULATION = 4e8
# A training loss this far above the entropy of the labels is weighted or smoothed, so another loss, unless it hardly moved.
_OTHER_LOSS, _HARDLY_MOVED = 1.15, 0.85


@check("curves.regime", cause=Cause.OVERFITTING, needs=("curves",), cost=lambda given: Cost(elements=_SIMULATION))
def training_ended_well(
    curves: LearningCurves,
    train: Records | None = None,
    *,
    window: int = 5,
    tolerance: float = 0.025,
    alpha: float = 0.01,
    warn_rise: float = 0.05,
    fail_rise: float = 0.25,
    baseline_loss: float | None = None,
    target_loss: float | None = None,
) -> Iterator[Finding]:
    """The training neither overfits nor underfits nor diverges: its validation loss has converged.

    Source: Prechelt (1998), Early Stopping - But When?; Goodfellow, Bengio and Courville (2016), Deep Learning,
    section 5.2, for the regimes. `diagnose_curves` says how each is told.

    Args:
        curves: losses per epoch.
        train: training records; the entropy of their class labels is what knowing nothing costs.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change of the loss that counts as none.
        alpha: chance of finding an inflection in a curve that only falls.
        warn_rise: relative rise of the validation loss from which overfitting is a warning; below it, a note.
        fail_rise: relative rise from which it is a failure.
        baseline_loss: loss of the best constant prediction, where the labels of `train` do not tell it.
        target_loss: what a sufficient model would reach.
    """
    baseline = baseline_loss if baseline_loss is not None else _entropy(curves, train, window)
    how = {"window": window, "tolerance": tolerance, "alpha": alpha}
    found = diagnose_curves(curves, baseline_loss=baseline, target_loss=target_loss, **how)  # type: ignore[arg-type]
    keys = ("regime", "inflection_epoch", "interval", "confidence", "best_epoch", "rise", "slope", "noise", "learned")
    numbers = {key: getattr(found, key) for key in keys} | {"gap": found.gap.absolute, "remarks": found.remarks}
    cause, severity, remedy = _judged(found, warn_rise, fail_rise)
    told = " ".join([found.summary, *found.remarks[:2]])
    yield training_ended_well.finding(severity, told, cause=cause, numbers=numbers, remedy=remedy, evidence=found)


def _judged(found: CurveDiagnosis, warn_rise: float, fail_rise: float) -> tuple[Cause, Severity, str]:
    unit = found.curves.unit
    if found.regime == "overfit":
        severity = Severity.FAIL if found.rise >= fail_rise else Severity.WARN if found.rise >= warn_rise else Severity.NOTE
        keep = f"Keep the checkpoint of {unit} {found.inflection_epoch}, or stop there"
        return Cause.OVERFITTING, severity, f"{keep}; then try more data, augmentation or weight decay."
    remedies = {
        "diverged": "Lower the learning rate or clip gradients; look at the batches where the loss first became NaN.",
        "underfit": "Check that the labels belong to the rows; then raise the learning rate, or take a larger model.",
        "oscillating": "Lower the learning rate, or let it fall along a schedule; judge the network at the end of a cycle.",
        "still_improving": "Train longer.",
        "too_noisy": "Validate on more rows, or train longer.",
        "too_short": "Train for more epochs, or validate more often.",
    }
    if found.regime == "converged":
        return Cause.OVERFITTING, Severity.OK, ""
    severity = {"diverged": Severity.FAIL, "underfit": Severity.WARN}.get(found.regime, Severity.NOTE)
    return Cause.UNDERFITTING, severity, remedies[found.regime]


def _entropy(curves: LearningCurves, train: Records | None, window: int) -> float | None:
    """Nats of the class shares, where the training loss can be a plain cross-entropy of these labels."""
    targets = None if train is None else train.targets
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1 or not len(targets) or bool((targets < 0).any()):
        return None
    shares = targets.bincount().double() / len(targets)
    entropy = float(torch.special.entr(shares).sum())
    gap, first = generalization_gap(curves, window=window), curves.train_loss[curves.train_loss.isfinite()][:1].tolist()
    start = curves.untrained_loss if curves.untrained_loss is not None else (first or [math.inf])[0]
    plain = not gap.train > _OTHER_LOSS * entropy or gap.train >= _HARDLY_MOVED * start
    return entropy if entropy > 0 and plain else None


@check("curves.gap", cause=Cause.OVERFITTING, cost=lambda given: Cost(elements=1.0))
def validation_loss_is_near_training_loss(
    curves: LearningCurves, *, limit: float = 0.75, share: float = 0.15, window: int = 5
) -> Iterator[Finding]:
    """At the end of the training the validation loss is not far above the training loss.

    Far is both: by more than `limit` of the training loss, and by more than `share` of what the training took
    off the loss. Both losses must measure the same: label smoothing or class weights in the training loss
    alone make the gap smaller than it is, or larger.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2, for the generalization gap.

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
    measured = "evaluated alike" if gap.basis == "train_eval" else "the training loss as it ran, in training mode"
    losses = f"the validation loss is {gap.validation:.4g}, the training loss {gap.train:.4g} ({gap.relative:+.0%}; {measured})"
    told = f"over the last {window} {curves.unit}s {losses}"
    low = gap.interval[0]
    if low > limit * gap.train and low > share * gap.absolute / gap.share:
        remedy = "Regularise, stop earlier, or get more varied data; check that both losses are computed alike."
        lost = f"; these get {max(1 - gap.share, 0):.0%} of what was learned"
        summary, severity = f"Training and validation are apart: {told}{lost}.", Severity.WARN
    else:
        summary, severity, remedy = f"Training and validation are close: {told}.", Severity.OK, ""
    yield this.finding(severity, summary, numbers=numbers, remedy=remedy, evidence=curves)
