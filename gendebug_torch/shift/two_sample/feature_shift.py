"""One feature before and after: its two histograms and distribution functions, and a value that
suddenly piles up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, prepare_reference
from gendebug_torch.shift.kinds.column_transforms import clock_offset_hours
from gendebug_torch.shift.two_sample.ks import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class FeatureShift:
    """Counts of one feature in shared bins, of the reference and of production. Adds over rows
    binned alike.

    Args:
        name: of the feature.
        edges: `[b + 1]` float64 ascending; a bin holds its left edge, the last one both.
        reference: `[b]` int64 counts.
        live: `[b]` int64 counts.
        reference_missing: missing values of the reference.
        live_missing: missing values in production.
        location: where the distribution functions are furthest apart, or NaN.
        statistic: that distance, or NaN.
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
        """`[b]` shares of the values of reference and production in each bin."""
        before, after = (
            counts.double() / counts.sum().clamp(min=1) for counts in (self.reference, self.live)
        )
        return before, after

    @property
    def ecdf(self) -> tuple[Tensor, Tensor]:
        """`[b]` shares of reference and production that lie below the right edge of each bin."""
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
        """Two histograms as shares, or two distribution functions, with the place of the largest
        distance.
        """
        ax = axes(ax)
        self.draw(ax, cumulative=cumulative)
        ax.set_xlabel(shortened(self.name, 60))
        ax.set_ylabel("share of values at or below" if cumulative else "share of values per bin")
        distance = f": distance {self.statistic:.3f}" if math.isfinite(self.statistic) else ""
        ax.set_title(f"{shortened(self.name, 40)}{distance}")
        ax.legend(frameon=True)
        return ax

    def draw(self, ax: Axes, *, cumulative: bool = False) -> None:
        """The curves alone, without words around them, for a picture among others."""
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


@dataclass(frozen=True)
class Atom:
    """A single value whose share grew.

    Args:
        value: the value.
        reference_share: its share among the reference values.
        live_share: its share among the production values.
        reference_distinct: distinct values of the reference; few of them mean a code rather than a
            quantity.
    """

    value: float
    reference_share: float
    live_share: float
    reference_distinct: int

    @property
    def growth(self) -> float:
        """Difference of the two shares."""
        return self.live_share - self.reference_share


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

    The outermost 0.1 % of the pooled values on either side may reach far; they are counted in the
    first and last bin.

    Args:
        reference: `[n]` real numbers, NaN is missing; or one prepared column, whose values count
            for those that they stand for.
        live: `[m]`, or likewise.
        name: of the feature.
        bins: number of bins.
        edges: `[b + 1]` ascending, in place of `bins`, so that pieces of one table add.
        location: where the gap is, for the picture.
        statistic: distance of the distribution functions, for the picture.

    Raises:
        InputError: `bins` under 1.
    """
    if bins < 1:
        reject("bins", "at least 1", str(bins), "Use 20 to 100.")
    sides = [_one(side, 0) for side in (reference, live)]
    kept = [side.values(0).double().cpu() for side in sides]
    grid = _edges(torch.cat(kept), bins) if edges is None else edges.double().cpu()
    stands_for = [
        int(side.n) / max(len(values), 1) for values, side in zip(kept, sides, strict=True)
    ]
    before, after = (
        (_counts(values, grid) * each).round().long()
        for values, each in zip(kept, stands_for, strict=True)
    )
    return FeatureShift(
        name, grid, before, after, int(sides[0].missing), int(sides[1].missing), location, statistic
    )


def largest_atom(
    reference: PreparedReference | Tensor, live: PreparedReference | Tensor, column: int = 0
) -> Atom | None:
    """The value of one column whose share grew most, or None where a side is empty.

    Args:
        reference: `[n, d]`, `[n]`, or what `prepare_reference` made of it.
        live: likewise; NaN is left out.
        column: which of the d.

    Cost: `m log m + n` for the one column.
    """
    known, met = _one(reference, column), _one(live, column)
    before = known.values(0).cpu().numpy()
    values, counts = np.unique(
        met.values(0).to(known.columns.dtype).cpu().numpy(), return_counts=True
    )
    if not len(values) or not len(before):
        return None
    held = (np.searchsorted(before, values, side="right") - np.searchsorted(before, values)) / len(
        before
    )
    shares = counts / counts.sum()
    best = int((shares - held).argmax())
    distinct = 1 + int((before[1:] != before[:-1]).sum())
    return Atom(float(values[best]), float(held[best]), float(shares[best]), distinct)


def default_value(
    reference: PreparedReference | Tensor,
    live: PreparedReference | Tensor,
    column: int = 0,
    *,
    min_growth: float = 0.1,
    fewest_distinct: int = 20,
) -> Atom | None:
    """The value that one column is stuck at for a part of production, or None.

    Args:
        reference: `[n, d]`, `[n]`, or what `prepare_reference` made of it.
        live: likewise.
        column: which of the d.
        min_growth: smallest growth of its share; the share has to double besides.
        fewest_distinct: a column with fewer distinct values is a code, whose levels may well grow
            without being a default.
    """
    known, met = _one(reference, column), _one(live, column)
    atom = largest_atom(known, met)
    if atom is None or atom.growth <= min_growth or atom.live_share < 2 * atom.reference_share:
        return None
    # The busy hours of a clock in another zone pile up elsewhere; no value is stuck there.
    if clock_offset_hours(*(side.values(0).double().cpu().numpy() for side in (known, met))):
        return None
    return atom if atom.reference_distinct > fewest_distinct or atom.live_share > 0.99 else None


def _one(side: Tensor | PreparedReference, column: int) -> PreparedReference:
    """One column of a side, sorted."""
    if isinstance(side, PreparedReference):
        return side.select([column])
    return prepare_reference(side if side.ndim == 1 else side[:, column])


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
    place = (torch.searchsorted(edges, values, right=True) - 1).clamp(0, bins - 1)
    return torch.bincount(place, minlength=bins)
