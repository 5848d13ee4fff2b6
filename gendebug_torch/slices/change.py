"""Slices that got worse between two tables while the whole looks almost as before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from scipy.stats import norm
from torch import Tensor

from gendebug_torch._plotting import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.slices.columns import Binning, Level, fit_binnings
from gendebug_torch.slices.search import count_pairs, level_codes, slice_pairs
from gendebug_torch.stats import benjamini_hochberg_adjusted, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 15


@dataclass(frozen=True, eq=False)
class SliceChange:
    """Rate of an event per slice, before and after; the largest worsening first.

    Args:
        members: per slice, the levels that define it.
        before: `[s, 2]` int64 rows and events in the reference.
        after: `[s, 2]` int64 rows and events in production.
        p_value: `[s]` float64, two-sided.
        adjusted: `[s]` float64 after Benjamini-Hochberg over everything asked.
        total: `[2, 2]` int64 rows and events of the two whole tables.
        event: what is counted, for labels.
    """

    members: tuple[tuple[Level, ...], ...]
    before: Tensor
    after: Tensor
    p_value: Tensor
    adjusted: Tensor
    total: Tensor
    event: str = "error"

    @property
    def names(self) -> tuple[str, ...]:
        """How each slice reads."""
        return tuple(" and ".join(map(str, levels)) for levels in self.members)

    @property
    def change(self) -> Tensor:
        """`[s]` rate in production minus rate in the reference."""
        return _rate(self.after) - _rate(self.before)

    @property
    def whole(self) -> float:
        """Change of the rate over all rows."""
        return float(_rate(self.total)[1] - _rate(self.total)[0])

    def table(self) -> pd.DataFrame:
        """One row per slice: support and rate with interval on both sides, change, p-values."""
        columns: dict[str, Tensor] = {}
        for side, counts in (("before", self.before), ("after", self.after)):
            low, high = wilson_interval(counts[:, 1], counts[:, 0])
            columns |= {f"rows_{side}": counts[:, 0], f"rate_{side}": _rate(counts), f"low_{side}": low, f"high_{side}": high}
        columns |= {"change": self.change, "p_value": self.p_value, "adjusted": self.adjusted}
        return pd.DataFrame({"slice": list(self.names)} | {key: value.numpy() for key, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rates before and after of the slices that worsened most, with intervals."""
        ax = axes(ax, size=(7.0, 1.4 + 0.35 * min(_SHOWN, max(1, len(self.members)))))
        top = self.table().head(_SHOWN).iloc[::-1]
        for side, color, offset in (("before", REFERENCE, 0.12), ("after", LIVE, -0.12)):
            rate = top[f"rate_{side}"]
            spread = [rate - top[f"low_{side}"], top[f"high_{side}"] - rate]
            ax.errorbar(rate, [i + offset for i in range(len(top))], xerr=spread, fmt="o", color=color, label=side, markersize=4)
        labels = [name if len(name) < 60 else f"{name[:57]}..." for name in top["slice"]]
        ax.set_yticks(range(len(top)), labels)
        ax.set(xlabel=f"{self.event} rate", title=f"Where the {self.event} rate rose")
        ax.legend(frameon=False, fontsize="small")
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
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
) -> SliceChange:
    """How much the rate of an event rose in every slice beyond its rise over all rows.

    For each slice the change of its rate is compared with the change outside it (difference of differences,
    normal approximation on add-one counts), so that a slice that merely follows the whole is not named.

    Args:
        reference: `[n, c]` columns to slice by; cuts are fitted here.
        reference_event: `[n]` bool.
        live: `[m, c]`.
        live_event: `[m]` bool.
        binnings: cuts fitted elsewhere.
        ways: 1 or 2 levels at once.
        min_support: rows below which a slice is not asked, on either side.
        limit: most slices to return.
        device: where the products run.
        name: of the event, for labels.

    Raises:
        InputError: events and tables differ in length.

    Cost: as `find_slices`, twice.
    """
    for argument, frame, event in (("reference_event", reference, reference_event), ("live_event", live, live_event)):
        if event.shape != (len(frame),):
            reject(argument, f"[{len(frame)}] one value per row", f"shape {list(event.shape)}", "Pass a bool per row of the table.")
    cuts = fit_binnings(reference) if binnings is None else binnings
    first = second = torch.empty(0, dtype=torch.int64)
    sides = []
    levels: tuple[Level, ...] = ()
    for frame, event in ((reference, reference_event), (live, live_event)):
        levels, codes = level_codes(frame, cuts)
        first, second = slice_pairs(levels, ways)
        rows, hits = count_pairs(codes, event.bool(), len(levels), device)
        sides.append(torch.stack([rows[first, second], hits[first, second]], 1))
    before, after = sides
    whole = [[len(event), int(event.sum())] for event in (reference_event, live_event)]
    total = torch.tensor(whole, dtype=torch.int64)
    asked = (before[:, 0] >= min_support) & (after[:, 0] >= min_support)
    z = _difference_of_differences(before, after, total)
    p_value = torch.where(asked, torch.from_numpy(2 * norm.sf(z.abs().numpy())), torch.full_like(z, math.nan))
    adjusted = benjamini_hochberg_adjusted(p_value)
    order = torch.where(asked & (z > 0), -z, torch.full_like(z, math.inf)).argsort(stable=True)
    order = order[(asked & (z > 0))[order]][:limit]
    members = tuple(tuple(levels[i] for i in dict.fromkeys((int(first[row]), int(second[row])))) for row in order)
    return SliceChange(members, before[order], after[order], p_value[order], adjusted[order], total, name)


def _difference_of_differences(before: Tensor, after: Tensor, total: Tensor) -> Tensor:
    """`[s]` z-score of the rise inside each slice against the rise outside."""
    change = torch.zeros(len(before), dtype=torch.float64)
    variance = torch.zeros_like(change)
    for sign, side, whole in ((1.0, after, total[1]), (-1.0, before, total[0])):
        for direction, counts in ((1.0, side), (-1.0, whole - side)):
            rows, hits = counts[:, 0].double() + 2, counts[:, 1].double() + 1
            rate = hits / rows
            change += sign * direction * rate
            variance += rate * (1 - rate) / rows
    return change / variance.sqrt()


def _rate(counts: Tensor) -> Tensor:
    return counts[:, 1].double() / counts[:, 0].clamp(min=1)
