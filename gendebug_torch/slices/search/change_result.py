"""`SliceChange`: what became worse between two tables, as evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.slices.search.result import MAX_SHOWN, caption, shortened
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class SliceChange:
    """Rate of an event, or mean of a loss, per slice, before and after; most significant first.

    Args:
        names: name of each slice, `s`.
        before: rows, sum and sum of squares of the metric in the reference, `[s, 3]` float64; of
            events both sums are their number.
        after: the same in production, `[s, 3]` float64.
        log_p: natural logarithm of the one-sided p-value, `[s]` float64.
        adjusted: p-value adjusted over all tests (Benjamini-Hochberg), `[s]` float64.
        total: the same sums over all rows of the two tables, `[2, 3]` float64.
        tests: number of slices tested.
        name: name of the metric.
        is_count: whether the metric is an event.
        of_rows: whether the slices are groups of rows; else each is an output of the model.
        levels: number of levels that slices are made of.
        outside: slices whose rows were left out.
        rise: additional events, or loss, of all rows, also of those left out; None if none is.
        members: levels of each slice, `[s, 3]` int64; None of parts whose sums are known.
    """

    names: tuple[str, ...]
    before: Tensor
    after: Tensor
    log_p: Tensor
    adjusted: Tensor
    total: Tensor
    tests: int
    name: str = "error"
    is_count: bool = True
    of_rows: bool = True
    levels: int = 0
    outside: tuple[str, ...] = ()
    rise: float | None = None
    members: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, kept: Tensor, log_p: Tensor, adjusted: Tensor) -> SliceChange:
        """Some of the slices, with other p-values, most significant first.

        Args:
            kept: which slices, `[s]` bool.
            log_p: logarithms of the p-values of all, `[s]`.
            adjusted: adjusted p-values of all, `[s]`.
        """
        order = log_p.argsort(stable=True)
        rows = order[kept[order]]
        return replace(
            self,
            names=tuple(self.names[i] for i in rows.tolist()),
            before=self.before[rows],
            after=self.after[rows],
            log_p=log_p[rows],
            adjusted=adjusted[rows],
            members=None if self.members is None else self.members[rows],
        )

    @property
    def rates(self) -> Tensor:
        """`[2, s]` rate or mean in the reference and in production."""
        return torch.stack([_rate(self.before), _rate(self.after)])

    @property
    def change(self) -> Tensor:
        """`[s]` rate in production minus rate in the reference."""
        return _rate(self.after) - _rate(self.before)

    @property
    def overall_change(self) -> float:
        """Change of the rate over all rows."""
        return float(_rate(self.total)[1] - _rate(self.total)[0])

    @property
    def population(self) -> str:
        """What the slices are compared with, as words of a sentence."""
        if self.outside:
            return f"all rows outside {', '.join(self.outside[:2])}"
        return "all rows" if self.of_rows else "all outputs"

    @property
    def factor(self) -> Tensor:
        """`[s]` factor by which the rate rose inside over the factor by which it rose outside."""
        outside = [_rate(whole - inside) for whole, inside in self._sides()]
        usual = outside[1] / outside[0].clamp(min=1e-300)
        return _rate(self.after) / (_rate(self.before) * usual).clamp(min=1e-300)

    @property
    def share_of_rise(self) -> Tensor:
        """`[s]` share of the additional events of all rows that lie in the slice.

        NaN if the rate of all rows did not rise.
        """
        additional = self.after[:, 1] - self.after[:, 0] * _rate(self.before)
        whole = self.rise
        if whole is None:
            whole = float(self.total[1, 1] - self.total[1, 0] * _rate(self.total)[0])
        return additional / whole if whole > 0 else torch.full_like(additional, math.nan)

    def interval(self) -> tuple[Tensor, Tensor]:
        """`[2, s]` bounds of the 95 % intervals of both rates: Wilson's, of a mean the normal."""
        sides = torch.stack([self.before, self.after])
        if self.is_count:
            return wilson_interval(sides[..., 1], sides[..., 0])
        rows, mean = sides[..., 0].clamp(min=1.0), self.rates
        variance = (sides[..., 2] / rows - mean.square()).clamp(min=0.0) / (rows - 1).clamp(min=1.0)
        half = normal_quantile(0.975) * variance.sqrt()
        return mean - half, mean + half

    def table(self) -> pd.DataFrame:
        """One row per slice: rows and rate with 95 % interval on both sides, change, p-values."""
        columns: dict[str, Tensor] = {}
        low, high = self.interval()
        for at, (side, sums) in enumerate((("before", self.before), ("after", self.after))):
            columns |= {
                f"rows_{side}": sums[:, 0].long(),
                f"rate_{side}": self.rates[at],
                f"low_{side}": low[at],
                f"high_{side}": high[at],
            }
        columns |= {"change": self.change, "p_value": self.log_p.exp(), "adjusted": self.adjusted}
        return pd.DataFrame(
            {"slice": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rates before and after of the most significant slices, with 95 % intervals."""
        ax = axes(ax, size=(8.0, 2.2 + 0.38 * min(MAX_SHOWN, max(1, len(self)))))
        top = self.table().head(MAX_SHOWN).iloc[::-1]
        position = range(len(top))
        ax.hlines(
            position,
            top["rate_before"],
            top["rate_after"],
            color="#BBBBBB",
            linewidth=1.0,
            zorder=1,
        )
        for side, color, offset in (("before", REFERENCE, 0.12), ("after", LIVE, -0.12)):
            rate = top[f"rate_{side}"]
            # Rounding may put an end of an interval at 0 or 1 just past the rate.
            ends = rate - top[f"low_{side}"], top[f"high_{side}"] - rate
            spread = [end.clip(lower=0) for end in ends]
            ax.errorbar(
                rate,
                [i + offset for i in position],
                xerr=spread,
                fmt="o",
                color=color,
                label=side,
                markersize=4,
            )
        ax.set_yticks(
            position,
            [
                f"{shortened(name)} ({n:,})"
                for name, n in zip(top["slice"], top["rows_after"], strict=True)
            ],
        )
        ax.set_ylim(-0.6, max(len(top), 1) - 0.4)
        ax.grid(visible=False, axis="y")
        quantity = f"{self.name} rate" if self.is_count else self.name
        ax.set_xlabel(f"{quantity} (95 % interval)")
        overall = f"{self.overall_change:{'+.1%' if self.is_count else '+.3g'}}"
        caption(ax, f"Where the {quantity} rose; over all rows {overall}")
        return ax

    def _sides(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.total, (self.before, self.after), strict=True))


def _rate(sums: Tensor) -> Tensor:
    return sums[..., 1].double() / sums[..., 0].clamp(min=1)
