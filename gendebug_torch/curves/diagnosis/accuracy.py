"""Whether the accuracy of the validation rows rises while their loss does."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from gendebug_torch.curves.fit.trend import robust_sd
from gendebug_torch.curves.learning_curves import LearningCurves

# Words in the names of metrics of which more is better, in order of preference.
_METRICS = ("accuracy", "acc", "f1", "auroc", "auc")
_VALIDATION = ("val", "valid", "validation", "eval", "dev")
_WINDOW, _MIN_VALUES, _Z = 5, 3, 2.0


@dataclass(frozen=True)
class AccuracyChange:
    """A validation metric of which more is better, from the inflection of the loss to the end.

    Args:
        name: name of the metric.
        before: mean over five epochs about the inflection.
        after: mean over the last five epochs.
        error: standard error of the difference.
    """

    name: str
    before: float
    after: float
    error: float

    @property
    def rises(self) -> bool:
        """Whether the metric is higher at the end, beyond its noise."""
        return self.after - self.before > _Z * self.error


def accuracy_change(curves: LearningCurves, epoch: int) -> AccuracyChange | None:
    """The change of a validation accuracy since an epoch; None where none was recorded.

    Args:
        curves: losses and metrics per epoch.
        epoch: epoch after which the validation loss rises.
    """
    name = _accuracy_name(curves)
    if name is None:
        return None
    finite = curves.metrics[name].isfinite()
    values = curves.metrics[name][finite].double().numpy()
    at = int((curves.epoch[finite] <= epoch).sum()) - 1
    half = _WINDOW // 2
    before, after = values[max(at - half, 0) : at + half + 1], values[at + half + 1 :][-_WINDOW:]
    if min(len(before), len(after)) < _MIN_VALUES:
        return None
    sd = robust_sd(np.diff(values)) / 2**0.5
    error = sd * (1 / len(before) + 1 / len(after)) ** 0.5
    return AccuracyChange(name, float(before.mean()), float(after.mean()), error)


def _accuracy_name(curves: LearningCurves) -> str | None:
    words = {name: re.split(r"[^a-z0-9]+", name.lower()) for name in curves.metrics}
    for metric in _METRICS:
        for name, parts in words.items():
            if metric in parts and any(part in _VALIDATION for part in parts):
                return name
    return None
