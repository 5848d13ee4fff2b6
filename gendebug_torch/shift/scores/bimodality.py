"""Does a predicted class hold two populations? The modes of the confidence within each of the top
predicted classes.
"""

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

# Bins of the picture, and of the search for the valley.
COARSE = 40
_REPLICATES = 60


@dataclass(frozen=True, eq=False)
class ConfidenceModes:
    """Histograms of the confidence of the rows predicted as each of c classes. Adds over rows.

    Args:
        edges: `[b + 1]` float64 from 0 to 1, finer where confidence saturates.
        counts: `[c, b]` int64.
        classes: names of the c predicted classes.
        rows: rows of all classes together.
    """

    edges: Tensor
    counts: Tensor
    classes: tuple[str, ...]
    rows: int

    def __add__(self, other: ConfidenceModes) -> ConfidenceModes:
        if self.classes != other.classes:
            reject(
                "other",
                f"the classes {list(self.classes)}",
                str(list(other.classes)),
                "Pass the same `classes` for every piece.",
            )
        return replace(self, counts=self.counts + other.counts, rows=self.rows + other.rows)

    @property
    def n(self) -> Tensor:
        """`[c]` int64 rows predicted as each class."""
        return self.counts.sum(1)

    @cached_property
    def dip(self) -> Tensor:
        """`[c]` dip of the distribution within each class, see `shift.dip`; NaN without rows."""
        return torch.tensor(
            [_dip(self.edges, counts) for counts in self.counts.double()], dtype=torch.float64
        )

    @cached_property
    def p_value(self) -> Tensor:
        """`[c]` p-values for a single mode."""
        pairs = zip(self.dip.tolist(), self.n.tolist(), strict=True)
        return torch.tensor([dip_p_value(value, n) for value, n in pairs], dtype=torch.float64)

    @property
    def adjusted(self) -> Tensor:
        """`[c]` p-values adjusted for c questions (Holm, 1979)."""
        return holm_adjusted(self.p_value)

    @cached_property
    def standard_error(self) -> Tensor:
        """`[c]` standard errors of the dip, by the bootstrap of the counts with Poisson weights
        (Hanley and MacGibbon, 2006).
        """
        generator = torch.Generator().manual_seed(0)
        draws = torch.poisson(self.counts.double().expand(_REPLICATES, -1, -1), generator=generator)
        dips = [[_dip(self.edges, counts) for counts in draw] for draw in draws]
        return torch.tensor(dips, dtype=torch.float64).reshape(_REPLICATES, -1).std(0)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[c]` bounds of the dip, whatever the distribution: the dip moves by no more than the
        distribution function.

        Source: Massart (1990), Ann. Probab. 18:1269, for the band around the distribution function.
        Conservative.
        """
        half = math.sqrt(math.log(2.0 / (1.0 - level)) / 2.0) * self.n.clamp(min=1).double().rsqrt()
        return (self.dip - half).clamp(min=0.0), (self.dip + half).clamp(max=0.25)

    def valley(self, which: int) -> tuple[float, float, float, float]:
        """Lower mode, valley, upper mode and the share of rows below the valley, off a smoothed
        histogram; NaN for one mode.
        """
        shares = _smooth(_coarse(self.edges, self.counts[which]))
        best, places = 0.0, (-1, -1, -1)
        for middle in range(1, COARSE - 1):
            left, right = (
                int(shares[:middle].argmax()),
                middle + 1 + int(shares[middle + 1 :].argmax()),
            )
            depth = float(min(shares[left], shares[right]) - shares[middle])
            if depth > best:
                best, places = depth, (left, middle, right)
        if best <= 0.0:
            return math.nan, math.nan, math.nan, math.nan
        low, bottom, high = ((place + 0.5) / COARSE for place in places)
        below = int(self.counts[which][self.edges[1:] <= bottom].sum()) / max(int(self.n[which]), 1)
        return low, bottom, high, below

    def table(self) -> DataFrame:
        """One row per predicted class: rows, dip with its 95 % interval, p-values, modes and
        valley.
        """
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
        described = [self.valley(which) for which in range(len(self.classes))]
        for place, name in enumerate(("lower_mode", "valley", "upper_mode", "share_below_valley")):
            frame[name] = [entry[place] for entry in described]
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Confidence within each predicted class, with the valley between two modes where there is
        one.
        """
        ax = axes(ax)
        grid = np.linspace(0.0, 1.0, COARSE + 1)
        significant = (self.adjusted < 0.01).tolist()
        for which, name in enumerate(self.classes):
            counts, n = _coarse(self.edges, self.counts[which]), int(self.n[which])
            verdict = (
                f"dip {float(self.dip[which]):.3f}" + (", two modes" if significant[which] else "")
                if n
                else "no rows"
            )
            ax.stairs(
                counts / max(n, 1),
                grid,
                color=CYCLE[which % len(CYCLE)],
                linewidth=1.6,
                label=f"{name} (n = {n:,}, {verdict})",
            )
            valley = self.valley(which)[1]
            if significant[which] and math.isfinite(valley):
                ax.axvline(valley, color=CYCLE[which % len(CYCLE)], linestyle=":", linewidth=1.2)
        if not self.classes:
            ax.text(0.5, 0.5, "no rows", ha="center", color=NEUTRAL, transform=ax.transAxes)
        ax.set_xlim(
            0.0
            if not len(self.classes) or bool(self.counts[:, self.edges[1:] <= 0.5].any())
            else 0.5,
            1.0,
        )
        ax.set_ylim(0.0, 1.4 * (ax.get_ylim()[1] or 1.0))
        ax.set_xlabel("confidence of the predicted class")
        ax.set_ylabel("share of the rows predicted so, per bin")
        ax.set_title("Modes of the confidence within predicted classes")
        if self.classes:
            ax.legend(loc="upper left", frameon=True)
        return ax


def confidence_modes(
    probs: Tensor,
    *,
    classes: Sequence[int] | None = None,
    top: int = 3,
    names: Sequence[object] = (),
) -> ConfidenceModes:
    """The confidence of the rows predicted as each of the `top` most often predicted classes, as
    histograms.

    Two modes in one predicted class say that the model meets two populations there, one of which it
    is less sure of.

    Args:
        probs: `[n]` positive-class probabilities, or `[n, k]`.
        classes: class ids to look at, in place of the most often predicted ones.
        top: how many of those.
        names: `k` names of the classes; default their ids.

    Raises:
        InputError: no float tensor `[n]` or `[n, k]`, values outside [0, 1], `top` under 1.

    Cost: `n log 1500`; constant memory beside the input.
    """
    values = checked_probs(probs, "probs")
    if top < 1:
        reject("top", "at least 1", str(top), "The default is 3.")
    both = torch.stack([1 - values, values], 1) if values.ndim == 1 else values
    confidence, predicted = both.max(1)
    found = torch.bincount(predicted, minlength=both.shape[1]).cpu()
    chosen = (
        [int(c) for c in found.argsort(descending=True, stable=True)[:top] if found[c]]
        if classes is None
        else list(classes)
    )
    edges = confidence_edges(COARSE)
    place = torch.bucketize(confidence, edges.to(values.device)[1:-1], right=True)
    counts = [torch.bincount(place[predicted == c], minlength=len(edges) - 1).cpu() for c in chosen]
    stacked = torch.stack(counts) if counts else torch.zeros(0, len(edges) - 1, dtype=torch.int64)
    return ConfidenceModes(
        edges, stacked, tuple(str(names[c]) if names else f"class {c}" for c in chosen), len(values)
    )


def _dip(edges: Tensor, counts: Tensor) -> float:
    total = float(counts.sum())
    if not total:
        return math.nan
    return dip(edges.numpy(), np.concatenate([[0.0], counts.cumsum(0).numpy() / total]))


def _coarse(edges: Tensor, counts: Tensor) -> Points:
    place = (edges[:-1] * COARSE + 1e-9).long().clamp(max=COARSE - 1)
    coarse: Points = (
        torch.zeros(COARSE, dtype=torch.float64).index_add_(0, place, counts.double()).numpy()
    )
    return coarse


def _smooth(shares: Points) -> Points:
    """Running mean of three with mirrored ends."""
    padded = np.concatenate([shares[:1], shares, shares[-1:]])
    smoothed: Points = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    return smoothed
