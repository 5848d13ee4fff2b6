"""Isotonic regression of a binary logit: the best monotone map there is, in steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.calibration.model_outputs import validated
from gendebug_torch.errors import reject


@dataclass(frozen=True, eq=False)
class IsotonicMap:
    """Steps over a binary logit: `levels[i]` where i of the `steps` lie below it. It makes ties and
    moves predictions.

    Args:
        steps: `[s - 1]` float64 ascending logits at which the level changes.
        levels: `[s]` float64 calibrated logits, ascending.
    """

    steps: Tensor
    levels: Tensor
    converged: bool = True
    unbounded: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Mapped logits, `[n]`, or `[n, 2]` whose first column is 0; in the dtype of the input."""
        if logits.ndim == 2:
            mapped = self(logits[:, 1] - logits[:, 0])
            return torch.stack([torch.zeros_like(mapped), mapped], 1)
        place = torch.searchsorted(self.steps.to(logits.device, logits.dtype), logits.contiguous())
        return self.levels.to(logits)[place]


def fit_isotonic(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> IsotonicMap:
    """The monotone map of a binary logit with the least squared error, by pooling adjacent
    violators.

    Each step's rate is drawn one row towards the base rate, since a step of 0 or 1 would make the
    log loss infinite.

    Source: Zadrozny and Elkan (2002), KDD; Robertson and Cribbs (1984), Ann. Inst. Stat. Math.
    36:15, for pooling.

    Args:
        logits: `[n]` float, or `[n, 2]`.
        targets: `[n]` 0 and 1.
        weights: `[n]` non-negative; a weight of 2 counts as two rows.

    Raises:
        InputError: more than two classes, shapes that do not fit, no rows.

    Cost: a sort of the rows.
    """
    from scipy.optimize import isotonic_regression

    validated(logits, targets, weights)
    if logits.ndim > 2 or (logits.ndim == 2 and logits.shape[1] != 2) or not len(logits):
        reject(
            "logits",
            "[n] or [n, 2] of a binary model, n > 0",
            f"{list(logits.shape)}",
            "Take a temperature for more classes.",
        )
    score = (logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]).double().cpu()
    mass = (
        torch.ones(len(score), dtype=torch.float64) if weights is None else weights.double().cpu()
    )
    true = targets.double().cpu()
    distinct, place = torch.unique(score[mass > 0], return_inverse=True)
    rows = torch.bincount(place, mass[mass > 0])
    rate = torch.bincount(place, (mass * true)[mass > 0]) / rows
    pooled = isotonic_regression(rate.numpy(), weights=rows.numpy())
    starts = torch.from_numpy(pooled.blocks[:-1].astype("int64"))
    block_rows = torch.from_numpy(pooled.weights)
    block_rate = torch.from_numpy(pooled.x)[starts]
    base = float(mass @ true) / float(mass.sum())
    smoothed = (block_rate * block_rows + base) / (block_rows + 1)
    levels = torch.logit(smoothed.clamp(1e-12, 1 - 1e-12)).cummax(0).values
    return IsotonicMap((distinct[starts[1:]] + distinct[starts[1:] - 1]) / 2, levels)
