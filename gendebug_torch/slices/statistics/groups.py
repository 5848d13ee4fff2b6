"""P-values of slices whose rows come in groups, as visits of patients do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.stats.effective_sample_size import group_effect


def effect_of_groups(residuals: Tensor, groups: Tensor) -> float:
    """Design effect of the mean of some rows, at least 1.

    Args:
        residuals: deviations from what is expected, `[n]` float64.
        groups: ids of the groups of the rows, `[n]` int64.
    """
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    return group_effect(residuals, numbers) if len(residuals) else 1.0


def discounted(log_p: Tensor, effects: Tensor) -> Tensor:
    """`[s]` logarithms of p-values with the deviates divided by the roots of design effects.

    Source: Rao and Scott (1992), Biometrics 48:577.

    Args:
        log_p: logarithms of one-sided p-values of independent rows, `[s]` float64.
        effects: design effects, `[s]`.

    Example:
        >>> one = torch.tensor([0.01], dtype=torch.float64).log()
        >>> round(float(discounted(one, torch.tensor([4.0], dtype=torch.float64)).exp()), 3)
        0.122
    """
    # The lower tail has a deviate for each logarithm: found by Newton's method.
    deviate = -(-2 * log_p).clamp(min=0.0).sqrt()
    for _ in range(20):
        tail = torch.special.log_ndtr(deviate)
        density = -deviate.square() / 2 - math.log(2 * math.pi) / 2
        deviate = deviate - (tail - log_p) * (tail - density).exp()
    smaller: Tensor = torch.special.log_ndtr(deviate / effects.sqrt())
    return smaller
