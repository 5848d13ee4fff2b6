"""The search for slices that are worse than expected, and its confirmation on other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.slices.levels.binning import Binning, Level, fit_binnings, level_codes
from gendebug_torch.slices.levels.counting import (
    mask_sums,
    member_masks,
    pair_sums,
    slice_pairs,
)
from gendebug_torch.slices.levels.distinct import distinct_slices, slice_name
from gendebug_torch.slices.levels.slice_counts import MIN_SAMPLED, ScoreCounts
from gendebug_torch.slices.search.candidates import Candidates, pairs, single_levels, triples
from gendebug_torch.slices.search.result import Slices
from gendebug_torch.slices.statistics.slice_test import SliceTest, slice_test
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

# The first half of the rows proposes generously; the other half decides.
_PROPOSAL_ALPHA = 0.2


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
    """Slices in which a metric is significantly higher than expected, given the number of tests.

    The sums over all one- and two-way slices are matrix products (`pair_sums`). Events are tested
    one-sided given the expected rates (`log_upper_tail`), other metrics by rank sums (Wilcoxon,
    1945), or by their mean excess where an expectation is given; Benjamini-Hochberg runs over all
    tests. Third levels extend the `beam` most significant pairs. Of slices with the same rows one
    is returned; slices that are not significant without the rows of better ones are left out.

    Args:
        frame: columns to slice by, `[n, c]`.
        metric: undesired event, `[n]` bool (for recall, misses among the positives), or number such
            as a loss, `[n]` float.
        expected: probability of the event in each row, e.g. `isotonic_rate`, `[n]` float in [0, 1];
            or expected number; default the overall rate.
        binnings: levels fitted elsewhere; default fitted on `frame`.
        ways: number of columns combined, 1, 2 or 3.
        beam: number of pairs that are extended by a third level.
        min_support: smallest number of rows of a slice.
        alpha: false discovery rate.
        limit: most slices to return.
        device: device of the products.
        name: name of the metric, for labels.

    Raises:
        InputError: a value is missing or NaN, or `ways` is out of range.

    Cost: `2 n L^2` multiplications for L levels in all, twice more with `expected`; of more levels
    than `most_paired` only those that matter most alone are paired.

    Example:
        >>> frame = pd.DataFrame({"shop": list("abcd") * 250, "day": [0] * 500 + [1] * 500})
        >>> error = torch.arange(1000) % 20 == 1  # in shop b only
        >>> find_slices(frame, error).names
        ('shop = b',)
    """
    if ways not in (1, 2, 3):
        reject("ways", "1, 2 or 3", repr(ways), "Deeper slices are too many to test.")
    values = _checked(frame, metric, expected)
    test = slice_test(metric, expected)
    binnings = tuple(fit_binnings(frame) if binnings is None else binnings)
    levels, codes = level_codes(frame, binnings)
    candidates = _candidates(codes, levels, test, ways, beam, min_support, device)
    tests = float(candidates.multiplicity.sum())
    log_p = test.log_p_values(candidates.rows, candidates.sums)
    adjusted = benjamini_hochberg_adjusted((log_p.exp() * candidates.multiplicity).clamp(max=1.0))
    order = log_p.argsort(stable=True)
    best = order[adjusted[order] <= alpha][: 2 * limit]
    masks = member_masks(codes, candidates.sets[best], levels)
    distinct, duplicates = distinct_slices(
        masks, lambda i, rest: test.log_p_value(masks[i] & rest, rest), tests, alpha
    )
    chosen = best[torch.tensor(distinct[:limit], dtype=torch.int64)]
    empty = torch.zeros(0, dtype=torch.float64)
    slices = Slices(
        binnings,
        candidates.sets[chosen],
        candidates.rows[chosen],
        empty,
        empty,
        empty,
        log_p[chosen],
        adjusted[chosen],
        _aliases(levels, candidates, best, duplicates[:limit]),
        (len(frame), float(values.sum())),
        round(tests),
        name,
        test.is_count,
        expected is not None,
    )
    return _with_sums(slices, codes, values, expected)


def _candidates(
    codes: Tensor,
    levels: Sequence[Level],
    test: SliceTest,
    ways: int,
    beam: int,
    min_support: int,
    device: str | torch.device,
) -> Candidates:
    """Sets of up to `ways` levels with enough rows."""
    if ways == 1:
        candidates = single_levels(codes, len(levels), test)
    else:
        candidates = pairs(codes, levels, test, min_support, device)
    if ways == 3:
        extended = triples(candidates, codes, levels, test, beam, min_support, device)
        candidates = candidates.joined(extended)
    return candidates.selected(candidates.rows >= min_support)


def _aliases(
    levels: Sequence[Level],
    candidates: Candidates,
    best: Tensor,
    duplicates: Sequence[Sequence[int]],
) -> tuple[tuple[str, ...], ...]:
    """Names of the duplicates of each slice."""
    names = [slice_name(levels, members) for members in candidates.sets[best].tolist()]
    return tuple(tuple(names[i] for i in group) for group in duplicates)


def counted_slices(
    frame: pd.DataFrame,
    metric: Tensor,
    counts: ScoreCounts,
    *,
    expected: Tensor | None = None,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    name: str = "error",
) -> Slices:
    """`find_slices` by sums over more rows than these, which then only tell slices apart.

    Args:
        frame: columns of the rows at hand, `[n, c]`.
        metric: event or loss of these rows, `[n]`.
        counts: sums of all rows.
        expected: what is expected of these rows, `[n]`; None for the overall rate.
        min_support: smallest number of rows of a slice.
        alpha: false discovery rate.
        limit: most slices to return.
        name: name of the metric in the sums.
    """
    _checked(frame, metric, expected)
    levels, codes = level_codes(frame, counts.binnings)
    weights = counts.weights(name, expected=expected is not None)
    test = _test_of_all(slice_test(metric, expected), counts, name, weights)
    sets = _counted_pairs(counts.rows(name), codes, levels, min_support)
    inside = [part[..., sets[:, 0], sets[:, 1]] for part in (counts.rows(name), weights)]
    log_p = test.log_p_values(*inside)
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.argsort(stable=True)
    best = order[adjusted[order] <= alpha][: 2 * limit]
    masks = member_masks(codes, sets[best], levels)
    parts = [part[..., best] for part in inside]

    def log_p_of_rest(i: int, rest: Tensor) -> float:
        return test.log_p_of_part(masks[i], rest, parts[0][i], parts[1][:, i])

    distinct, _ = distinct_slices(masks, log_p_of_rest, float(len(sets)), alpha)
    chosen = best[torch.tensor(distinct[:limit], dtype=torch.int64)]
    found = _counted_result(counts, name, sets[chosen], (log_p[chosen], adjusted[chosen]), test)
    return replace(found, tests=len(sets))


def _test_of_all(test: SliceTest, counts: ScoreCounts, name: str, weights: Tensor) -> SliceTest:
    """The test of some rows, for sums over all of them."""
    n, whole = float(counts.over_rows(counts.rows(name))), counts.over_rows(weights)
    if len(weights) > 1:
        return replace(test, whole=(n, whole))
    rate = float(whole[0]) / max(n, 1.0)
    return replace(test, whole=(n, whole), mean=rate, variance=rate * (1 - rate))


def _counted_pairs(
    rows: Tensor, codes: Tensor, levels: Sequence[Level], min_support: int
) -> Tensor:
    """Sets of levels `[s, 3]` with enough rows, of which enough are at hand."""
    first, second = slice_pairs(levels, 2)
    sampled = pair_sums(codes, torch.zeros(0, len(codes)), len(levels))[0]
    enough = (first == second) | (sampled[first, second] >= MIN_SAMPLED)
    enough &= rows[first, second] >= min_support
    return torch.stack([first, second, second], 1)[enough]


def _counted_result(
    counts: ScoreCounts,
    name: str,
    sets: Tensor,
    p_values: tuple[Tensor, Tensor],
    test: SliceTest,
) -> Slices:
    """Slices with their sums over all rows."""
    rows, total, squares = counts.sums[name].sum(1)
    means = counts.expected(name)[:, None, None]
    implied = (counts.sums[name][0] * means).sum(0)
    parts = (rows, total, squares, implied)
    inside = [part[sets[:, 0], sets[:, 1]] for part in parts]
    every = counts.over_rows(rows), counts.over_rows(total)
    return Slices(
        counts.binnings,
        sets,
        support=inside[0].long(),
        total=inside[1],
        squares=inside[2],
        expected=inside[3],
        log_p=p_values[0],
        adjusted=p_values[1],
        aliases=((),) * len(sets),
        overall=(int(every[0]), float(every[1])),
        tests=0,
        name=name,
        is_count=test.is_count,
        has_expected_rate=len(test.weights) > 1,
    )


def confirmed_slices(
    frame: pd.DataFrame,
    metric: Tensor,
    *,
    expected: Callable[[Tensor], Tensor] | None = None,
    binnings: Sequence[Binning] | None = None,
    alpha: float = 0.05,
    min_support: int = 30,
    seed: int = 0,
    **search: Any,
) -> Slices:
    """Slices that one random half of the rows proposes and the other half confirms.

    Rates, intervals and p-values come from the second half, so selection does not bias them (Cox,
    1975, Biometrika 62:441).

    Args:
        frame: columns to slice by, `[n, c]`.
        metric: undesired event, `[n]` bool, or number, `[n]` float.
        expected: function of row numbers `[h]` int64 that returns the expected rates `[h]` there;
            called once for each half.
        binnings: levels fitted elsewhere; default fitted on `frame`.
        alpha: false discovery rate among the proposed slices.
        min_support: smallest number of rows of a slice, over all rows.
        seed: seed of the split into halves.
        **search: further options of `find_slices`.

    Example:
        >>> frame = pd.DataFrame({"shop": list("abcd") * 500})
        >>> error = torch.arange(2000) % 20 == 1  # in shop b only
        >>> confirmed_slices(frame, error).names
        ('shop = b',)
    """
    _checked(frame, metric, None)
    binnings = fit_binnings(frame) if binnings is None else binnings
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(seed))
    middle = len(order) // 2
    first, second = (
        (frame.iloc[half.numpy()], metric[half], None if expected is None else expected(half))
        for half in (order[:middle].sort().values, order[middle:].sort().values)
    )
    proposed = find_slices(
        first[0],
        first[1],
        expected=first[2],
        binnings=binnings,
        alpha=_PROPOSAL_ALPHA,
        min_support=max(min_support // 2, 1),
        **search,
    )
    return slices_on(proposed, *second, alpha=alpha)


def slices_on(
    slices: Slices,
    frame: pd.DataFrame,
    metric: Tensor,
    expected: Tensor | None = None,
    *,
    alpha: float = 1.0,
) -> Slices:
    """The same slices with the statistics of other rows, the most significant first.

    Args:
        slices: slices found elsewhere.
        frame: table with the same columns, `[n, c]`.
        metric: event `[n]` bool, or number `[n]` float.
        expected: probability of the event, or expected number, in each row, `[n]`; default the
            overall rate.
        alpha: false discovery rate over these slices alone; others are dropped.
    """
    values = _checked(frame, metric, expected)
    test = slice_test(metric, expected)
    levels, codes = level_codes(frame, slices.binnings)
    masks = member_masks(codes, slices.sets, levels)
    log_p = test.log_p_values(masks.sum(1), mask_sums(masks, test.weights))
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.argsort(stable=True)
    chosen = order[adjusted[order] <= alpha]
    evaluated = replace(
        slices,
        sets=slices.sets[chosen],
        support=masks.sum(1)[chosen],
        log_p=log_p[chosen],
        adjusted=adjusted[chosen],
        aliases=tuple(slices.aliases[i] for i in chosen.tolist()),
        overall=(len(frame), float(values.sum())),
        is_count=test.is_count,
        has_expected_rate=expected is not None,
    )
    return _with_sums(evaluated, codes, values, expected)


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
                "Drop or repair these rows.",
            )
    is_event = not metric.is_floating_point()
    if expected is not None and is_event and bool(((expected < 0) | (expected > 1)).any()):
        reject("expected", "probabilities in [0, 1]", "values outside", "Use `isotonic_rate`.")
    return metric.detach().double().cpu()


def _with_sums(slices: Slices, codes: Tensor, values: Tensor, expected: Tensor | None) -> Slices:
    """The slices with the sums of the metric, of its squares, and of its expectation."""
    levels = [level for binning in slices.binnings for level in binning.levels]
    masks = member_masks(codes, slices.sets, levels)
    if expected is None:
        expected = torch.full_like(values, float(values.mean()) if len(values) else 0.0)
    weights = torch.stack([values, values.square(), expected.detach().double().cpu()])
    total, squares, expected_total = mask_sums(masks, weights)
    return replace(slices, total=total, squares=squares, expected=expected_total)
