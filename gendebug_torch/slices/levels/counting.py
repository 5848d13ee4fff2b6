"""Sums over all one- and two-way slices by matrix products, over sets of levels by masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gendebug_torch.slices.levels.binning import Level

# Cells of the 0/1 matrix in memory at once; its rows stay below 2^24, where float32 counts exactly.
CELLS = 2**23
# Levels that are paired: as many as this many multiplications per sum allow, within these bounds.
_MOST_WORK, _FEWEST_PAIRED, _MOST_PAIRED = 2e10, 200, 1000
# Jaccard similarity from which two slices are duplicates.
DUPLICATE = 0.9


def pair_sums(
    codes: Tensor, weights: Tensor, size: int, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Rows and sums of weights over the rows that have both of two levels.

    The diagonal holds single levels. With the 0/1 matrix H of rows and levels these are `H'H` and
    `H' diag(w) H`.

    Args:
        codes: level of each row in each column, `[n, c]` int64.
        weights: values to sum, `[w, n]` float; rows with weight 0 cost nothing.
        size: number of levels L.
        device: device of the products.

    Returns:
        `[L, L]` int64 and `[w, L, L]` float64, on the CPU.

    Cost: `2 n L^2 (w + 1)` multiplications, `n L` values of memory in chunks.
    """
    rows = torch.zeros(size, size, dtype=torch.float64, device=device)
    sums = torch.zeros(len(weights), size, size, dtype=torch.float64, device=device)
    step = max(1, CELLS // max(size, 1))
    for start in range(0, len(codes), step):
        hot = one_hot(codes[start : start + step].to(device), size)
        rows += hot.T @ hot
        for i, weight in enumerate(weights[:, start : start + step].to(device).float()):
            nonzero = weight.nonzero()[:, 0]
            part, weight = (
                (hot, weight) if len(nonzero) == len(hot) else (hot[nonzero], weight[nonzero])
            )
            sums[i] += (part * weight[:, None]).T @ part
    return rows.long().cpu(), sums.cpu()


def one_hot(codes: Tensor, size: int) -> Tensor:
    """`[n, L]` float32, 1 where the row has the level."""
    hot = torch.zeros(len(codes), size, device=codes.device)
    return hot.scatter_(1, codes, 1.0)


def slice_pairs(levels: Sequence[Level], ways: int) -> tuple[Tensor, Tensor]:
    """Indices of single levels (repeated) and, for two ways, of pairs from different columns."""
    column = level_columns(levels)
    single = torch.arange(len(levels))
    if ways == 1:
        return single, single
    first, second = torch.triu_indices(len(levels), len(levels), 1)
    different = column[first] != column[second]
    return torch.cat([single, first[different]]), torch.cat([single, second[different]])


def most_paired(n: int) -> int:
    """Number of levels whose pairs are counted over n rows."""
    affordable = int((_MOST_WORK / max(n, 1)) ** 0.5)
    return min(_MOST_PAIRED, max(_FEWEST_PAIRED, affordable))


def strongest_levels(log_p: Tensor, valid: Tensor, most: int) -> Tensor:
    """`[m]` int64 the most significant single levels, in the order of all levels.

    Args:
        log_p: log p-value of each level alone, `[L]`.
        valid: levels with enough rows, `[L]` bool.
        most: number of levels.
    """
    order = torch.where(valid, log_p, torch.ones_like(log_p)).argsort(stable=True)
    return order[:most].sort().values


def paired_codes(codes: Tensor, paired: Tensor, size: int) -> tuple[Tensor, int]:
    """`[n, c]` codes among the paired levels, and their number; all others share one last code.

    Args:
        codes: level of each row in each column, `[n, c]` int64.
        paired: levels that are paired, `[m]` int64.
        size: number of all levels.
    """
    if len(paired) == size:
        return codes, size
    local = torch.full((size,), len(paired)).index_copy_(0, paired, torch.arange(len(paired)))
    return local[codes], len(paired) + 1


def informative_pairs(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`[s]` bool, single levels, and pairs that are no duplicate of one of their two levels.

    Args:
        rows: number of rows per pair of levels, `[L, L]` int64.
        first: first level of each set, `[s]` int64.
        second: second level of each set, `[s]` int64.
    """
    alone = torch.minimum(rows.diagonal()[first], rows.diagonal()[second])
    return (first == second) | (rows[first, second] < DUPLICATE * alone)


def level_columns(levels: Sequence[Level]) -> Tensor:
    """`[L]` int64 index of the column of each level."""
    columns = {
        name: index for index, name in enumerate(dict.fromkeys(level.column for level in levels))
    }
    return torch.tensor([columns[level.column] for level in levels], dtype=torch.int64)


def member_masks(codes: Tensor, sets: Tensor, levels: Sequence[Level]) -> Tensor:
    """`[s, n]` bool, rows that have every level of each set.

    Args:
        codes: level of each row in each column, `[n, c]` int64.
        sets: level indices of each set, `[s, 3]` int64; fewer than three are repeated.
        levels: all levels, L.
    """
    column = level_columns(levels)
    by_column = codes.T.contiguous()
    masks = torch.ones(len(sets), len(codes), dtype=torch.bool)
    for mask, members in zip(masks, sets.tolist(), strict=True):
        for level in dict.fromkeys(members):
            mask &= by_column[column[level]] == level
    return masks


def mask_sums(masks: Tensor, weights: Tensor) -> Tensor:
    """`[w, s]` sums of `[w, n]` weights over `[s, n]` masks."""
    sums = [weights[:, mask].sum(1) for mask in masks]
    return torch.stack(sums, 1) if sums else torch.zeros(len(weights), 0, dtype=torch.float64)
