"""P-values of the two-sample Kolmogorov-Smirnov statistic: exact for few rows, by the one-sample distribution for many."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import kstwo
from torch import Tensor

# Up to so many rows on both sides together the exact distribution is cheap, and the approximation visibly off.
EXACT_ROWS = 400


def ks_p_value(statistic: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """P-values of two-sided statistics for continuous data without a shift; NaN where the statistic is NaN.

    For `n + m <= 400` the share of the `(n + m choose n)` orderings with at least this statistic, as scipy's
    `method="exact"`. Above, `P(D_N >= statistic)` of the one-sample statistic with `N = round(n m / (n + m))`, as scipy's
    `method="asymp"`, but never below the smallest share that is possible. Conservative for columns with ties.

    Source: Hodges (1958), Ark. Mat. 3:469, section 2, for the exact recursion; Simard and L'Ecuyer (2011), J. Stat.
    Softw. 39(11) for `P(D_N >= d)`.

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


def _exact(statistic: NDArray[np.float64], n: NDArray[np.float64], m: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[c]` chances that a random path from (0, 0) to (n, m) meets a point with `|i / n - j / m| >= statistic`.

    All paths are equally likely; they run backwards from (n, m), where the last step came from the first side with
    chance `i / (i + j)`. What leaves the band is summed, so that small chances keep their digits.
    """
    # Distances are multiples of 1 / (n m): half of one keeps rounding from deciding.
    limit = (np.round(statistic * n * m) - 0.5)[:, None]
    place = np.arange(int(n.max(initial=0)) + 1)[None, :]
    inside = (place == n[:, None]).astype(np.float64)
    outside = np.zeros(len(statistic))
    for step in range(1, int((n + m).max(initial=0)) + 1):
        left = (n + m)[:, None] - step
        leaving = inside * np.clip(place / np.maximum(left + 1, 1), 0.0, 1.0) * (left >= 0)
        inside -= leaving
        inside[:, :-1] += leaving[:, 1:]
        far = (np.abs(place * m[:, None] - (left - place) * n[:, None]) >= limit) & (left >= 0)
        outside += np.where(far, inside, 0.0).sum(1)
        inside[far] = 0.0
    return outside
