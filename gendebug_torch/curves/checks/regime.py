"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.curves.checks.residuals import (
    nothing_is_left_to_learn as nothing_is_left_to_learn,
)
from gendebug_torch.curves.diagnosis import CurveDiagnosis, diagnose_curves
from gendebug_torch.curves.generalization_gap import generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.data.records import Records

_SIMULATION = 4e8
# A training loss this far above the entropy of the labels is weighted or smoothed, so another loss,
# unless it hardly moved.
_OTHER_LOSS, _HARDLY_MOVED = 1.15, 0.85


@check(
    "curves.regime",
    cause=Cause.OVERFITTING,
    needs=("curves",),
    cost=lambda given: Cost(elements=_SIMULATION),
)
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

    Source: Prechelt (1998), Early Stopping - But When?; Goodfellow, Bengio and Courville (2016),
    Deep Learning, section 5.2, for the regimes. `diagnose_curves` says how each is told.

    Args:
        curves: losses per epoch.
        train: training records; the entropy of their class labels is what knowing nothing costs.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change of the loss that counts as none.
        alpha: chance of finding an inflection in a curve that only falls.
        warn_rise: relative rise of the validation loss from which overfitting is a warning; below
            it, a note.
        fail_rise: relative rise from which it is a failure.
        baseline_loss: loss of the best constant prediction, where the labels of `train` do not tell
            it.
        target_loss: what a sufficient model would reach.
    """
    baseline = baseline_loss if baseline_loss is not None else _entropy(curves, train, window)
    how = {"window": window, "tolerance": tolerance, "alpha": alpha}
    found = diagnose_curves(curves, baseline_loss=baseline, target_loss=target_loss, **how)  # type: ignore[arg-type]
    keys = (
        "regime",
        "inflection_epoch",
        "interval",
        "confidence",
        "best_epoch",
        "rise",
        "slope",
        "noise",
        "learned",
    )
    numbers = {key: getattr(found, key) for key in keys} | {
        "gap": found.gap.absolute,
        "remarks": found.remarks,
    }
    cause, severity, remedy = _judged(found, warn_rise, fail_rise)
    told = " ".join([found.summary, *found.remarks[:2]])
    yield training_ended_well.finding(
        severity, told, cause=cause, numbers=numbers, remedy=remedy, evidence=found
    )


def _judged(
    found: CurveDiagnosis, warn_rise: float, fail_rise: float
) -> tuple[Cause, Severity, str]:
    unit = found.curves.unit
    if found.regime == "overfit":
        severity = (
            Severity.FAIL
            if found.rise >= fail_rise
            else Severity.WARN
            if found.rise >= warn_rise
            else Severity.NOTE
        )
        keep = f"Keep the checkpoint of {unit} {found.inflection_epoch}, or stop there"
        return (
            Cause.OVERFITTING,
            severity,
            f"{keep}; then try more data, augmentation or weight decay.",
        )
    remedies = {
        "diverged": "Lower the learning rate or clip gradients; look at the batches where the "
        "loss first became NaN.",
        "underfit": "Check that the labels belong to the rows; then raise the learning rate, or "
        "take a larger model.",
        "oscillating": "Lower the learning rate, or let it fall along a schedule; judge the "
        "network at the end of a cycle.",
        "still_improving": "Train longer.",
        "too_noisy": "Validate on more rows, or train longer.",
        "too_short": "Train for more epochs, or validate more often.",
    }
    if found.regime == "converged":
        return Cause.OVERFITTING, Severity.OK, ""
    severity = {"diverged": Severity.FAIL, "underfit": Severity.WARN}.get(
        found.regime, Severity.NOTE
    )
    return Cause.UNDERFITTING, severity, remedies[found.regime]


def _entropy(curves: LearningCurves, train: Records | None, window: int) -> float | None:
    """Nats of the class shares, where the training loss can be a plain cross-entropy of these
    labels.
    """
    targets = None if train is None else train.targets
    if (
        targets is None
        or targets.dtype != torch.int64
        or targets.ndim != 1
        or not len(targets)
        or bool((targets < 0).any())
    ):
        return None
    shares = targets.bincount().double() / len(targets)
    entropy = float(torch.special.entr(shares).sum())
    gap, first = (
        generalization_gap(curves, window=window),
        curves.train_loss[curves.train_loss.isfinite()][:1].tolist(),
    )
    start = curves.untrained_loss if curves.untrained_loss is not None else (first or [math.inf])[0]
    plain = not gap.train > _OTHER_LOSS * entropy or gap.train >= _HARDLY_MOVED * start
    return entropy if entropy > 0 and plain else None
