"""Statistics that more than one topic needs: intervals, multiple testing, bootstrap; tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution at `probability` in (0, 1)."""
    return math.sqrt(2.0) * float(torch.erfinv(torch.tensor(2.0 * probability - 1.0, dtype=torch.float64)))


def wilson_interval(successes: Tensor, trials: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
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
    half = z / (1 + z * z / safe) * (rate * (1 - rate) / safe + z * z / (4 * safe * safe)).clamp(min=0.0).sqrt()
    low = torch.where(n > 0, (center - half).clamp(min=0.0), torch.zeros_like(n))
    high = torch.where(n > 0, (center + half).clamp(max=1.0), torch.ones_like(n))
    return low, high


@dataclass(frozen=True, eq=False)
class RankAUC:
    """Area under the ROC curve of `d` scores, each with the variance that sampling of both classes gives it.

    Args:
        auc: `[d]` float64 in [0, 1]; NaN where one class is absent.
        variance: `[d]` float64, by placements.
    """

    auc: Tensor
    variance: Tensor

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper bound, `[d]`, on the logit scale, so that both stay in [0, 1]; an AUC of 0 or 1 gets no width."""
        z = normal_quantile(0.5 + level / 2)
        inside = self.auc.clamp(1e-12, 1 - 1e-12)
        half = z * self.variance.sqrt() / (inside * (1 - inside))
        return (inside.logit() - half).sigmoid(), (inside.logit() + half).sigmoid()


def rank_auc(scores: Tensor, positive: Tensor) -> RankAUC:
    """Probability that a positive row scores higher than a negative one (ties count half), for `d` scores at once.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837, by midranks as in Sun and Xu (2014),
    IEEE Signal Process. Lett. 21:1389.

    Args:
        scores: `[n]` or `[n, d]` float, higher for positives; NaN is not allowed.
        positive: `[n]` bool.

    Returns:
        `auc` and `variance`, `[d]` float64 (`[1]` for one score).

    Cost: three sorts, n log n per score.
    """
    columns = (scores[:, None] if scores.ndim == 1 else scores).T.contiguous()
    high, low = columns[:, positive], columns[:, ~positive]
    m, n = high.shape[1], low.shape[1]
    if not m or not n:
        nothing = torch.full((len(columns),), math.nan, dtype=torch.float64, device=columns.device)
        return RankAUC(nothing, nothing.clone())
    above = (midranks(columns, high) - midranks(high, high)) / n
    below = (midranks(columns, low) - midranks(low, low)) / m
    variance = above.var(1, correction=min(1, m - 1)) / m + below.var(1, correction=min(1, n - 1)) / n
    return RankAUC(above.mean(1), variance)


def midranks(among: Tensor, values: Tensor) -> Tensor:
    """`[d, m]` float64 mean rank, from 1, of each value among the sorted rows of `among`, ties shared."""
    ordered = among.sort(1).values
    left = torch.searchsorted(ordered, values.contiguous())
    return (left + torch.searchsorted(ordered, values.contiguous(), right=True) + 1).double() / 2


def clopper_pearson_interval(successes: Tensor, trials: Tensor, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
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
    low = torch.from_numpy(betaincinv(right.clamp(min=1e-9).numpy(), (wrong + 1).numpy(), tail)).masked_fill(right <= 0, 0.0)
    high = torch.from_numpy(betaincinv((right + 1).numpy(), wrong.clamp(min=1e-9).numpy(), 1 - tail)).masked_fill(wrong <= 0, 1.0)
    return low.masked_fill(n <= 0, 0.0), high.masked_fill(n <= 0, 1.0)


def holm_adjusted(p_values: Tensor) -> Tensor:
    """Holm's step-down adjusted p-values: below alpha with family-wise error at most alpha, any dependence.

    Source: Holm (1979), Scand. J. Statist. 6:65. NaN (a question not asked) stays NaN and is not counted.

    Args:
        p_values: `[d]` float.

    Returns:
        `[d]` float64 in [0, 1].
    """
    p = p_values.double()
    asked = ~p.isnan()
    m = int(asked.sum())
    order = torch.argsort(torch.where(asked, p, torch.full_like(p, 2.0)), stable=True)[:m]
    factors = torch.arange(m, 0, -1, dtype=torch.float64, device=p.device)
    stepped = (p[order] * factors).clamp(max=1.0).cummax(0).values if m else p[order]
    adjusted = torch.full_like(p, math.nan)
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg_adjusted(p_values: Tensor) -> Tensor:
    """Step-up adjusted p-values that bound the false discovery rate under positive dependence.

    Source: Benjamini and Hochberg (1995), JRSS B 57:289. NaN stays NaN and is not counted.

    Args:
        p_values: `[d]` float.

    Returns:
        `[d]` float64 in [0, 1].
    """
    p = p_values.double()
    asked = ~p.isnan()
    m = int(asked.sum())
    order = torch.argsort(torch.where(asked, p, torch.full_like(p, 2.0)), stable=True)[:m]
    scaled = p[order] * m / torch.arange(1, m + 1, dtype=torch.float64, device=p.device)
    adjusted = torch.full_like(p, math.nan)
    adjusted[order] = scaled.flip(0).cummin(0).values.flip(0).clamp(max=1.0) if m else scaled
    return adjusted


def bootstrap_replicates(
    statistic: Callable[[Tensor], Tensor], n: int, *, replicates: int = 200, seed: int = 0, chunk: int = 64
) -> Tensor:
    """Replicates of a weighted statistic under the Poisson bootstrap, batched over replicates.

    Every row gets an independent Poisson(1) weight, which agrees with multinomial resampling as n grows
    and needs no gather of rows (Hanley and MacGibbon, 2006, Comput. Methods Programs Biomed. 83:57).

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
    bounds = torch.quantile(replicates.double(), torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=0)
    return bounds[0], bounds[1]
