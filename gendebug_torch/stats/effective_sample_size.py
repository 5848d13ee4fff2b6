"""Rows in time that depend on their neighbours: how many of them are worth one independent row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.errors import reject

# The window of lags is this many times the time that it finds; the usual compromise of bias and
# noise.
_WINDOW = 5
# Values whose spectrum is held at once.
_CELLS = 1 << 22
# Pieces of production that are asked apart, so that a break between them does not pass for
# dependence; rows of a piece.
_PIECES = 4
_FEWEST = 50
# Levels of a column, commonest first, that are asked how long they last.
MOST_TIMED = 20


def autocorrelation_time(values: Tensor, *, pieces: int = 1) -> Tensor:
    """Rows that are worth one independent row, at least 1, `[d]` float64: `1 + 2 sum_k rho_k` of
    each column.

    The larger one of the ranks and of their distance from the middle, so that neither a slow level
    nor a slow spread escapes; summed up to the first lag that is five times the sum, and corrected
    for the mean taken off. What chance alone gives (two standard errors) counts as 1.

    Source: Sokal (1997), Monte Carlo Methods in Statistical Mechanics, section 3; Wolff (2004),
    Comput. Phys. Commun. 156:143, eq. 49, for the correction.

    Args:
        values: `[n, d]` or `[n]` real numbers in the order of time; NaN is missing and keeps its
            place.
        pieces: parts of the time asked apart, of which the median is taken: a break between two of
            them is no dependence.

    Raises:
        InputError: other axes.

    Cost: a few transforms of length 2n per column.
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
        return torch.ones(d, dtype=torch.float64)
    parts = columns.tensor_split(max(1, min(pieces, n // _FEWEST)), dim=1)
    blocks = math.ceil(d * n / _CELLS)
    found = [torch.cat([_time(block) for block in part.tensor_split(blocks)]) for part in parts]
    return torch.stack(found).quantile(0.5, dim=0)


def dependent_times(reference: Tensor | None, live: Tensor | None) -> tuple[Tensor, Tensor]:
    """`[d]` rows of either side that are worth one independent row, as long as the estimates may
    well be.

    Half a standard error above them: a record of few swings shows too short a time as often as not.
    Production takes the longer time of both sides: it is the same process if nothing changed, and
    its own may hold a break.

    Args:
        reference: `[n, d]` in the order of time, or None where that is not known.
        live: `[m, d]` likewise; not None where the reference is.
    """
    times = []
    if reference is not None:
        times.append(cautious(autocorrelation_time(reference), len(reference)))
    if live is not None:
        pieces = 1 if reference is None else _PIECES
        times.append(cautious(autocorrelation_time(live, pieces=pieces), len(live) // pieces))
    if reference is None:
        return torch.ones_like(times[0]), times[0]
    return times[0], torch.stack(times).amax(0)


def cautious(times: Tensor, rows: int) -> Tensor:
    """`[d]` autocorrelation times and half a standard error, `sqrt(2 (2 W + 1) / n)` of each, for
    the window W = 5 times.

    Source: Sokal (1997), section 3; Wolff (2004), Comput. Phys. Commun. 156:143, eq. 42.
    """
    error = (2 * (2 * _WINDOW * times + 1) / max(rows, 1)).sqrt()
    return torch.where(times > 1, times * (1 + error / 2), times)


def independent_shares(counts: Tensor, rows: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Events and trials, int64, of which as many independent ones say as much; unchanged where the
    time is 1.
    """
    kept = (rows / times).floor().clamp(min=1.0).minimum(rows.double())
    return (counts / rows.clamp(min=1) * kept).round().long(), kept.long()


def _time(columns: Tensor) -> Tensor:
    """`[c]` autocorrelation times of `[c, n]`."""
    c, n = columns.shape
    if n < 3:
        return torch.ones(c, dtype=torch.float64)
    ranks = _centred_ranks(columns)
    held = ~columns.isnan()
    # Missing values weigh nothing: pairs of rows that are both there remain, which is the sum that
    # is asked for.
    folded = (
        ranks.abs() - ranks.abs().sum(1, keepdim=True) / held.sum(1, keepdim=True).clamp(min=1)
    ) * held
    series = torch.cat([ranks, folded])
    length = 1 << math.ceil(math.log2(2 * n))
    covariance = torch.fft.irfft(torch.fft.rfft(series, n=length).abs().square(), n=length)[:, :n]
    times = 2 * (covariance / covariance[:, :1].clamp(min=1e-12)).cumsum(1) - 1
    lags = torch.arange(n)
    stop = (lags >= _WINDOW * times).int().argmax(1)
    time = times.gather(1, stop[:, None])[:, 0] * (1 + (2 * stop + 1) / n)
    chance = 1 + 2 * math.sqrt(2 * (2 * _WINDOW + 1) / n)
    longest = time.reshape(2, c).amax(0)
    return torch.where(longest > chance, longest, torch.ones_like(longest)).clamp(max=float(n))


def _centred_ranks(columns: Tensor) -> Tensor:
    """`[c, n]` midranks over the number of values, less a half; 0 where missing."""
    ordered = columns.sort(1).values
    counts = (~columns.isnan()).sum(1, keepdim=True)
    padded = ordered.nan_to_num(math.inf, math.inf, -math.inf).contiguous()
    asked = columns.nan_to_num(0.0, math.inf, -math.inf).contiguous()
    left = torch.searchsorted(padded, asked)
    right = torch.searchsorted(padded, asked, right=True).minimum(counts)
    ranks = (left + right).double() / (2 * counts.clamp(min=1)) - 0.5
    return ranks.masked_fill(columns.isnan(), 0.0)
