"""Distances between samples of one column, and what explains a shift."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value

# A transformation explains a shift if it leaves this share of the distance, or a distance this
# small, or one that is not significant at this level and at most this share of the distance.
MAX_LEFT = 0.125
NEGLIGIBLE = 0.02
_ALPHA = 1e-3
_MAX_LEFT_NOISE = 0.75
# Distance up to which two columns may hold the same values, beside noise.
SAME = 0.05


def explains_shift(left: float, distance: float, n: float, m: float) -> bool:
    """Whether the distance that is left is negligible, or no more than noise and clearly smaller.

    Args:
        left: Kolmogorov-Smirnov distance after the explanation.
        distance: distance before it.
        n: effective rows of the reference.
        m: effective rows of production.
    """
    if left <= max(MAX_LEFT * distance, NEGLIGIBLE):
        return True
    p = float(ks_p_value(torch.tensor([left]), torch.tensor([n]), torch.tensor([m])))
    return p > _ALPHA and left <= _MAX_LEFT_NOISE * distance


def weighted_ks_distance(reference: Tensor, weights: Tensor, live: Tensor) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of a weighted and a plain sample, and the effective sample size.

    Source: Kish (1965), Survey Sampling, for `(sum w)^2 / sum w^2`.

    Args:
        reference: finite values, `[n]`.
        weights: weights of the reference rows, `[n]`, not negative.
        live: finite values, `[m]`.
    """
    order = reference.argsort()
    values, mass = reference[order].contiguous(), weights[order].double()
    total = float(mass.sum())
    if not len(live) or total <= 0:
        return math.nan, 0.0
    below = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / total])
    points = torch.unique(torch.cat([values, live]))
    ordered = live.sort().values
    differences = [
        below[torch.searchsorted(values, points, right=right)]
        - torch.searchsorted(ordered, points, right=right).double() / len(live)
        for right in (False, True)
    ]
    distance = max(float(difference.abs().max()) for difference in differences)
    return distance, total**2 / float(mass.square().sum())


def ks_distance(reference: Column, live: Column) -> float:
    """Kolmogorov-Smirnov distance of two samples of finite values."""
    return float(ks_two_sample(torch.tensor(reference), torch.tensor(live)).statistic)
