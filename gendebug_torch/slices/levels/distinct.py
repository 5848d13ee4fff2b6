"""Which of many overlapping slices are distinct, and how a slice is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendebug_torch.slices.levels.binning import Level
from gendebug_torch.slices.levels.counting import CELLS, DUPLICATE


def distinct_slices(
    masks: Tensor, log_p_value: Callable[[int, Tensor], float], tests: float, alpha: float
) -> tuple[list[int], list[list[int]]]:
    """Indices of the slices that are significant without better ones, and of their duplicates.

    The k-th selected slice must by itself reach `k alpha / tests`: many names of one bad slice must
    not count as rejections for another one, as they would by Benjamini and Hochberg.

    Args:
        masks: rows of each slice, worst slice first, `[s, n]` bool.
        log_p_value: function of the index of a slice and a mask `[n]` that returns the log p-value
            of the rows of the slice among those of the mask, of which no better slice holds any.
        tests: number of slices tested.
        alpha: false discovery rate.

    Cost: `s^2 n` multiplications.
    """
    shared = torch.zeros(len(masks), len(masks))
    for part in torch.split(masks, max(1, CELLS // max(len(masks), 1)), 1):
        shared += part.float() @ part.float().T
    sizes = shared.diagonal()
    either = sizes[:, None] + sizes - shared
    same = (shared >= DUPLICATE * either) & (either > 0)
    selected: list[int] = []
    duplicates: list[list[int]] = []
    rest = torch.ones(masks.shape[1], dtype=torch.bool)
    for i, mask in enumerate(masks):
        equal = [rank for rank, other in enumerate(selected) if same[i, other]]
        limit = math.log(max((len(selected) + 1) * alpha / max(tests, 1), 1e-300))
        if equal:
            duplicates[equal[0]].append(i)
        elif not selected or log_p_value(i, rest) <= limit:
            selected.append(i)
            duplicates.append([])
            rest &= ~mask
    return selected, duplicates


def slice_name(levels: Sequence[Level], members: Sequence[int]) -> str:
    """Name of a set of levels, e.g. `country = B and device = ios`.

    Args:
        levels: all levels, L.
        members: level indices of the set; repeated ones count once.
    """
    return " and ".join(str(levels[i]) for i in dict.fromkeys(members))
