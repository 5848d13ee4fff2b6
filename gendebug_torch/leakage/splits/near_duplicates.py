"""Validation rows that are nearly equal to a training row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.modality.pictures.drawing import draw_rows
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXTS, ROWS, IMAGES = "texts", "rows of numbers", "images"
# The neighbour with whose distance that of the nearest one is compared.
NEIGHBOUR = 6


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Validation rows that are nearly equal to a training row.

    Args:
        kind: `texts`, `images` or `rows of numbers`.
        threshold: Jaccard similarity from which texts are near duplicates, or ratio of the
            distances to the nearest and the sixth nearest training row up to which rows are; 1 of
            images.
        values: that similarity or ratio of each row that was compared, `[q]` float64; of images
            the logarithm of the inverse ratio, by what different ones may have.
        rows: validation rows that are near duplicates, `[p]` int64.
        partners: the training row of each, `[p]` int64.
        expected: share of near duplicates expected without any copy.
        dimension: intrinsic dimension of the rows of numbers; NaN for texts and images.
        different: values of training images among themselves; None of others.
        pictures: the first near duplicates among images, small and grey, `[p, 1, h, w]` each: those
            of validation, and below them those of training.
    """

    kind: str
    threshold: float
    values: Tensor
    rows: Tensor
    partners: Tensor
    expected: float = 0.0
    dimension: float = math.nan
    different: Tensor | None = None
    pictures: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of near duplicates among the rows that were compared."""
        return len(self.rows) / max(len(self.values), 1)

    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's lower and upper bound of `share`."""
        near, rows = torch.tensor(len(self.rows)), torch.tensor(len(self.values))
        low, high = wilson_interval(near, rows, level=level)
        return float(low), float(high)

    def table(self) -> pd.DataFrame:
        """One row per near duplicate: validation row, training row."""
        return pd.DataFrame({"validation": self.rows.numpy(), "train": self.partners.numpy()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Pairs of images, or the distribution of what is compared, with the threshold."""
        title = f"{len(self.rows):,} near duplicates ({self.share:.1%} of {self.kind})"
        if self.pictures:
            ax = draw_rows(axes(ax, size=(7.5, 2.6)), self.pictures)
            ax.set_title(title)
            ax.set_xlabel("the first pairs, small and grey, in one contrast")
            return ax
        ax = axes(ax)
        most = 2.0 if self.kind == IMAGES else 1.0
        grid, n = np.linspace(0.0, most, 41), len(self.values)
        label = f"validation rows (n = {n:,})"
        ax.stairs(_shares(self.values, grid), grid, color=LIVE, fill=True, alpha=0.4, label=label)
        if self.different is not None:
            expected = _shares(self.different, grid)
            ax.stairs(expected, grid, color=REFERENCE, linewidth=1.4, label="training among itself")
        if math.isfinite(self.dimension):
            expected = np.diff(expected_share(grid, self.dimension))
            ax.stairs(expected, grid, color=REFERENCE, linewidth=1.4, label="without copies")
        ax.axvline(self.threshold, color=NEUTRAL, linestyle="--", linewidth=1.0, label="threshold")
        ax.set_xlabel(
            "Jaccard similarity to the most similar training text"
            if self.kind == TEXTS
            else "nearness to one training image, by what different images reach"
            if self.kind == IMAGES
            else "distance to the nearest training row / to the sixth nearest"
        )
        ax.set_ylabel("share of rows per bin")
        ax.set_title(title)
        ax.legend(frameon=True)
        return ax


def _shares(
    values: Tensor, grid: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Share of the values in each bin; those outside count in the first and the last."""
    counts = np.histogram(np.clip(values.numpy(), grid[0], grid[-1]), grid)[0]
    return counts / max(len(values), 1)


def expected_share(
    ratio: np.ndarray[tuple[int], np.dtype[np.float64]], dimension: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`P(r_1 / r_6 <= ratio) = 1 - (1 - ratio^D)^5` for rows of a smooth density in D dimensions.

    Source: Facco, d'Errico, Rodriguez and Laio (2017), Sci. Rep. 7:12140.

    Args:
        ratio: ratios of distances in [0, 1].
        dimension: intrinsic dimension D.
    """
    return 1 - (1 - ratio**dimension) ** (NEIGHBOUR - 1)
