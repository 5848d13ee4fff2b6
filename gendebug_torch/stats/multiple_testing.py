"""P-values adjusted for how many questions were asked."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def holm_adjusted(p_values: Tensor) -> Tensor:
    """Holm's step-down adjusted p-values, for any dependence between the tests.

    Those below alpha have family-wise error at most alpha.

    Source: Holm (1979), Scand. J. Statist. 6:65. NaN (a question not asked) stays NaN and is not
    counted.

    Args:
        p_values: `[d]` float.

    Returns:
        `[d]` float64 in [0, 1].
    """
    p = p_values.double()
    asked = ~p.isnan()
    m = int(asked.sum())
    order = torch.argsort(torch.where(asked, p, torch.full_like(p, 2.0)), stable=True)[:m]
    factors = torch.arange(m, 0, -1, dtype=torch.float64, device=p.device)
    stepped = (p[order] * factors).clamp(max=1.0).cummax(0).values if m else p[order]
    adjusted = torch.full_like(p, math.nan)
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg_adjusted(p_values: Tensor) -> Tensor:
    """Step-up adjusted p-values that bound the false discovery rate under positive dependence.

    Source: Benjamini and Hochberg (1995), JRSS B 57:289. NaN stays NaN and is not counted.

    Args:
        p_values: `[d]` float.

    Returns:
        `[d]` float64 in [0, 1].
    """
    p = p_values.double()
    asked = ~p.isnan()
    m = int(asked.sum())
    order = torch.argsort(torch.where(asked, p, torch.full_like(p, 2.0)), stable=True)[:m]
    scaled = p[order] * m / torch.arange(1, m + 1, dtype=torch.float64, device=p.device)
    adjusted = torch.full_like(p, math.nan)
    adjusted[order] = scaled.flip(0).cummin(0).values.flip(0).clamp(max=1.0) if m else scaled
    return adjusted
