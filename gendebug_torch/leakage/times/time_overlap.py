"""Overlap of training and validation in time, and agreement of labels that are close in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_PAIRS = 10


@dataclass(frozen=True, eq=False)
class TimeOverlap:
    """Distribution of two splits over time, and agreement of labels of neighbours across them.

    Args:
        edges: edges of the bins of time, `[b + 1]` float64 seconds (or the unit of numeric times).
        train: number of training rows, `[b]` int64.
        validation: number of validation rows, `[b]` int64.
        overlap: share of validation rows not later than the last training row.
        agreement: agreement of a validation label with that of the training row nearest in time:
            Cohen's kappa for classes, Pearson's r for a real target; NaN without labels.
        p_value: one-sided p-value of the agreement under permuted labels.
        pairs: number of validation rows between the first and the last training row, which are
            compared with their neighbour.
        calendar: whether `edges` are seconds since 1970.
    """

    edges: Tensor
    train: Tensor
    validation: Tensor
    overlap: float
    agreement: float
    p_value: float
    pairs: int
    calendar: bool = False

    def table(self) -> pd.DataFrame:
        """One row per bin of time: start, training rows, validation rows."""
        start = self._dates(self.edges[:-1].numpy())
        rows = {"train": self.train.numpy(), "validation": self.validation.numpy()}
        return pd.DataFrame({"start": start} | rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rows of both splits over time."""
        ax = axes(ax)
        edges: Any = self._dates(self.edges.numpy())
        for counts, colour, split in (
            (self.train, REFERENCE, "train"),
            (self.validation, LIVE, "validation"),
        ):
            share = (counts.double() / counts.sum().clamp(min=1)).numpy()
            label = f"{split} (n = {int(counts.sum()):,})"
            ax.stairs(share, edges, color=colour, label=label, linewidth=1.6)
            ax.stairs(share, edges, color=colour, fill=True, alpha=0.18)
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("time")
        ax.set_ylabel("share of rows per bin")
        kappa = f"\nagreement of labels of neighbours {self.agreement:.2f}"
        title = f"{self.overlap:.0%} of validation overlaps with training in time"
        ax.set_title(title + (kappa if math.isfinite(self.agreement) else ""))
        ax.tick_params(axis="x", labelrotation=20 if self.calendar else 0)
        ax.legend(frameon=True)
        return ax

    def _dates(self, seconds: np.ndarray[Any, Any]) -> Any:
        return pd.to_datetime(seconds, unit="s").to_numpy() if self.calendar else seconds


def time_overlap(
    train_time: Tensor,
    validation_time: Tensor,
    train_targets: Tensor | None = None,
    validation_targets: Tensor | None = None,
    *,
    bins: int = 40,
    calendar: bool = False,
) -> TimeOverlap:
    """Overlap of validation with training in time, and agreement of labels that are close in time.

    Each validation row is compared with the training row nearest in time. With `r_ij = 1` where
    labels i and j agree, the agreement over all pairs has under permuted labels the mean and
    variance of a bilinear permutation statistic, which separates labels that repeat from day to day
    from labels that are merely frequent.

    Source: Cohen (1960), Educ. Psychol. Meas. 20:37, for kappa; Hoeffding (1951), Ann. Math. Stat.
    22:558, for the permutation moments; Bergmeir and Benítez (2012), Inf. Sci. 191:192, for random
    splits of series.

    Args:
        train_time: times, `[n]` float64; NaN is left out.
        validation_time: times in the same unit, `[m]` float64.
        train_targets: class ids `[n]` int64, or real values.
        validation_targets: the same for validation, `[m]`.
        bins: number of bins of the histogram.
        calendar: whether times are seconds since 1970.

    Cost: `(n + m) log n`.

    Example:
        >>> import torch
        >>> time = torch.arange(200.0)
        >>> label = (time // 20 % 2).long()
        >>> random = time_overlap(time[::2], time[1::2], label[::2], label[1::2])
        >>> round(random.overlap, 2), round(random.agreement, 2)
        (0.99, 1.0)
        >>> time_overlap(time[:150], time[150:]).overlap
        0.0
    """
    rows = ~train_time.isnan(), ~validation_time.isnan()
    before, after = train_time[rows[0]], validation_time[rows[1]]
    both = torch.cat([before, after])
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    edges = torch.linspace(low, high if high > low else low + 1.0, bins + 1, dtype=torch.float64)
    counts = [torch.histogram(split.double().cpu(), edges).hist.long() for split in (before, after)]
    overlap, agreement, p = 0.0, math.nan, 1.0
    inside = torch.zeros(len(after), dtype=torch.bool)
    if len(before) and len(after):
        earlier = after <= before.max()
        overlap, inside = float(earlier.double().mean()), earlier & (after >= before.min())
    if train_targets is not None and validation_targets is not None and bool(inside.any()):
        own = validation_targets.to(before.device)[rows[1]][inside]
        neighbours = train_targets.to(before.device)[rows[0]][nearest(before, after[inside])]
        agreement, p = label_agreement(neighbours, own)
    return TimeOverlap(
        edges, counts[0], counts[1], overlap, agreement, p, int(inside.sum()), calendar
    )


def nearest(reference: Tensor, points: Tensor) -> Tensor:
    """`[m]` position of the reference value nearest to each point.

    Args:
        reference: values, `[n]` float, n at least 1.
        points: values, `[m]` float.
    """
    ordered, rows = reference.sort(stable=True)
    right = torch.searchsorted(ordered, points).clamp(max=len(ordered) - 1)
    left = (right - 1).clamp(min=0)
    closer = (points - ordered[left]).abs() <= (ordered[right] - points).abs()
    return rows[torch.where(closer, left, right)]


def label_agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Kappa (classes) or correlation (real values) of paired labels, and its one-sided p-value.

    Args:
        first: class ids `[m]` int64, or real values.
        second: labels of the same kind, `[m]`.
    """
    m = len(first)
    if m < _MIN_PAIRS:
        return math.nan, 1.0
    if first.is_floating_point():
        x, y = (labels.double() - labels.double().mean() for labels in (first, second))
        norm = float(x.norm() * y.norm())
        r = float(x @ y) / norm if norm > 0 else math.nan
        return r, _upper_tail(r * math.sqrt(m - 1))
    k = int(torch.maximum(first.max(), second.max())) + 1
    a, b = (torch.bincount(labels, minlength=k).double() / m for labels in (first, second))
    chance = float(a @ b)
    if chance > 1 - 1e-9:
        return math.nan, 1.0
    observed = float((first == second).double().mean())
    # Sum of squares of the doubly centred matrix of agreements, over m^2: E[d^2] for d = 1[i=j] -
    # b_i - a_j + a.b
    square = chance - float(a @ b.square()) - float(b @ a.square()) + chance**2
    deviation = math.sqrt(max(square, 0.0) / (m - 1))
    z = (observed - chance) / deviation if deviation > 0 else 0.0
    return (observed - chance) / (1 - chance), _upper_tail(z)


def _upper_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2)) if math.isfinite(z) else 1.0
