"""Slices that became worse between two tables while the whole hardly changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.slices.levels.binning import Binning, fit_binnings, level_codes
from gendebug_torch.slices.levels.counting import (
    informative_pairs,
    member_masks,
    pair_sums,
    slice_pairs,
)
from gendebug_torch.slices.levels.distinct import distinct_slices, slice_name
from gendebug_torch.slices.search.result import MAX_SHOWN, caption, shortened
from gendebug_torch.slices.statistics.odds_rise import log_p_of_odds_rise
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class SliceChange:
    """Rate of an event per slice, before and after; the most significant rise first.

    Args:
        names: name of each slice, `s`.
        before: rows and events in the reference, `[s, 2]` int64.
        after: rows and events in production, `[s, 2]` int64.
        log_p: natural logarithm of the one-sided p-value, `[s]` float64.
        adjusted: p-value adjusted over all tests (Benjamini-Hochberg), `[s]` float64.
        total: rows and events of the two tables, `[2, 2]` int64.
        tests: number of slices tested.
        name: name of the event.
    """

    names: tuple[str, ...]
    before: Tensor
    after: Tensor
    log_p: Tensor
    adjusted: Tensor
    total: Tensor
    tests: int
    name: str = "error"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def change(self) -> Tensor:
        """`[s]` rate in production minus rate in the reference."""
        return _rate(self.after) - _rate(self.before)

    @property
    def overall_change(self) -> float:
        """Change of the rate over all rows."""
        return float(_rate(self.total)[1] - _rate(self.total)[0])

    @property
    def share_of_rise(self) -> Tensor:
        """`[s]` share of the additional events of all rows that lie in the slice.

        NaN if the rate of all rows did not rise.
        """
        additional = self.after[:, 1] - self.after[:, 0] * _rate(self.before)
        whole = float(self.total[1, 1] - self.total[1, 0] * _rate(self.total)[0])
        return additional / whole if whole > 0 else torch.full_like(additional, math.nan)

    def table(self) -> pd.DataFrame:
        """One row per slice: rows and rate with 95 % interval on both sides, change, p-values."""
        columns: dict[str, Tensor] = {}
        for side, counts in (("before", self.before), ("after", self.after)):
            low, high = wilson_interval(counts[:, 1], counts[:, 0])
            columns |= {
                f"rows_{side}": counts[:, 0],
                f"rate_{side}": _rate(counts),
                f"low_{side}": low,
                f"high_{side}": high,
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
        ax.set_xlabel(f"{self.name} rate (95 % interval)")
        caption(ax, f"Where the {self.name} rate rose; over all rows {self.overall_change:+.1%}")
        return ax


def slice_change(
    reference: pd.DataFrame,
    reference_event: Tensor,
    live: pd.DataFrame,
    live_event: Tensor,
    *,
    binnings: Sequence[Binning] | None = None,
    ways: int = 2,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
) -> SliceChange:
    """Slices in which the rate of an event rose beyond its rise over all other rows.

    The odds ratio after : before of each slice is compared with that of the rows outside it
    (`log_p_of_odds_rise`), so a slice that follows the whole is not reported: twice the odds
    everywhere is more points where errors are frequent, and the same change.

    Args:
        reference: columns to slice by, `[n, c]`; levels are fitted here.
        reference_event: whether the event occurred, `[n]` bool.
        live: the same columns later, `[m, c]`.
        live_event: whether the event occurred, `[m]` bool.
        binnings: levels fitted elsewhere.
        ways: number of columns combined, 1 or 2.
        min_support: smallest number of rows of a slice, on either side.
        alpha: false discovery rate.
        limit: most slices to return.
        device: device of the products.
        name: name of the event, for labels.

    Raises:
        InputError: events and tables differ in length, or `ways` is out of range.

    Cost: as `find_slices`, twice.

    Example:
        >>> frame = pd.DataFrame({"shop": ["a", "b", "c", "d"] * 250})
        >>> before = torch.arange(1000) % 20 == 0
        >>> after = before | torch.tensor((frame["shop"] == "b").to_numpy())
        >>> slice_change(frame, before, frame, after).names
        ('shop = b',)
    """
    if ways not in (1, 2):
        reject("ways", "1 or 2", repr(ways), "Deeper slices are too many to test.")
    frames = (reference, live)
    events = [
        _checked_event("reference_event", reference_event, len(reference)),
        _checked_event("live_event", live_event, len(live)),
    ]
    binnings = fit_binnings(reference) if binnings is None else binnings
    levels = tuple(level for binning in binnings for level in binning.levels)
    codes = [level_codes(frame, binnings)[1] for frame in frames]
    sets, before, after = _counts(codes, events, *slice_pairs(levels, ways), len(levels), device)
    total = torch.tensor([[len(event), int(event.sum())] for event in events], dtype=torch.int64)
    tested = (before[:, 0] >= min_support) & (after[:, 0] >= min_support)
    sets, before, after = sets[tested], before[tested], after[tested]
    log_p = log_p_of_odds_rise(before, after, total)
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.argsort(stable=True)
    best = order[(adjusted[order] <= alpha) & (log_p[order] < 0)][: 2 * limit]
    masks = torch.cat([member_masks(part, sets[best], levels) for part in codes], 1)
    distinct, _ = distinct_slices(
        masks, lambda inside, within: _log_p(inside, within, events), len(sets), alpha
    )
    chosen = best[torch.tensor(distinct[:limit], dtype=torch.int64)]
    return SliceChange(
        tuple(slice_name(levels, members) for members in sets[chosen].tolist()),
        before[chosen],
        after[chosen],
        log_p[chosen],
        adjusted[chosen],
        total,
        len(sets),
        name,
    )


def _checked_event(argument: str, event: Tensor, rows: int) -> Tensor:
    if event.shape != (rows,):
        reject(
            argument,
            f"[{rows}] one value per row",
            f"shape {list(event.shape)}",
            "Pass a bool per row of the table.",
        )
    return event.bool().cpu()


def _counts(
    codes: Sequence[Tensor],
    events: Sequence[Tensor],
    first: Tensor,
    second: Tensor,
    size: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sets `[s, 3]` that are informative in both tables, with rows and events `[s, 2]` of each."""
    informative = torch.ones(len(first), dtype=torch.bool)
    sides = []
    for part, event in zip(codes, events, strict=True):
        rows, hits = pair_sums(part, event.double()[None], size, device)
        informative &= informative_pairs(rows, first, second)
        sides.append(torch.stack([rows[first, second], hits[0, first, second].round().long()], 1))
    sets = torch.stack([first, second, second], 1)
    return sets[informative], sides[0][informative], sides[1][informative]


def _log_p(inside: Tensor, within: Tensor, events: Sequence[Tensor]) -> float:
    """The test for the rows of one mask among those of another; both run over the two tables."""
    sizes = [len(event) for event in events]
    part, whole = (
        torch.tensor(
            [
                [int(rows.sum()), int((rows & event).sum())]
                for rows, event in zip(torch.split(mask, sizes), events, strict=True)
            ]
        )
        for mask in (inside, within)
    )
    return float(log_p_of_odds_rise(part[:1], part[1:], whole))


def _rate(counts: Tensor) -> Tensor:
    return counts[:, 1].double() / counts[:, 0].clamp(min=1)
