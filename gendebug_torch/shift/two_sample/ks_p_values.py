"""P-values of two-sample Kolmogorov-Smirnov tests: exact for few rows, asymptotic for many."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, xlogy
from torch import Tensor

# Up to so many rows of both samples together the exact distribution is cheap.
EXACT_ROWS = 400
# Twice the one-sided probability is exact from so many rows and so large `N d^2`.
_TAIL_SIZE, _TAIL_EFFECT = 140, 2.2
# Terms of the one-sided sum that are evaluated, and of the sums of the limit, whose next is 1e-27.
_TERMS, _LIMIT_TERMS = 256, 6
# Points of the grid of a Brownian bridge.
_GRID = 201
# A column with more distinct values is continuous for the test.
MAX_DISTINCT = 48
# P-value of one gap from which a column is not significant, so that a bound is enough.
_CLEARLY_NOT = 0.2
# Columns, the most significant ones, that are always computed.
_ALWAYS_EXACT = 50


def ks_p_value(statistic: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """P-values of equal distributions for continuous data; NaN where the statistic is NaN.

    For `n + m <= 400` the share of the `(n + m choose n)` orderings with at least this statistic,
    as scipy's `method="exact"`. Above, `P(D_N >= statistic)` of the one-sample statistic with
    `N = round(n m / (n + m))`, as scipy's `method="asymp"`, but never below the smallest share that
    is possible. Conservative for columns with ties.

    Source: Hodges (1958), Ark. Mat. 3:469, section 2, for the exact recursion; Simard and L'Ecuyer
    (2011), J. Stat. Softw. 39(11) for `P(D_N >= d)`; where p is over 0.96 and N under 1,000 the
    expansion stands in for the exact sum, within 3e-6.

    Args:
        statistic: largest distances, `[d]` in [0, 1] or NaN.
        n: numbers of rows of one sample, `[d]`; effective ones are rounded down.
        m: numbers of rows of the other, `[d]`.

    Returns:
        P-values, `[d]` float64 on the host.

    Cost: `d n (n + m)` with few rows, else 256 terms a column; 0.3 ms where N is 140 at most.
    """
    d, a, b = (value.double().cpu().numpy() for value in (statistic, n, m))
    a, b = np.floor(a), np.floor(b)
    defined = np.isfinite(d)
    few = defined & (a + b <= EXACT_ROWS)
    many = defined & ~few
    p = np.where(defined, 1.0, np.nan)
    p[many] = _one_sample(d[many], np.round(a[many] * b[many] / (a[many] + b[many])))
    smallest = np.exp(np.log(2.0) - gammaln(a + b + 1) + gammaln(a + 1) + gammaln(b + 1))
    p[many] = np.maximum(p[many], smallest[many])
    p[few] = _exact(d[few], a[few], b[few])
    return torch.from_numpy(np.clip(p, 0.0, 1.0))


def _one_sample(statistic: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[c]` probabilities `P(D_N >= d)` of the one-sample statistic; 1 where N is 0."""
    p = np.ones(len(statistic))
    tail = (size > _TAIL_SIZE) & (size * statistic**2 >= _TAIL_EFFECT)
    p[tail] = _tail(statistic[tail], size[tail])
    many = (size > _TAIL_SIZE) & ~tail
    p[many] = 1 - _limit(statistic[many], size[many])
    rest = (size > 0) & (size <= _TAIL_SIZE)
    if rest.any():
        from scipy.stats import kstwo

        p[rest] = kstwo.sf(statistic[rest], size[rest])
    return p


def _limit(statistic: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[c]` probabilities `P(D_N <= d)` by the expansion of Pelz and Good in `1 / sqrt(N)`.

    The error is of the order `N^-2`.

    Source: Pelz and Good (1976), J. R. Stat. Soc. B 38:152; Simard and L'Ecuyer (2011), section 3.
    """
    # Below, the probability is 0 in double precision.
    z = np.maximum(np.sqrt(size) * statistic, 0.05)[:, None]
    k = np.arange(_LIMIT_TERMS)
    odd, even = (np.pi * (k + 0.5)) ** 2, (np.pi * (k + 1.0)) ** 2
    at_odd, at_even = np.exp(-odd / (2 * z**2)), np.exp(-even / (2 * z**2))
    second = 6 * z**6 + 2 * z**4 + (2 * z**4 - 5 * z**2) * odd + (1 - 2 * z**2) * odd**2
    third = odd**3 * (5 - 30 * z**2) + odd**2 * (212 * z**4 - 60 * z**2)
    third += odd * (135 * z**4 - 96 * z**6) - 30 * z**6 - 90 * z**8
    parts = (
        at_odd / z,
        (odd - z**2) * at_odd / (6 * z**4),
        second * at_odd / (72 * z**7) - even * at_even / (36 * z**3),
        third * at_odd / (6480 * z**10) + (3 * even * z**2 - even**2) * at_even / (216 * z**6),
    )
    total = np.zeros(len(z))
    for order, part in enumerate(parts):
        total += math.sqrt(2 * np.pi) * part.sum(1) / size ** (order / 2)
    return total


def _tail(statistic: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[c]` probabilities `P(D_N >= d)` by twice the one-sided probability.

    Of its `N (1 - d)` terms, which vary smoothly, at most 256 are evaluated and weighted by their
    spacing; the relative error is under 1e-8 down to probabilities of 1e-100.

    Source: Birnbaum and Tingey (1951), Ann. Math. Stat. 22:592, eq. 3.0, for the sum; Simard and
    L'Ecuyer (2011), section 4, for where doubling it is exact to double precision.
    """
    last = np.floor(size * (1 - statistic))
    spacing = np.maximum(np.ceil((last + 1) / _TERMS), 1.0)
    j = np.arange(_TERMS) * spacing[:, None]
    n, d = size[:, None], statistic[:, None]
    inside = j <= last[:, None]
    j = np.where(inside, j, 0.0)
    below = d + j / n
    logs = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
    logs += (j - 1) * np.log(below) + xlogy(n - j, np.maximum(1 - below, 0.0))
    sums: NDArray[np.float64] = np.where(inside, np.exp(logs), 0.0).sum(1)
    return 2 * statistic * spacing * sums


def tie_counts(reference: Tensor, n: Tensor, live: Tensor, m: Tensor) -> Tensor:
    """Pooled counts of the distinct values of each column, in ascending order, `[c, 48]` int64.

    Filled up with 0. All 0 for columns with more distinct values, or with half as many as rows.

    Args:
        reference: values, `[c, n]`, each row ascending with missing values last.
        n: numbers of values that are not missing, `[c]`.
        live: values, `[c, m]` likewise.
        m: numbers of values that are not missing, `[c]`.

    Cost: one pass; on CUDA nothing waits for the host.
    """
    if reference.device.type != "cpu":
        return _tie_counts_on_device(reference, n, live, m)
    counts = torch.zeros(len(n), MAX_DISTINCT, dtype=torch.int64)
    columns = zip(reference.numpy(), n.tolist(), live.numpy(), m.tolist(), strict=True)
    for column, (before, i, after, j) in enumerate(columns):
        a, b = before[:i], after[:j]
        # The live rows, and every 256th reference row, rule most columns out.
        if (
            not i
            or not j
            or 1 + np.count_nonzero(b[1:] != b[:-1]) > MAX_DISTINCT
            or len(np.unique(a[:: max(1, i // 256)])) > MAX_DISTINCT
        ):
            continue
        pooled = np.unique(np.concatenate([a, b]), return_counts=True)[1]
        if len(pooled) <= min(MAX_DISTINCT, (i + j) // 2):
            counts[column, : len(pooled)] = torch.from_numpy(pooled)
    return counts


def _tie_counts_on_device(reference: Tensor, n: Tensor, live: Tensor, m: Tensor) -> Tensor:
    """`tie_counts` without waiting for the host."""
    if not reference.shape[1] or not live.shape[1]:
        return torch.zeros(len(n), MAX_DISTINCT, dtype=torch.int64, device=reference.device)
    samples = ((reference, n), (live, m))
    heads = [_first_distinct(values, rows) for values, rows in samples]
    pooled = torch.cat([head for head, _ in heads], 1).sort(1).values
    distinct, number = _first_distinct(pooled, (~pooled.isnan()).sum(1))
    few = (number <= MAX_DISTINCT) & (number <= (n + m) // 2) & (n > 0) & (m > 0)
    for _, length in heads:
        few = few & (length <= MAX_DISTINCT)
    distinct = distinct.contiguous()
    counts = torch.zeros_like(distinct, dtype=torch.int64)
    for values, rows in samples:
        padded = values.masked_fill(values.isnan(), math.inf).contiguous()
        through = torch.searchsorted(padded, distinct, right=True).minimum(rows[:, None])
        counts += through - torch.searchsorted(padded, distinct).minimum(rows[:, None])
    return counts.masked_fill(distinct.isnan() | ~few[:, None], 0)


def _first_distinct(ascending: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`[c, 48]` first distinct values of ascending rows, NaN at the end, and how many there are."""
    new = torch.arange(ascending.shape[1], device=rows.device) < rows[:, None]
    new[:, 1:] &= ascending[:, 1:] != ascending[:, :-1]
    rank = new.cumsum(1)
    length = rank[:, -1]
    wanted = torch.arange(1, MAX_DISTINCT + 1, device=rows.device).expand(len(rows), -1)
    index = torch.searchsorted(rank, wanted.contiguous()).clamp(max=ascending.shape[1] - 1)
    return ascending.gather(1, index).masked_fill(wanted > length[:, None], math.nan), length


def ks_p_values_with_ties(
    statistic: NDArray[np.float64],
    n: NDArray[np.float64],
    m: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """`[c]` p-values given the pooled counts of the distinct values of each column.

    Computed by `ks_p_value_with_ties` for 50 columns, for few rows, and for all that may be
    significant. The gap after one run of equal values is nearly normal: where one run alone reaches
    the statistic with probability 0.2, further columns get the sum over their runs, a bound.

    Args:
        statistic: largest distances, `[c]`.
        n: numbers of rows of one sample, `[c]`.
        m: numbers of rows of the other, `[c]`.
        counts: pooled counts, `[c, 48]`, 0 at the end.
    """
    total = counts.sum(1, keepdims=True)
    ends = counts.cumsum(1)
    share = ends / np.maximum(total, 1)
    inner = (counts > 0) & (ends < total)
    size = (n * m / np.maximum(n + m, 1))[:, None]
    step = 0.5 / np.maximum(n * m, 1)
    deviation = np.sqrt(np.where(inner, share * (1 - share), 1.0) / np.maximum(size, 1e-300))
    each = np.where(inner, 2 * ndtr(-(statistic - step)[:, None] / deviation), 0.0)
    p_values: NDArray[np.float64] = np.minimum(each.sum(1), 1.0)
    largest = each.max(1, initial=0.0)
    exact = (n + m <= EXACT_ROWS) | (largest < _CLEARLY_NOT)
    exact[np.argsort(largest, kind="stable")[:_ALWAYS_EXACT]] = True
    for column in np.flatnonzero(exact):
        present = counts[column][counts[column] > 0]
        p_values[column] = ks_p_value_with_ties(
            float(statistic[column]), int(n[column]), int(m[column]), present
        )
    return p_values


def ks_p_value_with_ties(statistic: float, n: int, m: int, counts: NDArray[np.int64]) -> float:
    """P-value of equal distributions given the pooled counts of the distinct values.

    Only gaps after a whole run of equal values count. For `n + m <= 400` the share of orderings
    that reach the statistic after one of those runs; above, the probability that a Brownian bridge
    does, by passing its density from run to run. Equal to `ks_p_value` without ties, else smaller:
    the test has more power for discrete columns.

    Source: Hodges (1958), Ark. Mat. 3:469, section 5, for ties; Durbin (1973), Distribution Theory
    for Tests Based on the Sample Distribution Function, chapter 3, for the bridge.

    Args:
        statistic: largest distance, in [0, 1].
        n: number of rows of one sample.
        m: number of rows of the other.
        counts: pooled counts of the K distinct values in ascending order, `[K]`; they sum to n + m.

    Cost: `n (n + m)` with few rows, else `K` products of 201 x 201.
    """
    ends = np.cumsum(counts)[:-1]
    if not len(ends) or not n or not m:
        return 1.0
    if n + m <= EXACT_ROWS:
        return float(
            _exact(np.array([statistic]), np.array([float(n)]), np.array([float(m)]), ends)[0]
        )
    size = n * m / (n + m)
    # Half a step of the lattice of gaps keeps rounding from deciding.
    limit = (statistic - 0.5 / (n * m)) * np.sqrt(size)
    times = ends / (n + m)
    grid = np.linspace(-limit, limit, _GRID)
    inside, before, points = np.ones(1), 0.0, np.zeros(1)
    for time in times:
        # A bridge that is x at time s is normal at t, with mean x (1 - t) / (1 - s).
        factor = (1 - time) / (1 - before)
        deviation = np.sqrt((time - before) * factor)
        inside = _bridge_step(inside, points, grid, factor, deviation)
        before, points = time, grid
    return float(np.clip(1 - inside.sum(), 0.0, 1.0))


def _bridge_step(
    inside: NDArray[np.float64],
    points: NDArray[np.float64],
    grid: NDArray[np.float64],
    factor: float,
    deviation: float,
) -> NDArray[np.float64]:
    """Probabilities of the cells of a grid after one more step; paths that leave it are lost."""
    edges = np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1]]])
    cumulative = ndtr((edges[None, :] - factor * points[:, None]) / max(deviation, 1e-12))
    stepped: NDArray[np.float64] = inside @ np.diff(cumulative, axis=1)
    return stepped


def _exact(
    statistic: NDArray[np.float64],
    n: NDArray[np.float64],
    m: NDArray[np.float64],
    ends: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """`[c]` probabilities that a path from (0, 0) to (n, m) reaches `|i / n - j / m| >= statistic`.

    All paths are equally likely; they run backwards from (n, m), where the last step came from the
    first sample with probability `i / (i + j)`. What leaves the band is summed, so that small
    probabilities keep their digits. With `ends`, only points with `i + j` among them count.
    """
    # Distances are multiples of 1 / (n m): half of one keeps rounding from deciding.
    limit = (np.round(statistic * n * m) - 0.5)[:, None]
    i = np.arange(int(n.max(initial=0)) + 1)[None, :]
    inside = (i == n[:, None]).astype(np.float64)
    outside = np.zeros(len(statistic))
    counted = set() if ends is None else set(ends.tolist())
    for step in range(1, int((n + m).max(initial=0)) + 1):
        left = (n + m)[:, None] - step
        leaving = inside * np.clip(i / np.maximum(left + 1, 1), 0.0, 1.0) * (left >= 0)
        inside -= leaving
        inside[:, :-1] += leaving[:, 1:]
        if ends is not None and int(left[0, 0]) not in counted:
            continue
        far = (np.abs(i * m[:, None] - (left - i) * n[:, None]) >= limit) & (left >= 0)
        outside += np.where(far, inside, 0.0).sum(1)
        inside[far] = 0.0
    return outside
