"""Histograms of one feature in two samples, and of the most shifted features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.default_values import one_column
from gendebug_torch.shift.columns.prepared import PreparedReference, as_prepared
from gendebug_torch.shift.plots import axis_label
from gendebug_torch.shift.two_sample.ks import KSTest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Panels of a figure in one row.
_PANELS = 3


@dataclass(frozen=True, eq=False)
class FeatureShift:
    """Histograms of one feature in two samples, in shared bins; adds over rows binned alike.

    Args:
        name: name of the feature.
        edges: edges of the bins, `[b + 1]` float64 ascending; a bin holds its left edge, the last
            one both.
        reference: counts of the reference, `[b]` int64.
        live: counts of the live sample, `[b]` int64.
        reference_missing: number of missing values of the reference.
        live_missing: number of missing values of the live sample.
        location: value at which the distribution functions are furthest apart, or NaN.
        statistic: their distance there, or NaN.
    """

    name: str
    edges: Tensor
    reference: Tensor
    live: Tensor
    reference_missing: int = 0
    live_missing: int = 0
    location: float = math.nan
    statistic: float = math.nan

    def __add__(self, other: FeatureShift) -> FeatureShift:
        if not torch.equal(self.edges, other.edges):
            reject(
                "other",
                f"the bins of {self.name!r}",
                "other edges",
                "Bin both pieces with the same `edges`.",
            )
        return replace(
            self,
            reference=self.reference + other.reference,
            live=self.live + other.live,
            reference_missing=self.reference_missing + other.reference_missing,
            live_missing=self.live_missing + other.live_missing,
            location=math.nan,
            statistic=math.nan,
        )

    @property
    def shares(self) -> tuple[Tensor, Tensor]:
        """Shares of the values per bin in the reference and in production, `[b]` float64 each."""
        before, after = (
            counts.double() / counts.sum().clamp(min=1) for counts in (self.reference, self.live)
        )
        return before, after

    @property
    def ecdf(self) -> tuple[Tensor, Tensor]:
        """Shares of the values below the right edge of each bin in both samples, `[b]` each."""
        before, after = self.shares
        return before.cumsum(0), after.cumsum(0)

    def table(self) -> DataFrame:
        """One row per bin: edges, counts and shares."""
        import pandas as pd

        before, after = self.shares
        columns = {
            "low": self.edges[:-1],
            "high": self.edges[1:],
            "reference": self.reference,
            "production": self.live,
            "reference_share": before,
            "production_share": after,
        }
        return pd.DataFrame({key: value.numpy() for key, value in columns.items()})

    def plot(self, ax: Axes | None = None, *, cumulative: bool = False) -> Axes:
        """Two histograms as shares, or two distribution functions, with their largest distance."""
        ax = axes(ax)
        self.draw(ax, cumulative=cumulative)
        ax.set_xlabel(axis_label(self.name, 60))
        ax.set_ylabel("share of values at or below" if cumulative else "share of values per bin")
        distance = f": distance {self.statistic:.3f}" if math.isfinite(self.statistic) else ""
        ax.set_title(f"{axis_label(self.name, 40)}{distance}")
        ax.legend(frameon=True)
        return ax

    def draw(self, ax: Axes, *, cumulative: bool = False) -> None:
        """Draw the curves without labels, as a panel of a figure."""
        pair = self.ecdf if cumulative else self.shares
        for share, count, colour, side in zip(
            pair,
            (self.reference, self.live),
            (REFERENCE, LIVE),
            ("reference", "production"),
            strict=True,
        ):
            label = f"{side} (n = {int(count.sum()):,})"
            baseline = None if cumulative else 0.0
            ax.stairs(
                share.numpy(),
                self.edges.numpy(),
                baseline=baseline,
                color=colour,
                linewidth=1.6,
                label=label,
            )
            if not cumulative:
                ax.stairs(share.numpy(), self.edges.numpy(), color=colour, fill=True, alpha=0.18)
        if math.isfinite(self.location):
            ax.axvline(
                self.location,
                color=NEUTRAL,
                linestyle="--",
                linewidth=1.0,
                label=f"largest gap at {self.location:.4g}",
            )
        ax.set_ylim(bottom=0.0)


@dataclass(frozen=True, eq=False)
class MostShifted:
    """Histograms of the features with the largest distances.

    Args:
        test: tests of all columns.
        features: histograms of the most shifted features, largest distance first.
        columns: numbers of those features among the columns of the test.
    """

    test: KSTest
    features: tuple[FeatureShift, ...]
    columns: tuple[int, ...]

    def table(self) -> DataFrame:
        """One row per column of the test, largest distance first."""
        return self.test.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """One panel per feature: shares per bin in both samples, and the distance."""
        rows = max(1, math.ceil(len(self.features) / _PANELS))
        ax = axes(ax, size=(9.0, 2.2 * rows + 1.2))
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
        for i in range(len(self.features)):
            self._draw_panel(ax, i, rows)
        shown, d = len(self.features), len(self.test.statistic)
        title = f"The {shown} most shifted of {d} features" if shown < d else f"All {d} features"
        ax.set_title(f"{title}, largest distance first, with 95 % intervals", pad=22)
        ax.set_xlabel("value of the feature")
        ax.set_ylabel("share of values per bin", labelpad=34)
        handles = _legend_handles()
        ax.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3, frameon=False
        )
        return ax

    def _draw_panel(self, ax: Axes, i: int, rows: int) -> None:
        feature, column = self.features[i], self.columns[i]
        low, high = (float(bound[column]) for bound in self.test.interval())
        row, across = divmod(i, _PANELS)
        panel = ax.inset_axes(
            (across / _PANELS + 0.02, 1 - (row + 0.88) / rows, 1 / _PANELS - 0.06, 0.62 / rows)
        )
        feature.draw(axes(panel))
        panel.tick_params(labelsize=7)
        distance = f"distance {feature.statistic:.2f} ({low:.2f} to {high:.2f})"
        panel.set_title(f"{axis_label(feature.name, 26)}\n{distance}", fontsize=8)


def _legend_handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    sides = ((REFERENCE, "reference"), (LIVE, "production"))
    line = Line2D(
        [], [], color=NEUTRAL, linestyle="--", linewidth=1.0, label="largest distance of the ECDFs"
    )
    return [*(Patch(color=colour, alpha=0.6, label=side) for colour, side in sides), line]


def feature_shift(
    reference: Tensor | PreparedReference,
    live: Tensor | PreparedReference,
    *,
    name: str = "feature",
    bins: int = 40,
    edges: Tensor | None = None,
    location: float = math.nan,
    statistic: float = math.nan,
) -> FeatureShift:
    """Histograms of one feature over shared bins of equal width.

    The outermost 0.1 % of the pooled values on either end may reach far; they are counted in the
    first and last bin.

    Args:
        reference: real numbers, `[n]`, NaN is missing; or one prepared column, whose stored values
            represent all of them.
        live: real numbers, `[m]`, or prepared likewise.
        name: name of the feature.
        bins: number of bins.
        edges: edges in place of `bins`, `[b + 1]` ascending, so that parts of one table add.
        location: value of the largest distance, for the plot.
        statistic: distance of the distribution functions, for the plot.

    Raises:
        InputError: `bins` under 1.
    """
    if bins < 1:
        reject("bins", "at least 1", str(bins), "Use 20 to 100.")
    sides = [one_column(side, 0) for side in (reference, live)]
    values = [side.values(0).double().cpu() for side in sides]
    grid = _edges(torch.cat(values), bins) if edges is None else edges.double().cpu()
    before, after = (
        (_counts(stored, grid) * int(side.n) / max(len(stored), 1)).round().long()
        for stored, side in zip(values, sides, strict=True)
    )
    return FeatureShift(
        name, grid, before, after, int(sides[0].missing), int(sides[1].missing), location, statistic
    )


def most_shifted(
    test: KSTest,
    reference: Tensor | PreparedReference,
    live: Tensor | PreparedReference,
    *,
    top: int = 6,
) -> MostShifted:
    """Histograms of the `top` columns with the largest distances.

    Args:
        test: result of `ks_two_sample(reference, live)`.
        reference: real numbers, `[n, d]`, or what `prepare_reference` returned for them.
        live: real numbers, `[m, d]`, or prepared likewise.
        top: number of columns.

    Cost: one pass over the chosen columns, once prepared.
    """
    sides = (as_prepared(reference), as_prepared(live))
    order = torch.argsort(test.statistic.nan_to_num(-1.0), descending=True, stable=True)
    columns = tuple(i for i in order[:top].tolist() if math.isfinite(float(test.statistic[i])))
    features = tuple(
        feature_shift(
            *(side.select([i]) for side in sides),
            name=test.labels[i],
            location=float(test.location[i]),
            statistic=float(test.statistic[i]),
        )
        for i in columns
    )
    return MostShifted(test, features, columns)


def _edges(values: Tensor, bins: int) -> Tensor:
    """Equal widths over the central 99.8 % of the finite values, with room around a constant."""
    finite = values[values.isfinite()].sort().values
    if not len(finite):
        return torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    cut = len(finite) // 1000
    low, high = float(finite[cut]), float(finite[len(finite) - 1 - cut])
    if low == high:
        low, high = float(finite[0]), float(finite[-1])
    if low == high:
        room = max(abs(low), 1.0) / 2
        low, high = low - room, high + room
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)


def _counts(values: Tensor, edges: Tensor) -> Tensor:
    bins = len(edges) - 1
    bin_ids = (torch.searchsorted(edges, values, right=True) - 1).clamp(0, bins - 1)
    return torch.bincount(bin_ids, minlength=bins)
