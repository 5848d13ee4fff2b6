"""Whether anything in the features predicts where given probabilities are wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.stats.intervals import normal_quantile

_HIDDEN = 96
_LEVEL = 0.05
# Columns that half of the hidden units depend on.
_FEW = 3
# Cells of units by rows at once.
_CELLS = 2**23


def features_explain(columns: Tensor, residual: Tensor, *, seed: int = 0) -> bool:
    """Whether the features predict the residuals of some predictions, at the 5 % level.

    Score tests of every column and of 96 random hidden units against every residual, without a fit:
    `t = sum u r / sqrt(sum u^2 r^2)`, Bonferroni over all. Where none speaks, a network on these
    features would predict no better.

    Source: Rao (1948), Math. Proc. Camb. Philos. Soc. 44:50; White (1980), Econometrica 48:817, for
    the variance; Rahimi and Recht (2008), NeurIPS 21, for random hidden units. Cost: `n p k`.

    Args:
        columns: columns of comparable scale, `[n, p]`.
        residual: target less prediction, `[n, k]`; 0 where the target is unknown.
        seed: seed of the hidden units.
    """
    (n, p), k = columns.shape, residual.shape[1]
    if not n or not p:
        return False
    weights, offsets = (part.to(columns.device) for part in _hidden_units(p, seed))
    spread = columns.float().square().mean().sqrt().clamp(min=1e-12)
    sums, squares = (residual.new_zeros(p + _HIDDEN, k, dtype=torch.float64) for _ in range(2))
    size = max(1, _CELLS // (p + _HIDDEN))
    for x, error in zip(
        torch.split(columns, size), torch.split(residual.float(), size), strict=True
    ):
        scaled = x.float() / spread
        units = torch.cat([scaled, (scaled @ weights + offsets).relu()], 1)
        sums += units.T @ error
        squares += units.square().T @ error.square()
    statistic = sums.abs() / squares.sqrt().clamp(min=1e-12)
    return float(statistic.max()) > normal_quantile(1 - _LEVEL / (2 * statistic.numel()))


def _hidden_units(p: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights `[p, 96]`, half of them of three columns each, and offsets `[96]`."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(p, _HIDDEN, generator=generator) / p**0.5
    if p > _FEW:
        few = torch.rand(p, _HIDDEN // 2, generator=generator).argsort(0) < _FEW
        weights[:, : _HIDDEN // 2] *= few * (p / _FEW) ** 0.5
    return weights, torch.randn(_HIDDEN, generator=generator)
