"""`Counterfactuals`: changed rows, what changed in them, and what most rows share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from gendebug_torch.attribution.counterfactuals.columns import Columns
from gendebug_torch.checks.evidence import REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Alternatives of rows that the network answers as wanted.

    Args:
        columns: columns and training rows.
        rows: rows of the question, `[r, d]`.
        candidates: changed rows, `[r, m, d]`.
        there: whether each is answered as wanted, `[r, m]`.
        alternatives: most alternatives per row.
        price: most evaluations of the network per row, stated before the search.
        evaluations: evaluations of changed rows in all.
    """

    columns: Columns
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
    def chosen(self) -> tuple[tuple[int, ...], ...]:
        """Candidates of each row: fewest changes, then the smallest; each changes other columns."""
        start = self.rows[:, None]
        changed = self.candidates != start
        size = self.columns.distance(self.candidates, start).sum(2)
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
        """One line per change: `row, alternative, feature, before, after`."""
        import pandas as pd

        lines = [
            [row, number, self.columns.names[d], before[d].item(), after[d].item()]
            for row, picked in enumerate(self.chosen)
            for number, m in enumerate(picked)
            for before, after in [(self.rows[row], self.candidates[row, m])]
            for d in (before != after).nonzero()[:, 0].tolist()
        ]
        return pd.DataFrame(lines, columns=["row", "alternative", "feature", "before", "after"])

    def summary(self) -> pd.DataFrame:
        """One line per alternative: `row, alternative, changed, distance, to_training`.

        `distance` is the sum of the scaled changes, `to_training` that to the nearest training row.
        """
        import pandas as pd

        lines = []
        for row, picked in enumerate(self.chosen):
            for number, m in enumerate(picked):
                after = self.candidates[row, m]
                gap = self.columns.distance(after, self.rows[row])
                nearest = self.columns.distance(self.columns.rows, after).sum(1).min()
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
        counts: dict[tuple[str, str], int] = {}
        for row, m in first:
            before, after = self.rows[row], self.candidates[row, m]
            for d in (before != after).nonzero()[:, 0].tolist():
                code = bool(self.columns.codes[d])
                way = "other" if code else "higher" if after[d] > before[d] else "lower"
                key = self.columns.names[d], way
                counts[key] = counts.get(key, 0) + 1
        lines = [
            [feature, way, count, count / len(first)] for (feature, way), count in counts.items()
        ]
        table = pd.DataFrame(lines, columns=["feature", "way", "rows", "share"])
        result: pd.DataFrame = table.sort_values("rows", ascending=False, kind="stable")
        return result.reset_index(drop=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The changes that rows share, as bars."""
        ax, table = axes(ax), self.shared.head(15).iloc[::-1]
        names = (table["feature"] + ": " + table["way"]).tolist()
        ax.barh(range(len(table)), table["share"].to_numpy(dtype=float), color=REFERENCE)
        ax.set_yticks(range(len(table)), names)
        ax.set_xlabel("share of the rows with an alternative")
        none = int((~self.found).sum())
        ax.set_title(f"Smallest changes of {len(self.rows):,} rows; none within reach of {none:,}")
        return ax
