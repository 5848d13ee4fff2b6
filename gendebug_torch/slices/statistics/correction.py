"""How much of the error of some rows a correction fitted to the same rows takes off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FOLDS, _MAX_FEATURES = 5, 200


def correction_gain(residuals: Tensor, features: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Share of the squared residuals that a correction fitted to the same rows takes off.

    Five-fold ridge regression of the residuals on a constant and the features: an error that could
    have been learned, unlike noise. The gain of the constant alone counts where it is larger.

    Args:
        residuals: targets minus predictions, `[m, k]` float64; NaN where missing.
        features: inputs of the model and its predictions, `[m, d]` float64; NaN where missing.
        seed: seed of the folds.

    Returns:
        The share, negative where a correction only adds noise, and its standard error.
    """
    m = len(residuals)
    residuals = residuals.nan_to_num(0.0)
    before = residuals.square().sum(1)
    if m < 2 * _FOLDS or float(before.sum()) <= 0:
        return 0.0, 0.0
    scaled = _standardized(features[:, :_MAX_FEATURES])
    one = torch.ones(m, 1, dtype=torch.float64)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    best = (-math.inf, 0.0)
    for design in (one, torch.cat([one, scaled], 1)):
        after = (residuals - _out_of_fold(design, residuals, order)).square().sum(1)
        difference = (before - after) / before.mean()
        best = max(best, (float(difference.mean()), float(difference.std()) / m**0.5))
    return best


def _out_of_fold(design: Tensor, residuals: Tensor, order: Tensor) -> Tensor:
    """`[m, k]` predictions of ridge regression on the other folds."""
    predicted = torch.zeros_like(residuals)
    for fold in order.tensor_split(_FOLDS):
        kept = torch.ones(len(residuals), dtype=torch.bool)
        kept[fold] = False
        x = design[kept]
        # As much variance is expected of all features together as of the noise.
        ridge = x.shape[1] * torch.eye(x.shape[1], dtype=torch.float64)
        ridge[0, 0] = 1e-9
        predicted[fold] = design[fold] @ torch.linalg.solve(x.T @ x + ridge, x.T @ residuals[kept])
    return predicted


def _standardized(features: Tensor) -> Tensor:
    """Mean 0 and sd 1; missing values are 0, constant columns left out."""
    features = features.double().cpu()
    centred = features - features.nanmean(0)
    spread = centred.square().nanmean(0).sqrt()
    kept = spread > 1e-9
    return (centred[:, kept] / spread[kept]).nan_to_num(0.0, 0.0, 0.0).clamp(-10, 10)
