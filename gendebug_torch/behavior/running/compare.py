"""This model against the last one, case by case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scipy.special import bdtr

from gendebug_torch.behavior.running.run import BehaviorRun, CaseResult
from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Pair = tuple[CaseResult, CaseResult]
# A passing case that lost this share of its margin is on its way out.
DRIFTING = 0.5
_COLORS = {
    "newly broken": LIVE,
    "newly fixed": GOOD,
    "still broken": NEUTRAL,
    "drifting": "#E69F00",
    "holds": REFERENCE,
}


@dataclass(frozen=True)
class RunComparison:
    """Two runs of a suite, joined by case.

    Args:
        before: the run to compare with.
        after: the run in question.
    """

    before: BehaviorRun
    after: BehaviorRun

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Cases that both runs have, asked in the same words, reviewed and judged."""
        earlier = {result.id: result for result in self.before.results}
        both = (
            (earlier[result.id], result) for result in self.after.judged if result.id in earlier
        )
        return tuple(
            pair
            for pair in both
            if pair[0].fingerprint == pair[1].fingerprint and pair[0].status != "draft"
        )

    @property
    def newly_broken(self) -> tuple[CaseResult, ...]:
        """Cases that held before and fail now."""
        return self._which(lambda old, new: old.status == "passed" and new.status != "passed")

    @property
    def newly_fixed(self) -> tuple[CaseResult, ...]:
        """Cases that failed before and hold now."""
        return self._which(lambda old, new: old.status != "passed" and new.status == "passed")

    @property
    def still_broken(self) -> tuple[CaseResult, ...]:
        """Cases that fail in both."""
        return self._which(lambda old, new: old.status != "passed" and new.status != "passed")

    @property
    def drifting(self) -> tuple[CaseResult, ...]:
        """Cases that hold in both and lost half of their margin or more."""
        return self._which(_drifting)

    @property
    def incomparable(self) -> tuple[str, ...]:
        """Ids that only one run has, or that ask something else now."""
        joined = {new.id for _, new in self.pairs}
        ids = dict.fromkeys(result.id for result in (*self.after.results, *self.before.results))
        return tuple(name for name in ids if name not in joined)

    @property
    def p_value(self) -> float:
        """Two-sided exact p-value of McNemar (1947, Psychometrika 12:153): breaking and fixing
        equally likely.
        """
        broken, fixed = len(self.newly_broken), len(self.newly_fixed)
        return min(1.0, 2 * float(bdtr(min(broken, fixed), broken + fixed, 0.5)))

    def table(self) -> pd.DataFrame:
        """One row per case: what became of it, scores, drift and margins; newly broken ones
        first.
        """
        import pandas as pd

        rows = [
            [new.id, new.capability, _word(old, new), old.score, new.score, old.margin, new.margin]
            for old, new in self.pairs
        ]
        columns = [
            "id",
            "capability",
            "verdict",
            "score_before",
            "score_after",
            "margin_before",
            "margin_after",
        ]
        frame = pd.DataFrame(rows, columns=columns)
        numeric = columns[3:]
        frame[numeric] = frame[numeric].astype("float64")
        frame.insert(5, "drift", frame["score_after"] - frame["score_before"])
        order = frame["verdict"].map({word: place for place, word in enumerate(_COLORS)})
        frame = frame.assign(order=order, size=-frame["drift"].abs())
        return frame.sort_values(["order", "size"], kind="stable", ignore_index=True).drop(
            columns=["order", "size"]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Margins before and after: right below broke, left above was mended, what left the
        diagonal moved.
        """
        ax = axes(ax, size=(5.6, 5.0))
        table = self.table().dropna(subset=["margin_before", "margin_after"])
        reach = 1.1 * max(
            table[["margin_before", "margin_after"]].abs().max().max() if len(table) else 1.0, 0.1
        )
        ax.plot([-reach, reach], [-reach, reach], color=NEUTRAL, linewidth=0.8, linestyle="--")
        ax.axhline(0, color=NEUTRAL, linewidth=0.8)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        for word, color in _COLORS.items():
            chosen = table[table["verdict"] == word]
            if len(chosen):
                label = f"{word} ({len(chosen):,})"
                ax.scatter(
                    chosen["margin_before"],
                    chosen["margin_after"],
                    color=color,
                    s=26,
                    alpha=0.8,
                    label=label,
                    zorder=3,
                )
        ax.set_xlim(-reach, reach)
        ax.set_ylim(-reach, reach)
        ax.set_xlabel(f"margin on {self.before.model or 'the last model'}; fails below 0")
        ax.set_ylabel(f"margin on {self.after.model or 'this model'}; fails below 0")
        ax.set_title(
            f"{len(self.newly_broken)} newly broken, {len(self.newly_fixed)} newly fixed of "
            f"{len(self.pairs)}"
        )
        if len(table):
            ax.legend(frameon=False, fontsize=8)
        return ax

    def _which(self, wanted: Callable[[CaseResult, CaseResult], bool]) -> tuple[CaseResult, ...]:
        return tuple(new for old, new in self.pairs if wanted(old, new))


def compare_runs(before: BehaviorRun, after: BehaviorRun) -> RunComparison:
    """This run against an earlier one: newly broken, newly fixed, drift.

    Args:
        before: e.g. `BehaviorRun.load("last.json")`.
        after: the run in question.

    Raises:
        InputError: not two runs, or no case in common.
    """
    for name, value in (("before", before), ("after", after)):
        found: Any = value
        if not isinstance(found, BehaviorRun):
            reject(
                name,
                "a BehaviorRun",
                type(found).__name__,
                "Pass run_suite(...) or BehaviorRun.load(path).",
            )
    compared = RunComparison(before, after)
    if not compared.pairs:
        reject(
            "before",
            "a run of the same cases",
            f"{len(before.results)} cases, none in common",
            "Pass an earlier run of this suite.",
        )
    return compared


def _drifting(old: CaseResult, new: CaseResult) -> bool:
    if old.status != "passed" or new.status != "passed" or old.margin is None or new.margin is None:
        return False
    return old.margin - new.margin >= DRIFTING * old.margin and old.margin - new.margin > 0.01


def _word(old: CaseResult, new: CaseResult) -> str:
    held, holds = old.status == "passed", new.status == "passed"
    if held and holds:
        return "drifting" if _drifting(old, new) else "holds"
    return "newly broken" if held else "newly fixed" if holds else "still broken"
