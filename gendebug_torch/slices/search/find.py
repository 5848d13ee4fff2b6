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
from gendebug_torch.slices.levels.counting import mask_sums, member_masks
from gendebug_torch.slices.levels.distinct import distinct_slices, slice_name
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
