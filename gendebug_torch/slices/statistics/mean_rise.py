"""Test of a slice between two tables: did the mean of a loss rise more inside than outside?"""

from __future__ import annotations

import torch
from torch import Tensor

from gendebug_torch.slices.statistics.tails import log_t_tail


def log_p_of_mean_rise(before: Tensor, after: Tensor, total: Tensor) -> Tensor:
    """`[s]` log one-sided p-value that the mean rose by a larger factor inside than outside.

    The logarithm of after : before of the mean inside, less that outside, over its standard error
    (delta method), against Student's t with the degrees of freedom of the smaller side. Both sides
    of a slice count with the larger of their two coefficients of variation: a side that by chance
    lacks the few large losses must not pass for an exact one.

    Args:
        before: rows, sums and sums of squares of a nonnegative loss of each slice in the first
            table, `[s, 3]` float64.
        after: the same in the second table, `[s, 3]` float64.
        total: the same of the two tables, `[2, 3]` float64.
    """
    rise, variance, smaller = _log_ratio(before, after)
    outside = [
        (whole - inside).clamp(min=0.0)
        for inside, whole in zip((before, after), total, strict=True)
    ]
    usual, usual_variance, _ = _log_ratio(*outside)
    t = (rise - usual) / (variance + usual_variance).clamp(min=1e-300).sqrt()
    log_p = log_t_tail(t.nan_to_num(0.0), smaller - 1)
    return torch.where((t > 0) & (smaller > 1), log_p, torch.zeros_like(log_p))


def _log_ratio(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[s]` log ratio of the means, its variance, and the number of rows of the smaller side."""
    rows = torch.stack([before[:, 0], after[:, 0]]).clamp(min=1.0)
    means = torch.stack([before[:, 1], after[:, 1]]) / rows
    squares = torch.stack([before[:, 2], after[:, 2]]) / rows
    spread = (squares / means.square().clamp(min=1e-300) - 1).clamp(min=0.0).amax(0)
    logs = means.clamp(min=1e-300).log()
    smaller = torch.minimum(before[:, 0], after[:, 0])
    return logs[1] - logs[0], spread * (1 / rows).sum(0), smaller
