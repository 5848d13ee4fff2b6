"""Shift of a model's probabilities: histograms, positive rate and share near the threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.checks.evidence import ACCENT, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value
from gendebug_torch.stats.dependence.effective_sample_size import (
    effective_counts,
    effective_sample_size,
)
from gendebug_torch.stats.intervals import (
    difference_interval,
    normal_quantile,
    two_share_p_value,
    wilson_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Half width of the band around the threshold.
HALF_WIDTH = 0.05
POSITIVE = "positive-class probability"
TOP = "top confidence"


@dataclass(frozen=True, eq=False)
class ConfidenceShift:
    """Counts and sums of a model's probabilities, reference first; adds over rows.

    Args:
        edges: edges of the bins, `[b + 1]` float64 from 0 to 1, finer where probabilities saturate.
        counts: counts of both samples, `[2, b]` int64.
        total: sums of the probabilities, `[2]` float64.
        squares: sums of their squares, `[2]` float64.
        positive: numbers of rows at or above the threshold, `[2]` int64.
        near: numbers of rows within `half_width` of the threshold, `[2]` int64.
        threshold: decision threshold in (0, 1).
        half_width: half width of the band around the threshold.
        quantity: name of the probabilities.
        bins: number of bins of the plot.
        times: autocorrelation times of both samples, `[2, 3]`, of the probabilities, of positive
            rows and of rows near the threshold; or one number for all.
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
                    "Add parts made with the same arguments.",
                )
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("counts", "total", "squares", "positive", "near")
        }
        return replace(self, **sums)

    @property
    def n(self) -> Tensor:
        """Numbers of rows, `[2]` int64."""
        return self.counts.sum(1)

    @property
    def statistic(self) -> float:
        """Kolmogorov-Smirnov distance at the edges, short of the exact one by less than a bin."""
        if int(self.n.min()) == 0:
            return math.nan
        steps = self.counts.cumsum(1).double() / self.n[:, None]
        return float((steps[0] - steps[1]).abs().max())

    @property
    def p_value(self) -> float:
        """P-value of equal distributions, conservative because of the bins, see `ks_p_value`."""
        n = effective_sample_size(self.n, self.times.expand(2, 3)[:, 0])
        return float(ks_p_value(torch.tensor([self.statistic], dtype=torch.float64), n[:1], n[1:]))

    @property
    def mean(self) -> Tensor:
        """Mean probabilities, `[2]` float64."""
        return self.total / self.n.clamp(min=1)

    def mean_difference(self, *, level: float = 0.95) -> tuple[float, float, float]:
        """Production less reference mean, and its bounds (Welch, 1947; normal approximation)."""
        n = self.n.clamp(min=1).double()
        variance = (
            (self.squares / n - self.mean.square()).clamp(min=0.0) * n / (n - 1).clamp(min=1.0)
        )
        half = normal_quantile(0.5 + level / 2) * float((variance / n).sum().sqrt())
        gap = float(self.mean[1] - self.mean[0])
        return gap, gap - half, gap + half

    def rates(self, what: str = "positive") -> Tensor:
        """Shares of rows that are `positive`, or `near` the threshold, `[2]` float64."""
        return self._events(what).double() / self.n.clamp(min=1)

    def rate_difference(
        self, what: str = "positive", *, level: float = 0.95
    ) -> tuple[float, float, float]:
        """Production less reference share, and its bounds (Newcombe, 1998)."""
        events, n = _effective_events(self, what)
        low, high = difference_interval(events[0], n[0], events[1], n[1], level=level)
        before, after = self.rates(what)
        return float(after - before), float(low), float(high)

    def rate_p_value(self, what: str = "positive") -> float:
        """P-value of equal shares of `positive` rows, or of rows `near` the threshold."""
        events, n = _effective_events(self, what)
        return float(two_share_p_value(events[:1], n[:1], events[1:], n[1:]))

    def table(self) -> DataFrame:
        """Mean, positive rate and share near the threshold in both samples, and differences."""
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
        """Histograms of both samples, the threshold, and the band around it."""
        ax = axes(ax)
        shares = _coarse_shares(self)
        grid = np.linspace(0.0, 1.0, self.bins + 1)
        for share, n, colour, side in zip(
            shares, self.n.tolist(), (REFERENCE, LIVE), ("reference", "production"), strict=True
        ):
            ax.stairs(share, grid, color=colour, linewidth=1.6, label=f"{side} (n = {n:,})")
            ax.stairs(share, grid, color=colour, fill=True, alpha=0.18)
        before, after = self.rates("near").tolist()
        band = f"within {self.half_width:g} of it: {before:.1%} → {after:.1%}"
        low, high = self.threshold - self.half_width, self.threshold + self.half_width
        ax.axvspan(low, high, color=ACCENT, alpha=0.25, label=band, zorder=0)
        line: dict[str, Any] = {"color": NEUTRAL, "linestyle": "--", "linewidth": 1.2}
        ax.axvline(self.threshold, label=f"threshold {self.threshold:g}", **line)
        ax.set_xlim(0.0, 1.0)
        ax.set_ylim(0.0, 1.5 * max(float(shares.max()), 1e-3))
        ax.set_xlabel(self.quantity)
        ax.set_ylabel("share of rows per bin")
        rate = self.rates().tolist()
        ax.set_title(f"Confidence: at or above the threshold {rate[0]:.1%} → {rate[1]:.1%}")
        ax.legend(loc="upper right", frameon=True)
        return ax

    def intervals(self, what: str = "positive", *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Wilson bounds of the two shares, `[2]` lower and `[2]` upper."""
        return wilson_interval(self._events(what), self.n, level=level)

    def _events(self, what: str) -> Tensor:
        if what not in _KINDS:
            reject("what", "`positive` or `near`", repr(what), "Name one of the two shares.")
        return self.positive if what == "positive" else self.near


_KINDS = ("positive", "near")


def _coarse_shares(shift: ConfidenceShift) -> NDArray[np.float64]:
    """`[2, bins]` shares of the rows in the bins of the plot."""
    grid = torch.linspace(0.0, 1.0, shift.bins + 1, dtype=torch.float64)
    bin_ids = torch.searchsorted(grid, shift.edges[:-1], right=True) - 1
    coarse = torch.zeros(2, shift.bins, dtype=torch.int64).index_add_(
        1, bin_ids.clamp(0, shift.bins - 1), shift.counts
    )
    shares: NDArray[np.float64] = (coarse / shift.n.clamp(min=1)[:, None]).numpy()
    return shares


def _effective_events(shift: ConfidenceShift, what: str) -> tuple[Tensor, Tensor]:
    """Events and trials at the effective sample size, `[2]` each."""
    return effective_counts(
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
    """Shift of a model's probabilities: distribution, positive rate and share near the threshold.

    Decisions of rows near the threshold flip with small errors of the inputs.

    Args:
        reference_probs: probabilities of the positive class or top confidences, `[n]`; of `[n, 2]`
            the second column, of `[n, k]` the largest of each row.
        live_probs: probabilities of the same form, `[m]` or `[m, k]`.
        threshold: decision threshold in (0, 1); rows at it count as positive.
        half_width: half width of the band around the threshold.
        bins: number of bins of the plot.

    Returns:
        Counts and sums of both samples, with distances, rates, intervals and p-values.

    Raises:
        InputError: NaN or values outside [0, 1], other shapes, another number of classes, a
            threshold outside (0, 1).

    Cost: `(n + m) log 1500`; holds one probability per row.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> reference, live = torch.rand(2, 1000, generator=generator)
        >>> shift = confidence_shift(reference, live.sqrt())
        >>> [round(rate, 1) for rate in shift.rates().tolist()]
        [0.5, 0.7]
    """
    _check_options(threshold, half_width, bins)
    before, quantity = _scores(reference_probs, "reference_probs")
    after, live_quantity = _scores(live_probs, "live_probs")
    if quantity != live_quantity or reference_probs.shape[1:] != live_probs.shape[1:]:
        expected = f"{list(reference_probs.shape[1:])} after the rows, like the reference"
        reject("live_probs", expected, str(list(live_probs.shape[1:])), "Use one model for both.")
    sides = [(side, torch.ones_like(side, dtype=torch.int64)) for side in (before, after)]
    return shift_of_counts(sides, quantity, threshold=threshold, half_width=half_width, bins=bins)


def shift_of_counts(
    sides: Sequence[tuple[Tensor, Tensor]],
    quantity: str = POSITIVE,
    *,
    threshold: float,
    half_width: float = HALF_WIDTH,
    bins: int = 50,
) -> ConfidenceShift:
    """The same of probabilities that were counted.

    Args:
        sides: probabilities `[n]` float64 and numbers of rows `[n]` int64 of both samples.
        quantity: name of the probabilities.
        threshold: decision threshold in (0, 1).
        half_width: half width of the band around it.
        bins: number of bins of the plot.
    """
    edges = confidence_edges(bins)
    sums = []
    for values, rows in sides:
        positive, near = _events_of(values, threshold, half_width)
        moments = [(values**power * rows).sum() for power in (1, 2)]
        events = [rows[positive].sum(), rows[near].sum()]
        sums.append([_histogram(values, rows, edges), *moments, *events])
    counts, totals, all_squares, positives, nears = (
        torch.stack(pair).cpu() for pair in zip(*sums, strict=True)
    )
    return ConfidenceShift(
        edges=edges,
        counts=counts,
        total=totals,
        squares=all_squares,
        positive=positives,
        near=nears,
        threshold=threshold,
        half_width=half_width,
        quantity=quantity,
        bins=bins,
    )


def _check_options(threshold: float, half_width: float, bins: int) -> None:
    if not 0.0 < threshold < 1.0:
        reject(
            "threshold", "a number in (0, 1)", str(threshold), "Pass a probability, not a logit."
        )
    if not 0.0 < half_width <= 0.5:
        reject("half_width", "a number in (0, 0.5]", str(half_width), "The default is 0.05.")
    if bins < 1:
        reject("bins", "at least 1", str(bins), "Use 20 to 100.")


def confidence_series(
    probs: Tensor, *, threshold: float = 0.5, half_width: float = HALF_WIDTH
) -> Tensor:
    """Probability, whether positive, and whether near the threshold, of each row, `[n, 3]` float64.

    Args:
        probs: probabilities, `[n]` or `[n, k]`.
        threshold: decision threshold in (0, 1).
        half_width: half width of the band around it.
    """
    scores = _scores(probs, "probs")[0]
    return torch.stack(
        [scores, *(event.double() for event in _events_of(scores, threshold, half_width))], 1
    )


def checked_probs(probs: Tensor, argument: str) -> Tensor:
    """Probabilities `[n]` or `[n, k]`, float64, detached, and clamped by at most a rounding error.

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
    """Edges over [0, 1]: those of a plot, 1000 equal steps, and steps of 0.1 in log-odds.

    Args:
        bins: number of bins of the plot.
    """
    odds = torch.linspace(-20.0, 20.0, 401, dtype=torch.float64).sigmoid().numpy()
    grids = [odds, np.linspace(0.0, 1.0, 1001), np.linspace(0.0, 1.0, bins + 1)]
    return torch.from_numpy(np.unique(np.concatenate(grids)))


def _events_of(scores: Tensor, threshold: float, half_width: float) -> tuple[Tensor, Tensor]:
    """Whether rows are at or above the threshold, and near it, `[n]` bool each."""
    return scores >= threshold, (scores - threshold).abs() < half_width


def _scores(probs: Tensor, argument: str) -> tuple[Tensor, str]:
    """The compared probabilities, `[n]` float64, and their name."""
    values = checked_probs(probs, argument)
    if values.ndim == 2 and values.shape[1] > 2:
        return values.amax(1), TOP
    return (values if values.ndim == 1 else values[:, -1].contiguous()), POSITIVE


def _histogram(values: Tensor, rows: Tensor, edges: Tensor) -> Tensor:
    bins = len(edges) - 1
    bin_ids = torch.bucketize(values, edges.to(values.device)[1:-1], right=True)
    return torch.zeros(bins, dtype=torch.int64, device=rows.device).index_add_(0, bin_ids, rows)
