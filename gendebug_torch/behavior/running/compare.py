"""Two runs of a suite compared case by case, e.g. of the last model and of this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from scipy.special import bdtr

from gendebug_torch.behavior.running.results import BehaviorRun, CaseResult
from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Pair = tuple[CaseResult, CaseResult]
# A passing case that lost this share of its margin drifts towards failure.
_DRIFT_SHARE = 0.5
_MIN_DRIFT = 0.01
_COLORS = {
    "newly broken": LIVE,
    "newly fixed": GOOD,
    "still broken": NEUTRAL,
    "drifting": "#E69F00",
    "passing": REFERENCE,
}


@dataclass(frozen=True)
class RunComparison:
    """Two runs of a suite, joined by case.

    Args:
        before: run of the earlier model.
        after: run of the later model.
    """

    before: BehaviorRun
    after: BehaviorRun

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Results of the cases that both runs evaluated with equal inputs and expectations."""
        earlier = {result.id: result for result in self.before.results}
        joined = ((earlier.get(result.id), result) for result in self.after.evaluated)
        return tuple(
            (old, new)
            for old, new in joined
            if old is not None and old.fingerprint == new.fingerprint and old.status != "draft"
        )

    @property
    def newly_broken(self) -> tuple[CaseResult, ...]:
        """Cases that passed before and fail now."""
        return self._which(lambda old, new: old.status == "passed" and new.status != "passed")

    @property
    def newly_fixed(self) -> tuple[CaseResult, ...]:
        """Cases that failed before and pass now."""
        return self._which(lambda old, new: old.status != "passed" and new.status == "passed")

    @property
    def still_broken(self) -> tuple[CaseResult, ...]:
        """Cases that fail in both."""
        return self._which(lambda old, new: old.status != "passed" and new.status != "passed")

    @property
    def drifting(self) -> tuple[CaseResult, ...]:
        """Cases that pass in both and lost half of their margin or more."""
        return self._which(_drifting)

    @property
    def incomparable(self) -> tuple[str, ...]:
        """Ids that only one run has, or whose input or expectation differs."""
        joined = {new.id for _, new in self.pairs}
        ids = dict.fromkeys(result.id for result in (*self.after.results, *self.before.results))
        return tuple(name for name in ids if name not in joined)

    @property
    def p_value(self) -> float:
        """Two-sided exact p-value of the hypothesis that breaking and fixing are equally likely.

        Source: McNemar (1947), Psychometrika 12:153.
        """
        broken, fixed = len(self.newly_broken), len(self.newly_fixed)
        return min(1.0, 2 * float(bdtr(min(broken, fixed), broken + fixed, 0.5)))

    def table(self) -> pd.DataFrame:
        """One row per case: verdict, scores, drift and margins; newly broken ones first."""
        import pandas as pd

        rows = [
            [new.id, new.capability, _word(old, new), old.score, new.score, old.margin, new.margin]
            for old, new in self.pairs
        ]
        numeric = ["score_before", "score_after", "margin_before", "margin_after"]
        frame = pd.DataFrame(rows, columns=["id", "capability", "verdict", *numeric])
        frame[numeric] = frame[numeric].astype("float64")
        frame.insert(5, "drift", frame["score_after"] - frame["score_before"])
        ranks = {word: rank for rank, word in enumerate(_COLORS)}
        frame = frame.assign(order=frame["verdict"].map(ranks), size=-frame["drift"].abs())
        frame = frame.sort_values(["order", "size"], kind="stable", ignore_index=True)
        return frame.drop(columns=["order", "size"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Margins before and after: newly broken cases are below right, newly fixed above left."""
        ax = axes(ax, size=(5.6, 5.0))
        margins = ["margin_before", "margin_after"]
        table = self.table().dropna(subset=margins)
        limit = 1.1 * max(table[margins].abs().max().max() if len(table) else 1.0, 0.1)
        ax.plot([-limit, limit], [-limit, limit], color=NEUTRAL, linewidth=0.8, linestyle="--")
        ax.axhline(0, color=NEUTRAL, linewidth=0.8)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        for word, color in _COLORS.items():
            group = table[table["verdict"] == word]
            if len(group):
                before, after = (group[column] for column in margins)
                label = f"{word} ({len(group):,})"
                ax.scatter(before, after, color=color, s=26, alpha=0.8, label=label, zorder=3)
        ax.set_xlim(-limit, limit)
        ax.set_ylim(-limit, limit)
        ax.set_xlabel(f"margin on {self.before.model or 'the last model'}; fails below 0")
        ax.set_ylabel(f"margin on {self.after.model or 'this model'}; fails below 0")
        counts = f"{len(self.newly_broken)} newly broken, {len(self.newly_fixed)} newly fixed"
        ax.set_title(f"{counts} of {len(self.pairs)}")
        if len(table):
            ax.legend(frameon=False, fontsize=8)
        return ax

    def _which(self, condition: Callable[[CaseResult, CaseResult], bool]) -> tuple[CaseResult, ...]:
        return tuple(new for old, new in self.pairs if condition(old, new))


def compare_runs(before: BehaviorRun, after: BehaviorRun) -> RunComparison:
    """Two runs compared case by case: newly broken, newly fixed, drift of the scores.

    Args:
        before: run of the earlier model, e.g. `BehaviorRun.load("last.json")`.
        after: run of the later model.

    Raises:
        InputError: not two runs, or no case in common.

    Example:
        >>> from gendebug_torch.behavior import Case, Suite, run_suite
        >>> suite = Suite((Case("large", {"amount": 900}, {"score": [0.5, 1.0]}),))
        >>> before = run_suite(suite, lambda rows: [0.9 for row in rows])
        >>> after = run_suite(suite, lambda rows: [0.2 for row in rows])
        >>> [result.id for result in compare_runs(before, after).newly_broken]
        ['large']
    """
    runs: dict[str, Any] = {"before": before, "after": after}
    for name, value in runs.items():
        if not isinstance(value, BehaviorRun):
            remedy = "Pass run_suite(...) or BehaviorRun.load(path)."
            reject(name, "a BehaviorRun", type(value).__name__, remedy)
    comparison = RunComparison(before, after)
    if not comparison.pairs:
        got = f"{len(before.results)} cases, none in common"
        reject("before", "a run of the same cases", got, "Pass an earlier run of this suite.")
    return comparison


def _drifting(old: CaseResult, new: CaseResult) -> bool:
    if old.status != "passed" or new.status != "passed" or old.margin is None or new.margin is None:
        return False
    loss = old.margin - new.margin
    return loss >= _DRIFT_SHARE * old.margin and loss > _MIN_DRIFT


def _word(old: CaseResult, new: CaseResult) -> str:
    if old.status == "passed":
        passing = "drifting" if _drifting(old, new) else "passing"
        return passing if new.status == "passed" else "newly broken"
    return "newly fixed" if new.status == "passed" else "still broken"
