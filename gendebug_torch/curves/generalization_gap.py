"""The distance of the validation loss above the training loss at the end of a training, and what it
is measured with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gendebug_torch.curves.learning_curves import LearningCurves


@dataclass(frozen=True)
class Gap:
    """Validation loss minus training loss over the last epochs.

    Args:
        absolute: in units of the loss; NaN where either loss has no value.
        error: its standard error, by the scatter of the difference from epoch to epoch.
        relative: share of the training loss; NaN where that is not positive.
        share: of what the training took off the loss, the part that the validation rows do not get;
            NaN where unknown.
        in_noise: the gap over the standard deviation of the difference in a single epoch.
        basis: `train_eval`: both in evaluation mode at the end of the epoch. `running`: the
            training loss was averaged while the weights moved, in training mode.
        train: training loss over the last epochs.
        validation: validation loss over the last epochs.
    """

    absolute: float
    error: float
    relative: float
    share: float
    in_noise: float
    basis: Literal["train_eval", "running"]
    train: float
    validation: float

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, for `absolute`."""
        return self.absolute - 1.96 * self.error, self.absolute + 1.96 * self.error


def generalization_gap(
    curves: LearningCurves, *, window: int = 5, baseline_loss: float | None = None
) -> Gap:
    """The gap over the last epochs that have both losses.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2. The share relates
    it to what was learned, so that a small loss which doubles from .01 to .02 is not taken for a
    failure.

    Args:
        curves: losses per epoch.
        window: epochs averaged at the end.
        baseline_loss: of knowing nothing; else the loss before training, else the highest loss of
            the first epoch.
    """
    basis: Literal["train_eval", "running"] = (
        "running" if curves.train_eval_loss is None else "train_eval"
    )
    both = curves.fitted_loss.isfinite() & curves.val_loss.isfinite()
    train, validation = (
        curves.fitted_loss[both][-window:].double(),
        curves.val_loss[both][-window:].double(),
    )
    if not len(train):
        return Gap(math.nan, math.nan, math.nan, math.nan, math.nan, basis, math.nan, math.nan)
    apart = validation - train
    absolute, trained = float(apart.mean()), float(train.mean())
    sd = float(apart.std()) if len(apart) > 1 else math.nan
    start = baseline_loss if baseline_loss is not None else curves.untrained_loss
    if start is None:
        start = max(float(curves.fitted_loss[both][0]), float(curves.val_loss[both][0]))
    learned = start - trained
    return Gap(
        absolute=absolute,
        error=sd / len(apart) ** 0.5,
        relative=absolute / trained if trained > 0 else math.nan,
        share=absolute / learned if learned > 0 else math.nan,
        in_noise=absolute / sd if sd > 0 else math.nan,
        basis=basis,
        train=trained,
        validation=float(validation.mean()),
    )
