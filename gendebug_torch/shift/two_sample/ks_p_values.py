"""P-values of the two-sample Kolmogorov-Smirnov statistic: exact for few rows, by the one-sample
distribution for many.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr
from scipy.stats import kstwo
from torch import Tensor

# Up to so many rows on both sides together the exact distribution is cheap, and the approximation
# visibly off.
EXACT_ROWS = 400
# Cells of the bridge's grid; more distinct values than `MOST_TIED` make a column continuous for our
# purpose.
_GRID = 201
MOST_TIED = 48


def ks_p_value(statistic: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """P-values of two-sided statistics for continuous data without a shift; NaN where the statistic
    is NaN.

    For `n + m <= 400` the share of the `(n + m choose n)` orderings with at least this statistic,
    as scipy's `method="exact"`. Above, `P(D_N >= statistic)` of the one-sample statistic with
    `N = round(n m / (n + m))`, as scipy's `method="asymp"`, but never below the smallest share that
    is possible. Conservative for columns with ties.

    Source: Hodges (1958), Ark. Mat. 3:469, section 2, for the exact recursion; Simard and L'Ecuyer
    (2011), J. Stat. Softw. 39(11) for `P(D_N >= d)`.

    Args:
        statistic: `[d]` in [0, 1] or NaN.
        n: `[d]` rows of one side.
        m: `[d]` rows of the other side.

    Returns:
        `[d]` float64 on the host.

    Cost: `d n (n + m)` with few rows, else about 0.5 ms a column.
    """
    d, a, b = (value.double().cpu().numpy() for value in (statistic, n, m))
    asked = np.isfinite(d)
    few = asked & (a + b <= EXACT_ROWS)
    many = asked & ~few
    p = np.where(asked, 1.0, np.nan)
    size = np.round(a * b / np.maximum(a + b, 1))
    p[many] = np.where(size[many] > 0, kstwo.sf(d[many], np.maximum(size[many], 1)), 1.0)
    smallest = np.exp(np.log(2.0) - gammaln(a + b + 1) + gammaln(a + 1) + gammaln(b + 1))
    p[many] = np.maximum(p[many], smallest[many])
    p[few] = _exact(d[few], a[few], b[few])
    return torch.from_numpy(np.clip(p, 0.0, 1.0))


def tied_counts(
    reference: Tensor, n: Tensor, live: Tensor, m: Tensor, start: int = 0
) -> dict[int, NDArray[np.int64]]:
    """Pooled counts of the distinct values of those columns that have few of them, by `start` plus
    their place.

    Args:
        reference: `[c, n]` on the host, each row ascending with missing values last.
        n: `[c]` values that are not missing.
        live: `[c, m]` likewise.
        m: `[c]` likewise.
        start: place of the first column.
    """
    found = {}
    for place, (before, i, after, j) in enumerate(
        zip(reference.numpy(), n.tolist(), live.numpy(), m.tolist(), strict=True)
    ):
        a, b = before[:i], after[:j]
        # The few live rows, and a strided look at the many reference rows, rule most columns out at
        # once.
        if (
            not i
            or not j
            or 1 + np.count_nonzero(b[1:] != b[:-1]) > MOST_TIED
            or len(np.unique(a[:: max(1, i // 256)])) > MOST_TIED
        ):
            continue
        counts = np.unique(np.concatenate([a, b]), return_counts=True)[1]
        if len(counts) <= min(MOST_TIED, (i + j) // 2):
            found[start + place] = counts
    return found


def tied_p_value(statistic: float, n: int, m: int, counts: NDArray[np.int64]) -> float:
    """P-value of a statistic of data with ties, given how often each distinct value occurs in both
    samples together.

    Only gaps after a whole run of equal values count. For `n + m <= 400` the share of orderings
    that reach the statistic at one of those places; above, the chance that a Brownian bridge does,
    by passing its density from place to place. Where no values are tied it is `ks_p_value`; else
    smaller, which is what makes discrete columns worth asking.

    Source: Hodges (1958), Ark. Mat. 3:469, section 5, for ties; Durbin (1973), Distribution Theory
    for Tests Based on the Sample Distribution Function, chapter 3, for the bridge.

    Args:
        statistic: in [0, 1].
        n: rows of one side.
        m: rows of the other side.
        counts: `[K]` pooled counts of the K distinct values in ascending order; their sum is n + m.

    Cost: `n (n + m)` with few rows, else `K` products of 201 x 201.
    """
    places = np.cumsum(counts)[:-1]
    if not len(places) or not n or not m:
        return 1.0
    if n + m <= EXACT_ROWS:
        return float(
            _exact(np.array([statistic]), np.array([float(n)]), np.array([float(m)]), places)[0]
        )
    size = n * m / (n + m)
    # Half a step of the lattice of gaps keeps rounding from deciding.
    limit = (statistic - 0.5 / (n * m)) * np.sqrt(size)
    times = places / (n + m)
    grid = np.linspace(-limit, limit, _GRID)
    inside, before, at = np.ones(1), 0.0, np.zeros(1)
    for time in times:
        # A bridge that is at x at time s is normal at t, with mean x (1 - t) / (1 - s).
        pull, spread = (
            (1 - time) / (1 - before),
            np.sqrt((time - before) * (1 - time) / (1 - before)),
        )
        inside = _passed(inside, at, grid, pull, spread)
        before, at = time, grid
    return float(np.clip(1 - inside.sum(), 0.0, 1.0))


def _passed(
    inside: NDArray[np.float64],
    at: NDArray[np.float64],
    grid: NDArray[np.float64],
    pull: float,
    spread: float,
) -> NDArray[np.float64]:
    """Chances of the cells of a grid after one more step, those outside it lost."""
    edges = np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1]]])
    reached = ndtr((edges[None, :] - pull * at[:, None]) / max(spread, 1e-12))
    passed: NDArray[np.float64] = inside @ np.diff(reached, axis=1)
    return passed


def _exact(
    statistic: NDArray[np.float64],
    n: NDArray[np.float64],
    m: NDArray[np.float64],
    places: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """`[c]` chances that a random path from (0, 0) to (n, m) meets a point with
    `|i / n - j / m| >= statistic`.

    All paths are equally likely; they run backwards from (n, m), where the last step came from the
    first side with chance `i / (i + j)`. What leaves the band is summed, so that small chances keep
    their digits. With `places`, only points with `i + j` among them count.
    """
    # Distances are multiples of 1 / (n m): half of one keeps rounding from deciding.
    limit = (np.round(statistic * n * m) - 0.5)[:, None]
    place = np.arange(int(n.max(initial=0)) + 1)[None, :]
    inside = (place == n[:, None]).astype(np.float64)
    outside = np.zeros(len(statistic))
    asked = set() if places is None else set(places.tolist())
    for step in range(1, int((n + m).max(initial=0)) + 1):
        left = (n + m)[:, None] - step
        leaving = inside * np.clip(place / np.maximum(left + 1, 1), 0.0, 1.0) * (left >= 0)
        inside -= leaving
        inside[:, :-1] += leaving[:, 1:]
        if places is not None and int(left[0, 0]) not in asked:
            continue
        far = (np.abs(place * m[:, None] - (left - place) * n[:, None]) >= limit) & (left >= 0)
        outside += np.where(far, inside, 0.0).sum(1)
        inside[far] = 0.0
    return outside
