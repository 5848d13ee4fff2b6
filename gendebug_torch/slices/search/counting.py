"""Sums over all one- and two-way slices at once, by matrix products; over given sets of levels, by
masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendebug_torch.slices.search.columns import Level

# Cells of the 0/1 matrix held at once; its rows stay below 2^24, so that counts in float32 are
# exact.
_CELLS = 2**23
# Two slices that share this much of their union are the same rows in other words.
SAME_ROWS = 0.9


def pair_sums(
    codes: Tensor, weights: Tensor, size: int, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows and sums of weights over the rows that have both of two levels; the diagonal holds
    single levels.

    With the 0/1 matrix H of rows and levels, `H'H` and `H' diag(w) H`.

    Args:
        codes: `[n, c]` int64, as from `level_codes`.
        weights: `[w, n]` float; rows with weight 0 cost nothing.
        size: number L of levels.
        device: where the products run.

    Returns:
        `[L, L]` int64 and `[w, L, L]` float64, on the CPU.

    Cost: `2 n L^2 (w + 1)` multiplications, `n L` values of memory in chunks.
    """
    rows = torch.zeros(size, size, dtype=torch.float64, device=device)
    sums = torch.zeros(len(weights), size, size, dtype=torch.float64, device=device)
    step = max(1, _CELLS // max(size, 1))
    for start in range(0, len(codes), step):
        hot = one_hot(codes[start : start + step].to(device), size)
        rows += hot.T @ hot
        for place, weight in enumerate(weights[:, start : start + step].to(device).float()):
            counted = weight.nonzero()[:, 0]
            part, weight = (
                (hot, weight) if len(counted) == len(hot) else (hot[counted], weight[counted])
            )
            sums[place] += (part * weight[:, None]).T @ part
    return rows.long().cpu(), sums.cpu()


def one_hot(codes: Tensor, size: int) -> Tensor:
    """`[n, L]` float32, 1 where the row has the level."""
    hot = torch.zeros(len(codes), size, device=codes.device)
    return hot.scatter_(1, codes, 1.0)


def slice_pairs(levels: Sequence[Level], ways: int) -> tuple[Tensor, Tensor]:
    """Indices of single levels (twice the same) and, for two ways, of pairs from different
    columns.
    """
    of = column_of(levels)
    single = torch.arange(len(levels))
    if ways == 1:
        return single, single
    first, second = torch.triu_indices(len(levels), len(levels), 1)
    apart = of[first] != of[second]
    return torch.cat([single, first[apart]]), torch.cat([single, second[apart]])


def worth_asking(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`[s]` bool, sets that hold some rows and not almost all rows of one of their two levels,
    which asks the same alone.

    Args:
        rows: `[L, L]` int64 from `pair_sums`.
        first: `[s]` int64 levels.
        second: `[s]` int64 levels.
    """
    alone = torch.minimum(rows.diagonal()[first], rows.diagonal()[second])
    return (first == second) | (rows[first, second] < SAME_ROWS * alone)


def column_of(levels: Sequence[Level]) -> Tensor:
    """`[L]` int64, the column in `codes` to which each level belongs."""
    columns = {
        name: index for index, name in enumerate(dict.fromkeys(level.column for level in levels))
    }
    return torch.tensor([columns[level.column] for level in levels], dtype=torch.int64)


def member_masks(codes: Tensor, sets: Tensor, levels: Sequence[Level]) -> Tensor:
    """`[s, n]` bool, rows that have every level of each set.

    Args:
        codes: `[n, c]` int64.
        sets: `[s, 3]` int64 places of levels; fewer than three are repeated.
        levels: all of them.
    """
    of = column_of(levels)
    turned = codes.T.contiguous()
    masks = torch.ones(len(sets), len(codes), dtype=torch.bool)
    for place, members in enumerate(sets.tolist()):
        for level in dict.fromkeys(members):
            masks[place] &= turned[of[level]] == level
    return masks
