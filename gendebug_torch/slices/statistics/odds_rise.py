"""Test of a slice between two tables: did the odds of an event rise more inside than outside?"""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.slices.statistics.tails import log_upper_tail


def log_p_of_odds_rise(before: Tensor, after: Tensor, total: Tensor) -> Tensor:
    """`[s]` log one-sided p-value that the odds rose more inside each slice than outside it.

    Given all events of a slice, those that fall in the second table follow the odds ratio
    after : before of the rows outside (Breslow and Day, 1980, section 4.4). The uncertainty of that
    ratio widens their variance.

    Args:
        before: rows and events of each slice in the first table, `[s, 2]` int64.
        after: rows and events of each slice in the second table, `[s, 2]` int64.
        total: rows and events of the two tables, `[2, 2]` int64.
    """
    log_ratio = torch.zeros(len(before), dtype=torch.float64)
    log_ratio_variance = torch.zeros_like(log_ratio)
    for sign, inside, whole in ((1.0, after, total[1]), (-1.0, before, total[0])):
        outside = (whole - inside).double()
        hits, misses = outside[:, 1] + 0.5, outside[:, 0] - outside[:, 1] + 0.5
        log_ratio += sign * (hits / misses).log()
        log_ratio_variance += 1 / hits + 1 / misses
    events, rows = (before[:, 1] + after[:, 1]).double(), after[:, 0].double()
    mean, variance = _noncentral_moments(events, before[:, 0].double(), rows, log_ratio.exp())
    # Dividing the excess is to first order the same as widening the variance, and keeps the shape
    # of the tail.
    narrowed = mean + (after[:, 1] - mean) / (1 + variance * log_ratio_variance).sqrt()
    return log_upper_tail(narrowed, torch.minimum(rows, events), mean, variance)


def _noncentral_moments(
    events: Tensor, before: Tensor, after: Tensor, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the events among `after` rows, given all events and an odds ratio.

    Fisher's noncentral hypergeometric distribution. The mean m solves
    m (before - events + m) = ratio (events - m) (after - m); the variance is one over the sum of
    the reciprocals of the four cells.
    """
    a = 1 - ratio
    b = before - events + ratio * (events + after)
    c = ratio * events * after
    root = (b.square() + 4 * a * c).clamp(min=0.0).sqrt()
    mean = 2 * c / (b + root).clamp(min=1e-300)
    cells = torch.stack([mean, events - mean, after - mean, before - events + mean]).clamp(min=1e-9)
    return mean, 1 / (1 / cells).sum(0)
