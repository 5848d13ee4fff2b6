"""`Slices`: what a search found, as evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.slices.search.columns import Binning, Level, level_codes
from gendebug_torch.slices.search.counting import member_masks
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 15
_LONGEST = 60


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices with their support, sum of a metric and what was expected of it, worst first,
    redundant ones merged.

    Args:
        binnings: how the columns were cut.
        sets: `[s, 3]` int64 places of the levels that define each slice; fewer than three are
            repeated.
        support: `[s]` int64 rows.
        total: `[s]` float64 sum of the metric: of events, their number.
        squares: `[s]` float64 sum of the squared metric.
        expected: `[s]` float64 sum that was expected: by the rate of all rows, or by what the model
            promised.
        log_p: `[s]` float64 natural logarithm of the one-sided p-value.
        adjusted: `[s]` float64 p-value after Benjamini-Hochberg over everything asked.
        also: per slice, other words for the same rows.
        overall: rows and sum of the metric over all.
        asked: number of slices that were tested.
        name: of the metric.
        counts: whether the metric counts events.
        promised: whether `expected` is what the model promised.
    """

    binnings: tuple[Binning, ...]
    sets: Tensor
    support: Tensor
    total: Tensor
    squares: Tensor
    expected: Tensor
    log_p: Tensor
    adjusted: Tensor
    also: tuple[tuple[str, ...], ...]
    overall: tuple[int, float]
    asked: int
    name: str = "error"
    counts: bool = True
    promised: bool = False

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def members(self) -> tuple[tuple[Level, ...], ...]:
        """Per slice, the levels that define it."""
        levels = [level for binning in self.binnings for level in binning.levels]
        return tuple(
            tuple(levels[place] for place in dict.fromkeys(row)) for row in self.sets.tolist()
        )

    @property
    def names(self) -> tuple[str, ...]:
        """How each slice reads."""
        return tuple(" and ".join(map(str, levels)) for levels in self.members)

    @property
    def rate(self) -> Tensor:
        """`[s]` mean of the metric: of events, their share."""
        return self.total / self.support.clamp(min=1)

    @property
    def expected_rate(self) -> Tensor:
        """`[s]` mean that was expected."""
        return self.expected / self.support.clamp(min=1)

    @property
    def lift(self) -> Tensor:
        """`[s]` rate over what was expected."""
        return self.total / torch.where(
            self.expected == 0, torch.full_like(self.expected, 1e-300), self.expected
        )

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[s]` bounds of the rate: Wilson's for events, else by the normal approximation."""
        if self.counts:
            return wilson_interval(self.total, self.support, level=level)
        n = self.support.clamp(min=1).double()
        variance = (self.squares / n - self.rate.square()).clamp(min=0.0) / (n - 1).clamp(min=1.0)
        half = normal_quantile(0.5 + level / 2) * variance.sqrt()
        return self.rate - half, self.rate + half

    def mask(self, frame: pd.DataFrame, place: int) -> Tensor:
        """`[n]` bool, rows of any table with these columns that lie in the slice at this place."""
        levels, codes = level_codes(frame, self.binnings)
        return member_masks(codes, self.sets[place : place + 1], levels)[0]

    def table(self) -> pd.DataFrame:
        """One row per slice: support, rate with 95 % interval, expected rate, lift, p-values, other
        words for it.
        """
        low, high = self.interval()
        columns = {
            "support": self.support,
            "rate": self.rate,
            "low": low,
            "high": high,
            "expected": self.expected_rate,
        }
        columns |= {"lift": self.lift, "p_value": self.log_p.exp(), "adjusted": self.adjusted}
        frame = pd.DataFrame(
            {"slice": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        frame["same_rows_as"] = ["; ".join(words) for words in self.also]
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rates of the worst slices with intervals, beside what was expected and the rate of all
        rows.
        """
        ax = axes(ax, size=(8.0, 2.2 + 0.32 * min(SHOWN, max(1, len(self)))))
        top = self.table().head(SHOWN).iloc[::-1]
        place = range(len(top))
        spread = [
            (top["rate"] - top["low"]).clip(lower=0),
            (top["high"] - top["rate"]).clip(lower=0),
        ]
        ax.barh(
            place,
            top["rate"],
            color=LIVE,
            xerr=spread,
            error_kw={"elinewidth": 0.8},
            label="in the slice (95 % interval)",
        )
        if self.promised:
            ax.plot(
                top["expected"],
                place,
                "D",
                color=REFERENCE,
                markersize=5,
                label="as the model's confidence promised",
            )
        ax.axvline(
            self.overall[1] / max(self.overall[0], 1),
            color=NEUTRAL,
            linestyle="--",
            label="all rows",
        )
        ax.set_yticks(
            place,
            [
                f"{shortened(name)} ({n:,})"
                for name, n in zip(top["slice"], top["support"], strict=True)
            ],
        )
        ax.grid(visible=False, axis="y")
        quantity = f"{self.name} rate" if self.counts else f"mean {self.name}"
        ax.set_xlabel(quantity)
        caption(
            ax,
            f"Slices with the highest {quantity}"
            + (" beyond what was promised" if self.promised else ""),
        )
        return ax


def caption(ax: Axes, title: str) -> None:
    """Title over the long names beside the axis, legend below it, so that neither covers a bar."""
    ax.set_title(title, x=1.0, horizontalalignment="right")
    ax.legend(fontsize="small", loc="upper right", bbox_to_anchor=(1.0, 0.0), borderaxespad=4.5)


def shortened(name: str) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
