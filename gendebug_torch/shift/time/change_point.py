"""Change point of a series: when its mean changed, and whether by a step or a trend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import kolmogorov
from torch import Tensor

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MAX_BINS = 200
_ROWS_PER_BIN = 10
_MIN_BINS = 12
# Twice the difference of log likelihoods from which a step or a straight line is clearly better.
_CLEAR = 8.0
# Twice the drop of the log likelihood within the 95 % interval of the change:
# P(max of its two arms <= x) = (1 - e^{-x/2})^2.
_ARMS = -2 * math.log(1 - math.sqrt(0.95))


@dataclass(frozen=True, eq=False)
class ChangePoint:
    """The most likely change of the mean of a series.

    Args:
        row: number of the first row after the change.
        low: first row of the 95 % interval of `row`.
        high: last row of the 95 % interval of `row`.
        before: mean before, and its standard error.
        after: mean after, and its standard error.
        p_value: p-value of no change anywhere.
        sudden: whether a step fits better than a straight line; None where neither is clearly
            better.
        means: means of equal bins of rows, `[b]` float64, for the plot.
        rows: number of rows of the series.
        name: name of the series.
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
        """Shape of the change: `step`, `trend`, or `change` where neither is clearly better."""
        return {True: "step", False: "trend", None: "change"}[self.sudden]

    def table(self) -> pd.DataFrame:
        """One row before and one after the change."""
        rows = [("before", 0, self.row, *self.before), ("after", self.row, self.rows, *self.after)]
        return pd.DataFrame(rows, columns=["part", "from_row", "to_row", "mean", "standard_error"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The binned series, the change with its interval, and the two means."""
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
        ax.set_title(f"{self.shape.capitalize()} of the {self.name} (p = {self.p_value:.2g})")
        ax.legend(frameon=True)
        return ax


def change_point(values: Tensor, *, name: str = "value") -> ChangePoint:
    """Change point of the mean of a series, by the CUSUM of bin means with a long-run variance.

    `max_k |S_k - k / B S_B| / (sigma sqrt B)` has the Kolmogorov distribution without a change.
    Neighbours may depend on each other over six bins: sigma comes from differences of neighbouring
    batches of up to six bins.

    Source: Ploberger and Krämer (1992), Econometrica 60:271, for the test; von Neumann et al.
    (1941), Ann. Math. Stat. 12:153, for differences; Carlstein (1986), Ann. Stat. 14:1171, for
    batches; Yao (1987), Ann. Stat. 15:1321, for the likelihood of the change point.

    Args:
        values: series, `[n]` float in the order of time, at least 120 rows.
        name: name of the series.

    Returns:
        The most likely change, with its interval, p-value and shape.

    Raises:
        InputError: too few rows, or missing values.

    Cost: one pass; the rest works on 200 bins at most.

    Example:
        >>> loss = torch.randn(600, generator=torch.Generator().manual_seed(0))
        >>> loss[400:] += 1.0
        >>> change = change_point(loss, name="loss")
        >>> change.low <= 400 <= change.high, change.shape, change.p_value < 0.001
        (True, 'step', True)
    """
    series = values.detach().double().cpu()
    bins = min(_MAX_BINS, len(series) // _ROWS_PER_BIN)
    _check_series(series, bins)
    ids = np.arange(len(series)) * bins // len(series)
    return _most_likely(np.ones(len(series)), series.numpy(), ids, name)


def change_point_of_sums(rows: Tensor, sums: Tensor, *, name: str = "value") -> ChangePoint:
    """The same of a series of which only sums over windows of time are known.

    Bins are windows, or as many neighbours as a bin needs; they may be of any size.

    Args:
        rows: numbers of rows per window, `[w]` in the order of time.
        sums: sums of the values of these rows, `[w]` float64.
        name: name of the series.

    Returns:
        The change; its rows are first rows of windows.

    Raises:
        InputError: too few rows or windows, or sums that are not finite.

    Example:
        >>> loss = torch.randn(6000, generator=torch.Generator().manual_seed(0))
        >>> loss[4000:] += 1.0
        >>> change = change_point_of_sums(torch.full((100,), 60), loss.view(100, 60).sum(1))
        >>> change.row, change.p_value < 0.001
        (4020, True)
    """
    counts, values = (part.detach().double().cpu() for part in (rows, sums))
    values = values[counts > 0] / counts[counts > 0]
    counts = counts[counts > 0]
    total = float(counts.sum())
    bins = int(min(_MAX_BINS, total // _ROWS_PER_BIN, len(counts)))
    _check_series(values, bins)
    # A window counts to the bin in which its middle row is.
    places = ((counts.cumsum(0) - counts / 2) * bins / total).long()
    ids = torch.unique(places, return_inverse=True)[1]
    if int(ids[-1]) + 1 < _MIN_BINS:
        reject("rows", f"at least {_MIN_BINS} windows", "fewer", "Wait for more rows.")
    return _most_likely(counts.numpy(), values.numpy(), ids.numpy(), name)


def _most_likely(
    rows: NDArray[np.float64], values: NDArray[np.float64], ids: NDArray[np.int64], name: str
) -> ChangePoint:
    """The change of a series of means of so many rows each, by bins of them.

    Args:
        rows: numbers of rows, `[w]`.
        values: their means, `[w]`.
        ids: bin of each, `[w]` from 0, ascending.
        name: name of the series.
    """
    n = np.bincount(ids, rows).astype(np.float64)
    y = np.bincount(ids, rows * values) / n
    errors = np.array([_step_error(y, n, k) for k in range(1, len(y))])
    k = 1 + int(errors.argmin())
    variance = _long_run_variance(y, n)
    row, low, high = _change_interval(rows, values, n, variance)
    before, after = (
        (float(np.average(y[part], weights=n[part])), math.sqrt(variance / n[part].sum()))
        for part in (slice(None, k), slice(k, None))
    )
    gain = (_line_error(y, n) - float(errors.min())) / max(variance, 1e-300)
    sudden = None if abs(gain) < _CLEAR else gain > 0
    p_value, total = _cusum_p_value(y, n, variance), int(n.sum())
    return ChangePoint(
        row, low, high, before, after, p_value, sudden, torch.from_numpy(y), total, name
    )


def _check_series(series: Tensor, bins: int) -> None:
    if series.ndim != 1 or bins < _MIN_BINS:
        reject(
            "values",
            f"[n] with at least {_MIN_BINS * _ROWS_PER_BIN} rows",
            f"{list(series.shape)}",
            "Wait for more rows.",
        )
    if not bool(series.isfinite().all()):
        reject("values", "finite values", "NaN or infinity", "Drop those rows.")


def _cusum_p_value(y: NDArray[np.float64], n: NDArray[np.float64], variance: float) -> float:
    """P-value of no change of the mean; 1 for a constant series."""
    largest = np.abs((n * (y - np.average(y, weights=n))).cumsum()[:-1]).max() / n.mean()
    if largest <= 1e-12 * max(1.0, float(np.abs(y).max())):
        return 1.0
    deviation = math.sqrt(max(variance, 1e-300) * n.sum()) / n.mean()
    return float(kolmogorov(largest / deviation))


def _change_interval(
    rows: NDArray[np.float64],
    values: NDArray[np.float64],
    n: NDArray[np.float64],
    variance: float,
) -> tuple[int, int, int]:
    """First row after the change, with its 95 % interval, given the long-run variance of a row.

    The interval holds the rows whose squared error, with the best means on both sides, exceeds the
    least by no more than the limit of the two arms; rows within a bin of either end are left out.
    """
    total, margin = rows.sum(), int(n.mean())
    ends = np.concatenate([[0.0], rows.cumsum()])
    inner = (ends >= margin) & (ends <= total - margin)
    ends = ends[inner]
    deviations = rows * (values - np.average(values, weights=rows))
    sums = np.concatenate([[0.0], deviations.cumsum()])[inner]
    errors = -(sums**2) * total / (ends * (total - ends))
    inside = ends[errors - errors.min() <= _ARMS * variance]
    return int(ends[errors.argmin()]), int(inside.min()), int(inside.max())


def _squares(y: NDArray[np.float64], n: NDArray[np.float64]) -> float:
    return float((n * (y - np.average(y, weights=n)) ** 2).sum())


def _step_error(y: NDArray[np.float64], n: NDArray[np.float64], k: int) -> float:
    return _squares(y[:k], n[:k]) + _squares(y[k:], n[k:])


def _line_error(y: NDArray[np.float64], n: NDArray[np.float64]) -> float:
    x = n.cumsum() - n / 2
    line = np.polyval(np.polyfit(x, y, 1, w=np.sqrt(n)), x)
    return float((n * (y - line) ** 2).sum())


def _long_run_variance(y: NDArray[np.float64], n: NDArray[np.float64]) -> float:
    """Variance of a sum, per row: the largest over batches of 1, 3 and 6 bins.

    By differences of neighbours, which a step enters once, so that a change does not hide itself;
    longer batches include the dependence of neighbours.
    """
    variances = []
    for length in (1, 3, 6):
        ids = np.arange(len(y)) // length
        ids = ids[: len(y) // length * length]
        sizes = np.bincount(ids, n[: len(ids)])
        batches = np.bincount(ids, (n * y)[: len(ids)]) / sizes
        if len(batches) > 1:
            apart = 1 / sizes[1:] + 1 / sizes[:-1]
            variances.append(float((np.diff(batches) ** 2 / apart).mean()))
    return max(variances)
