"""How sure the model is, before and after: histograms, positive rate, and the pile of cases near
the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value
from gendebug_torch.stats.effective_sample_size import independent_shares
from gendebug_torch.stats.intervals import (
    difference_interval,
    normal_quantile,
    two_share_p_value,
    wilson_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

HALF_WIDTH = 0.05
POSITIVE = "positive-class probability"
TOP = "top confidence"


@dataclass(frozen=True, eq=False)
class ConfidenceShift:
    """Counts and sums of a model's probabilities, reference first and production second. Adds over
    rows.

    Args:
        edges: `[b + 1]` float64 from 0 to 1; fine everywhere, and finer where probabilities
            saturate.
        counts: `[2, b]` int64.
        total: `[2]` float64 sums of the probabilities.
        squares: `[2]` float64 sums of their squares.
        positive: `[2]` int64 rows at or above the threshold.
        near: `[2]` int64 rows within `half_width` of the threshold.
        threshold: decision threshold in (0, 1).
        half_width: half the width of the band around it.
        quantity: what the probabilities are.
        bins: number of bins in the picture.
        times: `[2, 3]` rows of either side that are worth one independent row, of the
            probabilities, of positive rows and of those near the threshold; or a single number for
            all.
    """

    edges: Tensor
    counts: Tensor
    total: Tensor
    squares: Tensor
    positive: Tensor
    near: Tensor
    threshold: float
    half_width: float = HALF_WIDTH
    quantity: str = POSITIVE
    bins: int = 50
    times: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))

    def __add__(self, other: ConfidenceShift) -> ConfidenceShift:
        for name in ("threshold", "half_width", "quantity", "bins"):
            if getattr(self, name) != getattr(other, name):
                reject(
                    "other",
                    f"{name} {getattr(self, name)}",
                    str(getattr(other, name)),
                    "Add pieces made with the same arguments.",
                )
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("counts", "total", "squares", "positive", "near")
        }
        return replace(self, **sums)

    @property
    def n(self) -> Tensor:
        """`[2]` int64 rows."""
        return self.counts.sum(1)

    @property
    def statistic(self) -> float:
        """Kolmogorov-Smirnov distance at the bin edges: at most the exact one, short of it by less
        than one bin's share.
        """
        if int(self.n.min()) == 0:
            return math.nan
        steps = self.counts.cumsum(1).double() / self.n[:, None]
        return float((steps[0] - steps[1]).abs().max())

    @property
    def p_value(self) -> float:
        """P-value of `statistic` without a shift, see `ks_p_value`; conservative through the
        bins.
        """
        n = independent_shares(self.n, self.n, self.times.expand(2, 3)[:, 0])[1]
        return float(ks_p_value(torch.tensor([self.statistic], dtype=torch.float64), n[:1], n[1:]))

    @property
    def mean(self) -> Tensor:
        """`[2]` mean probability."""
        return self.total / self.n.clamp(min=1)

    def mean_difference(self, *, level: float = 0.95) -> tuple[float, float, float]:
        """Production minus reference mean, and its bounds by the normal approximation with unequal
        variances (Welch, 1947).
        """
        n = self.n.clamp(min=1).double()
        variance = (
            (self.squares / n - self.mean.square()).clamp(min=0.0) * n / (n - 1).clamp(min=1.0)
        )
        half = normal_quantile(0.5 + level / 2) * float((variance / n).sum().sqrt())
        gap = float(self.mean[1] - self.mean[0])
        return gap, gap - half, gap + half

    def rates(self, what: str = "positive") -> Tensor:
        """`[2]` share of rows that are `positive`, or `near` the threshold."""
        return self._events(what).double() / self.n.clamp(min=1)

    def rate_difference(
        self, what: str = "positive", *, level: float = 0.95
    ) -> tuple[float, float, float]:
        """Production minus reference share, and its bounds (Newcombe, 1998)."""
        events, n = _independent(self, what)
        low, high = difference_interval(events[0], n[0], events[1], n[1], level=level)
        before, after = self.rates(what)
        return float(after - before), float(low), float(high)

    def rate_p_value(self, what: str = "positive") -> float:
        """P-value for an unchanged share of `positive` rows, or of those `near` the threshold."""
        events, n = _independent(self, what)
        return float(two_share_p_value(events[:1], n[:1], events[1:], n[1:]))

    def table(self) -> DataFrame:
        """Mean, positive rate and share near the threshold before and after, with the difference
        and its 95 % interval.
        """
        import pandas as pd

        rows = [("mean", *map(float, self.mean), *self.mean_difference(), math.nan)]
        rows += [
            (
                f"share_{what}",
                *map(float, self.rates(what)),
                *self.rate_difference(what),
                self.rate_p_value(what),
            )
            for what in _KINDS
        ]
        rows.append(
            ("ks_distance", 0.0, self.statistic, self.statistic, math.nan, math.nan, self.p_value)
        )
        names = ["quantity", "reference", "production", "difference", "low", "high", "p_value"]
        return pd.DataFrame(rows, columns=names)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Two histograms of shares with the threshold, and the band around it shaded."""
        ax = axes(ax)
        grid = torch.linspace(0.0, 1.0, self.bins + 1, dtype=torch.float64)
        place = torch.searchsorted(grid, self.edges[:-1], right=True) - 1
        coarse = torch.zeros(2, self.bins, dtype=torch.int64).index_add_(
            1, place.clamp(0, self.bins - 1), self.counts
        )
        shares = (coarse / self.n.clamp(min=1)[:, None]).numpy()
        sides = zip(
            shares, self.n.tolist(), (REFERENCE, LIVE), ("reference", "production"), strict=True
        )
        for share, n, colour, side in sides:
            ax.stairs(share, grid.numpy(), color=colour, linewidth=1.6, label=f"{side} (n = {n:,})")
            ax.stairs(share, grid.numpy(), color=colour, fill=True, alpha=0.18)
        before, after = self.rates("near").tolist()
        band = f"within {self.half_width:g} of it: {before:.1%} → {after:.1%}"
        ax.axvspan(
            self.threshold - self.half_width,
            self.threshold + self.half_width,
            color=ACCENT,
            alpha=0.25,
            label=band,
            zorder=0,
        )
        ax.axvline(
            self.threshold,
            color=NEUTRAL,
            linestyle="--",
            linewidth=1.2,
            label=f"threshold {self.threshold:g}",
        )
        ax.set_xlim(0.0, 1.0)
        ax.set_ylim(0.0, 1.5 * max(float(shares.max()), 1e-3))
        ax.set_xlabel(self.quantity)
        ax.set_ylabel("share of rows per bin")
        rate = self.rates().tolist()
        ax.set_title(f"Confidence: at or above the threshold {rate[0]:.1%} → {rate[1]:.1%}")
        ax.legend(loc="upper right", frameon=True)
        return ax

    def intervals(self, what: str = "positive", *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[2]` lower and upper Wilson bounds of the two shares."""
        return wilson_interval(self._events(what), self.n, level=level)

    def _events(self, what: str) -> Tensor:
        if what not in _KINDS:
            reject("what", "`positive` or `near`", repr(what), "Name one of the two shares.")
        return self.positive if what == "positive" else self.near


_KINDS = ("positive", "near")


def _independent(shift: ConfidenceShift, what: str) -> tuple[Tensor, Tensor]:
    """`[2]` events and trials, dependent rows counted as what they are worth."""
    return independent_shares(
        shift._events(what), shift.n, shift.times.expand(2, 3)[:, 1 + _KINDS.index(what)]
    )


def confidence_shift(
    reference_probs: Tensor,
    live_probs: Tensor,
    *,
    threshold: float = 0.5,
    half_width: float = HALF_WIDTH,
    bins: int = 50,
) -> ConfidenceShift:
    """How a model's probabilities moved: distribution, mean, positive rate, and the share near the
    threshold.

    A pile of cases near the threshold is where small errors of the inputs flip decisions.

    Args:
        reference_probs: `[n]` positive-class probabilities or top confidences; `[n, 2]` gives the
            second column, `[n, k]` the largest of each row.
        live_probs: `[m]` or `[m, k]`, of the same form.
        threshold: decision threshold in (0, 1); rows at it count as positive.
        half_width: of the band around the threshold.
        bins: bins in the picture.

    Raises:
        InputError: NaN or values outside [0, 1], other shapes, another number of classes, a
            threshold outside (0, 1).

    Cost: `(n + m) log 1500`; holds one probability per row.
    """
    if not 0.0 < threshold < 1.0:
        reject(
            "threshold", "a number in (0, 1)", str(threshold), "Pass a probability, not a logit."
        )
    if not 0.0 < half_width <= 0.5:
        reject("half_width", "a number in (0, 0.5]", str(half_width), "The default is 0.05.")
    if bins < 1:
        reject("bins", "at least 1", str(bins), "Use 20 to 100.")
    before, quantity = _scores(reference_probs, "reference_probs")
    after, other = _scores(live_probs, "live_probs")
    if quantity != other or reference_probs.shape[1:] != live_probs.shape[1:]:
        expected = f"{list(reference_probs.shape[1:])} after the rows, like the reference"
        reject("live_probs", expected, str(list(live_probs.shape[1:])), "Use one model for both.")
    edges = confidence_edges(bins)
    pair = (before, after)
    counts = torch.stack([_histogram(p, edges) for p in pair])
    events = [_events_of(p, threshold, half_width) for p in pair]
    positive, near = (torch.stack([side[which].sum() for side in events]).cpu() for which in (0, 1))
    total = torch.stack([p.sum() for p in pair]).cpu()
    squares = torch.stack([p.square().sum() for p in pair]).cpu()
    return ConfidenceShift(
        edges, counts, total, squares, positive, near, threshold, half_width, quantity, bins
    )


def confidence_series(
    probs: Tensor, *, threshold: float = 0.5, half_width: float = HALF_WIDTH
) -> Tensor:
    """`[n, 3]` float64: the probability that is compared, whether it is positive, and whether it is
    near the threshold.
    """
    scores = _scores(probs, "probs")[0]
    return torch.stack(
        [scores, *(event.double() for event in _events_of(scores, threshold, half_width))], 1
    )


def checked_probs(probs: Tensor, argument: str) -> Tensor:
    """`[n]` or `[n, k]` float64 probabilities without a gradient, rounding outside [0, 1] taken
    off.

    Raises:
        InputError: no float tensor of that shape, NaN, or values outside [0, 1].
    """
    if (
        not isinstance(probs, Tensor)
        or not probs.is_floating_point()
        or probs.ndim not in (1, 2)
        or 0 in probs.shape[1:]
    ):
        got = (
            f"{probs.dtype} {list(probs.shape)}"
            if isinstance(probs, Tensor)
            else type(probs).__name__
        )
        reject(argument, "float probabilities [n] or [n, k]", got, "Pass `records.probs`.")
    values = probs.detach().double()
    if bool((~((values >= -1e-9) & (values <= 1 + 1e-9))).any()):
        reject(
            argument,
            "probabilities in [0, 1]",
            "NaN or values outside",
            "Apply sigmoid or softmax to logits first.",
        )
    return values.clamp(0.0, 1.0)


def confidence_edges(bins: int) -> Tensor:
    """Edges over [0, 1]: those of a picture, 1000 equal steps, and steps of 0.1 in log-odds towards
    0 and 1.
    """
    odds = torch.linspace(-20.0, 20.0, 401, dtype=torch.float64).sigmoid().numpy()
    grids = [odds, np.linspace(0.0, 1.0, 1001), np.linspace(0.0, 1.0, bins + 1)]
    return torch.from_numpy(np.unique(np.concatenate(grids)))


def _events_of(scores: Tensor, threshold: float, half_width: float) -> tuple[Tensor, Tensor]:
    """`[n]` booleans each: at or above the threshold, and near it."""
    return scores >= threshold, (scores - threshold).abs() < half_width


def _scores(probs: Tensor, argument: str) -> tuple[Tensor, str]:
    """`[n]` float64 and what they are."""
    values = checked_probs(probs, argument)
    if values.ndim == 2 and values.shape[1] > 2:
        return values.amax(1), TOP
    return (values if values.ndim == 1 else values[:, -1].contiguous()), POSITIVE


def _histogram(values: Tensor, edges: Tensor) -> Tensor:
    bins = len(edges) - 1
    place = torch.bucketize(values, edges.to(values.device)[1:-1], right=True)
    return torch.bincount(place, minlength=bins).cpu()
