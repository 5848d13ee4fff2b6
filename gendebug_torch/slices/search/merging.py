"""Many slices are the same rows in other words, or bad only through a worse slice in them: which
ones say something new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendebug_torch.slices.search.columns import Level
from gendebug_torch.slices.search.counting import SAME_ROWS


def distinct_slices(
    masks: Tensor, log_p_of: Callable[[Tensor, Tensor], float], asked: float, alpha: float
) -> tuple[list[int], list[list[int]]]:
    """Places of the slices that say something new, and for each the places of its twins.

    The k-th slice that is kept must by itself reach `k alpha / asked`: many words for one bad slice
    must not pay for another, as they would in Benjamini and Hochberg's count of rejections.

    Args:
        masks: `[s, n]` bool, rows of each slice, worst slice first.
        log_p_of: given `[n]` bool, the rows of a slice that no better one holds, and `[n]` bool,
            all rows that none holds: log of the p-value of these rows by themselves.
        asked: number of slices that were tested.
        alpha: false discovery rate.

    Cost: `s^2 n` multiplications.
    """
    shared = masks.float() @ masks.float().T
    sizes = shared.diagonal()
    same = shared >= SAME_ROWS * (sizes[:, None] + sizes - shared)
    kept: list[int] = []
    twins: list[list[int]] = []
    fresh = torch.ones(masks.shape[1], dtype=torch.bool)
    for place, mask in enumerate(masks):
        if alike := [rank for rank, other in enumerate(kept) if same[place, other]]:
            twins[alike[0]].append(place)
        elif not kept or log_p_of(mask & fresh, fresh) <= math.log(
            max((len(kept) + 1) * alpha / max(asked, 1), 1e-300)
        ):
            kept.append(place)
            twins.append([])
            fresh &= ~mask
    return kept, twins


def words(levels: Sequence[Level], members: Sequence[int]) -> str:
    """How a set of levels reads."""
    return " and ".join(str(levels[place]) for place in dict.fromkeys(members))
