"""Bimodality of the confidence within each of the most frequent predicted classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import CYCLE, NEUTRAL, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.scores.confidence import checked_probs, confidence_edges
from gendebug_torch.shift.scores.dip import Points, dip, dip_p_value
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Bins of the plot, and of the search for the valley between two modes.
_BINS = 40
# Replicates of the bootstrap.
_REPLICATES = 60


@dataclass(frozen=True, eq=False)
class ConfidenceBimodality:
    """Histograms of the confidence of the rows predicted as each of c classes; adds over rows.

    Args:
        edges: edges of the bins, `[b + 1]` float64 from 0 to 1, finer where confidence saturates.
        counts: counts of the predicted classes, `[c, b]` int64.
        classes: names of the predicted classes, c of them.
        rows: number of rows of all classes together.
    """

    edges: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    rows: int

    def __add__(self, other: ConfidenceBimodality) -> ConfidenceBimodality:
        if self.classes != other.classes:
            reject(
                "other",
                f"the classes {list(self.classes)}",
                str(list(other.classes)),
                "Pass the same `classes` for every part.",
            )
        return replace(self, counts=self.counts + other.counts, rows=self.rows + other.rows)

    @property
    def n(self) -> Tensor:
        """Numbers of rows predicted as each class, `[c]` int64."""
        return self.counts.sum(1)

    @cached_property
    def dip(self) -> Tensor:
        """Dip of the confidence within each class, `[c]` float64; NaN without rows."""
        return torch.tensor(
            [_dip(self.edges, counts) for counts in self.counts.double()], dtype=torch.float64
        )

    @cached_property
    def p_value(self) -> Tensor:
        """P-values of a single mode, `[c]` float64."""
        pairs = zip(self.dip.tolist(), self.n.tolist(), strict=True)
        return torch.tensor([dip_p_value(value, n) for value, n in pairs], dtype=torch.float64)

    @property
    def adjusted(self) -> Tensor:
        """P-values adjusted for c tests (Holm, 1979), `[c]` float64."""
        return holm_adjusted(self.p_value)

    @cached_property
    def standard_error(self) -> Tensor:
        """Standard errors of the dip, `[c]` (Poisson bootstrap: Hanley and MacGibbon, 2006)."""
        generator = torch.Generator().manual_seed(0)
        draws = torch.poisson(self.counts.double().expand(_REPLICATES, -1, -1), generator=generator)
        dips = [[_dip(self.edges, counts) for counts in draw] for draw in draws]
        return torch.tensor(dips, dtype=torch.float64).reshape(_REPLICATES, -1).std(0)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds of the dip, `[c]` each: it changes by no more than the distribution function.

        Source: Massart (1990), Ann. Probab. 18:1269, for the band around the distribution function.
        Conservative.
        """
        half = math.sqrt(math.log(2.0 / (1.0 - level)) / 2.0) * self.n.clamp(min=1).double().rsqrt()
        return (self.dip - half).clamp(min=0.0), (self.dip + half).clamp(max=0.25)

    def valley(self, which: int) -> tuple[float, float, float, float]:
        """Lower mode, valley, upper mode and share of rows below the valley; NaN for one mode.

        Args:
            which: number of the predicted class.
        """
        shares = _smooth(_coarse(self.edges, self.counts[which]))
        best, bins = 0.0, (-1, -1, -1)
        for middle in range(1, _BINS - 1):
            left, right = (
                int(shares[:middle].argmax()),
                middle + 1 + int(shares[middle + 1 :].argmax()),
            )
            depth = float(min(shares[left], shares[right]) - shares[middle])
            if depth > best:
                best, bins = depth, (left, middle, right)
        if best <= 0.0:
            return math.nan, math.nan, math.nan, math.nan
        low, bottom, high = ((number + 0.5) / _BINS for number in bins)
        below = int(self.counts[which][self.edges[1:] <= bottom].sum()) / max(int(self.n[which]), 1)
        return low, bottom, high, below

    def table(self) -> DataFrame:
        """One row per predicted class: dip with its 95 % interval, p-values, modes and valley."""
        import pandas as pd

        low, high = self.interval()
        columns = {
            "n": self.n,
            "dip": self.dip,
            "low": low,
            "high": high,
            "p_value": self.p_value,
            "p_holm": self.adjusted,
        }
        frame = pd.DataFrame(
            {
                "predicted": list(self.classes),
                **{key: value.numpy() for key, value in columns.items()},
            }
        )
        valleys = [self.valley(which) for which in range(len(self.classes))]
        names = ["lower_mode", "valley", "upper_mode", "share_below_valley"]
        return frame.join(pd.DataFrame(valleys, columns=names, dtype=float))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histograms of the confidence per predicted class, with the valley between two modes."""
        ax = axes(ax)
        for which in range(len(self.classes)):
            self._draw_class(ax, which)
        if not self.classes:
            ax.text(0.5, 0.5, "no rows", ha="center", color=NEUTRAL, transform=ax.transAxes)
        below_half = not self.classes or bool(self.counts[:, self.edges[1:] <= 0.5].any())
        ax.set_xlim(0.0 if below_half else 0.5, 1.0)
        ax.set_ylim(0.0, 1.4 * (ax.get_ylim()[1] or 1.0))
        ax.set_xlabel("confidence of the predicted class")
        ax.set_ylabel("share of the class, per bin")
        ax.set_title("Confidence within predicted classes")
        if self.classes:
            ax.legend(loc="upper left", frameon=True)
        return ax

    def _draw_class(self, ax: Axes, which: int) -> None:
        counts, n = _coarse(self.edges, self.counts[which]), int(self.n[which])
        significant = bool(self.adjusted[which] < 0.01)
        modes = ", two modes" if significant else ""
        dip_text = f"dip {float(self.dip[which]):.3f}{modes}" if n else "no rows"
        colour = CYCLE[which % len(CYCLE)]
        ax.stairs(
            counts / max(n, 1),
            np.linspace(0.0, 1.0, _BINS + 1),
            color=colour,
            linewidth=1.6,
            label=f"{self.classes[which]} (n = {n:,}, {dip_text})",
        )
        valley = self.valley(which)[1]
        if significant and math.isfinite(valley):
            ax.axvline(valley, color=colour, linestyle=":", linewidth=1.2)


def confidence_bimodality(
    probs: Tensor,
    *,
    classes: Sequence[int] | None = None,
    top: int = 3,
    names: Sequence[object] = (),
) -> ConfidenceBimodality:
    """Bimodality of the confidence within each of the most frequent predicted classes.

    Two modes within one predicted class indicate two populations, one of which the model is less
    confident of.

    Args:
        probs: probabilities, `[n]` of the positive class, or `[n, k]`.
        classes: class ids to look at, in place of the most frequent ones.
        top: number of the most frequent predicted classes.
        names: names of the classes, `k` of them; default their ids.

    Returns:
        The histograms, with dip, p-value and modes as properties.

    Raises:
        InputError: no float tensor `[n]` or `[n, k]`, values outside [0, 1], `top` under 1.

    Cost: `n log 1500`; constant memory beside the input.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> known, new = torch.rand(2, 500, generator=generator) * 0.1
        >>> result = confidence_bimodality(torch.cat([known + 0.9, new + 0.6]).clamp(max=1.0))
        >>> bool(result.p_value < 0.001), result.valley(0)[1]
        (True, 0.7375)
    """
    values = checked_probs(probs, "probs")
    if top < 1:
        reject("top", "at least 1", str(top), "The default is 3.")
    both = torch.stack([1 - values, values], 1) if values.ndim == 1 else values
    confidence, predicted = both.max(1)
    frequencies = torch.bincount(predicted, minlength=both.shape[1]).cpu()
    order = frequencies.argsort(descending=True, stable=True)[:top]
    chosen = [int(c) for c in order if frequencies[c]] if classes is None else list(classes)
    edges = confidence_edges(_BINS)
    bins = torch.bucketize(confidence, edges.to(values.device)[1:-1], right=True)
    counts = [torch.bincount(bins[predicted == c], minlength=len(edges) - 1).cpu() for c in chosen]
    stacked = torch.stack(counts) if counts else torch.zeros(0, len(edges) - 1, dtype=torch.int64)
    return ConfidenceBimodality(
        edges, stacked, tuple(str(names[c]) if names else f"class {c}" for c in chosen), len(values)
    )


def _dip(edges: Tensor, counts: Tensor) -> float:
    total = float(counts.sum())
    if not total:
        return math.nan
    return dip(edges.numpy(), np.concatenate([[0.0], counts.cumsum(0).numpy() / total]))


def _coarse(edges: Tensor, counts: Tensor) -> Points:
    bins = (edges[:-1] * _BINS + 1e-9).long().clamp(max=_BINS - 1)
    coarse: Points = (
        torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, counts.double()).numpy()
    )
    return coarse


def _smooth(shares: Points) -> Points:
    """Running mean of three with mirrored ends."""
    padded = np.concatenate([shares[:1], shares, shares[-1:]])
    smoothed: Points = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return smoothed
