"""Many slices are the same rows in other words, or bad only through a worse slice in them: which ones say something new."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendebug_torch.slices.columns import Level
from gendebug_torch.slices.counting import SAME_ROWS


def distinct_slices(masks: Tensor, still_bad: Callable[[Tensor, Tensor], bool]) -> tuple[list[int], list[list[int]]]:
    """Places of the slices that say something new, and for each the places of its twins.

    Args:
        masks: `[s, n]` bool, rows of each slice, worst slice first.
        still_bad: given `[n]` bool, the rows of a slice that no better one holds, and `[n]` bool, all rows that none
            holds: whether these rows are bad by themselves.

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
        elif not kept or still_bad(mask & fresh, fresh):
            kept.append(place)
            twins.append([])
            fresh &= ~mask
    return kept, twins


def words(levels: Sequence[Level], members: Sequence[int]) -> str:
    """How a set of levels reads."""
    return " and ".join(str(levels[place]) for place in dict.fromkeys(members))
