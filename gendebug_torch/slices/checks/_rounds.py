"""A search for slices that became worse, again among the rows outside those that were named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.checks.inputs import DerivedInput
from gendebug_torch.slices.checks._slicing import MAX_SHARE
from gendebug_torch.slices.levels.binning import Level
from gendebug_torch.slices.levels.counting import member_masks
from gendebug_torch.slices.levels.slice_counts import ScoreCounts, SliceCounts
from gendebug_torch.slices.search.change import coded_change
from gendebug_torch.slices.search.change_result import SliceChange
from gendebug_torch.slices.statistics.groups import Dependence, discounted

# Rounds of a search, rows that are left for another one, and part of the rise.
_ROUNDS, _MIN_OUTSIDE, _MUCH = 3, 100, 0.2


def _of_rows() -> SliceCounts | None:
    return None


# Sums of slices over more rows than are at hand, where they were counted.
SLICE_COUNTS = DerivedInput("slice_counts", _of_rows)


def _of_scores() -> ScoreCounts | None:
    return None


# The same of validation alone, in bins of the score.
SCORE_COUNTS = DerivedInput("score_counts", _of_scores)


def changes_in_turn(
    levels: Sequence[Level],
    codes: list[Tensor],
    metrics: list[Tensor],
    least: tuple[float, float],
    counted: Tensor | None = None,
    together: Sequence[Dependence] | None = None,
    **how: Any,
) -> Iterator[SliceChange]:
    """The change per slice of all rows, and then of the rows outside the slices that matter.

    Each round tests anew at the same level, and only where the one before named something, so that
    without a collapse there is one (Marcus, Peritz and Gabriel, 1976, Biometrika 63:655). It ends
    where little of the rise is left outside.

    Args:
        levels: all levels, L.
        codes: level of each row in each column of the two tables, `[n, c]` and `[m, c]` int64.
        metrics: event or loss of each row of the two tables, `[n]` and `[m]`.
        least: smallest change of a rate, and smallest factor of a loss, that matters.
        counted: sums by pair of levels over more rows, `[2, 3, L, L]`, for the first round.
        together: how rows of the two tables fail together.
        how: options of `coded_change`.
    """
    whole, names = _additional(metrics), tuple[str, ...]()
    for _ in range(_ROUNDS):
        change = coded_change(levels, codes, metrics, counted=counted, **how)
        if together is not None:
            change = _beyond_dependence(change, levels, codes, metrics, together, how["alpha"])
        yield replace(change, outside=names, rise=whole if counted is None else None)
        named = relevant(change, *least)
        if not named or change.members is None:
            return
        names += tuple(change.names[i] for i in named)
        outside = [~member_masks(part, change.members[named], levels).any(0) for part in codes]
        codes, metrics = _kept(codes, outside), _kept(metrics, outside)
        if together is not None:
            together = [part.at(some) for part, some in zip(together, outside, strict=True)]
        counted = None
        if min(map(len, metrics)) < _MIN_OUTSIDE or _additional(metrics) < _MUCH * whole:
            return


def _kept(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
    return [part[some] for part, some in zip(parts, rows, strict=True)]


def _beyond_dependence(
    change: SliceChange,
    levels: Sequence[Level],
    codes: Sequence[Tensor],
    metrics: Sequence[Tensor],
    together: Sequence[Dependence],
    alpha: float,
) -> SliceChange:
    """The slices that are significant although rows of one patient, or one hour, fail together.

    Their design effects are those of the two sides, weighted by the variances of the rates.
    """
    if change.members is None or not len(change):
        return change
    effects = torch.ones(len(change), dtype=torch.float64)
    masks = [member_masks(part, change.members, levels) for part in codes]
    for i in range(len(change)):
        inflated = variance = 0.0
        for mask, metric, part in zip(masks, metrics, together, strict=True):
            values = metric[mask[i]].double()
            own = float((values - values.mean()).square().sum()) / max(len(values), 1) ** 2
            inflated += own * part.effect(metric, mask[i])
            variance += own
        effects[i] = inflated / variance if variance > 0 else 1.0
    log_p = discounted(change.log_p, effects)
    # Adjusted p-values may underflow; they are no smaller than their own.
    adjusted = (change.adjusted.log().maximum(change.log_p) + log_p - change.log_p).exp()
    return change.select(adjusted <= alpha, log_p, adjusted.clamp(max=1.0))


def relevant(change: SliceChange, min_change: float, min_factor: float) -> list[int]:
    """Indices of subgroups whose rise is large enough to matter.

    Args:
        change: rates or means per slice.
        min_change: smallest rise of a rate, beyond that of all rows.
        min_factor: smallest factor of the rise of a loss, beyond that of all other rows.
    """
    share = change.after[:, 0] / max(float(change.total[1, 0]), 1.0)
    large = change.factor >= min_factor
    if change.is_count:
        large = change.change - max(change.overall_change, 0.0) >= min_change
    if change.of_rows:
        large &= share < MAX_SHARE
    indices: list[int] = large.nonzero()[:, 0].tolist()
    return indices


def _additional(metrics: Sequence[Tensor]) -> float:
    """Events, or loss, of the second table beyond what the rate of the first one gives."""
    before, after = (metric.double() for metric in metrics)
    return float(after.sum() - before.mean() * len(after))
