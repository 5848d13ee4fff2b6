"""Over time: when did it change, did it break or wander, and monitoring that keeps its error rate
however long it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import kstwobign
from torch import Tensor

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MOST_BINS = 200
_ROWS_PER_BIN = 10
_FEWEST_BINS = 12
# Twice the difference of the log likelihoods of a step and of a straight line from which one of
# them is clearly better.
_CLEAR = 8.0
# Twice the drop of the log likelihood within which a place of change is kept: P(max of the two arms
# <= x) = (1 - e^{-x/2})^2.
_ARMS = -2 * math.log(1 - math.sqrt(0.95))


@dataclass(frozen=True, eq=False)
class ChangePoint:
    """The best place at which the mean of a series changed.

    Args:
        row: first row after the change.
        low: first row of the 95 % interval of that place.
        high: last row of it.
        before: mean before, and its standard error.
        after: mean after, and its standard error.
        p_value: of no change anywhere.
        sudden: whether a step fits better than a straight line: a break rather than a wander; None
            where neither is clearly better.
        means: `[b]` float64 means of equal bins of rows, for the picture.
        rows: length of the series.
        name: of the series.
    """

    row: int
    low: int
    high: int
    before: tuple[float, float]
    after: tuple[float, float]
    p_value: float
    sudden: bool | None
    means: Tensor
    rows: int
    name: str = "value"

    @property
    def change(self) -> tuple[float, float]:
        """Mean after less mean before, and its standard error."""
        return self.after[0] - self.before[0], math.hypot(self.before[1], self.after[1])

    @property
    def shape(self) -> str:
        """`break`, `wander`, or `change` where neither is clearly better."""
        return {True: "break", False: "wander", None: "change"}[self.sudden]

    def table(self) -> pd.DataFrame:
        """One row per side."""
        rows = [("before", 0, self.row, *self.before), ("after", self.row, self.rows, *self.after)]
        return pd.DataFrame(rows, columns=["side", "from_row", "to_row", "mean", "standard_error"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The binned series, the place of change with its interval, and the two means."""
        ax = axes(ax)
        width = self.rows / max(len(self.means), 1)
        middles = (np.arange(len(self.means)) + 0.5) * width
        ax.plot(
            middles,
            self.means.numpy(),
            color=NEUTRAL,
            linewidth=1.0,
            label=f"{self.name} per {width:.0f} rows",
        )
        ax.axvspan(
            self.low,
            self.high,
            color=ACCENT,
            alpha=0.25,
            label="95 % interval of the change",
            zorder=0,
        )
        ax.hlines(
            self.before[0],
            0,
            self.row,
            color=REFERENCE,
            linewidth=2,
            label=f"before: {self.before[0]:.3f}",
        )
        ax.hlines(
            self.after[0],
            self.row,
            self.rows,
            color=LIVE,
            linewidth=2,
            label=f"after: {self.after[0]:.3f}",
        )
        ax.set_xlabel("row in the order of time")
        ax.set_ylabel(self.name)
        ax.set_title(f"{self.shape.capitalize()} of {self.name} (p = {self.p_value:.2g})")
        ax.legend(frameon=True)
        return ax


def change_point(values: Tensor, *, name: str = "value") -> ChangePoint:
    """Whether and where the mean of a series changed: CUSUM of bin means with a long-run variance.

    `max_k |S_k - k / B S_B| / (sigma sqrt B)` has the Kolmogorov distribution without a change.
    Neighbours may depend on each other over six bins: sigma comes from differences of neighbouring
    batches of up to so many.

    Source: Ploberger and Krämer (1992), Econometrica 60:271, for the test; von Neumann et al.
    (1941), Ann. Math. Stat. 12:153, for differences; Carlstein (1986), Ann. Stat. 14:1171, for
    batches; Yao (1987), Ann. Stat. 15:1321, for the likelihood around the place of change.

    Args:
        values: `[n]` float in the order of time, at least 120.
        name: of the series.

    Raises:
        InputError: too few rows, or missing values.

    Cost: one pass; the rest works on 200 bins at most.
    """
    series = values.detach().double().cpu()
    bins = min(_MOST_BINS, len(series) // _ROWS_PER_BIN)
    if series.ndim != 1 or bins < _FEWEST_BINS:
        got = f"{list(series.shape)}"
        reject(
            "values",
            f"[n] with at least {_FEWEST_BINS * _ROWS_PER_BIN} rows",
            got,
            "Wait for more rows.",
        )
    if not bool(series.isfinite().all()):
        reject("values", "finite values", "NaN or infinity", "Drop those rows.")
    place = torch.arange(len(series)) * bins // len(series)
    means = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, series) / place.bincount(
        minlength=bins
    )
    y = means.numpy()
    errors = np.array([_step_error(y, k) for k in range(1, bins)])
    k = 1 + int(errors.argmin())
    sigma = _long_run_deviation(y)
    walk = np.abs((y - y.mean()).cumsum()[:-1]).max()
    flat = walk <= 1e-12 * max(1.0, float(np.abs(y).max()))
    p = 1.0 if flat else float(kstwobign.sf(walk / (max(sigma, 1e-300) * math.sqrt(bins))))
    sides = [(float(part.mean()), sigma / math.sqrt(len(part))) for part in (y[:k], y[k:])]
    row, low, high = _place_of_change(
        series.numpy(), len(series) // bins, sigma**2 * len(series) / bins
    )
    line = np.polyfit(np.arange(bins), y, 1)
    wander = float(((y - np.polyval(line, np.arange(bins))) ** 2).sum())
    gain = (wander - float(errors.min())) / max(sigma**2, 1e-300)
    sudden = None if abs(gain) < _CLEAR else gain > 0
    return ChangePoint(row, low, high, sides[0], sides[1], p, sudden, means, len(series), name)


def windowed_means(
    values: Mapping[str, Tensor], moments: Sequence[Any], *, windows: int = 20
) -> pd.DataFrame:
    """Means of several series in windows of equal time, with standard errors and rows: causes and
    impact side by side.

    Args:
        values: name -> `[n]` float (a feature, confidence, loss, positives as 0 and 1).
        moments: `[n]` numbers or timestamps.
        windows: how many.
    """
    times = pd.Series(moments)
    numbers = (
        times if times.dtype.kind in "iuf" else pd.to_datetime(times, utc=True).astype("int64")
    )
    frame = pd.DataFrame({name: series.double().cpu().numpy() for name, series in values.items()})
    grouped = frame.groupby(pd.cut(numbers, windows, labels=False), observed=True)
    table = pd.concat({"mean": grouped.mean(), "standard_error": grouped.sem()}, axis=1).swaplevel(
        axis=1
    )
    table[("rows", "")] = grouped.size()
    table.index.name = "window"
    return table.sort_index(axis=1)


def _place_of_change(
    series: NDArray[np.float64], margin: int, variance: float
) -> tuple[int, int, int]:
    """First row after the change, with its 95 % interval, given the long-run variance of a row.

    Rows stay whose squared error, with the means that fit best on either side, is no more than the
    limit of the two arms above the least; the first and last `margin` rows are not asked.
    """
    rows = np.arange(margin, len(series) - margin + 1)
    sums = np.concatenate([[0.0], (series - series.mean()).cumsum()])[rows]
    errors = -(sums**2) * len(series) / (rows * (len(series) - rows))
    kept = rows[errors - errors.min() <= _ARMS * variance]
    return int(rows[errors.argmin()]), int(kept.min()), int(kept.max())


def _step_error(y: NDArray[np.float64], k: int) -> float:
    return float(((y[:k] - y[:k].mean()) ** 2).sum() + ((y[k:] - y[k:].mean()) ** 2).sum())


def _long_run_deviation(y: NDArray[np.float64]) -> float:
    """Standard deviation of the sum per root bin: the largest over batches of 1, 3 and 6 bins, by
    differences of neighbours.

    Differences see a step once, and so a change does not hide itself; longer batches hold the
    dependence of neighbours.
    """
    variances = []
    for length in (1, 3, 6):
        batches = y[: len(y) // length * length].reshape(-1, length).mean(1)
        if len(batches) > 1:
            variances.append(length * float((np.diff(batches) ** 2).mean()) / 2)
    return math.sqrt(max(variances))
