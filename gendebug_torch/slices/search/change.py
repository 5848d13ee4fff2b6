"""Slices that became worse between two tables while the whole hardly changed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.slices.levels.binning import Binning, Level, fit_binnings, level_codes
from gendebug_torch.slices.levels.counting import (
    informative_pairs,
    level_columns,
    member_masks,
    most_paired,
    pair_sums,
    paired_codes,
    slice_pairs,
    strongest_levels,
)
from gendebug_torch.slices.levels.distinct import distinct_slices, slice_name
from gendebug_torch.slices.levels.slice_counts import counted_sets, sums_outside, whole_total
from gendebug_torch.slices.search.change_result import SliceChange
from gendebug_torch.slices.statistics.mean_rise import log_p_of_mean_rise
from gendebug_torch.slices.statistics.odds_rise import log_p_of_odds_rise
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted


def slice_change(
    reference: pd.DataFrame,
    reference_event: Tensor,
    live: pd.DataFrame,
    live_event: Tensor,
    *,
    binnings: Sequence[Binning] | None = None,
    ways: int = 2,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
) -> SliceChange:
    """Slices in which the rate of an event, or a mean loss, rose more than over all other rows.

    The odds ratio after : before of each slice is compared with that of the rows outside it
    (`log_p_of_odds_rise`), so a slice that follows the whole is not reported: twice the odds
    everywhere is more points where errors are frequent, and the same change. Of a loss the ratios
    of the means are compared (`log_p_of_mean_rise`).

    Args:
        reference: columns to slice by, `[n, c]`; levels are fitted here.
        reference_event: whether the event occurred, `[n]` bool; or a loss of at least 0, `[n]`
            float.
        live: the same columns later, `[m, c]`.
        live_event: the same of these rows, `[m]`.
        binnings: levels fitted elsewhere.
        ways: number of columns combined, 1 or 2.
        min_support: smallest number of rows of a slice, on either side.
        alpha: false discovery rate.
        limit: most slices to return.
        device: device of the products.
        name: name of the event or loss, for labels.

    Raises:
        InputError: events and tables differ in length, a loss is not finite or below 0, or `ways`
            is out of range.

    Cost: as `find_slices`, twice.

    Example:
        >>> frame = pd.DataFrame({"shop": ["a", "b", "c", "d"] * 250})
        >>> before = torch.arange(1000) % 20 == 0
        >>> after = before | torch.tensor((frame["shop"] == "b").to_numpy())
        >>> slice_change(frame, before, frame, after).names
        ('shop = b',)
    """
    if ways not in (1, 2):
        reject("ways", "1 or 2", repr(ways), "Deeper slices are too many to test.")
    metrics = [
        _checked_metric("reference_event", reference_event, len(reference)),
        _checked_metric("live_event", live_event, len(live)),
    ]
    binnings = fit_binnings(reference) if binnings is None else binnings
    levels = tuple(level for binning in binnings for level in binning.levels)
    codes = [level_codes(frame, binnings)[1] for frame in (reference, live)]
    return coded_change(
        levels,
        codes,
        metrics,
        ways=ways,
        min_support=min_support,
        alpha=alpha,
        limit=limit,
        device=device,
        name=name,
    )


def coded_change(
    levels: Sequence[Level],
    codes: Sequence[Tensor],
    metrics: Sequence[Tensor],
    *,
    ways: int = 2,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
    counted: Tensor | None = None,
) -> SliceChange:
    """`slice_change` of tables whose columns are coded already.

    Args:
        levels: all levels, L.
        codes: level of each row in each column of the two tables, `[n, c]` and `[m, c]` int64.
        metrics: event, bool, or loss, float, of each row of the two tables, `[n]` and `[m]`.
        ways: number of columns combined, 1 or 2.
        min_support: smallest number of rows of a slice, on either side.
        alpha: false discovery rate.
        limit: most slices to return.
        device: device of the products.
        name: name of the event or loss.
        counted: sums by pair of levels over more rows than these, which then only tell slices
            apart, `[2, 3, L, L]` float64.
    """
    is_count = not any(metric.is_floating_point() for metric in metrics)
    log_p_value = log_p_of_odds_rise if is_count else log_p_of_mean_rise
    weights = _weights(metrics, is_count)
    sets, before, after, total, multiplicity = _tested_sets(
        levels, codes, weights, counted, ways, min_support, device
    )
    log_p = log_p_value(before, after, total)
    adjusted = benjamini_hochberg_adjusted((log_p.exp() * multiplicity).clamp(max=1.0))
    order = log_p.argsort(stable=True)
    best = order[(adjusted[order] <= alpha) & (log_p[order] < 0)][: 2 * limit]
    masks = torch.cat([member_masks(part, sets[best], levels) for part in codes], 1)

    def log_p_of_rest(i: int, rest: Tensor) -> float:
        sums = torch.stack([before[best[i]], after[best[i]]])
        part, whole = (_sums_of_mask(weights, mask) for mask in (masks[i] & rest, rest))
        if counted is not None:
            part = sums_outside(sums, _sums_of_mask(weights, masks[i]), part)
            whole = sums_outside(total, torch.stack([*map(_sums, weights)]), whole)
        return float(log_p_value(part[:1], part[1:], whole))

    tests = round(len(sets) * multiplicity)
    distinct, _ = distinct_slices(masks, log_p_of_rest, tests, alpha)
    chosen = best[torch.tensor(distinct[:limit], dtype=torch.int64)]
    names = tuple(slice_name(levels, members) for members in sets[chosen].tolist())
    found = (before[chosen], after[chosen], log_p[chosen], adjusted[chosen], total)
    count, members = len(levels), sets[chosen]
    return SliceChange(names, *found, tests, name, is_count, levels=count, members=members)


def sums_change(
    names: Sequence[str],
    before: Tensor,
    after: Tensor,
    *,
    alpha: float,
    min_support: int = 30,
    name: str,
    is_count: bool,
    of_rows: bool = True,
) -> SliceChange:
    """The change of disjoint parts of two tables whose sums are known, each against all others.

    Args:
        names: name of each part, `s`.
        before: rows, sum and sum of squares of the metric in the first table, `[s, 3]` float64.
        after: the same in the second table, `[s, 3]` float64.
        alpha: false discovery rate.
        min_support: smallest number of rows of a part, on either side.
        name: name of the event or loss.
        is_count: whether the metric is an event.
        of_rows: whether the parts are groups of rows.
    """
    total = torch.stack([before.sum(0), after.sum(0)])
    tested = ((before[:, 0] >= min_support) & (after[:, 0] >= min_support)).nonzero()[:, 0]
    log_p_value = log_p_of_odds_rise if is_count else log_p_of_mean_rise
    log_p = log_p_value(before[tested], after[tested], total)
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.argsort(stable=True)
    kept = order[(adjusted[order] <= alpha) & (log_p[order] < 0)]
    found = tested[kept]
    sides = (before[found], after[found], log_p[kept], adjusted[kept], total)
    labels = tuple(names[i] for i in found.tolist())
    return SliceChange(labels, *sides, len(tested), name, is_count, of_rows)


def _checked_metric(argument: str, metric: Tensor, rows: int) -> Tensor:
    if metric.shape != (rows,):
        reject(
            argument,
            f"[{rows}] one value per row",
            f"shape {list(metric.shape)}",
            "Pass a bool or a loss per row of the table.",
        )
    metric = metric.detach().cpu()
    if not metric.is_floating_point():
        return metric.bool()
    if not bool((metric.isfinite() & (metric >= 0)).all()):
        got = f"{int((~(metric >= 0)).sum() + metric.isinf().sum())} other rows"
        reject(argument, "finite losses of at least 0", got, "Drop or repair these rows.")
    return metric.double()


def _weights(metrics: Sequence[Tensor], is_count: bool) -> list[Tensor]:
    """`[1, n]` events of each table, or `[2, n]` losses and their squares, float64."""
    if is_count:
        return [metric.double()[None] for metric in metrics]
    return [torch.stack([metric.double(), metric.double().square()]) for metric in metrics]


def _sums(weight: Tensor) -> Tensor:
    """`[3]` rows, sum and sum of squares of `[w, n]` weights."""
    sums = weight.sum(1)
    return torch.stack([sums.new_tensor(weight.shape[1]), sums[0], sums[-1]])


def _sums_of_mask(weights: Sequence[Tensor], mask: Tensor) -> Tensor:
    """`[2, 3]` sums over the rows of a mask that runs over the two tables."""
    parts = torch.split(mask, [weight.shape[1] for weight in weights])
    return torch.stack(
        [_sums(weight[:, rows]) for weight, rows in zip(weights, parts, strict=True)]
    )


def _tested_sets(
    levels: Sequence[Level],
    codes: Sequence[Tensor],
    weights: Sequence[Tensor],
    counted: Tensor | None,
    ways: int,
    min_support: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Sets with enough rows `[s, 3]`, their sums in both tables, all sums, and a multiplicity.

    The multiplicity is the number of possible sets over that of those that were looked at.
    """
    if counted is None:
        total = torch.stack([_sums(weight) for weight in weights])
        first, second, paired = _tested_levels(levels, codes, weights, total, ways, min_support)
        sets, before, after = _counts(codes, weights, first, second, paired, len(levels), device)
    else:
        total = whole_total(counted, levels)
        first, second = slice_pairs(levels, ways)
        sets, before, after = counted_sets(counted, first, second, _joint_rows(codes, len(levels)))
    tested = (before[:, 0] >= min_support) & (after[:, 0] >= min_support)
    multiplicity = _possible_pairs(levels, ways) / max(len(first), 1)
    return sets[tested], before[tested], after[tested], total, multiplicity


def _tested_levels(
    levels: Sequence[Level],
    codes: Sequence[Tensor],
    weights: Sequence[Tensor],
    total: Tensor,
    ways: int,
    min_support: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sets to test as indices of two levels `[s]`, and the levels that are paired."""
    most, paired = most_paired(max(map(len, codes))), torch.arange(len(levels))
    if ways == 1 or len({level.column for level in levels}) < 2:
        return paired, paired, paired
    if len(levels) > most:
        sides = [_level_sums(part, w, len(levels)) for part, w in zip(codes, weights, strict=True)]
        log_p_value = log_p_of_odds_rise if len(weights[0]) == 1 else log_p_of_mean_rise
        valid = torch.stack(sides)[..., 0].amin(0) >= min_support
        paired = strongest_levels(log_p_value(sides[0], sides[1], total), valid, most)
    first, second = slice_pairs([levels[i] for i in paired.tolist()], 2)
    return first, second, paired


def _level_sums(codes: Tensor, weights: Tensor, size: int) -> Tensor:
    """`[L, 3]` rows, sum and sum of squares of each level alone."""
    values = torch.stack([torch.ones_like(weights[0]), weights[0], weights[-1]], 1)
    sums = torch.zeros(size, 3, dtype=torch.float64)
    for column in codes.T:
        sums.index_add_(0, column, values)
    return sums


def _counts(
    codes: Sequence[Tensor],
    weights: Sequence[Tensor],
    first: Tensor,
    second: Tensor,
    paired: Tensor,
    size: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sets `[s, 3]` that are informative in both tables, with their sums `[s, 3]` in each."""
    if torch.equal(first, second):
        sides = [_level_sums(part, w, size) for part, w in zip(codes, weights, strict=True)]
        return first[:, None].expand(-1, 3), sides[0], sides[1]
    informative = torch.ones(len(first), dtype=torch.bool)
    sides = []
    for part, weight in zip(codes, weights, strict=True):
        local, number = paired_codes(part, paired, size)
        # Sums run in float32: of a scale near one no square overflows.
        scale = torch.stack([value.abs().mean().clamp(min=1e-300) for value in weight])
        rows, sums = pair_sums(local, weight / scale[:, None], number, device)
        informative &= informative_pairs(rows, first, second)
        inside = sums[:, first, second] * scale[:, None]
        if len(weight) == 1:
            inside = inside.round()
        sides.append(torch.stack([rows[first, second].double(), inside[0], inside[-1]], 1))
    sets = torch.stack([paired[first], paired[second], paired[second]], 1)
    return sets[informative], sides[0][informative], sides[1][informative]


def _joint_rows(codes: Sequence[Tensor], size: int) -> Tensor:
    """`[L, L]` rows of both tables with both of two levels."""
    nothing = torch.zeros(0, sum(map(len, codes)))
    return pair_sums(torch.cat(list(codes)), nothing, size)[0]


def _possible_pairs(levels: Sequence[Level], ways: int) -> float:
    """Number of sets of one level and of two levels of different columns."""
    sizes = torch.bincount(level_columns(levels)).double()
    one, squares = float(sizes.sum()), float(sizes.square().sum())
    return one if ways == 1 else one + (one**2 - squares) / 2
