"""`Counterfactuals`: changed rows, what changed in them, and what most rows share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.attribution.counterfactuals.units import Units
from gendebug_torch.checks.evidence import REFERENCE, axes
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.modality.image import IMAGE
from gendebug_torch.modality.pictures.drawing import draw_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Images that are drawn.
_DRAWN = 8


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Alternatives of rows that the network answers as wanted.

    Args:
        units: what may change, and training rows.
        rows: rows of the question, flat, `[r, d]`.
        candidates: changed rows, flat, `[r, m, d]`.
        there: whether each is answered as wanted, `[r, m]`.
        alternatives: most alternatives per row.
        price: most evaluations of the network per row, stated before the search.
        evaluations: evaluations of changed rows in all.
    """

    units: Units
    rows: Tensor
    candidates: Tensor
    there: Tensor
    alternatives: int
    price: int
    evaluations: int

    @property
    def found(self) -> Tensor:
        """`[r]` bool, rows with an alternative within reach."""
        return self.there.any(1)

    @cached_property
    def inputs(self) -> Tensor:
        """First alternative of each row that has one, `[f, ...]`, as the network takes it."""
        first = [(row, picked[0]) for row, picked in enumerate(self.chosen) if picked]
        flat = [self.candidates[row, m] for row, m in first]
        return torch.stack(flat or [self.rows[0]])[: len(flat)].reshape(-1, *self.units.shape)

    @cached_property
    def chosen(self) -> tuple[tuple[int, ...], ...]:
        """Candidates of each row: fewest changes, then the smallest; each changes other units."""
        start = self.rows[:, None]
        changed = self.units.by_unit((self.candidates != start).float()) > 0
        size = self.units.distance(self.candidates, start).sum(2)
        picked = []
        for row in range(len(self.rows)):
            options = self.there[row].nonzero()[:, 0].tolist()
            options.sort(key=lambda m: (int(changed[row, m].sum()), float(size[row, m])))
            best: dict[tuple[bool, ...], int] = {}
            for m in options:
                best.setdefault(tuple(changed[row, m].tolist()), m)
            picked.append(tuple(best.values())[: self.alternatives])
        return tuple(picked)

    def table(self) -> pd.DataFrame:
        """One line per change: `row, alternative, feature, before, after`.

        `feature` is the column, region or word; values of a region are their mean.
        """
        import pandas as pd

        lines = [
            [row, number, name, before, after]
            for row, picked in enumerate(self.chosen)
            for number, m in enumerate(picked)
            for name, before, after in self._changes(row, m)
        ]
        return pd.DataFrame(lines, columns=["row", "alternative", "feature", "before", "after"])

    def _changes(self, row: int, candidate: int) -> Iterator[tuple[str, float, float]]:
        """Name, value before and value after of each unit that changes."""
        before, after = self.rows[row], self.candidates[row, candidate]
        changed = self.units.by_unit((before != after).float()) > 0
        sides = [self.units.by_unit(side.double()) for side in (before, after)]
        for unit in changed.nonzero()[:, 0].tolist():
            yield self.units.names[unit], sides[0][unit].item(), sides[1][unit].item()

    def summary(self) -> pd.DataFrame:
        """One line per alternative: `row, alternative, changed, distance, to_training`.

        `distance` is the sum of the scaled changes, `to_training` that to the nearest training row.
        """
        import pandas as pd

        lines = []
        for row, picked in enumerate(self.chosen):
            for number, m in enumerate(picked):
                after = self.candidates[row, m]
                gap = self.units.distance(after, self.rows[row])
                nearest = self.units.distance(self.units.rows, after).sum(1).min()
                lines.append([row, number, int((gap > 0).sum()), float(gap.sum()), float(nearest)])
        names = ["row", "alternative", "changed", "distance", "to_training"]
        return pd.DataFrame(lines, columns=names)

    @cached_property
    def shared(self) -> pd.DataFrame:
        """Changes that rows share: `feature, way, rows, share`, the most frequent first.

        `share` is that of the rows with an alternative whose first one changes the feature so.
        """
        import pandas as pd

        first = [(row, picked[0]) for row, picked in enumerate(self.chosen) if picked]
        codes = {
            name
            for name, code in zip(
                self.units.names, self.units.by_unit(self.units.codes.float()), strict=True
            )
            if code > 0
        }
        counts: dict[tuple[str, str], int] = {}
        for row, m in first:
            for name, before, after in self._changes(row, m):
                way = "other" if name in codes else "higher" if after > before else "lower"
                counts[name, way] = counts.get((name, way), 0) + 1
        lines = [
            [feature, way, count, count / len(first)] for (feature, way), count in counts.items()
        ]
        table = pd.DataFrame(lines, columns=["feature", "way", "rows", "share"])
        result: pd.DataFrame = table.sort_values("rows", ascending=False, kind="stable")
        return result.reset_index(drop=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The changes that rows share, as bars; images above their first alternatives."""
        none = int((~self.found).sum())
        title = f"Smallest changes of {len(self.rows):,} rows; none within reach of {none:,}"
        rows = self.rows[self.found].reshape(-1, *self.units.shape)[:_DRAWN]
        pictured = len(rows) > 0 and modality_of(rows) is IMAGE
        ax = axes(ax, size=(7.5, 2.4) if pictured else (6.0, 4.0))
        ax.set_title(title)
        if pictured:
            return draw_rows(ax, {"rows": rows, "alternatives": self.inputs[:_DRAWN]})
        table = self.shared.head(15).iloc[::-1]
        names = (table["feature"] + ": " + table["way"]).tolist()
        ax.barh(range(len(table)), table["share"].to_numpy(dtype=float), color=REFERENCE)
        ax.set_yticks(range(len(table)), names)
        ax.set_xlabel("share of the rows with an alternative")
        return ax
