"""Intervals of proportions and quantiles, the bootstrap, and tests of two proportions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

# Below this expected count the normal approximation is not trusted (Cochran, 1954).
FEWEST_EXPECTED = 5.0


def difference_interval(
    x: Tensor, n: Tensor, y: Tensor, m: Tensor, *, level: float = 0.95
) -> tuple[Tensor, Tensor]:
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
    """Two-sided p-values for equal proportions.

    NaN where a side has no trials, 1 where nothing or everything is an event.

    The pooled z-test, or Fisher's exact test where one of the four expected counts is under 5.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87; Cochran (1954), Biometrics 10:417 for the limit
    of 5.

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
    p = np.where(spread > 0, 2.0 * ndtr(-z), 1.0)
    few = np.minimum(b, d) * np.minimum(pooled, 1 - pooled) < FEWEST_EXPECTED
    for i in np.flatnonzero(few & (spread > 0)):
        from scipy.stats import fisher_exact

        p[i] = float(
            fisher_exact(np.array([[a[i], b[i] - a[i]], [c[i], d[i] - c[i]]], dtype=np.int64))[1]
        )
    return torch.from_numpy(np.where((b == 0) | (d == 0), np.nan, np.minimum(p, 1.0)))


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution at `probability` in (0, 1)."""
    return math.sqrt(2.0) * float(
        torch.erfinv(torch.tensor(2.0 * probability - 1.0, dtype=torch.float64))
    )


def wilson_interval(
    successes: Tensor, trials: Tensor, *, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Wilson score interval of a proportion; (0, 1) where there were no trials.

    Source: Wilson (1927), JASA 22:209; recommended for small n by Brown, Cai and DasGupta (2001).

    Args:
        successes: `[...]` counts.
        trials: `[...]` counts, at least `successes`.
        level: coverage in (0, 1).

    Returns:
        Lower and upper bound, `[...]` float64 in [0, 1].
    """
    z = normal_quantile(0.5 + level / 2)
    n = trials.double()
    safe = n.clamp(min=1.0)
    rate = successes.double() / safe
    center = (rate + z * z / (2 * safe)) / (1 + z * z / safe)
    half = (
        z
        / (1 + z * z / safe)
        * (rate * (1 - rate) / safe + z * z / (4 * safe * safe)).clamp(min=0.0).sqrt()
    )
    low = torch.where(n > 0, (center - half).clamp(min=0.0), torch.zeros_like(n))
    high = torch.where(n > 0, (center + half).clamp(max=1.0), torch.ones_like(n))
    return low, high


def clopper_pearson_interval(
    successes: Tensor, trials: Tensor, *, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Exact interval of a proportion, never too narrow; (0, 1) where there were no trials.

    Source: Clopper and Pearson (1934), Biometrika 26:404.

    Args:
        successes: `[...]` counts; fractions are taken as they are.
        trials: `[...]` counts, at least `successes`.
        level: coverage in (0, 1).

    Returns:
        Lower and upper bound, `[...]` float64 in [0, 1].
    """
    from scipy.special import betaincinv

    right, n = successes.double(), trials.double()
    wrong = (n - right).clamp(min=0)
    tail = (1 - level) / 2
    low = torch.from_numpy(
        betaincinv(right.clamp(min=1e-9).numpy(), (wrong + 1).numpy(), tail)
    ).masked_fill(right <= 0, 0.0)
    high = torch.from_numpy(
        betaincinv((right + 1).numpy(), wrong.clamp(min=1e-9).numpy(), 1 - tail)
    ).masked_fill(wrong <= 0, 1.0)
    return low.masked_fill(n <= 0, 0.0), high.masked_fill(n <= 0, 1.0)


def bootstrap_replicates(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    *,
    replicates: int = 200,
    seed: int = 0,
    chunk: int = 64,
) -> Tensor:
    """Replicates of a weighted statistic under the Poisson bootstrap, batched over replicates.

    Every row gets an independent Poisson(1) weight, which agrees with multinomial resampling as n
    grows and needs no gather of rows (Hanley and MacGibbon, 2006, Comput. Methods Programs Biomed.
    83:57).

    Args:
        statistic: maps `[r, n]` float64 row weights to `[r, ...]`.
        n: number of rows.
        replicates: how many.
        seed: of a private generator; the global random state is not touched.
        chunk: replicates held at once; memory is `chunk * n * 8` bytes.

    Returns:
        `[replicates, ...]`.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, replicates, chunk):
        rate = torch.ones(min(chunk, replicates - start), n, dtype=torch.float64)
        parts.append(statistic(torch.poisson(rate, generator=generator)))
    return torch.cat(parts)


def percentile_interval(replicates: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Percentile interval over the first axis of `[r, ...]` bootstrap replicates (Efron, 1979)."""
    tail = (1.0 - level) / 2
    bounds = torch.quantile(
        replicates.double(), torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=0
    )
    return bounds[0], bounds[1]


def p_value_text(p_value: float) -> str:
    """A p-value as a sentence shows it.

    Args:
        p_value: in [0, 1].

    Example:
        >>> p_value_text(0.01234), p_value_text(1e-40)
        ('p = 0.012', 'p < 1e-16')
    """
    return "p < 1e-16" if p_value < 1e-16 else f"p = {p_value:.2g}"
