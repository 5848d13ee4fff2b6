"""Slices that got worse between two tables while the whole looks almost as before."""

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
from gendebug_torch.slices.search.columns import Binning, fit_binnings, level_codes
from gendebug_torch.slices.search.counting import member_masks, pair_sums, slice_pairs, worth_asking
from gendebug_torch.slices.search.expected_errors import log_upper_tail
from gendebug_torch.slices.search.merging import distinct_slices, words
from gendebug_torch.slices.search.result import SHOWN, caption, shortened
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class SliceChange:
    """Rate of an event per slice, before and after; the surest worsening first, redundant slices
    merged.

    Args:
        names: how each slice reads.
        before: `[s, 2]` int64 rows and events in the reference.
        after: `[s, 2]` int64 rows and events in production.
        log_p: `[s]` float64 natural logarithm of the one-sided p-value.
        adjusted: `[s]` float64 after Benjamini-Hochberg over everything asked.
        total: `[2, 2]` int64 rows and events of the two whole tables.
        asked: number of slices that were tested.
        name: of the event.
    """

    names: tuple[str, ...]
    before: Tensor
    after: Tensor
    log_p: Tensor
    adjusted: Tensor
    total: Tensor
    asked: int
    name: str = "error"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def change(self) -> Tensor:
        """`[s]` rate in production minus rate in the reference."""
        return _rate(self.after) - _rate(self.before)

    @property
    def whole(self) -> float:
        """Change of the rate over all rows."""
        return float(_rate(self.total)[1] - _rate(self.total)[0])

    @property
    def share_of_rise(self) -> Tensor:
        """`[s]` events in the slice beyond its rate before, over those in all rows; NaN where these
        did not rise.
        """
        beyond = self.after[:, 1] - self.after[:, 0] * _rate(self.before)
        whole = float(self.total[1, 1] - self.total[1, 0] * _rate(self.total)[0])
        return beyond / whole if whole > 0 else torch.full_like(beyond, math.nan)

    def table(self) -> pd.DataFrame:
        """One row per slice: support and rate with 95 % interval on both sides, change,
        p-values.
        """
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
        """Rates before and after of the slices that worsened most, with intervals."""
        ax = axes(ax, size=(8.0, 2.2 + 0.38 * min(SHOWN, max(1, len(self)))))
        top = self.table().head(SHOWN).iloc[::-1]
        place = range(len(top))
        ax.hlines(
            place, top["rate_before"], top["rate_after"], color="#BBBBBB", linewidth=1.0, zorder=1
        )
        for side, color, offset in (("before", REFERENCE, 0.12), ("after", LIVE, -0.12)):
            rate = top[f"rate_{side}"]
            spread = [rate - top[f"low_{side}"], top[f"high_{side}"] - rate]
            ax.errorbar(
                rate,
                [i + offset for i in place],
                xerr=spread,
                fmt="o",
                color=color,
                label=side,
                markersize=4,
            )
        ax.set_yticks(
            place,
            [
                f"{shortened(name)} ({n:,})"
                for name, n in zip(top["slice"], top["rows_after"], strict=True)
            ],
        )
        ax.set_ylim(-0.6, max(len(top), 1) - 0.4)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(f"{self.name} rate (95 % interval)")
        caption(ax, f"Where the {self.name} rate rose; over all rows {self.whole:+.1%}")
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

    For each slice the odds ratio after : before is compared with that of the rows outside it
    (`relative_rise`), so that a slice that follows the whole is not named: twice the odds
    everywhere is more points where errors are frequent, and the same change.

    Args:
        reference: `[n, c]` columns to slice by; cuts are fitted here.
        reference_event: `[n]` bool.
        live: `[m, c]`.
        live_event: `[m]` bool.
        binnings: cuts fitted elsewhere.
        ways: 1 or 2 levels at once.
        min_support: rows below which a slice is not asked, on either side.
        alpha: false discovery rate.
        limit: most slices to return.
        device: where the products run.
        name: of the event, for labels.

    Raises:
        InputError: events and tables differ in length, or `ways` is out of range.

    Cost: as `find_slices`, twice.
    """
    if ways not in (1, 2):
        reject("ways", "1 or 2", repr(ways), "Deeper slices are too many to be asked honestly.")
    tables = ((reference, reference_event), (live, live_event))
    for argument, (frame, event) in zip(("reference_event", "live_event"), tables, strict=True):
        if event.shape != (len(frame),):
            reject(
                argument,
                f"[{len(frame)}] one value per row",
                f"shape {list(event.shape)}",
                "Pass a bool per row of the table.",
            )
    cuts = fit_binnings(reference) if binnings is None else binnings
    coded = [level_codes(frame, cuts) for frame, _ in tables]
    levels = coded[0][0]
    happened = [event.bool().cpu() for _, event in tables]
    first, second = slice_pairs(levels, ways)
    sides, new = [], torch.ones(len(first), dtype=torch.bool)
    for (_, codes), event in zip(coded, happened, strict=True):
        rows, hits = pair_sums(codes, event.double()[None], len(levels), device)
        new &= worth_asking(rows, first, second)
        sides.append(torch.stack([rows[first, second], hits[0, first, second].round().long()], 1))
    total = torch.tensor([[len(event), int(event.sum())] for event in happened], dtype=torch.int64)
    asked = new & (sides[0][:, 0] >= min_support) & (sides[1][:, 0] >= min_support)
    log_p = torch.where(
        asked, relative_rise(sides[0], sides[1], total), torch.tensor(math.nan, dtype=torch.float64)
    )
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    order = log_p.nan_to_num(0.0).argsort(stable=True)
    chosen = order[(adjusted[order] <= alpha) & (log_p[order] < 0)][: 2 * limit]
    sets = torch.stack([first, second, second], 1)[chosen]
    masks = torch.cat([member_masks(codes, sets, levels) for _, codes in coded], 1)
    kept, _ = distinct_slices(
        masks, lambda rest, fresh: _rise_of(rest, fresh, happened), int(asked.sum()), alpha
    )
    at = chosen[torch.tensor(kept[:limit], dtype=torch.int64)]
    names = tuple(words(levels, sets[place].tolist()) for place in kept[:limit])
    return SliceChange(
        names, sides[0][at], sides[1][at], log_p[at], adjusted[at], total, int(asked.sum()), name
    )


def relative_rise(before: Tensor, after: Tensor, total: Tensor) -> Tensor:
    """`[s]` log of the one-sided p-value that the odds of the event rose more inside each slice
    than outside it.

    Given all events of a slice, those that fall in production follow the odds ratio after : before
    of the rows outside (Breslow and Day, 1980, section 4.4); the uncertainty of that ratio widens
    their variance.

    Args:
        before: `[s, 2]` int64 rows and events.
        after: `[s, 2]` int64.
        total: `[2, 2]` int64 rows and events of the whole, before and after.
    """
    rise = torch.zeros(len(before), dtype=torch.float64)
    doubt = torch.zeros_like(rise)
    for sign, side, whole in ((1.0, after, total[1]), (-1.0, before, total[0])):
        hits, misses = (count + 0.5 for count in _hits_and_misses(whole - side))
        rise += sign * (hits / misses).log()
        doubt += 1 / hits + 1 / misses
    events, rows = before[:, 1] + after[:, 1].double(), after[:, 0].double()
    mean, variance = _shared_events(events, before[:, 0].double(), rows, rise.exp())
    # Widening the variance and narrowing the excess are the same to first order, and the tail keeps
    # its shape.
    narrowed = mean + (after[:, 1] - mean) / (1 + variance * doubt).sqrt()
    return log_upper_tail(narrowed, torch.minimum(rows, events), mean, variance)


def _shared_events(
    events: Tensor, before: Tensor, after: Tensor, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the events that fall in `after` rows, out of all, at an odds ratio after
    : before.

    The mean m solves m (before - events + m) = ratio (events - m) (after - m); the variance is one
    over the sum of the reciprocals of the four cells.
    """
    a = 1 - ratio
    b = before - events + ratio * (events + after)
    c = ratio * events * after
    root = (b.square() + 4 * a * c).clamp(min=0.0).sqrt()
    mean = 2 * c / (b + root).clamp(min=1e-300)
    cells = torch.stack([mean, events - mean, after - mean, before - events + mean]).clamp(min=1e-9)
    return mean, 1 / (1 / cells).sum(0)


def _hits_and_misses(counts: Tensor) -> tuple[Tensor, Tensor]:
    return counts[:, 1].double(), (counts[:, 0] - counts[:, 1]).double()


def _rise_of(inside: Tensor, within: Tensor, happened: Sequence[Tensor]) -> float:
    """The same for the rows of one mask against the others of another; both run over the two
    tables.
    """
    cut = [len(event) for event in happened]
    part, whole = (
        torch.tensor(
            [
                [int(rows.sum()), int((rows & event).sum())]
                for rows, event in zip(torch.split(mask, cut), happened, strict=True)
            ]
        )
        for mask in (inside, within)
    )
    return float(relative_rise(part[:1], part[1:], whole))


def _rate(counts: Tensor) -> Tensor:
    return counts[:, 1].double() / counts[:, 0].clamp(min=1)
