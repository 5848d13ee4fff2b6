"""Two-sample Kolmogorov-Smirnov tests of all columns at once, against a reference that is sorted
only once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value, tied_counts, tied_p_value
from gendebug_torch.stats.effective_sample_size import dependent_times
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


def for_dependent_rows(
    test: KSTest, reference: Tensor | None, live: Tensor | None, columns: Tensor | None = None
) -> KSTest:
    """The same test with the rows of each side counted as the independent rows that they are worth,
    see `dependent_times`.

    Args:
        test: of d columns.
        reference: `[n, d]` in the order of time, or None where that is not known.
        live: `[m, d]` likewise.
        columns: `[c]` places of the columns to look at; default all.

    Returns:
        the test with smaller `n` and `m`; p-values, intervals and what could have been seen follow
        from them.
    """
    chosen = torch.arange(len(test.statistic)) if columns is None else columns
    if (reference is None and live is None) or not len(chosen):
        return test
    times = dependent_times(
        *(None if side is None else side[:, chosen] for side in (reference, live))
    )
    everywhere = torch.ones(2, len(test.statistic), dtype=torch.float64)
    everywhere[:, chosen] = torch.stack(times)
    return worth(test, everywhere[0], everywhere[1])


def worth(test: KSTest, reference_times: Tensor, live_times: Tensor) -> KSTest:
    """The same test with `n` and `m` divided by the `[d]` rows that are worth one independent row
    on either side.
    """
    n, m = (
        (counts / time).floor().long().clamp(min=1).minimum(counts)
        for counts, time in (
            (test.n, reference_times.to(test.n.device)),
            (test.m, live_times.to(test.m.device)),
        )
    )
    dependent = set(((reference_times > 1) | (live_times > 1)).nonzero().flatten().tolist())
    return replace(
        test,
        n=n,
        m=m,
        tied={place: counts for place, counts in test.tied.items() if place not in dependent},
    )


@dataclass(frozen=True, eq=False)
class KSTest:
    """Two-sample Kolmogorov-Smirnov tests of d columns. NaN stands where a side has no value:
    nothing was asked.

    Args:
        statistic: `[d]` float64, largest distance of the two distribution functions.
        location: `[d]` float64, the value at which it is reached.
        direction: `[d]` float64, +1 where live values are the larger ones there, -1 where the
            smaller.
        n: `[d]` int64 reference values that are not missing.
        m: `[d]` int64 live values that are not missing.
        names: `d` column names, or empty.
        tied: column -> pooled counts of its distinct values, for columns with few of them.
        error: `[d]`, or one number for all: how far the statistic is from that of all rows, at
            most, where sides were thinned.
    """

    statistic: Tensor
    location: Tensor
    direction: Tensor
    n: Tensor
    m: Tensor
    names: tuple[str, ...] = ()
    tied: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    error: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @property
    def signed(self) -> Tensor:
        """`[d]` float64, the statistic with its direction: positive where live values are
        larger.
        """
        return self.statistic * self.direction

    @cached_property
    def p_value(self) -> Tensor:
        """`[d]` float64 p-values under `no shift`, computed on the host when first read, see
        `ks_p_value`.

        Of the smallest statistic that `error` allows. Conservative for columns with ties, see
        `conditional_p_value`. Not valid for rows that depend on each other, such as hourly
        measurements.
        """
        return ks_p_value((self.statistic - self.error).clamp(min=0.0), self.n, self.m).to(
            self.statistic.device
        )

    @cached_property
    def conditional_p_value(self) -> Tensor:
        """`[d]` float64 p-values given the ties of each column, see `tied_p_value`; those of
        `p_value` where values rarely repeat.
        """
        values = self.p_value.clone()
        for column, counts in self.tied.items():
            tied = tied_p_value(
                float(self.statistic[column]), int(self.n[column]), int(self.m[column]), counts
            )
            # Beyond ten digits the sum over the grid says nothing; the continuous value bounds it
            # there.
            values[column] = min(float(values[column]), max(tied, 1e-10))
        return values

    @cached_property
    def adjusted(self) -> Tensor:
        """`[d]` float64 `conditional_p_value` adjusted for d questions (Holm, 1979)."""
        return holm_adjusted(self.conditional_p_value)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds of the true distance of the two distributions, `[d]` each, whatever the
        distributions are.

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
        """`[d]` statistic from which a column would be significant, had all d columns to share
        alpha; 1 at most.
        """
        size = self.n.double() * self.m.double() / (self.n + self.m).clamp(min=1).double()
        asked = max(int(self.statistic.isfinite().sum()), 1)
        return (
            (math.log(2.0 * asked / alpha) / (2.0 * size.clamp(min=1e-9))).sqrt() + self.error
        ).clamp(max=1.0)

    @property
    def labels(self) -> tuple[str, ...]:
        """`d` names, `column_0` and so on where none were given."""
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
        """The `top` largest statistics as bars with their 95 % interval, coloured where Holm's
        p-value is below alpha.
        """
        frame = self.table().dropna(subset=["statistic"]).head(top).iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.28 * len(frame) + 1.2)))
        places = np.arange(len(frame))
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
                    places[chosen],
                    frame["statistic"].to_numpy()[chosen],
                    color=colour,
                    label=label,
                    **bars,
                )
        ax.set_yticks(places, [shortened(name) for name in frame["feature"]])
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


def shortened(name: str, limit: int = 28) -> str:
    """A name that fits beside an axis, its middle left out, with `$` made literal."""
    half = limit // 2
    text = name if len(name) <= limit else f"{name[: limit - half - 1]}…{name[-half:]}"
    return text.replace("$", r"\$")


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
        reference: `[n, d]` or `[n]` real tensor, or what `prepare_reference` returned for it.
        live: `[m, d]` or `[m]` on the same device, or prepared likewise. NaN is missing: left out,
            column by column.
        names: `d` column names; default those of a prepared reference.

    Raises:
        InputError: not real tensors, another number of columns, different devices.

    Cost: `d m (log m + log n)` once prepared; else `d n log n`. Beside the inputs it holds one
    block of columns per thread (at most 16 MiB, or one column of n) on the CPU and 64 million
    elements on CUDA, where nothing waits for the host; p-values are computed on the host when they
    are read.

    >>> float(ks_two_sample(torch.arange(10.0), torch.arange(10.0) + 5).statistic)
    0.5
    """
    values, other = (
        _as_matrix(side, argument) for side, argument in ((reference, "reference"), (live, "live"))
    )
    d = values.shape[1]
    if other.shape[1] != d:
        reject(
            "live",
            f"{d} columns like the reference",
            str(other.shape[1]),
            "Select the same columns in the same order.",
        )
    if other.device != values.device:
        reject(
            "live",
            f"a tensor on {values.device} like the reference",
            str(other.device),
            "Move both to one device.",
        )
    given = names or (reference.names if isinstance(reference, PreparedReference) else ())
    check_names(given, d)
    dtype = torch.float32 if torch.float32 in (values.dtype, other.dtype) else torch.float64
    results = torch.empty(3, d, dtype=torch.float64, device=values.device)
    counts = torch.empty(2, d, dtype=torch.int64, device=values.device)
    error = sum(
        (side.error for side in (reference, live) if isinstance(side, PreparedReference)),
        torch.zeros_like(results[0]),
    )
    tied: dict[int, NDArray[np.int64]] = {}

    def compare(start: int, stop: int) -> None:
        place = slice(start, stop)
        before, kept, counts[0, place] = _ascending(reference, values[:, place].to(dtype), place)
        after, live_kept, counts[1, place] = _ascending(live, other[:, place].to(dtype), place)
        results[:, place] = _distances(before, kept, after, live_kept)
        if before.device.type == "cpu":
            tied.update(tied_counts(before, kept, after, live_kept, start))

    prepared_on_host = isinstance(reference, PreparedReference) and values.device.type == "cpu"
    over_blocks(compare, values, len(other) if prepared_on_host else max(len(values), len(other)))
    whole = {column: tied[column] for column in sorted(tied) if not error[column]}
    return KSTest(
        results[0],
        results[1],
        results[2],
        counts[0],
        counts[1],
        tuple(map(str, given)),
        whole,
        error,
    )


def _as_matrix(side: Tensor | PreparedReference, argument: str) -> Tensor:
    return side.columns.T if isinstance(side, PreparedReference) else matrix(side, argument)


def _ascending(
    side: Tensor | PreparedReference, values: Tensor, place: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Some columns of a side, `[c, n]` ascending, with the `[c]` numbers of values that are there,
    and that they stand for.
    """
    if isinstance(side, PreparedReference):
        return values.T, side.kept[place], side.n[place]
    ascending, kept = sorted_columns(values)
    return ascending, kept, kept


def _distances(reference: Tensor, n: Tensor, live: Tensor, m: Tensor) -> Tensor:
    """Statistic, location and direction, `[3, c]` float64, of sorted `[c, n]` and `[c, m]`
    columns.
    """
    if reference.device.type != "cpu":
        return _distances_on_device(reference, n, live, m)
    columns = zip(reference.numpy(), n.tolist(), live.numpy(), m.tolist(), strict=True)
    return (
        torch.tensor([_distance(a[:i], b[:j]) for a, i, b, j in columns], dtype=torch.float64)
        .reshape(-1, 3)
        .T
    )


def _distance(reference: NDArray[Any], live: NDArray[Any]) -> tuple[float, float, float]:
    """One column on the host. Ties inside `live` need no care: the first or last of a run gives the
    larger gap.
    """
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
    place = torch.arange(live.shape[1], device=live.device)
    out = place >= m[:, None]
    sizes, live_sizes = n[:, None].clamp(min=1).double(), m[:, None].clamp(min=1).double()
    below = torch.searchsorted(padded, live.contiguous())
    above_gap = (below / sizes - place / live_sizes).masked_fill(out, -math.inf)
    through = torch.searchsorted(padded, live.contiguous(), right=True).minimum(n[:, None])
    below_gap = ((place + 1) / live_sizes - through / sizes).masked_fill(out, -math.inf)
    above, i = above_gap.max(1)
    under, j = below_gap.max(1)
    before = (below.gather(1, i[:, None]) - 1).clamp(min=0)
    falls = under > above
    location = torch.where(falls, live.gather(1, j[:, None])[:, 0], padded.gather(1, before)[:, 0])
    answer = torch.stack(
        [torch.where(falls, under, above), location.double(), 1.0 - 2.0 * falls.double()]
    )
    return answer.masked_fill((n == 0) | (m == 0), math.nan)
