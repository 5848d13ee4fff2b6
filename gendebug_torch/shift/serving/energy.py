"""Energy distance between two samples of rows: how far apart, whether by chance, and how surely."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def energy_distance(left: Tensor, right: Tensor) -> Tensor:
    """Energy distance `2 E|x - y| - E|x - x'| - E|y - y'|` of rows, unbiased: near 0 without shift.

    Cost `n m d`. Source: Szekely and Rizzo (2013), J. Stat. Plan. Inference 143:1249.

    Args:
        left: rows `[n, d]`, float.
        right: rows `[m, d]`.

    Returns:
        The distance, a scalar.

    Example:
        >>> import torch
        >>> rows = torch.arange(6.0)[:, None]
        >>> round(float(energy_distance(rows, rows + 3)), 2)
        1.78
    """
    return energy_distances([left], right)[0]


def energy_distances(
    lefts: Sequence[Tensor], right: Tensor, *, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Energy distances of several samples from the same rows.

    Args:
        lefts: c samples of n rows, `[n, d]` each.
        right: rows `[m, d]`.
        weights: weights of the rows of both sides, `[r, n]` and `[r, m]`, each summing to 1, e.g.
            of r bootstrap samples; all rows equally by default.

    Returns:
        The distances, `[c]`, or `[c, r]`.
    """
    if not lefts:
        return right.new_empty(0, dtype=torch.float64)
    w, v = (None, None) if weights is None else (weight.double() for weight in weights)
    own = _within(right, v)
    return torch.stack([2 * _between(x, right, w, v) - _within(x, w) - own for x in lefts])


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


def _between(left: Tensor, right: Tensor, w: Tensor | None, v: Tensor | None) -> Tensor:
    """Mean distance of a row of each side, a scalar, or `[r]` with weights."""
    distances = torch.cdist(left, right)
    if w is None or v is None:
        return distances.mean(dtype=torch.float64)
    return ((w @ distances.double()) * v).sum(1)


def _within(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Mean distance of two different rows, a scalar, or `[r]` with weights."""
    n = len(rows)
    pairs = 1 - 1 / n if weights is None else 1 - weights.square().sum(1)
    return _between(rows, rows, weights, weights) / pairs
