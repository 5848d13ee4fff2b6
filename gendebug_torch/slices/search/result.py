"""`Slices`: the result of a search, as evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.slices.levels.binning import Binning, Level, level_codes
from gendebug_torch.slices.levels.counting import member_masks
from gendebug_torch.slices.levels.distinct import slice_name
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SHOWN = 15
_MAX_LENGTH = 60


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices with their support, metric and expected metric, worst first.

    Args:
        binnings: levels of each column.
        sets: indices of the levels that define each slice, `[s, 3]` int64; fewer than three are
            repeated.
        support: number of rows, `[s]` int64.
        total: sum of the metric (the number of events), `[s]` float64.
        squares: sum of the squared metric, `[s]` float64.
        expected: expected sum of the metric, `[s]` float64.
        log_p: natural logarithm of the one-sided p-value, `[s]` float64.
        adjusted: p-value adjusted over all tests (Benjamini-Hochberg), `[s]` float64.
        aliases: other names for the rows of each slice, `s`.
        overall: rows and sum of the metric over all rows.
        tests: number of slices tested.
        name: name of the metric.
        is_count: whether the metric is an event.
        has_expected_rate: whether `expected` differs from the rate of all rows.
    """

    binnings: tuple[Binning, ...]
    sets: Tensor
    support: Tensor
    total: Tensor
    squares: Tensor
    expected: Tensor
    log_p: Tensor
    adjusted: Tensor
    aliases: tuple[tuple[str, ...], ...]
    overall: tuple[int, float]
    tests: int
    name: str = "error"
    is_count: bool = True
    has_expected_rate: bool = False

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def members(self) -> tuple[tuple[Level, ...], ...]:
        """Per slice, the levels that define it."""
        levels = [level for binning in self.binnings for level in binning.levels]
        return tuple(tuple(levels[i] for i in dict.fromkeys(row)) for row in self.sets.tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each slice."""
        levels = [level for binning in self.binnings for level in binning.levels]
        return tuple(slice_name(levels, members) for members in self.sets.tolist())

    @property
    def rate(self) -> Tensor:
        """`[s]` mean of the metric; of events, their share."""
        return self.total / self.support.clamp(min=1)

    @property
    def expected_rate(self) -> Tensor:
        """`[s]` expected mean of the metric."""
        return self.expected / self.support.clamp(min=1)

    @property
    def lift(self) -> Tensor:
        """`[s]` rate over the expected rate."""
        return self.total / torch.where(
            self.expected == 0, torch.full_like(self.expected, 1e-300), self.expected
        )

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[s]` bounds of the rate: Wilson's for events, else by the normal approximation.

        Args:
            level: coverage.
        """
        if self.is_count:
            return wilson_interval(self.total, self.support, level=level)
        n = self.support.clamp(min=1).double()
        variance = (self.squares / n - self.rate.square()).clamp(min=0.0) / (n - 1).clamp(min=1.0)
        half = normal_quantile(0.5 + level / 2) * variance.sqrt()
        return self.rate - half, self.rate + half

    def mask(self, frame: pd.DataFrame, i: int) -> Tensor:
        """`[n]` bool, rows of the i-th slice in any table with these columns.

        Args:
            frame: table, `[n, c]`.
            i: index of the slice.
        """
        levels, codes = level_codes(frame, self.binnings)
        return member_masks(codes, self.sets[i : i + 1], levels)[0]

    def table(self) -> pd.DataFrame:
        """One row per slice: support, rate and interval, expected rate, lift, p-values, aliases."""
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
        frame["same_rows_as"] = ["; ".join(names) for names in self.aliases]
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rates of the worst slices with intervals, expected rates, and the rate of all rows."""
        ax = axes(ax, size=(8.0, 2.2 + 0.32 * min(MAX_SHOWN, max(1, len(self)))))
        top = self.table().head(MAX_SHOWN).iloc[::-1]
        position = range(len(top))
        spread = [
            (top["rate"] - top["low"]).clip(lower=0),
            (top["high"] - top["rate"]).clip(lower=0),
        ]
        ax.barh(
            position,
            top["rate"],
            color=LIVE,
            xerr=spread,
            error_kw={"elinewidth": 0.8},
            label="in the slice (95 % interval)",
        )
        if self.has_expected_rate:
            ax.plot(
                top["expected"],
                position,
                "D",
                color=REFERENCE,
                markersize=5,
                label="expected by the model's confidence",
            )
        ax.axvline(
            self.overall[1] / max(self.overall[0], 1),
            color=NEUTRAL,
            linestyle="--",
            label="all rows",
        )
        ax.set_yticks(
            position,
            [
                f"{shortened(name)} ({n:,})"
                for name, n in zip(top["slice"], top["support"], strict=True)
            ],
        )
        ax.grid(visible=False, axis="y")
        quantity = f"{self.name} rate" if self.is_count else f"mean {self.name}"
        ax.set_xlabel(quantity)
        caption(
            ax,
            f"Slices with the highest {quantity}"
            + (" beyond the expected rate" if self.has_expected_rate else ""),
        )
        return ax


def caption(ax: Axes, title: str) -> None:
    """Title above the axis and legend below it, so that neither covers a bar."""
    ax.set_title(title, x=1.0, horizontalalignment="right")
    ax.legend(fontsize="small", loc="upper right", bbox_to_anchor=(1.0, 0.0), borderaxespad=4.5)


def shortened(name: str) -> str:
    """The name, cut to a length that fits beside an axis."""
    return name if len(name) <= _MAX_LENGTH else f"{name[: _MAX_LENGTH - 3]}..."
