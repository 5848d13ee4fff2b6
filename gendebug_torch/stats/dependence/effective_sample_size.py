"""Effective sample size of rows that depend on their neighbours in time, or on their group."""

from __future__ import annotations

import math

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.stats.auc import midranks

# The window of lags in autocorrelation times: the usual compromise of bias and noise.
_WINDOW = 5
# Elements whose spectrum is held at once.
_MAX_ELEMENTS = 1 << 22
# Parts into which production is cut, so that a break between them does not pass for dependence.
_PARTS = 4
_MIN_ROWS = 50
# Rows of which all lags are looked at, and the time of spaced rows that is no chance.
_MAX_ROWS = 1 << 17
_MIN_FAR = 1.1
# Waves over the whole record that say whether a column swings slowly, and how many times what the
# neighbours say their power has to be: chance makes it so in two of a thousand columns.
_WAVES, _MIN_SLOW = 5, 3.7
# Fewest groups of which the likeness of rows is estimated, and the tail in which it has to hold.
_MIN_GROUPS, _TAIL = 5, 0.001
# Levels of a column, commonest first, whose autocorrelation is looked at.
MAX_LEVELS = 20


def autocorrelation_time(values: Tensor, *, parts: int = 1) -> Tensor:
    """Integrated autocorrelation time of each column, `1 + 2 sum_k rho_k`, `[d]` float64 >= 1.

    A column of n rows holds as much information as n / time independent rows. The time is the
    larger one of the ranks and of their distance from the middle, so that neither a slow level nor
    a slow spread escapes; summed up to the first lag that is five times the sum, and corrected for
    the mean taken off. What chance alone gives (two standard errors) counts as 1. Of more than
    131,072 rows the short lags are those of as many rows in a row, the long ones of spaced rows.

    A slow swing below much that changes from row to row (the risk of the merchant of each payment)
    hardly shows in neighbours: there the sum stops too early. It shows in the waves that go through
    the record one to five times, whose power, over that of independent rows, is the time where it
    is much the longer one.

    Source: Sokal (1997), Monte Carlo Methods in Statistical Mechanics, section 3; Wolff (2004),
    Comput. Phys. Commun. 156:143, eq. 49, for the correction; Heidelberger and Welch (1981),
    Commun. ACM 24:233, for the spectrum near zero as the variance of a mean.

    Args:
        values: real numbers, `[n, d]` or `[n]`, in the order of time; NaN is missing and keeps its
            row.
        parts: number of consecutive parts whose median is taken: a break between two of them is no
            dependence.

    Raises:
        InputError: other axes.

    Cost: a few transforms of length 2n per column, of at most 131,072 rows twice.

    Example:
        >>> noise = torch.randn(4009, generator=torch.Generator().manual_seed(0))
        >>> columns = torch.stack([noise[:4000], noise.unfold(0, 10, 1).mean(1)], 1)
        >>> [round(time) for time in autocorrelation_time(columns).tolist()]
        [1, 11]
    """
    if values.ndim not in (1, 2):
        reject(
            "values",
            "[n, d] or [n] in the order of time",
            str(list(values.shape)),
            "Flatten the rows.",
        )
    columns = (values[:, None] if values.ndim == 1 else values).detach().double().T
    d, n = columns.shape
    if not d or not n:
        return torch.ones(d, dtype=torch.float64, device=columns.device)
    if n <= _MAX_ROWS:
        return _median_times(columns, parts)
    step = math.ceil(n / _MAX_ROWS)
    start = (n - _MAX_ROWS) // 2
    near = _median_times(columns[:, start : start + _MAX_ROWS], parts)
    far = _median_times(columns[:, ::step], parts)
    # Spaced rows span the whole record: where they resolve the time, they know it best.
    both = torch.where(far >= _WINDOW, step * far, torch.maximum(near, step * far))
    return torch.where(far > _MIN_FAR, both, near)


def _median_times(columns: Tensor, parts: int) -> Tensor:
    """`[d]` medians over the parts of `[d, n]`, in blocks of columns."""
    d, n = columns.shape
    pieces = columns.tensor_split(max(1, min(parts, n // _MIN_ROWS)), dim=1)
    blocks = math.ceil(d * n / _MAX_ELEMENTS)
    times = [torch.cat([_time(block) for block in piece.tensor_split(blocks)]) for piece in pieces]
    return torch.stack(times).quantile(0.5, dim=0)


def autocorrelation_time_bound(times: Tensor, rows: int) -> Tensor:
    """Autocorrelation times plus half a standard error, `[d]` float64.

    A record of few swings shows too short a time as often as not. The standard error is
    `time sqrt(2 (2 W + 1) / n)` for the window W = 5 times.

    Source: Sokal (1997), section 3; Wolff (2004), Comput. Phys. Commun. 156:143, eq. 42.

    Args:
        times: estimates, `[d]` float64.
        rows: number of rows that they were estimated from.
    """
    error = (2 * (2 * _WINDOW * times + 1) / max(rows, 1)).sqrt()
    return torch.where(times > 1, times * (1 + error / 2), times)


def two_sample_autocorrelation_times(
    reference: Tensor | None, live: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Bounds of the autocorrelation times of two samples of the same columns, `[d]` float64 each.

    The live sample takes the longer time of both: it is the same process if nothing changed, and
    its own estimate may hold a break.

    Args:
        reference: values, `[n, d]` in the order of time, or None where that is unknown.
        live: values, `[m, d]` likewise; not None where the reference is.
    """
    times = []
    if reference is not None:
        times.append(autocorrelation_time_bound(autocorrelation_time(reference), len(reference)))
    if live is not None:
        parts = 1 if reference is None else _PARTS
        times.append(
            autocorrelation_time_bound(autocorrelation_time(live, parts=parts), len(live) // parts)
        )
    if reference is None:
        return torch.ones_like(times[0]), times[0]
    return times[0], torch.stack(times).amax(0)


def two_sample_group_effects(
    before: Tensor, after: Tensor, groups: Tensor, live_groups: Tensor
) -> Tensor:
    """Variances of the shares of two samples over those of independent rows, `[2, d]` float64 >= 1.

    With the intraclass correlation r of ranks, a group of k rows counts for `k / (1 + (k - 1) r)`.
    The larger one of both samples holds for both, of the ranks and of their distance from the
    middle. Groups that stand in both samples change neither: what they share cancels in the
    difference.

    Source: Kish (1965), Survey Sampling, section 5.4; Donner (1986), Int. Stat. Rev. 54:67.

    Args:
        before: values of the reference, `[n, d]`; NaN is missing.
        after: values of production, `[m, d]`.
        groups: id of the group of each row of the reference, `[n]` int64 from 0.
        live_groups: the same of production, `[m]`; equal ids are one group.

    Cost: two sorts of each column.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> patients = torch.randn(200, 1, generator=draw).repeat_interleave(10, 0)
        >>> ids = torch.arange(200).repeat_interleave(10)
        >>> two_sample_group_effects(patients[:1000], patients[1000:], ids[:1000], ids[1000:]) > 9
        tensor([[True],
                [True]])
    """
    count = int(max(groups.max(), live_groups.max())) + 1 if len(groups) and len(live_groups) else 0
    sizes = [ids.bincount(minlength=count).double() for ids in (groups, live_groups)]
    likeness = torch.stack(
        [
            _likeness(values, ids, size)
            for values, ids, size in zip((before, after), (groups, live_groups), sizes, strict=True)
        ]
    ).amax(0)
    together = float((sizes[0] * sizes[1]).sum()) if count else 0.0
    effects = []
    for own, other in (sizes, sizes[::-1]):
        rows, others = max(float(own.sum()), 1.0), max(float(other.sum()), 1.0)
        alike = float(own.square().sum()) / rows - 1 - together / others
        effects.append((1 + alike * likeness).clamp(min=1.0))
    return torch.stack(effects)


def _likeness(values: Tensor, groups: Tensor, sizes: Tensor) -> Tensor:
    """`[d]` intraclass correlation of columns `[n, d]`, 0 where chance may have made it.

    As much larger as few groups may have hidden: by the square of Student's quantile over the
    normal one.
    """
    present = sizes[sizes > 0]
    rows, count = float(sizes.sum()), len(present)
    alike = float(sizes.square().sum()) / max(rows, 1.0) - 1
    if count < _MIN_GROUPS or alike <= 0:
        return torch.zeros(values.shape[1], dtype=torch.float64)
    series = _ranks_and_spread(values.double().T)
    sums = series.new_zeros(len(series), len(sizes)).index_add_(1, groups.to(series.device), series)
    own = series.square().sum(1).clamp(min=1e-12)
    ratio = sums.square().sum(1) / own * count / (count - 1)
    allowance = float(stdtrit(count - 1, _TAIL) / ndtri(_TAIL)) ** 2
    chance = 1 + 3 * math.sqrt(2 / (count - 1))
    likeness = ((ratio * allowance - 1) / alike).clamp(0.0, 1.0)
    likeness = torch.where(ratio > chance, likeness, 0.0)
    return likeness.view(2, -1).amax(0).cpu()


def effective_sample_size(rows: Tensor, times: Tensor) -> Tensor:
    """Number of independent rows with as much information, `n / time`, int64, at least 1 of any.

    Args:
        rows: numbers of rows, `[d]` int64.
        times: autocorrelation times, `[d]`, or one for all.
    """
    return (rows / times).floor().long().clamp(min=1).minimum(rows)


def effective_counts(counts: Tensor, rows: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Events and trials of the effective sample size, int64: the share is kept, up to rounding.

    Args:
        counts: numbers of events, `[d]` int64.
        rows: numbers of trials, `[d]` int64.
        times: autocorrelation times, `[d]`, or one for all.
    """
    trials = effective_sample_size(rows, times)
    return (counts / rows.clamp(min=1) * trials).round().long(), trials


def _time(columns: Tensor) -> Tensor:
    """`[c]` autocorrelation times of `[c, n]`."""
    c, n = columns.shape
    if n < 3:
        return torch.ones(c, dtype=torch.float64, device=columns.device)
    # Missing values have weight zero, so that only pairs of rows that are both present count.
    series = _ranks_and_spread(columns)
    covariance = _autocovariance(series)
    times = 2 * (covariance / covariance[:, :1].clamp(min=1e-12)).cumsum(1) - 1
    lags = torch.arange(n, device=columns.device)
    stop = (lags >= _WINDOW * times).int().argmax(1)
    time = times.gather(1, stop[:, None])[:, 0] * (1 + (2 * stop + 1) / n)
    chance = 1 + 2 * math.sqrt(2 * (2 * _WINDOW + 1) / n)
    time = torch.where(time > chance, time, 1.0)
    slow = _slow_time(series)
    longest = torch.where(slow > _MIN_SLOW * time, slow, time)
    return longest.reshape(2, c).amax(0).clamp(max=float(n))


def _slow_time(series: Tensor) -> Tensor:
    """`[c]` power of the slowest waves of `[c, n]`, over that of independent rows.

    Of the wave that goes through the record once, and of the weaker two of the next four: a cycle,
    as that of a week, makes no more than two of them strong.
    """
    n = series.shape[1]
    steps = torch.arange(n, dtype=series.dtype, device=series.device) * (2 * math.pi / n)
    angles = steps[:, None] * torch.arange(1, _WAVES + 1, device=series.device)
    power = (series @ angles.cos()).square() + (series @ angles.sin()).square()
    own = series.square().sum(1, keepdim=True).clamp(min=1e-12)
    waves = power / own
    # Independent rows have waves of exponential power: the weaker two of four are 1/4 and 7/12.
    weaker = waves[:, 1:].sort(1).values[:, : _WAVES // 2]
    return (waves[:, 0] + weaker.sum(1)) / (1 + 1 / 4 + 7 / 12)


def _autocovariance(series: Tensor) -> Tensor:
    """`[c, n]` sums of products of each series with itself, by lag."""
    n = series.shape[1]
    length = 1 << math.ceil(math.log2(2 * n))
    spectrum = torch.fft.rfft(series, n=length).abs().square()
    products: Tensor = torch.fft.irfft(spectrum, n=length)
    return products[:, :n]


def _ranks_and_spread(columns: Tensor) -> Tensor:
    """`[2 c, n]` ranks of `[c, n]` in -1/2..1/2, then their distances from 0 less the mean one.

    Missing values are 0.
    """
    missing = columns.isnan()
    counts = (~missing).sum(1, keepdim=True).clamp(min=1)
    # Missing values are sorted behind all others.
    ranks = ((midranks(columns) - 0.5) / counts - 0.5).masked_fill(missing, 0.0)
    mean = ranks.abs().sum(1, keepdim=True) / counts
    return torch.cat([ranks, (ranks.abs() - mean) * ~missing])
