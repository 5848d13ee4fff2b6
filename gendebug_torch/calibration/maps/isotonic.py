"""Isotonic regression of a binary logit: the best monotone map, a step function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.calibration.rows.model_outputs import labeled_outputs
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reject
from gendebug_torch.model.binary import positive_logit


@dataclass(frozen=True, eq=False)
class IsotonicMap:
    """A step function of a binary logit: `levels[i]` where i of the `steps` lie below it.

    It makes ties and may change predictions.

    Args:
        steps: ascending logits `[s - 1]` float64 at which the level changes.
        levels: ascending calibrated logits `[s]` float64.
    """

    steps: Tensor
    levels: Tensor
    converged: bool = True
    unbounded: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Mapped logits, `[n]`, or `[n, 2]` whose first column is 0; in the dtype of the input."""
        if logits.ndim == 2:
            return two_class_logits(self(positive_logit(logits)))
        steps = self.steps.to(logits.device, logits.dtype)
        return self.levels.to(logits)[torch.searchsorted(steps, logits.contiguous())]


def fit_isotonic(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> IsotonicMap:
    """The monotone map of a binary logit with the least squared error (pool adjacent violators).

    The rate of each step is smoothed towards the base rate by one row, since a step of 0 or 1 would
    make the log loss infinite.

    Source: Zadrozny and Elkan (2002), KDD; Robertson and Cribbs (1984), Ann. Inst. Stat. Math.
    36:15, for pooling.

    Args:
        logits: float `[n]`, or `[n, 2]`.
        targets: 0 and 1 `[n]`.
        weights: non-negative row weights `[n]`; a weight of 2 counts as two rows.

    Raises:
        InputError: more than two classes, shapes that do not fit, no rows.

    Cost: a sort of the rows.

    Example:
        >>> logits = torch.tensor([-2.0, -1.0, -1.0, 0.0, 1.0, 2.0])
        >>> fitted = fit_isotonic(logits, torch.tensor([0, 0, 1, 0, 1, 1]))
        >>> fitted(torch.tensor([-3.0, 0.0, 3.0])).sigmoid()
        tensor([0.2500, 0.3750, 0.8333])
    """
    rows = labeled_outputs(logits, targets, weights)
    if logits.ndim > 2 or (logits.ndim == 2 and logits.shape[1] > 2) or not len(logits):
        reject(
            "logits",
            "[n] or [n, 2] of a binary model, n > 0",
            f"{list(logits.shape)}",
            "Use a temperature for more classes.",
        )
    score, labels = positive_logit(rows.logits).double().cpu(), rows.targets.double().cpu()
    mass = torch.ones_like(score) if weights is None else weights.double().cpu()
    return _pooled(score[mass > 0], labels[mass > 0], mass[mass > 0])


def _pooled(score: Tensor, labels: Tensor, mass: Tensor) -> IsotonicMap:
    """The map of `[n]` scores with labels of 0 and 1 and positive weights."""
    from scipy.optimize import isotonic_regression

    distinct, group = torch.unique(score, return_inverse=True)
    group_rows = torch.bincount(group, mass)
    rate = torch.bincount(group, mass * labels) / group_rows
    pooled = isotonic_regression(rate.numpy(), weights=group_rows.numpy())
    starts = torch.from_numpy(pooled.blocks[:-1].astype("int64"))
    block_rows = torch.from_numpy(pooled.weights)
    base = float(mass @ labels) / float(mass.sum())
    smoothed = (torch.from_numpy(pooled.x)[starts] * block_rows + base) / (block_rows + 1)
    levels = torch.logit(smoothed.clamp(1e-12, 1 - 1e-12)).cummax(0).values
    return IsotonicMap((distinct[starts[1:]] + distinct[starts[1:] - 1]) / 2, levels)
