"""Two-sample Kolmogorov-Smirnov tests of all columns at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import (
    PreparedReference,
    check_names,
    matrix,
    over_blocks,
    sorted_columns,
)
from gendebug_torch.shift.plots import axis_label
from gendebug_torch.shift.two_sample.ks_p_values import (
    MAX_DISTINCT,
    ks_p_value,
    ks_p_values_with_ties,
    tie_counts,
)
from gendebug_torch.stats.dependence.effective_sample_size import effective_sample_size
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Error of p-values that are summed over a grid.
_GRID_ERROR = 1e-10


@dataclass(frozen=True, eq=False)
class KSTest:
    """Two-sample Kolmogorov-Smirnov tests of d columns; NaN where a sample has no value.

    Args:
        statistic: largest distances of the two distribution functions, `[d]` float64.
        location: values at which they are reached, `[d]` float64.
        direction: signs, `[d]` float64: +1 where live values are larger there, -1 where smaller.
        n: numbers of reference values, missing ones excluded, `[d]` int64.
        m: numbers of live values, missing ones excluded, `[d]` int64.
        names: column names, `d` of them, or empty.
        ties: pooled counts of the distinct values, `[d, 48]` int64, 0 at the end; all 0 for columns
            with more distinct values. Default none.
        error: largest distance of the statistic from that of all rows, `[d]` or one for all; over
            0 where a sample is a sketch.
    """

    statistic: Tensor
    location: Tensor
    direction: Tensor
    n: Tensor
    m: Tensor
    names: tuple[str, ...] = ()
    ties: Tensor | None = None
    error: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @property
    def signed(self) -> Tensor:
        """Statistics with their direction, `[d]` float64: positive where live values are larger."""
        return self.statistic * self.direction

    @cached_property
    def p_value(self) -> Tensor:
        """P-values of equal distributions, `[d]` float64, computed on the host when first read.

        Of the smallest statistic that `error` allows, see `ks_p_value`. Conservative for columns
        with ties, see `conditional_p_value`. Not valid for rows that depend on each other, such as
        hourly measurements, see `with_autocorrelation`.
        """
        return ks_p_value((self.statistic - self.error).clamp(min=0.0), self.n, self.m).to(
            self.statistic.device
        )

    @cached_property
    def conditional_p_value(self) -> Tensor:
        """P-values given the ties of each column, `[d]` float64; `p_value` where ties are rare.

        Of more than 50 columns with ties, those over 0.2 are bounds: see `ks_p_values_with_ties`.
        """
        values, device = self.p_value, self.statistic.device
        if self.ties is None:
            return values
        # One copy to the host for all columns.
        parts = torch.stack([values, self.statistic, self.n.double(), self.m.double()], 1)
        host = torch.cat([parts, self.ties.double()], 1).cpu().numpy()
        p_values, statistic, n, m = host[:, :4].T
        counts = host[:, 4:].astype(np.int64)
        # The sum over the grid has ten digits; below them the continuous p-value is a bound.
        tied = np.flatnonzero((counts[:, 0] > 0) & (p_values > _GRID_ERROR))
        given = ks_p_values_with_ties(statistic[tied], n[tied], m[tied], counts[tied])
        p_values[tied] = np.minimum(p_values[tied], np.maximum(given, _GRID_ERROR))
        return torch.from_numpy(p_values.copy()).to(device)

    @cached_property
    def adjusted(self) -> Tensor:
        """Conditional p-values adjusted for d tests (Holm, 1979), `[d]` float64."""
        return holm_adjusted(self.conditional_p_value)

    def with_autocorrelation(self, times: Tensor, live_times: Tensor) -> KSTest:
        """The test with `n` and `m` replaced by effective sample sizes.

        P-values, intervals and what is detectable follow from them.

        Args:
            times: autocorrelation times of the reference, `[d]` float64.
            live_times: autocorrelation times of the live sample, `[d]` float64.
        """
        n, m = (
            effective_sample_size(rows, time.to(rows.device))
            for rows, time in ((self.n, times), (self.m, live_times))
        )
        dependent = ((times > 1) | (live_times > 1)).to(self.n.device)[:, None]
        ties = None if self.ties is None else self.ties.masked_fill(dependent, 0)
        return replace(self, n=n, m=m, ties=ties)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds of the distance of the two true distributions, `[d]` each, whatever they are.

        Each empirical distribution function stays within `sqrt(log(4 / (1 - level)) / 2n)` of its
        own, so the statistic within the sum of both, and of `error`. Conservative.

        Source: Massart (1990), Ann. Probab. 18:1269 (the constant of Dvoretzky, Kiefer and
        Wolfowitz, 1956).
        """
        factor = math.sqrt(math.log(4.0 / (1.0 - level)) / 2.0)
        half = (
            factor * (self.n.clamp(min=1).double().rsqrt() + self.m.clamp(min=1).double().rsqrt())
            + self.error
        )
        return (self.statistic - half).clamp(min=0.0), (self.statistic + half).clamp(max=1.0)

    def detectable(self, *, alpha: float = 0.01) -> Tensor:
        """Smallest significant statistic of each column, `[d]`, where d columns share alpha."""
        size = self.n.double() * self.m.double() / (self.n + self.m).clamp(min=1).double()
        tests = max(int(self.statistic.isfinite().sum()), 1)
        return (
            (math.log(2.0 * tests / alpha) / (2.0 * size.clamp(min=1e-9))).sqrt() + self.error
        ).clamp(max=1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        """Column names, `column_0` and so on where none were given."""
        return self.names or tuple(f"column_{i}" for i in range(len(self.statistic)))

    def table(self) -> DataFrame:
        """One row per column, largest statistic first, with the 95 % interval of the distance."""
        import pandas as pd

        low, high = self.interval()
        values = {
            "statistic": self.statistic,
            "low": low,
            "high": high,
            "p_value": self.p_value,
            "p_holm": self.adjusted,
            "direction": self.direction,
            "location": self.location,
            "n": self.n,
            "m": self.m,
        }
        frame = pd.DataFrame(
            {
                "feature": list(self.labels),
                **{key: value.cpu().numpy() for key, value in values.items()},
            }
        )
        return frame.sort_values("statistic", ascending=False, kind="stable", ignore_index=True)

    def plot(self, ax: Axes | None = None, *, top: int = 20, alpha: float = 0.01) -> Axes:
        """The `top` largest statistics as bars with 95 % intervals, coloured where significant."""
        frame = self.table().dropna(subset=["statistic"]).head(top).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.28 * len(frame) + 1.2)))
        rows = np.arange(len(frame))
        significant = (frame["p_holm"] < alpha).to_numpy()
        whiskers = np.stack([frame["statistic"] - frame["low"], frame["high"] - frame["statistic"]])
        for chosen, colour, label in (
            (significant, LIVE, f"shifted (Holm p < {alpha:g})"),
            (~significant, NEUTRAL, "not significant"),
        ):
            if chosen.any():
                bars: dict[str, Any] = {
                    "xerr": whiskers[:, chosen],
                    "error_kw": {"ecolor": "#444444", "elinewidth": 0.8},
                }
                ax.barh(
                    rows[chosen],
                    frame["statistic"].to_numpy()[chosen],
                    color=colour,
                    label=label,
                    **bars,
                )
        ax.set_yticks(rows, [axis_label(name) for name in frame["feature"]])
        ax.set_xlim(0.0, 1.0)
        ax.set_xlabel("KS distance with 95 % interval")
        ax.set_ylabel("feature")
        shown = (
            f" ({len(frame)} of {len(self.statistic)})" if len(frame) < len(self.statistic) else ""
        )
        ax.set_title(f"Shift per feature{shown}")
        if len(frame):
            ax.legend(loc="lower right", frameon=True)
        return ax


def ks_two_sample(
    reference: Tensor | PreparedReference,
    live: Tensor | PreparedReference,
    *,
    names: Sequence[str] = (),
) -> KSTest:
    """Kolmogorov-Smirnov tests between the columns of two samples.

    `statistic = sup_x |F(x) - G(x)|` over the empirical distribution functions of reference and
    live; equal to `scipy.stats.ks_2samp` to the last bit, ties included. Both one-sided suprema are
    evaluated at the live points alone, which is exact since G is flat in between. Columns of
    different precision are compared as float32.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Hodges (1958), Ark. Mat. 3:469.

    Args:
        reference: real numbers, `[n, d]` or `[n]`, or what `prepare_reference` returned for them;
            NaN is missing: left out, column by column.
        live: real numbers, `[m, d]` or `[m]` on the same device, or prepared likewise.
        names: column names, `d` of them; default those of a prepared reference.

    Returns:
        The tests of all columns; `table()` lists them, largest statistic first.

    Raises:
        InputError: not real tensors, another number of columns, different devices.

    Cost: `d m (log m + log n)` once prepared; else `d n log n`. Beside the inputs it holds one
    block of columns per thread (at most 16 MiB, or one column of n) on the CPU and 64 million
    elements on CUDA, where nothing waits for the host; p-values are computed on the host when they
    are read.

    Example:
        >>> generator = torch.Generator().manual_seed(1)
        >>> reference, live = torch.randn(500, 2, generator=generator).split([300, 200])
        >>> live[:, 1] += 0.5
        >>> test = ks_two_sample(reference, live, names=["age", "income"])
        >>> (test.adjusted < 0.01).tolist()
        [False, True]
    """
    columns, live_columns = _aligned_columns(reference, live)
    d, precision = columns.shape[1], _common_precision(columns, live_columns)
    labels = names or (reference.names if isinstance(reference, PreparedReference) else ())
    check_names(labels, d)
    device = columns.device
    distances = torch.empty(3, d, dtype=torch.float64, device=device)
    counts = torch.empty(2, d, dtype=torch.int64, device=device)
    ties = torch.empty(d, MAX_DISTINCT, dtype=torch.int64, device=device)

    def compare(start: int, stop: int) -> None:
        part = slice(start, stop)
        before, stored, counts[0, part] = _ascending(reference, columns, part, precision)
        after, live_stored, counts[1, part] = _ascending(live, live_columns, part, precision)
        distances[:, part] = _distances(before, stored, after, live_stored)
        ties[part] = tie_counts(before, stored, after, live_stored)

    over_blocks(compare, columns, _sorted_rows(reference, columns, live_columns))
    error = _total_error(reference, live, distances[0])
    ties = ties.masked_fill(error[:, None] > 0, 0)
    statistic, location, direction = distances
    n, m = counts
    return KSTest(statistic, location, direction, n, m, tuple(map(str, labels)), ties, error)


def _aligned_columns(
    reference: Tensor | PreparedReference, live: Tensor | PreparedReference
) -> tuple[Tensor, Tensor]:
    """`[n, d]` and `[m, d]` values of both samples, on one device."""
    columns, live_columns = (
        side.columns.T if isinstance(side, PreparedReference) else matrix(side, argument)
        for side, argument in ((reference, "reference"), (live, "live"))
    )
    if live_columns.shape[1] != columns.shape[1]:
        reject(
            "live",
            f"{columns.shape[1]} columns like the reference",
            str(live_columns.shape[1]),
            "Select the same columns in the same order.",
        )
    if live_columns.device != columns.device:
        reject(
            "live",
            f"a tensor on {columns.device} like the reference",
            str(live_columns.device),
            "Move both to one device.",
        )
    return columns, live_columns


def _common_precision(columns: Tensor, live_columns: Tensor) -> torch.dtype:
    """Single precision if either sample has it, so that 0.1 equals 0.1 across files."""
    single = torch.float32 in (columns.dtype, live_columns.dtype)
    return torch.float32 if single else torch.float64


def _sorted_rows(
    reference: Tensor | PreparedReference, columns: Tensor, live_columns: Tensor
) -> int:
    """Rows that are sorted per column, which bound the columns of a block."""
    prepared = isinstance(reference, PreparedReference) and columns.device.type == "cpu"
    return len(live_columns) if prepared else max(len(columns), len(live_columns))


def _total_error(
    reference: Tensor | PreparedReference, live: Tensor | PreparedReference, like: Tensor
) -> Tensor:
    """`[d]` errors of both samples together, 0 without sketches."""
    errors = (side.error for side in (reference, live) if isinstance(side, PreparedReference))
    return sum(errors, torch.zeros_like(like))


def _ascending(
    sample: Tensor | PreparedReference, values: Tensor, part: slice, precision: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of a sample, `[c, n]` ascending, with `[c]` numbers of stored and of all values."""
    values = values[:, part].to(precision)
    if isinstance(sample, PreparedReference):
        return values.T, sample.stored[part], sample.n[part]
    ascending, present = sorted_columns(values)
    return ascending, present, present


def _distances(reference: Tensor, n: Tensor, live: Tensor, m: Tensor) -> Tensor:
    """Statistic, location and direction, `[3, c]`, of ascending `[c, n]` and `[c, m]` columns."""
    if reference.device.type != "cpu":
        return _distances_on_device(reference, n, live, m)
    columns = zip(reference.numpy(), n.tolist(), live.numpy(), m.tolist(), strict=True)
    return (
        torch.tensor([_distance(a[:i], b[:j]) for a, i, b, j in columns], dtype=torch.float64)
        .reshape(-1, 3)
        .T
    )


def _distance(reference: NDArray[Any], live: NDArray[Any]) -> tuple[float, float, float]:
    """One column on the host; of ties inside `live` the first or last gives the larger gap."""
    n, m = len(reference), len(live)
    if not n or not m:
        return math.nan, math.nan, math.nan
    below = np.searchsorted(reference, live, side="left")
    through = below
    tied = reference[np.minimum(below, n - 1)] == live
    if tied.any():
        through = below.copy()
        through[tied] = np.searchsorted(reference, live[tied], side="right")
    steps = np.arange(m + 1) / m
    above_gap = below / n - steps[:-1]
    below_gap = steps[1:] - through / n
    i, j = int(above_gap.argmax()), int(below_gap.argmax())
    if below_gap[j] > above_gap[i]:
        return float(below_gap[j]), float(live[j]), -1.0
    return float(above_gap[i]), float(reference[max(below[i] - 1, 0)]), 1.0


def _distances_on_device(reference: Tensor, n: Tensor, live: Tensor, m: Tensor) -> Tensor:
    """All columns on the device without waiting for the host; NaN at the end of a row is masked."""
    if not reference.shape[1] or not live.shape[1]:
        return torch.full(
            (3, len(reference)), math.nan, dtype=torch.float64, device=reference.device
        )
    padded = reference.masked_fill(reference.isnan(), math.inf).contiguous()
    live = live.contiguous()
    rank = torch.arange(live.shape[1], device=live.device).expand(len(live), -1)
    below = torch.searchsorted(padded, live)
    through = torch.searchsorted(padded, live, right=True).minimum(n[:, None])
    absent = rank >= m[:, None]
    above, i = (_shares(below, n) - _shares(rank, m)).masked_fill(absent, -math.inf).max(1)
    under, j = (_shares(rank + 1, m) - _shares(through, n)).masked_fill(absent, -math.inf).max(1)
    falls = under > above
    before = (_entry(below, i) - 1).clamp(min=0)
    location = torch.where(falls, _entry(live, j), _entry(padded, before)).double()
    direction = 1.0 - 2.0 * falls.double()
    result = torch.stack([torch.where(falls, under, above), location, direction])
    return result.masked_fill((n == 0) | (m == 0), math.nan)


def _shares(counts: Tensor, rows: Tensor) -> Tensor:
    """`[c, m]` counts over `[c]` numbers of rows, float64."""
    return counts / rows[:, None].clamp(min=1).double()


def _entry(values: Tensor, index: Tensor) -> Tensor:
    """`[c]` entries of `[c, m]` values, one of each row."""
    return values.gather(1, index[:, None])[:, 0]
