"""Candidate slices: sets of up to three levels with their rows and sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.slices.levels.binning import Level
from gendebug_torch.slices.levels.counting import (
    CELLS,
    informative_pairs,
    level_columns,
    most_paired,
    one_hot,
    pair_sums,
    paired_codes,
    slice_pairs,
    strongest_levels,
)
from gendebug_torch.slices.statistics.slice_test import SliceTest


@dataclass(frozen=True, eq=False)
class Candidates:
    """Sets of levels with their sums.

    Args:
        sets: level indices, `[s, 3]` int64; fewer than three are repeated.
        rows: number of rows, `[s]` int64.
        sums: sums of the weights, `[w, s]` float64.
        multiplicity: number of possible sets that each one represents where only promising ones
            were counted, `[s]` float64.
    """

    sets: Tensor
    rows: Tensor
    sums: Tensor
    multiplicity: Tensor

    def selected(self, at: Tensor) -> Candidates:
        """The sets at these indices `[m]` int64, or where a mask `[s]` holds."""
        return Candidates(self.sets[at], self.rows[at], self.sums[:, at], self.multiplicity[at])

    def joined(self, other: Candidates) -> Candidates:
        """These sets and the others."""
        return Candidates(
            torch.cat([self.sets, other.sets]),
            torch.cat([self.rows, other.rows]),
            torch.cat([self.sums, other.sums], 1),
            torch.cat([self.multiplicity, other.multiplicity]),
        )


def single_levels(codes: Tensor, size: int, test: SliceTest) -> Candidates:
    """Sets of one level.

    Args:
        codes: level of each row in each column, `[n, c]` int64.
        size: number of levels.
        test: test whose weights are summed.
    """
    level = torch.arange(size)
    sums = torch.zeros(len(test.weights), size, dtype=torch.float64)
    rows = torch.zeros(size, dtype=torch.int64)
    for column in codes.T:
        sums.index_add_(1, column, test.weights)
        rows.index_add_(0, column, torch.ones_like(column))
    return Candidates(
        level[:, None].expand(-1, 3), rows, sums, torch.ones(size, dtype=torch.float64)
    )


def pairs(
    codes: Tensor,
    levels: Sequence[Level],
    test: SliceTest,
    min_support: int,
    device: str | torch.device,
) -> Candidates:
    """Sets of one and of two levels.

    Args:
        codes: level of each row in each column, `[n, c]` int64.
        levels: all levels, L; of too many, only the most significant ones are paired.
        test: test whose weights are summed.
        min_support: smallest number of rows of a slice.
        device: device of the products.
    """
    column, most = level_columns(levels), most_paired(len(codes))
    paired = torch.arange(len(levels))
    if len(levels) > most:
        single = single_levels(codes, len(levels), test)
        log_p = test.log_p_values(single.rows, single.sums)
        paired = strongest_levels(log_p, single.rows >= min_support, most)
    first, second = slice_pairs([levels[i] for i in paired.tolist()], 2)
    part, size = paired_codes(codes, paired, len(levels))
    rows, sums = pair_sums(part, test.weights, size, device)
    one, two, _ = _possible_sets(column)
    multiplicity = (one + two) / max(len(first), 1)
    informative = informative_pairs(rows, first, second)
    first, second = first[informative], second[informative]
    return Candidates(
        torch.stack([paired[first], paired[second], paired[second]], 1),
        rows[first, second],
        sums[:, first, second],
        torch.full((len(first),), multiplicity, dtype=torch.float64),
    )


def triples(
    parents: Candidates,
    codes: Tensor,
    levels: Sequence[Level],
    test: SliceTest,
    beam: int,
    min_support: int,
    device: str | torch.device,
) -> Candidates:
    """Sets of three levels that extend the most significant pairs (beam search).

    Args:
        parents: sets of one and two levels.
        codes: level of each row in each column, `[n, c]` int64.
        levels: all levels, L.
        test: test whose weights are summed.
        beam: number of pairs that are extended.
        min_support: smallest number of rows of a slice.
        device: device of the products.
    """
    is_pair = (parents.sets[:, 0] != parents.sets[:, 1]) & (parents.rows >= min_support)
    parents = parents.selected(is_pair)
    order = test.log_p_values(parents.rows, parents.sums).argsort(stable=True)
    best = parents.sets[order[:beam], :2]
    rows, sums = _extension_sums(best, codes, test.weights, len(levels), device)
    column = level_columns(levels)
    sets, pair, third = _extensions(best, column)
    multiplicity = _possible_sets(column)[2] / max(len(sets), 1)
    return Candidates(
        sets,
        rows[pair, third],
        sums[:, pair, third],
        torch.full((len(sets),), multiplicity, dtype=torch.float64),
    )


def _extensions(sets: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct triples `[t, 3]`, and the pair and the level by which each one is counted, `[t]`."""
    other = (column[None] != column[sets[:, :1]]) & (column[None] != column[sets[:, 1:]])
    pair, third = other.nonzero(as_tuple=True)
    members = torch.cat([sets[pair], third[:, None]], 1).sort(1).values
    triple, group = torch.unique(members, dim=0, return_inverse=True)
    first = torch.full((len(triple),), len(group))
    first = first.scatter_reduce_(0, group, torch.arange(len(group)), "amin")
    return triple, pair[first], third[first]


def _extension_sums(
    sets: Tensor, codes: Tensor, weights: Tensor, size: int, device: str | torch.device
) -> tuple[Tensor, Tensor]:
    """Rows `[s, L]` and sums `[w, s, L]` of pairs `[s, 2]`, each extended by every level."""
    rows = torch.zeros(len(sets), size, dtype=torch.float64, device=device)
    sums = torch.zeros(len(weights), len(sets), size, dtype=torch.float64, device=device)
    step = max(1, CELLS // max(size, 1))
    for start in range(0, len(codes), step):
        hot = one_hot(codes[start : start + step].to(device), size)
        inside = hot[:, sets[:, 0].to(device)] * hot[:, sets[:, 1].to(device)]
        rows += inside.T @ hot
        for i, weight in enumerate(weights[:, start : start + step].to(device).float()):
            sums[i] += (inside * weight[:, None]).T @ hot
    return rows.long().cpu(), sums.cpu()


def _possible_sets(column: Tensor) -> tuple[float, float, float]:
    """Number of sets of one, two and three levels of different columns (Newton's identities)."""
    sizes = torch.bincount(column).double() if len(column) else torch.zeros(1).double()
    one, squares, cubes = (float((sizes**power).sum()) for power in (1, 2, 3))
    return one, (one**2 - squares) / 2, (one**3 - 3 * one * squares + 2 * cubes) / 6
