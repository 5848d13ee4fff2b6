"""`Explanation`: the one change of the columns that makes most failing cases pass."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from scipy.special import bdtrc

from gendebug_torch.checks.evidence import BarEvidence


@dataclass(frozen=True)
class Explanation:
    """A change of how columns are fed under which failing cases pass.

    Args:
        change: name of the change, e.g. `hour and amount swapped`.
        fixed: ids of failing cases that pass with it.
        broken: ids of passing cases that fail with it.
        failing: number of failing cases.
        cases: number of evaluated cases.
        tried: number of changes that were tried.
        chance: share of failing cases that a change fixes, on average over all that were tried.
    """

    change: str
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    failing: int
    cases: int
    tried: int
    chance: float

    @property
    def p_value(self) -> float:
        """Bonferroni-corrected p-value of so many net fixes at the average rate of all changes.

        A binomial tail times the number of changes; it assumes that the cases are independent of
        each other.
        """
        net = len(self.fixed) - len(self.broken)
        tail = float(bdtrc(net - 1, self.failing, self.chance)) if net > 0 else 1.0
        return min(1.0, self.tried * tail)

    def bars(self) -> BarEvidence:
        """Failing cases as the columns are fed now, and with the change."""
        import pandas as pd

        names = ["as fed now", textwrap.fill(f"with {self.change}", 26)]
        counts = [self.failing, self.failing - len(self.fixed) + len(self.broken)]
        frame = pd.DataFrame({"input": names, "failing": counts})
        title = f"{len(self.fixed)} of {self.failing} failures have one explanation"
        xlabel = f"failing cases of {self.cases}"
        return BarEvidence(frame, "input", "failing", title=title, xlabel=xlabel)
