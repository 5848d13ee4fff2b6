"""The trust card: measures of trust in the attributions of a run, with limits and a verdict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gendebug_torch.checks.evidence import GOOD, LIVE, NEUTRAL, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Correlation from which features are read as one group.
GROUP_CORRELATION = 0.9
# Values above which even the ranking is unusable.
_UNUSABLE = {"incomplete": 0.5, "repeat": 0.1}


class Limit(NamedTuple):
    """The limit of a measure.

    Args:
        value: limit.
        at_least: whether the measure must be at least the limit, or at most.
        description: what is measured.
        scope: what the measure judges, the `ranking` of all features or single `rows`.
    """

    value: float
    at_least: bool
    description: str
    scope: str

    @property
    def text(self) -> str:
        """The limit as it stands after the name of a measure."""
        return f" ({'≥' if self.at_least else '≤'} {self.value:g})"

    def fails(self, value: float) -> bool:
        """Whether a value is beyond the limit."""
        return value < self.value if self.at_least else value > self.value


LIMITS = {
    "repeat": Limit(
        0.01,
        False,
        "change of the output between two identical calls, in standard deviations",
        "rows",
    ),
    "incomplete": Limit(
        0.05, False, "rows that miss the change of their output by more than 5 %", "rows"
    ),
    "rerun": Limit(0.8, True, "overlap of the top features under another seed", "rows"),
    "rerun_ranking": Limit(0.9, True, "rank correlation under another seed", "ranking"),
    "jitter": Limit(0.7, True, "overlap of the top features under 2 % noise of the inputs", "rows"),
    "jitter_ranking": Limit(0.9, True, "rank correlation under 2 % noise of the inputs", "ranking"),
    "randomized": Limit(
        0.9, False, "rank correlation with random weights, beyond that of the inputs", "ranking"
    ),
    "baseline": Limit(0.5, True, "overlap of the top features against another baseline", "rows"),
    "permutation": Limit(
        0.2, True, "rank correlation with permutation importance, upper end of 95 %", "ranking"
    ),
    "held_out": Limit(
        0.5, True, "R² of the surrogate on left-out samples, lower quartile of rows", "rows"
    ),
    "held_out_wrong": Limit(0.5, True, "the same R² on misclassified rows", "rows"),
}
_BLIND = "blind to {}: the gradient is exactly 0, but the output depends on it"


class Measure(NamedTuple):
    """One number of a card.

    Args:
        value: value that is compared with the limit.
        low: lower end of its 95 % interval over rows.
        high: upper end.
        rows: number of rows.
    """

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class TrustCard:
    """Measures of trust by name, and the verdict that follows.

    Args:
        measures: name in `LIMITS` -> measure; without those that do not apply.
        missing: name of an applicable measure -> reason why it was not measured.
        reference: mean rank correlation of the contributions with the distance of the inputs from
            the baseline, which `cascade` would show from the inputs alone; None if unknown.
        cascade: share of layers with random weights, output first -> rank correlation with the
            trained network.
        correlated_groups: groups of features so correlated that they are to be read as one.
        blind_inputs: features on which the output depends although its gradient is exactly 0.
        below_noise: features that contribute less than the strongest declared noise; None without
            declared noise.
        below_probe: features whose permutation importance does not exceed that of a random column
            with the same values; None where it was not measured.
        evaluations: model evaluations of the card as a share of those of the run.
    """

    measures: Mapping[str, Measure]
    missing: Mapping[str, str] = field(default_factory=dict)
    reference: float | None = None
    cascade: Mapping[float, Measure] = field(default_factory=dict)
    correlated_groups: tuple[tuple[str, ...], ...] = ()
    blind_inputs: tuple[str, ...] = ()
    below_noise: tuple[str, ...] | None = None
    below_probe: tuple[str, ...] | None = None
    evaluations: float = 0.0

    @property
    def failed(self) -> tuple[str, ...]:
        """Measures beyond their limits."""
        return tuple(name for name, one in self.measures.items() if LIMITS[name].fails(one.value))

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Measures whose interval contains their limit."""
        return tuple(
            name
            for name, measure in self.measures.items()
            if measure.low < LIMITS[name].value < measure.high
        )

    @property
    def judged(self) -> bool:
        """Whether the measures allow a verdict: one failed, or one judges the ranking."""
        failed = bool(self.failed or self.blind_inputs)
        return failed or any(LIMITS[name].scope == "ranking" for name in self.measures)

    @property
    def ranking_usable(self) -> bool:
        """Whether the global ranking of the features can be trusted."""
        if not self.judged or self.blind_inputs:
            return False
        if any(
            self.measures[name].value > most
            for name, most in _UNUSABLE.items()
            if name in self.measures
        ):
            return False
        return not any(LIMITS[name].scope == "ranking" for name in self.failed)

    @property
    def rows_usable(self) -> bool:
        """Whether the attributions of a single row can be trusted."""
        return self.ranking_usable and not self.failed

    @property
    def verdict(self) -> str:
        """The verdict in one line."""
        if not self.judged:
            reason = "no trial applies to this method, network and kind of inputs"
            return f"Not judged: {next(iter(self.missing.values()), reason)}."
        if self.rows_usable:
            return f"Global ranking usable, single rows usable{self._reservations}."
        reasons = [_BLIND.format(", ".join(self.blind_inputs))] if self.blind_inputs else []
        reasons += ["the network is random in evaluation mode"] if "repeat" in self.failed else []
        reasons += [
            f"{LIMITS[name].description}: {self.measures[name].value:.2f}, limit "
            f"{LIMITS[name].value:g}"
            for name in self.failed
        ]
        usable = (
            "Global ranking usable, single rows not usable"
            if self.ranking_usable
            else "Neither the global ranking nor single rows usable"
        )
        return f"{usable} ({'; '.join(reasons)}){self._reservations}."

    @property
    def _reservations(self) -> str:
        """Measures that more rows might change, and those that are missing."""
        parts = [f"uncertain: {', '.join(self.uncertain)}"] if self.uncertain else []
        parts += [f"not measured: {', '.join(self.missing)}"] if self.missing else []
        return f"; {'; '.join(parts)}" if parts else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on single features and on missing measures, one line each."""
        notes = [
            f"Read as one group, with a correlation of {GROUP_CORRELATION} or more: "
            f"{', '.join(group)}."
            for group in self.correlated_groups
        ]
        if self.blind_inputs:
            notes.append(
                f"Gradients do not see {', '.join(self.blind_inputs)}, which the network reads "
                "through a step such as a rounding, a threshold or an index. Use `kernel_shap` or "
                "`feature_ablation`."
            )
        if "repeat" in self.failed:
            notes.append(
                "The network is random in evaluation mode: look for random numbers in `forward`, "
                "or for `dropout` without `training=self.training`."
            )
        if self.below_noise:
            notes.append(f"Contribute no more than declared noise: {', '.join(self.below_noise)}.")
        if self.below_probe:
            notes.append(
                "No more important for the labels than a random column of the same values: "
                f"{', '.join(self.below_probe)}."
            )
        if self.cascade and self.reference is not None:
            steps = ", ".join(
                f"{measure.value:.2f} at {share:.0%}" for share, measure in self.cascade.items()
            )
            notes.append(
                f"Rank correlation as layers get random weights, output first: {steps}; inputs "
                f"alone give {self.reference:.2f}."
            )
        for reason in dict.fromkeys(self.missing.values()):
            names = [name for name, other in self.missing.items() if other == reason]
            notes.append(f"Not measured: {', '.join(names)} ({reason}).")
        return tuple(notes)

    def table(self) -> pd.DataFrame:
        """One row per measure: value, interval, limit, whether it passes, rows; then the cascade.

        The cascade has no limit.
        """
        import pandas as pd

        failed = self.failed
        rows = [
            [LIMITS[name].description, *one[:3], LIMITS[name].value, name not in failed, one.rows]
            for name, one in self.measures.items()
        ]
        rows += [
            [f"rank correlation, {share:.0%} of layers random", *one[:3], None, True, one.rows]
            for share, one in self.cascade.items()
        ]
        columns = ["measure", "value", "low", "high", "limit", "passes", "rows"]
        return pd.DataFrame(rows, columns=columns).astype({"limit": float})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each measure as a bar with its interval and its limit; orange where it fails."""
        limits = [LIMITS[name].text for name in self.measures] + [""] * len(self.cascade)
        rows = self.table().assign(limit_text=limits).iloc[::-1]
        heights = range(len(rows))
        ax = axes(ax, size=(8.6, 1.2 + 0.36 * max(1, len(rows))))
        value, low, high = (rows[name].clip(-1, 1) for name in ("value", "low", "high"))
        spread = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
        passes = rows["passes"].map({True: GOOD, False: LIVE})
        colors = passes.where(rows["limit"].notna(), NEUTRAL).tolist()
        ax.barh(heights, value, color=colors, xerr=spread, error_kw={"elinewidth": 0.8})
        ax.set_yticks(heights, (rows["measure"] + rows["limit_text"]).tolist())
        ax.scatter(rows["limit"], heights, marker="|", s=160, color="black", zorder=3)
        left = min(0.0, float(low.min())) if len(rows) else 0.0
        ax.set(xlim=(left, 1), xlabel="value, 95 % interval and limit (tick)")
        ax.set_title(re.split(r" \(|;|:", self.verdict)[0], x=1.0, ha="right")
        ax.grid(visible=False, axis="y")
        return ax
