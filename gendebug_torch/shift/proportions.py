"""Two shares compared: the interval of their difference and a p-value that also holds for rare events."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import fisher_exact, norm
from torch import Tensor

from gendebug_torch.stats import wilson_interval

# Below this expected count the normal approximation is not trusted (Cochran, 1954).
FEWEST_EXPECTED = 5.0


def difference_interval(x: Tensor, n: Tensor, y: Tensor, m: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Bounds of `y / m - x / n`, built from the two Wilson intervals.

    Source: Newcombe (1998), Stat. Med. 17:873, method 10.

    Args:
        x: `[...]` events among n.
        n: `[...]` trials.
        y: `[...]` events among m.
        m: `[...]` trials.
        level: coverage in (0, 1).

    Returns:
        Lower and upper bound, `[...]` float64 in [-1, 1]; (-1, 1) where a side has no trials.
    """
    low, high = wilson_interval(x, n, level=level)
    other_low, other_high = wilson_interval(y, m, level=level)
    p, q = x.double() / n.clamp(min=1).double(), y.double() / m.clamp(min=1).double()
    lower = q - p - ((q - other_low).square() + (high - p).square()).sqrt()
    upper = q - p + ((other_high - q).square() + (p - low).square()).sqrt()
    empty = (n == 0) | (m == 0)
    return lower.masked_fill(empty, -1.0), upper.masked_fill(empty, 1.0)


def two_share_p_value(x: Tensor, n: Tensor, y: Tensor, m: Tensor) -> Tensor:
    """Two-sided p-values for equal shares; NaN where a side has no trials, 1 where nothing or everything is an event.

    The pooled z-test, or Fisher's exact test where one of the four expected counts is under 5.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87; Cochran (1954), Biometrics 10:417 for the limit of 5.

    Args:
        x: `[d]` events among n.
        n: `[d]` trials.
        y: `[d]` events among m.
        m: `[d]` trials.

    Returns:
        `[d]` float64 on the host.
    """
    a, b, c, d = (value.double().cpu().numpy() for value in (x, n, y, m))
    total = np.maximum(b + d, 1.0)
    pooled = (a + c) / total
    safe_b, safe_d = np.maximum(b, 1.0), np.maximum(d, 1.0)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / safe_b + 1 / safe_d))
    z = np.abs(a / safe_b - c / safe_d) / np.where(spread > 0, spread, 1.0)
    p = np.where(spread > 0, 2.0 * norm.sf(z), 1.0)
    for i in np.flatnonzero((np.minimum(b, d) * np.minimum(pooled, 1 - pooled) < FEWEST_EXPECTED) & (spread > 0)):
        p[i] = float(fisher_exact(np.array([[a[i], b[i] - a[i]], [c[i], d[i] - c[i]]], dtype=np.int64))[1])
    return torch.from_numpy(np.where((b == 0) | (d == 0), np.nan, np.minimum(p, 1.0)))
