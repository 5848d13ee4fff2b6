"""`ConfusionChange`: which classes are called what, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_CELLS, _MAX_BARS = 100, 12


@dataclass(frozen=True, eq=False)
class ConfusionChange:
    """Rows of each true and predicted class on two sides, of the cells that occur.

    Args:
        cells: true and predicted class of each cell, `[c, 2]` int64.
        counts: rows of each cell before and after, `[c, 2]` int64.
        totals: rows of each true class before and after, `[k, 2]` int64.
        classes: names of the classes, k.
        subject: true class that is drawn; None for the cells that gained most.
    """

    cells: Tensor
    counts: Tensor
    totals: Tensor
    classes: tuple[str, ...]
    subject: int | None = None

    @property
    def shares(self) -> Tensor:
        """`[c, 2]` share of the true class that a cell holds, before and after."""
        return self.counts.double() / self.totals[self.cells[:, 0]].clamp(min=1)

    def confused(self, class_id: int, axis: int = 0) -> tuple[int, float]:
        """Class that a class is confused with most often after, and the share of its rows.

        Args:
            class_id: the class.
            axis: 0 for what the true class is called, 1 for what the predicted class truly is.
        """
        own, other = self.cells[:, axis], self.cells[:, 1 - axis]
        rows = torch.where(own == class_id, self.counts[:, 1], torch.zeros_like(own))
        wrong = torch.where(other == class_id, torch.zeros_like(rows), rows)
        best = int(wrong.argmax())
        return int(other[best]), float(wrong[best]) / max(int(rows.sum()), 1)

    def table(self) -> pd.DataFrame:
        """One row per cell, those of the subject first, then by how much the share rose."""
        shares = self.shares
        frame = pd.DataFrame(
            {
                "true class": [self.classes[i] for i in self.cells[:, 0].tolist()],
                "predicted class": [self.classes[i] for i in self.cells[:, 1].tolist()],
                "rows_before": self.counts[:, 0].numpy(),
                "rows_after": self.counts[:, 1].numpy(),
                "share_before": shares[:, 0].numpy(),
                "share_after": shares[:, 1].numpy(),
            }
        )
        change = shares[:, 1] - shares[:, 0]
        first = change if self.subject is None else change + 2 * (self.cells[:, 0] == self.subject)
        order = first.argsort(descending=True, stable=True)[:_MAX_CELLS]
        return frame.iloc[order.numpy()].reset_index(drop=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of the subject's rows in each predicted class, before and after."""
        rows = self.table().head(_MAX_BARS).iloc[::-1]
        if self.subject is not None:
            rows = rows[rows["true class"] == self.classes[self.subject]]
        ax = axes(ax, size=(6.4, 1.6 + 0.4 * max(1, len(rows))))
        position = range(len(rows))
        for side, color, offset in (("before", REFERENCE, 0.2), ("after", LIVE, -0.2)):
            places = [at + offset for at in position]
            ax.barh(places, rows[f"share_{side}"], 0.38, color=color, label=side)
        true, predicted = rows["true class"], rows["predicted class"]
        ax.set_yticks(position, [f"{a} called {b}" for a, b in zip(true, predicted, strict=True)])
        ax.set(xlabel="share of the true class", title="What became what")
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small")
        return ax


def confusion_change(
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    classes: Sequence[str],
    subject: int | None = None,
) -> ConfusionChange:
    """The cells of two confusion matrices.

    Args:
        before: predicted class ids and targets, `[n]` int64 each.
        after: the same later, `[m]` int64 each.
        classes: names of the classes, k.
        subject: true class that is drawn.
    """
    k = len(classes)
    keys = [true.cpu() * k + predicted.cpu() for predicted, true in (before, after)]
    cells = torch.unique(torch.cat(keys))
    counts = torch.zeros(len(cells), 2, dtype=torch.int64)
    totals = torch.zeros(k, 2, dtype=torch.int64)
    for side, own in enumerate(keys):
        counts[:, side] = torch.bincount(torch.searchsorted(cells, own), minlength=len(cells))
        totals[:, side] = torch.bincount(own // max(k, 1), minlength=k)
    pairs = torch.stack([cells // max(k, 1), cells % max(k, 1)], 1)
    return ConfusionChange(pairs, counts, totals, tuple(classes), subject)


def precision_sums(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """Rows, errors and errors of each predicted class, before and after, `[k, 3]` float64 each.

    The rows before are weighted to the shares of the true classes after, since a class that became
    rare is predicted wrongly more often by the same model; they count as their effective number.

    Args:
        before: predicted class ids and targets, `[n]` int64 each.
        after: the same later, `[m]` int64 each.
        k: number of classes.
    """
    priors = [
        torch.bincount(true, minlength=k).double() / max(len(true), 1)
        for _, true in (before, after)
    ]
    ratio = torch.where(priors[0] > 0, priors[1] / priors[0].clamp(min=1e-300), priors[0])
    sides = []
    for (predicted, true), weight in ((before, ratio[before[1]]), (after, None)):
        weight = torch.ones(len(true), dtype=torch.float64) if weight is None else weight
        wrong = weight * (predicted != true)
        sums = [
            torch.bincount(predicted, part, minlength=k)
            for part in (weight, wrong, weight.square())
        ]
        effective = sums[0].square() / sums[2].clamp(min=1e-300)
        errors = effective * sums[1] / sums[0].clamp(min=1e-300)
        sides.append(torch.stack([effective, errors, errors], 1))
    return sides[0], sides[1]
