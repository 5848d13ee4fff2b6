"""`curves.regime`: whether a training converged, and from which epoch it overfits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.curves.diagnosis.curve_diagnosis import CurveDiagnosis
from gendebug_torch.curves.diagnosis.diagnose import diagnose_curves
from gendebug_torch.curves.generalization_gap import generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task

_SIMULATION = 4e8
# A training loss above this multiple of the entropy of the labels is weighted or smoothed, so
# another loss, unless it kept this share of its start.
_OTHER_LOSS, _UNCHANGED = 1.15, 0.85
# Relative difference of a recorded loss from that of the records up to which it is the same loss.
_SAME_LOSS = 0.2
_SEVERITIES = {
    "converged": Severity.OK,
    "diverged": Severity.FAIL,
    "underfit": Severity.WARN,
}
_REMEDIES = {
    "underfit": "Check that the labels belong to the rows; then raise the learning rate, or use a "
    "larger model.",
    "oscillating": "Lower the learning rate or decay it on a schedule, and evaluate the network at "
    "the end of a cycle.",
    "still_improving": "Train longer.",
    "too_noisy": "Validate on more rows, or train longer.",
    "too_short": "Train for more epochs, or validate more often.",
}


@check(
    "curves.regime",
    cause=Cause.OVERFITTING,
    needs=("curves",),
    cost=lambda given: Cost(elements=_SIMULATION),
)
def training_converged_without_overfitting(
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

    Source: Prechelt (1998), Early Stopping - But When?; Goodfellow, Bengio and Courville (2016),
    Deep Learning, section 5.2, for the regimes. `diagnose_curves` defines each of them.

    Args:
        curves: losses per epoch.
        train: training records; the entropy of their class labels, or the spread of their
            quantities, is the loss of a constant prediction.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change of the loss that counts as none.
        alpha: chance of finding an inflection in a curve that only falls.
        warn_rise: relative rise of the validation loss from which overfitting is a warning; below
            it, a note.
        fail_rise: relative rise from which it is a failure.
        baseline_loss: loss of the best constant prediction, where the labels of `train` do not give
            it.
        target_loss: loss of a sufficient model.
    """
    options: dict[str, Any] = {"window": window, "tolerance": tolerance, "alpha": alpha}
    baseline = _constant_loss(curves, train, window) if baseline_loss is None else baseline_loss
    diagnosis = diagnose_curves(curves, baseline_loss=baseline, target_loss=target_loss, **options)
    overfits = diagnosis.regime == "overfit"
    healthy = diagnosis.regime in ("overfit", "converged")
    severity = _SEVERITIES.get(diagnosis.regime, Severity.NOTE)
    if overfits and diagnosis.rise >= warn_rise:
        severity = Severity.FAIL if diagnosis.rise >= fail_rise else Severity.WARN
    yield training_converged_without_overfitting.finding(
        severity,
        " ".join([diagnosis.summary, *diagnosis.notes[:2]]),
        cause=Cause.OVERFITTING if healthy else Cause.UNDERFITTING,
        numbers=_numbers(diagnosis),
        remedy=_remedy(diagnosis),
        evidence=diagnosis,
    )


def _numbers(diagnosis: CurveDiagnosis) -> dict[str, Any]:
    names = (
        "regime",
        "inflection_epoch",
        "interval",
        "confidence",
        "best_epoch",
        "rise",
        "change",
        "noise",
        "learned",
        "notes",
    )
    accuracy = None if diagnosis.accuracy is None else asdict(diagnosis.accuracy)
    numbers = {name: getattr(diagnosis, name) for name in names}
    return numbers | {"gap": diagnosis.gap.absolute, "accuracy": accuracy}


def _remedy(diagnosis: CurveDiagnosis) -> str:
    if diagnosis.regime == "overfit" and diagnosis.accuracy and diagnosis.accuracy.rises:
        return (
            f"Recalibrate the last checkpoint and compare it with that of {diagnosis.curves.unit} "
            f"{diagnosis.inflection_epoch} on rows that neither has seen; use the better one. Then "
            "try more data, augmentation or weight decay."
        )
    if diagnosis.regime == "overfit":
        return (
            f"Use the checkpoint of {diagnosis.curves.unit} {diagnosis.inflection_epoch}, or stop "
            "there. Then try more data, augmentation or weight decay."
        )
    if diagnosis.regime == "diverged":
        curves = diagnosis.curves
        if bool(curves.train_loss[-1:].isfinite().all()):
            return (
                "Lower the learning rate or clip gradients. If a part of the loss grows on "
                "purpose, e.g. with its weight, record the parts and diagnose each."
            )
        return (
            "Lower the learning rate or clip gradients, and look at the batches where the loss "
            "first became NaN or infinite."
        )
    return _REMEDIES.get(diagnosis.regime, "")


def _constant_loss(curves: LearningCurves, train: Records | None, window: int) -> float | None:
    """Loss of the best constant prediction; None where it is not known which loss was recorded."""
    if train is None or train.task is not Task.REGRESSION:
        return _label_entropy(curves, train, window)
    targets, predicted = train.targets, train.logits
    if targets is None or predicted is None or targets.shape != predicted.shape:
        return None
    final = generalization_gap(curves, window=window).train
    error = targets.double() - predicted.to(targets.device).double()
    centred = targets.double() - targets.double().mean(0)
    absolute = targets.double() - targets.double().median(0).values
    # The recorded loss is the squared or the absolute error if the model's own is near it.
    for own, constant in (
        (error.square(), centred.square()),
        (error.abs(), absolute.abs()),
    ):
        if abs(final / max(float(own.mean()), 1e-300) - 1) <= _SAME_LOSS:
            return float(constant.mean())
    return None


def _label_entropy(curves: LearningCurves, train: Records | None, window: int) -> float | None:
    """Entropy of the class shares in nats; None if the loss cannot be their plain cross-entropy."""
    targets = None if train is None else train.targets
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1 or not len(targets):
        return None
    if bool((targets < 0).any()):
        return None
    shares = targets.bincount().double() / len(targets)
    entropy = float(torch.special.entr(shares).sum())
    final = generalization_gap(curves, window=window).train
    start = curves.untrained_loss
    if start is None:
        start = next(iter(curves.train_loss[curves.train_loss.isfinite()].tolist()), math.inf)
    plain = not final > _OTHER_LOSS * entropy or final >= _UNCHANGED * start
    return entropy if entropy > 0 and plain else None
