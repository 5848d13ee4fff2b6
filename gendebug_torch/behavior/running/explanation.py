"""What explains the failures of a suite."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import bdtrc

from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Explanation:
    """A fault that explains failures: with it undone, cases pass that fail.

    Args:
        change: its name.
        healed: ids of failing cases that pass with it.
        spoiled: ids of passing cases that fail with it.
        failing: number of failing cases.
        cases: number of judged cases.
        tried: number of faults that were tried.
        chance: share of failing cases that a fault heals, on average over all that were tried.
    """

    change: str
    healed: tuple[str, ...]
    spoiled: tuple[str, ...]
    failing: int
    cases: int
    tried: int
    chance: float

    @property
    def p_value(self) -> float:
        """Chance that any fault tried heals so many cases more than it spoils, if each healed at
        the average rate.

        A binomial tail times the number of faults (Bonferroni); it takes the cases as independent
        of each other.
        """
        net = len(self.healed) - len(self.spoiled)
        return (
            min(1.0, self.tried * float(bdtrc(net - 1, self.failing, self.chance)))
            if net > 0
            else 1.0
        )

    def table(self) -> pd.DataFrame:
        """One row per case whose verdict the change turns."""
        import pandas as pd

        rows = [(name, "heals") for name in self.healed] + [
            (name, "spoils") for name in self.spoiled
        ]
        return pd.DataFrame(rows, columns=["id", self.change])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Failing cases as they are and with the change."""
        ax = axes(ax, size=(6.0, 2.4))
        after = self.failing - len(self.healed) + len(self.spoiled)
        ax.barh([1, 0], [self.failing, after], color=[LIVE, GOOD], height=0.6)
        ax.set_yticks([1, 0], ["as it is", textwrap.fill(f"with {self.change}", 26)])
        ax.locator_params(axis="x", integer=True)
        for place, count in ((1, self.failing), (0, after)):
            ax.annotate(f" {count}", (count, place), va="center", color=NEUTRAL)
        ax.set_xlim(0, max(self.cases, 1))
        ax.set_xlabel(f"failing cases of {self.cases}")
        ax.set_title(f"{len(self.healed)} of {self.failing} failures have one cause")
        return ax
