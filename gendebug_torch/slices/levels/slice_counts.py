"""Sums of one- and two-way slices that were counted over all rows, of which few are at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.slices.levels.binning import Binning, Level

# Sampled rows of a pair of levels from which it can be told from its levels alone.
MIN_SAMPLED = 5


@dataclass(frozen=True, eq=False)
class SliceCounts:
    """Sums over all rows of two tables, by pair of levels; a level with itself is a one-way slice.

    Args:
        binnings: levels of the columns, L in all.
        sums: by name of the event or loss: rows, sum and sum of squares in each table, above the
            diagonal and on it, `[2, 3, L, L]` float64.
        threshold: threshold on the probability by which a binary model was judged.
    """

    binnings: tuple[Binning, ...]
    sums: Mapping[str, Tensor]
    threshold: float = 0.5


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """Sums over all rows of one table, by pair of levels and by bin of the model's score.

    Args:
        binnings: levels of the columns, L in all.
        sums: by name of the event or loss, `[3, b, L, L]` float64 in bins of rising score, above
            the diagonal and on it: rows, sum and sum of squares.
        parts: bins of each event that are fitted together, e.g. those of negative predictions.
        threshold: threshold on the probability by which a binary model was judged.
    """

    binnings: tuple[Binning, ...]
    sums: Mapping[str, Tensor]
    parts: Mapping[str, tuple[int, ...]]
    threshold: float = 0.5

    def expected(self, name: str) -> Tensor:
        """`[b]` rate of an event, nondecreasing in the score, or mean loss, of each bin.

        Args:
            name: name of the event or loss.
        """
        rows, total = self.over_rows(self.sums[name][:2])
        means: Tensor = total / rows.clamp(min=1)
        if name not in self.parts:
            return means
        bins = torch.split(means, list(self.parts[name]))
        weights = torch.split(rows, list(self.parts[name]))
        return torch.cat([_nondecreasing(*pair) for pair in zip(bins, weights, strict=True)])

    def rows(self, name: str) -> Tensor:
        """`[L, L]` numbers of rows.

        Args:
            name: name of the event or loss.
        """
        return self.sums[name][0].sum(0)

    def weights(self, name: str, *, expected: bool = True) -> Tensor:
        """What a `SliceTest` sums up, by pair of levels, `[w, L, L]`.

        Args:
            name: name of the event or loss.
            expected: whether it is compared with what the score implies.
        """
        rows, total, squares = self.sums[name]
        if not expected:
            return torch.stack([total.sum(0)])
        mean = self.expected(name)[:, None, None]
        if name in self.parts:
            parts = [total, rows * mean, rows * mean * (1 - mean)]
        else:
            parts = [total - rows * mean, squares - 2 * mean * total + rows * mean.square()]
        return torch.stack([part.sum(0) for part in parts])

    def over_rows(self, values: Tensor) -> Tensor:
        """Sums over all rows: over the levels of the first column.

        Args:
            values: sums by pair of levels, `[..., L, L]`.
        """
        own = len(self.binnings[0].levels)
        found: Tensor = values.diagonal(dim1=-2, dim2=-1)[..., :own].sum(-1)
        return found


def _nondecreasing(means: Tensor, rows: Tensor) -> Tensor:
    """Isotonic regression of the means of bins."""
    from scipy.optimize import isotonic_regression

    if not len(means):
        return means
    weights = rows.clamp(min=1e-9).numpy()
    return torch.from_numpy(isotonic_regression(means.numpy(), weights=weights).x)


def whole_total(sums: Tensor, levels: Sequence[Level]) -> Tensor:
    """`[2, 3]` sums over all rows of both tables: over the levels of the first column.

    Args:
        sums: sums by pair of levels, `[2, 3, L, L]` float64.
        levels: all levels, L.
    """
    own = sum(level.column == levels[0].column for level in levels)
    return sums.diagonal(dim1=2, dim2=3)[..., :own].sum(2)


def counted_sets(
    sums: Tensor, first: Tensor, second: Tensor, sampled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sets of levels `[s, 3]` that can be told apart, with their sums `[s, 3]` in both tables.

    Args:
        sums: sums by pair of levels, `[2, 3, L, L]` float64.
        first: first level of each set, `[s]` int64.
        second: second level of each set, `[s]` int64, not below the first.
        sampled: rows at hand that have both levels, `[L, L]`.
    """
    enough = (first == second) | (sampled[first, second] >= MIN_SAMPLED)
    first, second = first[enough], second[enough]
    before, after = (side[:, first, second].T.contiguous() for side in sums)
    return torch.stack([first, second, second], 1), before, after


def sums_outside(whole: Tensor, sampled: Tensor, left: Tensor) -> Tensor:
    """`[2, 3]` sums of the part of a slice that is left, by its share among the sampled rows.

    Args:
        whole: sums over all rows, `[2, 3]`.
        sampled: sums over the sampled rows, `[2, 3]`.
        left: the same over the sampled rows that are left, `[2, 3]`.
    """
    share = torch.where(sampled > 0, left / sampled.clamp(min=1e-300), torch.ones_like(left))
    return whole * share
