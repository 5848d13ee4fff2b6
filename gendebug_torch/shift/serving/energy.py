"""Energy distance between two samples of rows: how far apart, whether by chance, and how surely."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_distance(
    left: Tensor, right: Tensor, *, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Energy distance `2 E|x - y| - E|x - x'| - E|y - y'|` of rows, unbiased: near 0 without shift.

    Cost `n m d`. Source: Szekely and Rizzo (2013), J. Stat. Plan. Inference 143:1249.

    Args:
        left: rows `[n, d]`, float.
        right: rows `[m, d]`.
        weights: weights of the rows of both sides, `[r, n]` and `[r, m]`, each summing to 1, e.g.
            of r bootstrap samples; all rows equally by default.

    Returns:
        The distance, a scalar, or `[r]`.

    Example:
        >>> import torch
        >>> rows = torch.arange(6.0)[:, None]
        >>> round(float(energy_distance(rows, rows + 3)), 2)
        1.78
    """
    sizes = (len(left), len(right))
    if weights is None:
        w, v = (left.new_full((1, size), 1 / size, dtype=torch.float64) for size in sizes)
    else:
        w, v = (weight.double() for weight in weights)
    between = ((w @ torch.cdist(left, right).double()) * v).sum(1)
    distance = 2 * between - _within(left, w) - _within(right, v)
    return distance[0] if weights is None else distance


def energy_p_value(left: Tensor, right: Tensor, *, permutations: int = 999, seed: int = 0) -> float:
    """Chance of a distance as large between two random parts of the joined rows.

    Args:
        left: rows `[n, d]`.
        right: rows `[m, d]`.
        permutations: random partitions; the smallest p-value is `1 / (permutations + 1)`.
        seed: of the partitions.

    Example:
        >>> import torch
        >>> rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> energy_p_value(rows[:20], rows[20:] + 2)
        0.001
    """
    rows = torch.cat([left, right])
    distances = torch.cdist(rows, rows).double()
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(permutations, len(rows), generator=generator).to(rows.device)
    signs = torch.full((permutations + 1, len(rows)), -1 / len(right), dtype=torch.float64)
    signs = signs.to(rows.device)
    signs[0, : len(left)] = 1 / len(left)
    signs[1:].scatter_(1, keys.argsort(1)[:, : len(left)], 1 / len(left))
    # With weights that sum to 0 the distance is a quadratic form, up to the same constant for all.
    statistics = -((signs @ distances) * signs).sum(1)
    return float((statistics >= statistics[0] * (1 - 1e-9)).double().mean())


def _within(rows: Tensor, weights: Tensor) -> Tensor:
    """Mean distance of two different rows, `[r]`."""
    pairs = 1 - weights.square().sum(1)
    return ((weights @ torch.cdist(rows, rows).double()) * weights).sum(1) / pairs
