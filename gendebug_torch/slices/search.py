"""All one- and two-way slices at once, by one matrix product; three-way ones by beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from scipy.special import gammaln, log_ndtr
from torch import Tensor

from gendebug_torch._plotting import LIVE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.slices.columns import Binning, Level, fit_binnings
from gendebug_torch.stats import benjamini_hochberg_adjusted, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows per product: counts in float32 stay exact below 2^24.
_ROWS = 2**17
# Tail terms summed exactly; wider distributions are normal to many digits.
_TERMS = 1024
_WIDEST_EXACT_SD = 50.0
# Slices this close to what is expected are far from significant; the normal tail says so cheaply.
_LEAST_EXACT_Z = 1.0
# Two slices that share this much of their union are the same rows in other words.
_SAME_ROWS = 0.9
_SHOWN = 15


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices with their support and rate, worst first, redundant ones merged.

    Args:
        members: per slice, the levels that define it.
        support: `[s]` int64 rows.
        events: `[s]` int64 rows with the event (error, miss, false alarm).
        log_p: `[s]` float64 natural logarithm of the one-sided p-value.
        adjusted: `[s]` float64 p-value after Benjamini-Hochberg over everything asked.
        also: per slice, other words for the same rows.
        total: rows, and rows with the event, over all.
        asked: number of slices that were tested.
        event: what is counted, for labels.
    """

    members: tuple[tuple[Level, ...], ...]
    support: Tensor
    events: Tensor
    log_p: Tensor
    adjusted: Tensor
    also: tuple[tuple[str, ...], ...]
    total: tuple[int, int]
    asked: int
    event: str = "error"

    @property
    def names(self) -> tuple[str, ...]:
        """How each slice reads."""
        return tuple(" and ".join(map(str, levels)) for levels in self.members)

    @property
    def rate(self) -> Tensor:
        """`[s]` share of rows with the event."""
        return self.events.double() / self.support.clamp(min=1)

    @property
    def lift(self) -> Tensor:
        """`[s]` rate over the rate of all rows."""
        return self.rate / max(self.total[1] / max(self.total[0], 1), 1e-300)

    def table(self) -> pd.DataFrame:
        """One row per slice: support, rate with 95 % interval, lift, p-values, other words for it."""
        low, high = wilson_interval(self.events, self.support)
        columns = {"support": self.support, "rate": self.rate, "low": low, "high": high, "lift": self.lift}
        columns |= {"p_value": self.log_p.exp(), "adjusted": self.adjusted}
        frame = pd.DataFrame({"slice": list(self.names)} | {key: value.numpy() for key, value in columns.items()})
        frame["same_rows_as"] = ["; ".join(words) for words in self.also]
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rates of the worst slices with intervals, beside the rate of all rows."""
        ax = axes(ax, size=(7.0, 1.4 + 0.3 * min(_SHOWN, max(1, len(self.members)))))
        top = self.table().head(_SHOWN).iloc[::-1]
        spread = [top["rate"] - top["low"], top["high"] - top["rate"]]
        labels = [f"{name if len(name) < 60 else name[:57] + '...'} ({n:,})" for name, n in zip(top["slice"], top["support"], strict=True)]
        ax.barh(labels, top["rate"], color=LIVE, xerr=spread, error_kw={"elinewidth": 0.8})
        ax.axvline(self.total[1] / max(self.total[0], 1), color=NEUTRAL, linestyle="--", label="all rows")
        ax.set(xlabel=f"{self.event} rate", title=f"Slices with the highest {self.event} rate")
        ax.legend(frameon=False, fontsize="small")
        return ax


def find_slices(
    frame: pd.DataFrame,
    event: Tensor,
    *,
    binnings: Sequence[Binning] | None = None,
    only: Sequence[tuple[Level, ...]] | None = None,
    ways: int = 2,
    beam: int = 50,
    min_support: int = 30,
    alpha: float = 0.05,
    limit: int = 50,
    device: str | torch.device = "cpu",
    name: str = "error",
) -> Slices:
    """Slices whose rate of an event is higher than in all rows, beyond what asking so many allows.

    All levels of all columns form a 0/1 matrix H; `H'H` counts every two-way slice and `H' diag(e) H` its
    events, one-way slices stand on the diagonal. Each slice is tested one-sided against the hypergeometric
    distribution (Fisher, 1935); Benjamini-Hochberg runs over all tested slices. Third levels are added to
    the `beam` most significant pairs. Of slices with the same rows one is kept; a slice whose excess
    vanishes without the rows of better ones is left out.

    Args:
        frame: `[n, c]` columns to slice by.
        event: `[n]` bool, what should not happen: an error, a missed positive.
        binnings: cuts fitted elsewhere; default: fitted on `frame`.
        only: ask these slices alone, e.g. those that another half proposed.
        ways: 1, 2 or 3 levels at once.
        beam: pairs that are extended by a third level.
        min_support: rows below which a slice is not asked.
        alpha: false discovery rate.
        limit: most slices to return.
        device: where the products run.
        name: of the event, for labels.

    Raises:
        InputError: an event per row is lacking, or `ways` is out of range.

    Cost: `2 n L^2` multiplications for L levels in all, `n L` values of memory in chunks.
    """
    if event.shape != (len(frame),):
        reject("event", f"[{len(frame)}] one value per row", f"shape {list(event.shape)}", "Pass a bool per row of the table.")
    if ways not in (1, 2, 3):
        reject("ways", "1, 2 or 3", repr(ways), "Deeper slices are too many to be asked honestly.")
    cuts = fit_binnings(frame) if binnings is None else binnings
    levels, codes = level_codes(frame, cuts)
    happened = event.bool()
    total = (len(frame), int(happened.sum()))
    support, events = count_pairs(codes, happened, len(levels), device)
    first, second = slice_pairs(levels, min(ways, 2))
    sets = torch.stack([first, second, second], 1)
    counts, hits = support[first, second], events[first, second]
    if ways == 3:
        extended = _extend(sets, counts, hits, codes, happened, levels, total, beam, min_support, device)
        sets, counts, hits = (torch.cat(pair) for pair in zip((sets, counts, hits), extended, strict=True))
    asked_for = counts >= min_support
    if only is not None:
        wanted = {frozenset(map(str, members)) for members in only}
        asked_for &= torch.tensor([frozenset(str(levels[i]) for i in row) in wanted for row in sets.tolist()], dtype=torch.bool)
    log_p = torch.where(asked_for, log_upper_tail(hits, counts, total), torch.full(counts.shape, math.nan, dtype=torch.float64))
    adjusted = benjamini_hochberg_adjusted(log_p.exp())
    asked = int((~log_p.isnan()).sum())
    order = log_p.nan_to_num(0.0).argsort(stable=True)
    chosen = order[(adjusted[order] <= alpha)][: 4 * limit]
    kept, also = _merge(chosen, sets, codes, happened, levels, alpha)
    kept, also = kept[:limit], also[:limit]
    members = tuple(tuple(levels[i] for i in dict.fromkeys(sets[row].tolist())) for row in kept)
    at = torch.tensor(kept, dtype=torch.int64)
    return Slices(members, counts[at], hits[at], log_p[at], adjusted[at], tuple(also), total, asked, name)


def level_codes(frame: pd.DataFrame, binnings: Sequence[Binning]) -> tuple[tuple[Level, ...], Tensor]:
    """All levels of all columns, and `[n, c]` int64 which level each row has in each column."""
    levels: list[Level] = []
    columns = []
    for binning in binnings:
        columns.append(binning.codes(frame) + len(levels))
        levels.extend(binning.levels)
    return tuple(levels), torch.stack(columns, 1) if columns else torch.empty(len(frame), 0, dtype=torch.int64)


def count_pairs(codes: Tensor, event: Tensor, size: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """`[L, L]` int64 rows, and rows with the event, that have both levels; the diagonal holds single levels."""
    rows = torch.zeros(size, size, dtype=torch.float64, device=device)
    hits = torch.zeros_like(rows)
    for start in range(0, len(codes), _ROWS):
        hot = _one_hot(codes[start : start + _ROWS].to(device), size)
        rows += hot.T @ hot
        happened = hot[event[start : start + _ROWS].to(device)]
        hits += happened.T @ happened
    return rows.long().cpu(), hits.long().cpu()


def log_upper_tail(hits: Tensor, drawn: Tensor, total: tuple[int, int]) -> Tensor:
    """`log P(X >= hits)` for X hypergeometric: `drawn` of `total[0]` rows, of which `total[1]` have the event.

    Summed term by term where the distribution is narrow, normal with continuity correction where it is wide;
    0 where hits do not exceed what is expected, since only excess is asked for.

    Args:
        hits: `[s]` int64.
        drawn: `[s]` int64.
        total: rows and events over all.

    Returns:
        `[s]` float64, at most 0.
    """
    size, marked = (float(value) for value in total)
    k, n = hits.double(), drawn.double()
    mean = n * marked / max(size, 1.0)
    spread = (mean * (1 - marked / max(size, 1.0)) * (size - n) / max(size - 1, 1.0)).clamp(min=0.0).sqrt()
    excess = (k > mean) & (spread > 0)
    z = (k - 0.5 - mean) / spread.clamp(min=1e-300)
    narrow = excess & (spread <= _WIDEST_EXACT_SD) & (z > _LEAST_EXACT_Z)
    log_p = torch.where(excess, torch.from_numpy(log_ndtr(-z.numpy())), torch.zeros_like(z))
    log_p[narrow] = _exact_tail(k[narrow], n[narrow], size, marked)
    return log_p.clamp(max=0.0)


def _exact_tail(k: Tensor, n: Tensor, size: float, marked: float) -> Tensor:
    """First term by log-gamma, the others by the ratio of neighbours."""

    def log_choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(gammaln((a + 1).numpy()) - gammaln((b + 1).numpy()) - gammaln((a - b + 1).numpy()))

    everything, all_marked = torch.full_like(k, size), torch.full_like(k, marked)
    first = log_choose(all_marked, k) + log_choose(everything - all_marked, n - k) - log_choose(everything, n)
    step = torch.arange(_TERMS, dtype=torch.float64)
    x = k[:, None] + step
    ratio = ((marked - x) * (n[:, None] - x) / ((x + 1) * (size - marked - n[:, None] + x + 1))).clamp(min=0.0)
    return first + torch.log1p(ratio.cumprod(1).sum(1))


def slice_pairs(levels: Sequence[Level], ways: int) -> tuple[Tensor, Tensor]:
    """Indices of single levels (twice the same) and of pairs from different columns."""
    columns = {name: index for index, name in enumerate(dict.fromkeys(level.column for level in levels))}
    of = torch.tensor([columns[level.column] for level in levels], dtype=torch.int64)
    single = torch.arange(len(levels))
    if ways == 1:
        return single, single
    first, second = torch.triu_indices(len(levels), len(levels), 1)
    apart = of[first] != of[second]
    return torch.cat([single, first[apart]]), torch.cat([single, second[apart]])


def _one_hot(codes: Tensor, size: int) -> Tensor:
    hot = torch.zeros(len(codes), size, device=codes.device)
    return hot.scatter_(1, codes, 1.0)


def _extend(
    sets: Tensor,
    counts: Tensor,
    hits: Tensor,
    codes: Tensor,
    event: Tensor,
    levels: Sequence[Level],
    total: tuple[int, int],
    beam: int,
    min_support: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Three-way slices grown from the most significant pairs."""
    pairs = ((sets[:, 0] != sets[:, 1]) & (counts >= min_support)).nonzero()[:, 0]
    best = pairs[log_upper_tail(hits[pairs], counts[pairs], total).argsort(stable=True)][:beam]
    rows = torch.zeros(len(best), len(levels), dtype=torch.float64, device=device)
    happened = torch.zeros_like(rows)
    for start in range(0, len(codes), _ROWS):
        hot = _one_hot(codes[start : start + _ROWS].to(device), len(levels))
        inside = hot[:, sets[best, 0].to(device)] * hot[:, sets[best, 1].to(device)]
        rows += inside.T @ hot
        marked = event[start : start + _ROWS].to(device)
        happened += inside[marked].T @ hot[marked]
    names = [level.column for level in levels]
    new = [
        (pair, third)
        for pair, (a, b) in enumerate(sets[best, :2].tolist())
        for third in range(len(levels))
        if names[third] not in (names[a], names[b])
    ]
    index = torch.tensor(new, dtype=torch.int64).reshape(-1, 2)
    triples = torch.cat([sets[best][index[:, 0], :2], index[:, 1:]], 1).sort(1).values
    _, at = torch.unique(triples, dim=0, return_inverse=True)
    first = torch.full((int(at.max()) + 1 if len(at) else 0,), len(at)).scatter_reduce_(0, at, torch.arange(len(at)), "amin")
    chosen = index[first]
    return triples[first], rows.cpu().long()[chosen[:, 0], chosen[:, 1]], happened.cpu().long()[chosen[:, 0], chosen[:, 1]]


def _merge(
    chosen: Tensor, sets: Tensor, codes: Tensor, event: Tensor, levels: Sequence[Level], alpha: float
) -> tuple[list[int], list[tuple[str, ...]]]:
    """Keep slices that tell something new: not the rows of a better one, and still bad without the better ones' rows."""
    kept: list[int] = []
    masks: list[Tensor] = []
    also: list[list[str]] = []
    fresh = torch.ones(len(codes), dtype=torch.bool)
    for row in chosen.tolist():
        mask = member_mask(codes, sets[row])
        words = " and ".join(str(levels[i]) for i in dict.fromkeys(sets[row].tolist()))
        twins = [place for place, other in enumerate(masks) if int((mask & other).sum()) >= _SAME_ROWS * int((mask | other).sum())]
        if twins:
            also[twins[0]].append(words)
            continue
        rest = mask & fresh
        total = (int(fresh.sum()), int((event & fresh).sum()))
        if kept and math.exp(float(log_upper_tail((event & rest).sum()[None], rest.sum()[None], total))) > alpha:
            continue
        kept.append(row)
        masks.append(mask)
        also.append([])
        fresh &= ~mask
    return kept, [tuple(words) for words in also]


def member_mask(codes: Tensor, members: Tensor) -> Tensor:
    """`[n]` bool, rows that have every one of the levels."""
    return torch.stack([(codes == member).any(1) for member in members]).all(0)
