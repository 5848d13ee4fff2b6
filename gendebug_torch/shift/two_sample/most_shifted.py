"""The columns that moved furthest, side by side: both distributions of each, and how far they are
apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.shift.columns.prepared import PreparedReference, as_prepared
from gendebug_torch.shift.two_sample.feature_shift import FeatureShift, feature_shift
from gendebug_torch.shift.two_sample.ks import KSTest, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_ACROSS = 3


@dataclass(frozen=True, eq=False)
class MostShifted:
    """The columns that moved furthest, each with both distributions.

    Args:
        test: of all columns.
        features: those that moved furthest, largest distance first.
        places: their columns in the test.
    """

    test: KSTest
    features: tuple[FeatureShift, ...]
    places: tuple[int, ...]

    def table(self) -> DataFrame:
        """One row per column of the test, largest distance first."""
        return self.test.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """One small picture per column: shares per bin on both sides, with the distance and its 95
        % interval.
        """
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        down = max(1, math.ceil(len(self.features) / _ACROSS))
        ax = axes(ax, size=(9.0, 2.2 * down + 1.2))
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
        low, high = self.test.interval()
        for i, (feature, place) in enumerate(zip(self.features, self.places, strict=True)):
            row, across = divmod(i, _ACROSS)
            small = ax.inset_axes(
                (across / _ACROSS + 0.02, 1 - (row + 0.88) / down, 1 / _ACROSS - 0.06, 0.62 / down)
            )
            feature.draw(axes(small))
            small.tick_params(labelsize=7)
            apart = (
                f"distance {feature.statistic:.2f} ({float(low[place]):.2f} to "
                f"{float(high[place]):.2f})"
            )
            small.set_title(f"{shortened(feature.name, 26)}\n{apart}", fontsize=8)
        shown, asked = len(self.features), len(self.test.statistic)
        which = (
            f"The {shown} of {asked} features that moved furthest"
            if shown < asked
            else f"All {asked} features, furthest moved first"
        )
        ax.set_title(f"{which}, with 95 % intervals", pad=22)
        ax.set_xlabel("value of the feature")
        ax.set_ylabel("share of values per bin", labelpad=34)
        sides = ((REFERENCE, "reference"), (LIVE, "production"))
        handles: list[Any] = [Patch(color=colour, alpha=0.6, label=side) for colour, side in sides]
        handles.append(
            Line2D(
                [],
                [],
                color=NEUTRAL,
                linestyle="--",
                linewidth=1.0,
                label="largest gap of what lies below",
            )
        )
        ax.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3, frameon=False
        )
        return ax


def most_shifted(
    test: KSTest,
    reference: Tensor | PreparedReference,
    live: Tensor | PreparedReference,
    *,
    top: int = 6,
) -> MostShifted:
    """The `top` columns with the largest distance.

    Args:
        test: `ks_two_sample(reference, live)`, or what was made of it.
        reference: `[n, d]` real numbers, NaN is missing; or what `prepare_reference` made of them.
        live: `[m, d]`, or likewise.
        top: how many.

    Cost: one pass over the chosen columns, once prepared.
    """
    sides = (as_prepared(reference), as_prepared(live))
    order = torch.argsort(test.statistic.nan_to_num(-1.0), descending=True, stable=True)
    places = tuple(
        place for place in order[:top].tolist() if math.isfinite(float(test.statistic[place]))
    )
    features = tuple(
        feature_shift(
            *(side.select([place]) for side in sides),
            name=test.labels[place],
            location=float(test.location[place]),
            statistic=float(test.statistic[place]),
        )
        for place in places
    )
    return MostShifted(test, features, places)
