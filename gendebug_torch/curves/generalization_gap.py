"""The distance of the validation loss above the training loss at the end of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gendebug_torch.curves.learning_curves import LearningCurves


@dataclass(frozen=True)
class Gap:
    """Validation loss minus training loss over the last epochs.

    Args:
        absolute: difference in units of the loss; NaN where either loss has no value.
        error: standard error of it, by the scatter of the difference from epoch to epoch.
        relative: difference as a share of the training loss; NaN where that is not positive.
        share: part of what the training took off the loss that the validation rows do not get; NaN
            where unknown.
        in_noise: difference over its standard deviation in a single epoch.
        basis: `train_eval`: both losses in evaluation mode at the end of the epoch. `running`: the
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
        """95 % interval of `absolute`."""
        return self.absolute - 1.96 * self.error, self.absolute + 1.96 * self.error


def generalization_gap(
    curves: LearningCurves, *, window: int = 5, baseline_loss: float | None = None
) -> Gap:
    """The generalization gap over the last epochs that have both losses.

    The gap is also given as a share of what was learned, so that a small loss which doubles from
    .01 to .02 is not taken for a failure.

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, section 5.2.

    Args:
        curves: losses per epoch.
        window: number of epochs averaged at the end.
        baseline_loss: loss of a constant prediction; else the loss before training, else the
            highest loss of the first epoch.

    Example:
        >>> import torch
        >>> from gendebug_torch.curves import LearningCurves
        >>> val = torch.tensor([0.7, 0.5, 0.5, 0.5, 0.5, 0.5])
        >>> gap = generalization_gap(LearningCurves(torch.arange(6), 0.8 * val, val))
        >>> round(gap.relative, 2)
        0.25
    """
    basis: Literal["train_eval", "running"] = (
        "running" if curves.train_eval_loss is None else "train_eval"
    )
    both = curves.fitted_loss.isfinite() & curves.val_loss.isfinite()
    if not bool(both.any()):
        return Gap(math.nan, math.nan, math.nan, math.nan, math.nan, basis, math.nan, math.nan)
    train = curves.fitted_loss[both].double()
    validation = curves.val_loss[both].double()
    start = curves.untrained_loss if baseline_loss is None else baseline_loss
    if start is None:
        start = max(float(train[0]), float(validation[0]))
    train, validation = train[-window:], validation[-window:]
    difference = validation - train
    absolute, final = float(difference.mean()), float(train.mean())
    sd = float(difference.std()) if len(difference) > 1 else math.nan
    learned = start - final
    return Gap(
        absolute=absolute,
        error=sd / len(difference) ** 0.5,
        relative=absolute / final if final > 0 else math.nan,
        share=absolute / learned if learned > 0 else math.nan,
        in_noise=absolute / sd if sd > 0 else math.nan,
        basis=basis,
        train=final,
        validation=float(validation.mean()),
    )
