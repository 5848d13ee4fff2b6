"""Areas under ROC curves by ranks, with DeLong's variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.stats.intervals import normal_quantile


@dataclass(frozen=True, eq=False)
class RankAUC:
    """Areas under the ROC curves of d scores, with their sampling variances.

    Args:
        auc: `[d]` float64 in [0, 1]; NaN where one class is absent.
        variance: `[d]` float64, by placements.
    """

    auc: Tensor
    variance: Tensor

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper bound, `[d]`, on the logit scale, so that both stay in [0, 1].

        An AUC of 0 or 1 gets no width.
        """
        z = normal_quantile(0.5 + level / 2)
        inside = self.auc.clamp(1e-12, 1 - 1e-12)
        half = z * self.variance.sqrt() / (inside * (1 - inside))
        return (inside.logit() - half).sigmoid(), (inside.logit() + half).sigmoid()


def rank_auc(scores: Tensor, positive: Tensor) -> RankAUC:
    """Area under the ROC curve of d scores at once: P(positive scores higher), ties count half.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837, by midranks as in Sun and
    Xu (2014), IEEE Signal Process. Lett. 21:1389.

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
    ranks = midranks(columns)
    above = (ranks[:, positive] - midranks(high)) / n
    below = (ranks[:, ~positive] - midranks(low)) / m
    variance = (
        above.var(1, correction=min(1, m - 1)) / m + below.var(1, correction=min(1, n - 1)) / n
    )
    return RankAUC(above.mean(1), variance)


def midranks(rows: Tensor) -> Tensor:
    """Ranks from 1 of the values in each row of `[d, n]`, float64; ties share their mean rank."""
    order, twice = sorted_ranks(rows)
    return torch.empty(rows.shape, dtype=torch.float64, device=rows.device).scatter_(
        1, order, twice.double() / 2
    )


def sorted_ranks(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Order of the values in each row of `[d, n]`, and twice their midranks in it, int64 each."""
    ordered, order = rows.sort(1)
    # Ties share the mean of their first and their last rank; scans over what is sorted take a third
    # of the time of searches.
    ranks = torch.arange(rows.shape[1], device=rows.device).expand_as(order)
    changes, edge = ordered[:, 1:] != ordered[:, :-1], torch.ones_like(ordered[:, :1]).bool()
    first = ranks.where(torch.cat([edge, changes], 1), 0).cummax(1).values
    last = ranks.where(torch.cat([changes, edge], 1), rows.shape[1])
    return order, first + last.flip(1).cummin(1).values.flip(1) + 2


def normal_scores(values: Tensor) -> Tensor:
    """Normal quantiles of the ranks in each row of `[n]` or `[d, n]`, float64.

    Ties share their mean rank; infinities are extreme values.
    """
    rows = values.double().reshape(-1, values.shape[-1]).contiguous()
    scores: Tensor = torch.special.ndtri((midranks(rows) - 0.5) / max(rows.shape[1], 1))
    return scores.reshape(values.shape)


def auc_placements(scores: Tensor, positive: Tensor) -> Tensor:
    """Share of the other class that each row is ranked rightly to, for d scores.

    The mean over positives and the mean over negatives are both the area under the ROC curve; ties
    count half.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.

    Args:
        scores: `[n, d]` float, higher for positives; NaN is not allowed.
        positive: `[n, d]` bool.

    Returns:
        `[n, d]` float64; NaN where the other class is absent.

    Cost: one sort, n log n per score.

    Example:
        >>> scores = torch.tensor([[0.1], [0.4], [0.3], [0.9]])
        >>> auc_placements(scores, torch.tensor([[False], [False], [True], [True]]))[:, 0].tolist()
        [1.0, 0.5, 0.5, 1.0]
    """
    ordered, order = scores.T.contiguous().sort(1)
    sorted_positive = positive.T.gather(1, order)
    before = torch.nn.functional.pad(sorted_positive.cumsum(1), (1, 0))
    left = torch.searchsorted(ordered, ordered)
    right = torch.searchsorted(ordered, ordered, right=True)
    positives = before.gather(1, left), before.gather(1, right)
    total = before[:, -1:].double()
    below = (left - positives[0] + right - positives[1]).double() / 2 / (len(scores) - total)
    above = 1 - (positives[0] + positives[1]).double() / 2 / total
    placements = torch.where(sorted_positive, below, above)
    return torch.empty_like(placements).scatter_(1, order, placements).T
