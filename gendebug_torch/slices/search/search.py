"""The search for slices that are worse than expected, and its confirmation on rows that it has not
seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.slices.search.columns import Binning, Level, fit_binnings, level_codes
from gendebug_torch.slices.search.counting import (
    column_of,
    member_masks,
    one_hot,
    pair_sums,
    slice_pairs,
    worth_asking,
)
from gendebug_torch.slices.search.expected_errors import log_upper_tail
from gendebug_torch.slices.search.merging import distinct_slices, words
from gendebug_torch.slices.search.result import Slices
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

# Pairs among more levels than this are too many to count; the columns that matter most alone are
# paired.
_MOST_LEVELS = 2000
# A half proposes generously; the other half decides.
_PROPOSING_ALPHA = 0.2
_CELLS = 2**23


_EMPTY = (torch.zeros(0, dtype=torch.float64),) * 3


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sets `[s, 3]` of levels, their `rows` `[s]` and `sums` `[w, s]`, and `price` `[s]`.

    Where only promising sets were counted, each pays the price of those that could have been.
    """

    sets: Tensor
    rows: Tensor
    sums: Tensor
    price: Tensor

    def beside(self, other: _Sums) -> _Sums:
        """These sets and the others."""
        sums = torch.cat([self.sums, other.sums], 1)
        return _Sums(
            torch.cat([self.sets, other.sets]),
            torch.cat([self.rows, other.rows]),
            sums,
            torch.cat([self.price, other.price]),
        )


@dataclass(frozen=True, eq=False)
class _Question:
    """What is summed over a slice, and how surprising a sum is.

    `weights` are `[1, n]` values, or `[3, n]` with each row's expected value and variance where
    these differ.
    """

    weights: Tensor
    rate: float
    variance: float
    counts: bool

    def log_p(self, rows: Tensor, sums: Tensor, within: Tensor | None = None) -> Tensor:
        """`[s]` of slices with these rows and `[w, s]` sums, among the rows of the mask `within`,
        by default all.

        The expectation is scaled to what happened in all rows, and the variance loses the share of
        the slice in it.
        """
        n, whole = self._whole(within)
        mean, spread = (
            (sums[1], sums[2]) if len(sums) == 3 else (rows * self.rate, rows * self.variance)
        )
        mean = mean * (whole[0] / whole[1]) if float(whole[1]) > 0 else mean
        variance = (
            spread * (1 - spread / whole[2].clamp(min=1e-300)).clamp(min=0.0) * (n / max(n - 1, 1))
        )
        if self.counts:
            # Without expectations of their own the rows are drawn, and drawing has two sides: rows
            # and events.
            most = rows if len(sums) == 3 else rows.double().clamp(max=float(whole[0]))
            return log_upper_tail(sums[0], most, mean, variance)
        z = (sums[0] - mean) / variance.clamp(min=1e-300).sqrt()
        return torch.where(
            (z > 0) & (variance > 0), torch.special.log_ndtr(-z), torch.zeros_like(z)
        )

    def log_p_of(self, inside: Tensor, within: Tensor) -> float:
        """The same for the rows of one mask `[n]` among those of another."""
        return float(
            self.log_p(inside.sum()[None], self.weights[:, inside].sum(1, keepdim=True), within)
        )

    def _whole(self, within: Tensor | None) -> tuple[int, Tensor]:
        part = self.weights if within is None else self.weights[:, within]
        n, sums = part.shape[1], part.sum(1)
        return n, sums if len(sums) == 3 else torch.stack(
            [sums[0], sums.new_tensor(n * self.rate), sums.new_tensor(n * self.variance)]
        )


def find_slices(
    frame: pd.DataFrame,
    metric: Tensor,
    *,
    expected: Tensor | None = None,
    binnings: Sequence[Binning] | None = None,
    ways: int = 2,
    beam: int = 50,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
) -> Slices:
    """Slices in which a metric is higher than expected, beyond what asking so many allows.

    The sums over all one- and two-way slices are matrix products (`pair_sums`). Events are tested
    one-sided given the expected rates (`log_upper_tail`), other metrics by rank sums (Wilcoxon,
    1945); Benjamini-Hochberg runs over all slices asked. Third levels are added to the `beam` most
    significant pairs. Of slices with the same rows one is kept; one whose excess vanishes without
    the rows of better ones is left out.

    Args:
        frame: `[n, c]` columns to slice by.
        metric: `[n]` bool, what should not happen (for recall, misses among the positives), or
            float, such as a loss.
        expected: `[n]` float in [0, 1], probability of the event in each row, e.g. `promised_rate`;
            default: the overall rate.
        binnings: cuts fitted elsewhere; default: fitted on `frame`.
        ways: 1, 2 or 3 levels at once.
        beam: pairs that are extended by a third level.
        min_support: rows below which a slice is not asked.
        alpha: false discovery rate.
        limit: most slices to return.
        device: where the products run.
        name: of the metric, for labels.

    Raises:
        InputError: a value per row is lacking or NaN, or `ways` is out of range.

    Cost: `2 n L^2` multiplications for L levels in all, twice more with `expected`; above 2,000
    levels the columns that matter least alone are not paired.
    """
    if ways not in (1, 2, 3):
        reject("ways", "1, 2 or 3", repr(ways), "Deeper slices are too many to be asked honestly.")
    values = _checked(frame, metric, expected)
    question = _question(metric, expected)
    cuts = tuple(fit_binnings(frame) if binnings is None else binnings)
    levels, codes = level_codes(frame, cuts)
    summed = _counted(codes, levels, question, ways, min_support, device)
    if ways == 3:
        summed = summed.beside(_thirds(summed, codes, levels, question, beam, min_support, device))
    asked = summed.rows >= min_support
    log_p = torch.full(asked.shape, math.nan, dtype=torch.float64)
    log_p[asked] = question.log_p(summed.rows[asked], summed.sums[:, asked])
    adjusted = benjamini_hochberg_adjusted((log_p.exp() * summed.price).clamp(max=1.0))
    order = log_p.nan_to_num(0.0).argsort(stable=True)
    chosen = order[adjusted[order] <= alpha][: 2 * limit]
    price = float(summed.price[asked].sum())
    masks = member_masks(codes, summed.sets[chosen], levels)
    kept, twins = distinct_slices(masks, question.log_p_of, price, alpha)
    at = chosen[torch.tensor(kept[:limit], dtype=torch.int64)]
    also = tuple(
        tuple(words(levels, summed.sets[chosen[place]].tolist()) for place in places)
        for places in twins[:limit]
    )
    found = Slices(
        cuts,
        summed.sets[at],
        summed.rows[at],
        *_EMPTY,
        log_p[at],
        adjusted[at],
        also,
        (len(frame), float(values.sum())),
        round(price),
        name,
        question.counts,
        expected is not None,
    )
    return _measured(found, codes, values, expected)


def confirmed_slices(
    frame: pd.DataFrame,
    metric: Tensor,
    *,
    promise: Callable[[Tensor], Tensor] | None = None,
    binnings: Sequence[Binning] | None = None,
    alpha: float = 0.05,
    min_support: int = 30,
    seed: int = 0,
    **search: Any,
) -> Slices:
    """Slices that one random half of the rows proposes and the other half confirms, with the
    numbers of the latter.

    The search cannot flatter what it found, since the rates, intervals and p-values come from rows
    that it has not seen (Cox, 1975, Biometrika 62:441).

    Args:
        frame: `[n, c]` columns to slice by.
        metric: `[n]` bool or float, as in `find_slices`.
        promise: rows `[h]` int64 -> `[h]` expected rates there, asked once for each half.
        binnings: cuts fitted elsewhere; default: fitted on `frame`.
        alpha: false discovery rate among those proposed.
        min_support: rows below which a slice is not asked, in all rows.
        seed: of the split into halves.
        **search: further options of `find_slices`.
    """
    _checked(frame, metric, None)
    cuts = fit_binnings(frame) if binnings is None else binnings
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(seed))
    middle = len(order) // 2
    sides = [
        (frame.iloc[half.numpy()], metric[half], None if promise is None else promise(half))
        for half in (order[:middle].sort().values, order[middle:].sort().values)
    ]
    support = max(min_support // 2, 1)
    first, event, expected = sides[0]
    proposed = find_slices(
        first,
        event,
        expected=expected,
        binnings=cuts,
        alpha=_PROPOSING_ALPHA,
        min_support=support,
        **search,
    )
    return remeasured(proposed, *sides[1], alpha=alpha)


def remeasured(
    found: Slices,
    frame: pd.DataFrame,
    metric: Tensor,
    expected: Tensor | None = None,
    *,
    alpha: float = 1.0,
) -> Slices:
    """The same slices on other rows, Benjamini-Hochberg over these alone, worst first; those above
    `alpha` are dropped.
    """
    values = _checked(frame, metric, expected)
    question = _question(metric, expected)
    levels, codes = level_codes(frame, found.binnings)
    masks = member_masks(codes, found.sets, levels)
    sums = _mask_sums(masks, question.weights)
    log_p = question.log_p(masks.sum(1), sums)
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.argsort(stable=True)
    at = order[adjusted[order] <= alpha]
    fresh = replace(
        found,
        sets=found.sets[at],
        support=masks.sum(1)[at],
        log_p=log_p[at],
        adjusted=adjusted[at],
        also=tuple(found.also[place] for place in at.tolist()),
        overall=(len(frame), float(values.sum())),
        counts=question.counts,
        promised=expected is not None,
    )
    return _measured(fresh, codes, values, expected)


def _checked(frame: pd.DataFrame, metric: Tensor, expected: Tensor | None) -> Tensor:
    """The metric as `[n]` float64."""
    for argument, values in (("metric", metric), ("expected", expected)):
        if values is None:
            continue
        if values.shape != (len(frame),):
            reject(
                argument,
                f"[{len(frame)}] one value per row",
                f"shape {list(values.shape)}",
                "Pass one value per row of the table.",
            )
        if values.is_floating_point() and not bool(values.isfinite().all()):
            reject(
                argument,
                "finite values",
                f"NaN or infinity in {int((~values.isfinite()).sum())} rows",
                "Drop these rows or mend them.",
            )
    if expected is not None and metric.is_floating_point():
        reject(
            "expected",
            "None for a metric that is not an event",
            "a tensor",
            "Pass a bool metric, or leave `expected` out.",
        )
    if expected is not None and bool(((expected < 0) | (expected > 1)).any()):
        reject("expected", "probabilities in [0, 1]", "values outside", "Use `promised_rate`.")
    return metric.detach().double().cpu()


def _question(metric: Tensor, expected: Tensor | None) -> _Question:
    values = metric.detach().double().cpu()
    n = max(len(values), 1)
    if metric.is_floating_point():
        ranks = torch.from_numpy(rankdata(values.numpy())) / (n + 1) if len(values) else values
        return _Question(
            ranks[None], 0.5, float(ranks.var(correction=0)) if len(values) else 0.0, counts=False
        )
    if expected is None:
        rate = float(values.sum()) / n
        return _Question(values[None], rate, rate * (1 - rate), counts=True)
    p = expected.detach().double().cpu()
    return _Question(torch.stack([values, p, p * (1 - p)]), 0.0, 0.0, counts=True)


def _counted(
    codes: Tensor,
    levels: Sequence[Level],
    question: _Question,
    ways: int,
    min_support: int,
    device: str | torch.device,
) -> _Sums:
    """Sets of one or two levels."""
    of = column_of(levels)
    paired = torch.arange(len(levels))
    if ways == 1 or len(levels) > _MOST_LEVELS:
        rows = torch.bincount(codes.flatten(), minlength=len(levels))
        repeated = question.weights.repeat_interleave(codes.shape[1], 1)
        sums = torch.zeros(len(question.weights), len(levels), dtype=torch.float64).index_add_(
            1, codes.flatten(), repeated
        )
        if ways == 1:
            return _Sums(
                paired[:, None].expand(-1, 3),
                rows,
                sums,
                torch.ones(len(levels), dtype=torch.float64),
            )
        paired = _strongest_columns(question.log_p(rows, sums), rows, of, min_support)
    local = torch.full((len(levels),), -1).index_copy_(0, paired, torch.arange(len(paired)))
    columns = torch.unique(of[paired])
    first, second = slice_pairs([levels[place] for place in paired.tolist()], 2)
    rows, sums = pair_sums(local[codes[:, columns]], question.weights, len(paired), device)
    new = worth_asking(rows, first, second)
    one, two, _ = _possible(of)
    price = torch.full((len(first),), (one + two) / max(len(first), 1), dtype=torch.float64)[new]
    first, second = first[new], second[new]
    sets = torch.stack([paired[first], paired[second], paired[second]], 1)
    return _Sums(sets, rows[first, second], sums[:, first, second], price)


def _strongest_columns(log_p: Tensor, rows: Tensor, of: Tensor, min_support: int) -> Tensor:
    """Levels of the columns that hold the most significant single levels, as many as may be
    paired.
    """
    best = torch.zeros(int(of.max()) + 1, dtype=torch.float64)
    best.scatter_reduce_(
        0, of, torch.where(rows >= min_support, log_p, torch.zeros_like(log_p)), "amin"
    )
    order = best.argsort(stable=True)
    room = torch.bincount(of)[order].cumsum(0) <= _MOST_LEVELS
    return torch.isin(of, order[room]).nonzero()[:, 0]


def _thirds(
    pairs: _Sums,
    codes: Tensor,
    levels: Sequence[Level],
    question: _Question,
    beam: int,
    min_support: int,
    device: str | torch.device,
) -> _Sums:
    """Sets of three levels, grown from the most significant pairs."""
    worth = ((pairs.sets[:, 0] != pairs.sets[:, 1]) & (pairs.rows >= min_support)).nonzero()[:, 0]
    best = pairs.sets[
        worth[question.log_p(pairs.rows[worth], pairs.sums[:, worth]).argsort(stable=True)][:beam]
    ]
    size, of = len(levels), column_of(levels)
    rows = torch.zeros(len(best), size, dtype=torch.float64, device=device)
    sums = torch.zeros(len(question.weights), len(best), size, dtype=torch.float64, device=device)
    step = max(1, _CELLS // max(size, 1))
    for start in range(0, len(codes), step):
        hot = one_hot(codes[start : start + step].to(device), size)
        inside = hot[:, best[:, 0].to(device)] * hot[:, best[:, 1].to(device)]
        rows += inside.T @ hot
        for place, weight in enumerate(
            question.weights[:, start : start + step].to(device).float()
        ):
            sums[place] += (inside * weight[:, None]).T @ hot
    pair, third = ((of[None] != of[best[:, :1]]) & (of[None] != of[best[:, 1:2]])).nonzero(
        as_tuple=True
    )
    triples, at = torch.unique(
        torch.cat([best[pair, :2], third[:, None]], 1).sort(1).values, dim=0, return_inverse=True
    )
    once = torch.full((len(triples),), len(at)).scatter_reduce_(
        0, at, torch.arange(len(at)), "amin"
    )
    pair, third = pair[once], third[once]
    price = torch.full(
        (len(triples),), _possible(of)[2] / max(len(triples), 1), dtype=torch.float64
    )
    return _Sums(triples, rows.cpu()[pair, third].long(), sums.cpu()[:, pair, third], price)


def _possible(of: Tensor) -> tuple[float, float, float]:
    """How many sets of one, two and three levels of different columns there are (Newton's
    identities).
    """
    sizes = torch.bincount(of).double() if len(of) else torch.zeros(1, dtype=torch.float64)
    one, squares, cubes = (float((sizes**power).sum()) for power in (1, 2, 3))
    return one, (one**2 - squares) / 2, (one**3 - 3 * one * squares + 2 * cubes) / 6


def _mask_sums(masks: Tensor, weights: Tensor) -> Tensor:
    """`[w, s]` sums of `[w, n]` weights over `[s, n]` masks."""
    sums = [weights[:, mask].sum(1) for mask in masks]
    return torch.stack(sums, 1) if sums else torch.zeros(len(weights), 0, dtype=torch.float64)


def _measured(found: Slices, codes: Tensor, values: Tensor, expected: Tensor | None) -> Slices:
    """The slices with the sums of the metric itself, its squares and its expectation."""
    levels = [level for binning in found.binnings for level in binning.levels]
    masks = member_masks(codes, found.sets, levels)
    mean = float(values.mean()) if len(values) else 0.0
    promise = (
        torch.full_like(values, mean) if expected is None else expected.detach().double().cpu()
    )
    total, squares, awaited = _mask_sums(masks, torch.stack([values, values.square(), promise]))
    return replace(found, total=total, squares=squares, expected=awaited)
