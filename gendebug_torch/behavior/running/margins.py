"""How far each case of one capability is inside its expectation, or outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gendebug_torch.behavior.running.run import BehaviorRun, CaseResult
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 25
_WIDTH = 40


@dataclass(frozen=True)
class CaseMargins:
    """The reviewed cases of one capability, the worst first.

    Args:
        results: broken ones first, then by margin.
        capability: what they are about.
    """

    results: tuple[CaseResult, ...]
    capability: str

    def table(self) -> pd.DataFrame:
        """One row per case: what was expected, what came, the margin."""
        return BehaviorRun(self.results).cases().drop(columns=["capability", "reviewed"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Margin per case; left of 0 it fails, a cross marks a case on which the model broke."""
        shown = self.results[:_SHOWN][::-1]
        ax = axes(ax, size=(7.0, 1.4 + 0.3 * max(3, len(shown))))
        for place, result in enumerate(shown):
            margin = result.margin
            if margin is None:
                ax.plot(0.0, place, marker="x", color=LIVE, markersize=8)
            else:
                color = REFERENCE if margin >= 0 else LIVE
                ax.hlines(place, min(margin, 0.0), max(margin, 0.0), color=color, linewidth=2)
                ax.plot(margin, place, marker="o", color=color)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set_yticks(
            range(len(shown)),
            [
                name if len(name) <= _WIDTH else name[: _WIDTH - 1] + "…"
                for name in (r.id for r in shown)
            ],
        )
        ax.set_ylim(-0.7, max(len(shown), 1) - 0.3)
        ax.set_xlabel("margin: fails below 0")
        broken = sum(result.broken for result in self.results)
        more = f", the worst {_SHOWN} shown" if len(self.results) > _SHOWN else ""
        ax.set_title(f"{self.capability}: {broken:,} of {len(self.results):,} cases fail{more}")
        return ax


def case_margins(run: BehaviorRun, capability: str) -> CaseMargins:
    """The reviewed cases of one capability: those on which the model broke, then by margin."""
    own = (result for result in run.judged if result.capability == capability)
    return CaseMargins(
        tuple(sorted(own, key=lambda result: (result.margin is not None, result.margin or 0.0))),
        capability,
    )
