"""The trust card: how far the attributions of one run can be believed, as numbers with limits and a
verdict in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Correlation that makes twins of two features.
TWINS = 0.9
# Share of rows that do not add up from which not even the ranking stands.
_HOPELESS = 0.5


class Limit(NamedTuple):
    """What a measure must reach.

    Args:
        value: of the limit.
        more: whether more is better.
        words: what is measured.
        judges: `ranking` of all features, or `rows`, each by itself.
    """

    value: float
    more: bool
    words: str
    judges: str


LIMITS = {
    "incomplete": Limit(
        0.05, False, "rows that miss the change of their output by more than 5 %", "rows"
    ),
    "rerun": Limit(0.8, True, "overlap of the strongest features under another seed", "rows"),
    "rerun_ranking": Limit(
        0.9, True, "rank correlation of the global ranking under another seed", "ranking"
    ),
    "jitter": Limit(0.7, True, "overlap of the strongest features when inputs move by 2 %", "rows"),
    "jitter_ranking": Limit(
        0.9, True, "rank correlation of the global ranking when inputs move by 2 %", "ranking"
    ),
    "randomized": Limit(
        0.9,
        False,
        "rank correlation with the same network at random weights, beyond the inputs' own",
        "ranking",
    ),
    "baseline": Limit(
        0.5, True, "overlap of the strongest features against another baseline", "rows"
    ),
    "permutation": Limit(
        0.2, True, "rank correlation with permutation importance, upper end of 95 %", "ranking"
    ),
    "held_out": Limit(
        0.5, True, "R² of the surrogate on left-out samples, lower quartile of rows", "rows"
    ),
    "held_out_wrong": Limit(0.5, True, "the same on rows that the network gets wrong", "rows"),
}


class Measure(NamedTuple):
    """One number of a card.

    Args:
        value: that is judged.
        low: lower end of its 95 % interval over rows.
        high: upper end.
        rows: that it comes from.
    """

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class TrustCard:
    """Measures of trust by name, and what they allow.

    Args:
        measures: name in `LIMITS` -> measure; what does not apply to the method or the network is
            absent.
        missing: name -> why it was not measured, though it could be.
        reference: mean rank correlation of contributions with the distance of inputs from the
            baseline: what the inputs alone give, beside which `cascade` is to be read; None if
                there is no such distance.
        cascade: share of layers at random weights, from the output down -> rank correlation with
            the trained network.
        twins: groups of features so correlated that their contributions are to be read as one.
        below_noise: features that contribute less than the strongest one declared as noise; None if
            none is.
        below_probe: features whose permutation importance is no more than that of a random column
            with the same values; None where that was not asked.
        evaluations: of the model for this card, as a share of those of the run.
    """

    measures: Mapping[str, Measure]
    missing: Mapping[str, str] = field(default_factory=dict)
    reference: float | None = None
    cascade: Mapping[float, Measure] = field(default_factory=dict)
    twins: tuple[tuple[str, ...], ...] = ()
    below_noise: tuple[str, ...] | None = None
    below_probe: tuple[str, ...] | None = None
    evaluations: float = 0.0

    @property
    def failed(self) -> tuple[str, ...]:
        """Measures beyond their limits."""
        return tuple(
            name for name, one in self.measures.items() if _beyond(one.value, LIMITS[name])
        )

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Measures whose interval holds their limit, so that other rows might be judged
        otherwise.
        """
        return tuple(
            name for name, one in self.measures.items() if one.low < LIMITS[name].value < one.high
        )

    @property
    def judged(self) -> bool:
        """Whether anything was measured that a verdict can rest on: something that fails, or what
        the ranking is judged by.
        """
        return bool(self.failed) or any(LIMITS[name].judges == "ranking" for name in self.measures)

    @property
    def ranking_usable(self) -> bool:
        """Whether the global ranking of features can be believed."""
        hopeless = "incomplete" in self.measures and self.measures["incomplete"].value > _HOPELESS
        return (
            self.judged
            and not hopeless
            and not any(LIMITS[name].judges == "ranking" for name in self.failed)
        )

    @property
    def rows_usable(self) -> bool:
        """Whether the explanation of a single row can be believed."""
        return self.ranking_usable and not self.failed

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.judged:
            nothing = "nothing can be tried with this method, network and kind of inputs"
            return f"Not judged: {next(iter(self.missing.values()), nothing)}."
        if self.rows_usable:
            return f"Global ranking usable, single rows usable{self._doubts}."
        reasons = [
            f"{LIMITS[name].words}: {self.measures[name].value:.2f}, limit {LIMITS[name].value:g}"
            for name in self.failed
        ]
        usable = (
            "Global ranking usable, single rows not"
            if self.ranking_usable
            else "Neither the global ranking nor single rows usable"
        )
        return f"{usable} ({'; '.join(reasons)}){self._doubts}."

    @property
    def _doubts(self) -> str:
        """How much of the verdict more rows might change."""
        parts = [f"not certain of {', '.join(self.uncertain)}"] if self.uncertain else []
        parts += [f"not asked: {', '.join(self.missing)}"] if self.missing else []
        return f"; {'; '.join(parts)}" if parts else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of single features and of what was not measured, one line each."""
        told = [
            f"To be read as one, since they are correlated by {TWINS} or more: {', '.join(group)}."
            for group in self.twins
        ]
        if self.below_noise:
            told.append(f"Contribute no more than declared noise: {', '.join(self.below_noise)}.")
        if self.below_probe:
            told.append(
                "Worth no more to labels than a random column of the same values: "
                f"{', '.join(self.below_probe)}."
            )
        if self.cascade and self.reference is not None:
            steps = ", ".join(
                f"{one.value:.2f} at {share:.0%}" for share, one in self.cascade.items()
            )
            told.append(
                f"Rank correlation as layers get random weights, output first: {steps}; inputs "
                f"alone give {self.reference:.2f}."
            )
        reasons = {
            why: [name for name, reason in self.missing.items() if reason == why]
            for why in self.missing.values()
        }
        return (
            *told,
            *(f"Not asked: {', '.join(names)}, since {why}." for why, names in reasons.items()),
        )

    def table(self) -> pd.DataFrame:
        """One row per measure: value with its interval, limit, whether it holds, rows; then the
        cascade, which has no limit.
        """
        import pandas as pd

        failed = self.failed
        rows = [
            [LIMITS[name].words, *one[:3], LIMITS[name].value, name not in failed, one.rows]
            for name, one in self.measures.items()
        ]
        rows += [
            [f"rank correlation, {share:.0%} of layers random", *one[:3], None, True, one.rows]
            for share, one in self.cascade.items()
        ]
        return pd.DataFrame(
            rows, columns=["measure", "value", "low", "high", "limit", "holds", "rows"]
        ).astype({"limit": float})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each measure as a bar with its interval, its limit as a tick; orange where it fails, grey
        where nothing is asked of it.
        """
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(8.6, 1.2 + 0.36 * max(1, len(rows))))
        ends = rows[["value", "low", "high"]].clip(-1, 1)
        spread = [
            (ends["value"] - ends["low"]).clip(lower=0),
            (ends["high"] - ends["value"]).clip(lower=0),
        ]
        ways = [
            *(
                f" ({'≥' if LIMITS[name].more else '≤'} {LIMITS[name].value:g})"
                for name in self.measures
            ),
            *("" for _ in self.cascade),
        ]
        judged = rows["limit"].notna()
        colors = [
            NEUTRAL if not asked else GOOD if holds else LIVE
            for asked, holds in zip(judged, rows["holds"], strict=True)
        ]
        places = range(len(rows))
        ax.barh(places, ends["value"], color=colors, xerr=spread, error_kw={"elinewidth": 0.8})
        ax.set_yticks(
            places,
            [words + way for words, way in zip(rows["measure"], reversed(ways), strict=True)],
        )
        ax.scatter(rows["limit"], places, marker="|", s=160, color="black", zorder=3)
        left = min(0.0, float(ends["low"].min())) if len(rows) else 0.0
        ax.set(xlim=(left, 1), xlabel="value, 95 % interval and limit (tick)")
        ax.set_title(
            self.verdict.partition(" (")[0].partition(";")[0].partition(":")[0], x=1.0, ha="right"
        )
        ax.grid(visible=False, axis="y")
        return ax


def _beyond(value: float, limit: Limit) -> bool:
    return value < limit.value if limit.more else value > limit.value
