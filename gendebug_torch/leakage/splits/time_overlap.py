"""A split that mixes times: validation rows between training rows, and whether neighbours in time
share their label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class TimeOverlap:
    """Where two sides lie in time, and how alike the labels of neighbours across the split are.

    Args:
        edges: `[b + 1]` float64 seconds (or the unit of a numeric time).
        train: `[b]` int64 rows.
        validation: `[b]` int64 rows.
        inside: share of validation rows not later than the last training row.
        likeness: correlation of a validation label with that of the training row nearest in time:
            Cohen's kappa for classes, Pearson's r for a real target; NaN without labels or without
            variety.
        p_value: chance of as much by permuted labels, one-sided.
        between: validation rows between the first and the last training row, which were compared.
        calendar: whether `edges` are seconds since 1970.
    """

    edges: Tensor
    train: Tensor
    validation: Tensor
    inside: float
    likeness: float
    p_value: float
    between: int
    calendar: bool = False

    def table(self) -> pd.DataFrame:
        """One row per bin of time: start, training rows, validation rows."""
        start = self.edges[:-1].numpy()
        return pd.DataFrame(
            {
                "start": self._dates(start),
                "train": self.train.numpy(),
                "validation": self.validation.numpy(),
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rows of both sides over time."""
        ax = axes(ax)
        edges: Any = self._dates(self.edges.numpy())
        for counts, colour, side in (
            (self.train, REFERENCE, "train"),
            (self.validation, LIVE, "validation"),
        ):
            share = counts.double() / counts.sum().clamp(min=1)
            ax.stairs(
                share.numpy(),
                edges,
                color=colour,
                label=f"{side} (n = {int(counts.sum()):,})",
                linewidth=1.6,
            )
            ax.stairs(share.numpy(), edges, color=colour, fill=True, alpha=0.18)
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("time")
        ax.set_ylabel("share of rows per bin")
        alike = (
            f"\nlabels of neighbours in time agree by {self.likeness:.2f}"
            if math.isfinite(self.likeness)
            else ""
        )
        ax.set_title(f"{self.inside:.0%} of validation lies inside the time of training{alike}")
        ax.tick_params(axis="x", labelrotation=20 if self.calendar else 0)
        ax.legend(frameon=True)
        return ax

    def _dates(self, seconds: np.ndarray[Any, Any]) -> Any:
        return pd.to_datetime(seconds, unit="s").to_numpy() if self.calendar else seconds


def moments(values: pd.Series[Any], argument: str) -> tuple[Tensor, bool]:
    """`[n]` float64 times (NaN where missing) and whether they are seconds since 1970.

    Numbers keep their unit; dates, with or without a zone, and text are read as UTC.

    Raises:
        InputError: text that is no date, or times of which some have a zone and some have none.
    """
    if values.dtype.kind in "iufb":
        return torch.from_numpy(
            np.array(values.to_numpy(dtype=np.float64, na_value=np.nan), copy=True)
        ), False
    try:
        dates = pd.to_datetime(
            values,
            utc=values.dtype.kind != "M",
            format=None if values.dtype.kind == "M" else "mixed",
        )
    except (ValueError, TypeError) as error:
        reject(
            argument,
            "numbers, dates or text that reads as dates",
            str(error).partition("\n")[0][:200],
            "Correct the time column.",
        )
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    seconds = dates.to_numpy().astype("datetime64[us]").astype("int64") / 1e6
    return torch.from_numpy(np.where(dates.isna(), np.nan, seconds)), True


def time_overlap(
    train_time: Tensor,
    validation_time: Tensor,
    train_targets: Tensor | None = None,
    validation_targets: Tensor | None = None,
    *,
    bins: int = 40,
    calendar: bool = False,
) -> TimeOverlap:
    """Whether validation lies inside the time of training, and whether nearness in time gives the
    label away.

    Each validation row is compared with the training row nearest in time. With `r_ij = 1` where
    labels i and j agree, the agreement over all pairs has under permuted labels the mean and
    variance of a bilinear permutation statistic, so that labels that repeat from day to day are
    told from labels that are merely frequent.

    Source: Cohen (1960), Educ. Psychol. Meas. 20:37, for kappa; Hoeffding (1951), Ann. Math. Stat.
    22:558, for the permutation moments; Bergmeir and Benítez (2012), Inf. Sci. 191:192, for random
    splits of series.

    Args:
        train_time: `[n]` float64; NaN is left out.
        validation_time: `[m]` float64 in the same unit.
        train_targets: `[n]` int64 class ids or float values.
        validation_targets: `[m]` the same for the other side.
        bins: of the picture.
        calendar: whether times are seconds since 1970.

    Cost: `(n + m) log n`.
    """
    known = ~train_time.isnan(), ~validation_time.isnan()
    before, after = train_time[known[0]], validation_time[known[1]]
    both = torch.cat([before, after])
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    edges = torch.linspace(low, high if high > low else low + 1.0, bins + 1, dtype=torch.float64)
    counts = [torch.histogram(side.double().cpu(), edges).hist.long() for side in (before, after)]
    inside = float((after <= before.max()).double().mean()) if len(before) and len(after) else 0.0
    within = (
        (after <= before.max()) & (after >= before.min())
        if len(before)
        else torch.zeros(0, dtype=torch.bool)
    )
    likeness, p = math.nan, 1.0
    if train_targets is not None and validation_targets is not None and len(before) and len(after):
        y = (
            train_targets.to(before.device)[known[0]],
            validation_targets.to(before.device)[known[1]],
        )
        likeness, p = label_likeness(y[0][nearest(before, after[within])], y[1][within])
    return TimeOverlap(
        edges, counts[0], counts[1], inside, likeness, p, int(within.sum()), calendar
    )


def nearest(reference: Tensor, points: Tensor) -> Tensor:
    """`[m]` position of the reference value nearest to each point; `[n]` and `[m]` floats, n at
    least 1.
    """
    ordered, rows = reference.sort(stable=True)
    right = torch.searchsorted(ordered, points).clamp(max=len(ordered) - 1)
    left = (right - 1).clamp(min=0)
    closer = (points - ordered[left]).abs() <= (ordered[right] - points).abs()
    return rows[torch.where(closer, left, right)]


def label_likeness(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Kappa (classes) or correlation (real values) of paired labels, and its one-sided p-value
    under permutation.

    Args:
        first: `[m]` int64 class ids or float values.
        second: `[m]` of the same kind.
    """
    m = len(first)
    if m < 10:
        return math.nan, 1.0
    if first.is_floating_point():
        x, y = (side.double() - side.double().mean() for side in (first, second))
        spread = float(x.norm() * y.norm())
        r = float(x @ y) / spread if spread > 0 else math.nan
        return r, _upper_tail(r * math.sqrt(m - 1))
    k = int(torch.maximum(first.max(), second.max())) + 1
    a, b = (torch.bincount(side, minlength=k).double() / m for side in (first, second))
    chance = float(a @ b)
    if chance > 1 - 1e-9:
        return math.nan, 1.0
    agreement = float((first == second).double().mean())
    # Sum of squares of the doubly centred matrix of agreements, over m^2: E[d^2] for d = 1[i=j] -
    # b_i - a_j + a.b
    square = chance - float(a @ b.square()) - float(b @ a.square()) + chance**2
    deviation = math.sqrt(max(square, 0.0) / (m - 1))
    z = (agreement - chance) / deviation if deviation > 0 else 0.0
    return (agreement - chance) / (1 - chance), _upper_tail(z)


def _upper_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2)) if math.isfinite(z) else 1.0
