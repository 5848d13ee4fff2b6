"""Monitoring in windows of time that keeps its error rate over a whole stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, prepare_reference
from gendebug_torch.shift.columns.shared_columns import (
    paired_values,
    quantities,
    shared_columns,
    time_order,
)
from gendebug_torch.shift.two_sample.ks import ks_two_sample, worth
from gendebug_torch.stats.effective_sample_size import autocorrelation_time, cautious

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class DriftStep:
    """What one window said.

    Args:
        window: its number, from 1.
        rows: of the window.
        feature: the column with the smallest p-value.
        statistic: its Kolmogorov-Smirnov distance.
        p_value: its p-value, adjusted for the columns.
        level: the share of the error rate that this window may spend.
        alarm: whether the p-value is under the level and the distance matters.
        moment: when the window begins, if known.
    """

    window: int
    rows: int
    feature: str
    statistic: float
    p_value: float
    level: float
    alarm: bool
    moment: str = ""


class DriftMonitor:
    """Windows against one reference, with a false-alarm rate over the whole stream, however long it
    runs.

    Window t may spend `alpha / (t (t + 1))`, which sums to alpha: by the union bound the chance of
    any false alarm, ever, is at most alpha, also though all windows share one reference.

    Source: Lan and DeMets (1983), Biometrika 70:659, for spending.

    Args:
        reference: what `prepare_reference` made of the rows to compare with.
        alpha: chance of any false alarm over the whole stream.
        min_effect: smallest distance that matters.
        times: `[d]` rows that are worth one independent row, as `autocorrelation_time` of the
            reference says; default 1.
    """

    def __init__(
        self,
        reference: PreparedReference,
        *,
        alpha: float = 0.05,
        min_effect: float = 0.05,
        times: Tensor | None = None,
    ) -> None:
        if not 0.0 < alpha < 1.0:
            reject("alpha", "a number in (0, 1)", str(alpha), "0.05 is usual.")
        self.reference, self.alpha, self.min_effect, self.times = (
            reference,
            alpha,
            min_effect,
            times,
        )
        self.steps: list[DriftStep] = []

    def update(self, live: Tensor, *, moment: str = "") -> DriftStep:
        """Judge the next window, `[m, d]`, that begins at a moment; an empty one is no question and
        spends nothing.
        """
        test = ks_two_sample(self.reference, live)
        if self.times is not None:
            test = worth(test, self.times, self.times)
        window = 1 + sum(step.rows > 0 for step in self.steps)
        level = self.alpha / (window * (window + 1))
        p = test.adjusted.nan_to_num(1.0)
        least = int(p.argmin()) if len(p) else -1
        asked = least >= 0 and len(live) > 0
        statistic = float(test.statistic[least]) if asked else math.nan
        value = float(p[least]) if asked else math.nan
        alarm = asked and value <= level and statistic >= self.min_effect
        feature, spent = (test.labels[least], level) if asked else ("", 0.0)
        step = DriftStep(
            len(self.steps) + 1, len(live), feature, statistic, value, spent, alarm, moment
        )
        self.steps.append(step)
        return step

    def state_dict(self) -> dict[str, Any]:
        """The windows so far, as plain values that JSON can hold; the reference is saved apart."""
        return {
            "alpha": self.alpha,
            "min_effect": self.min_effect,
            "steps": [asdict(step) for step in self.steps],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.alpha, self.min_effect = state["alpha"], state["min_effect"]
        self.steps = [DriftStep(**step) for step in state["steps"]]

    def table(self) -> pd.DataFrame:
        """One row per window."""
        return pd.DataFrame([asdict(step) for step in self.steps])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The p-value of each window beside the level that it may spend; alarms marked."""
        ax = axes(ax)
        frame = self.table()
        if len(frame):
            shown = frame["p_value"].clip(lower=1e-16)
            ax.plot(
                frame["window"],
                shown,
                "o-",
                color=REFERENCE,
                markersize=3,
                linewidth=1.0,
                label="smallest adjusted p-value",
            )
            ax.plot(
                frame["window"],
                frame["level"],
                color=NEUTRAL,
                linestyle="--",
                label="alarm boundary",
            )
            alarms = frame[frame["alarm"]]
            ax.plot(
                alarms["window"],
                alarms["p_value"].clip(lower=1e-16),
                "o",
                color=LIVE,
                markersize=7,
                label=f"{len(alarms)} alarms",
            )
            ax.legend(frameon=True)
            shown_at = frame.iloc[:: math.ceil(len(frame) / 10)]
            ax.set_xticks(shown_at["window"])
            if shown_at["moment"].any():
                ax.set_xticklabels(
                    shown_at["moment"].str.slice(0, 16), rotation=30, ha="right", fontsize=8
                )
        ax.set_yscale("log")
        ax.set_xlabel(
            "window" if not len(frame) or not frame["moment"].any() else "beginning of the window"
        )
        ax.set_ylabel("p-value; an alarm lies under the boundary")
        ax.set_title(f"Drift per window, {self.alpha:.0%} false alarms over the whole stream")
        return ax


_FEWEST_ROWS = 30


def drift_windows(
    production: Records,
    reference: Records,
    *,
    windows: int = 20,
    alpha: float = 0.05,
    min_effect: float = 0.1,
) -> DriftMonitor | None:
    """Windows of equally many production rows in the order of time against the reference, as a
    monitor would have met them.

    Rows of a feature count as the independent ones that they are worth, by its autocorrelation in
    the reference, or in production where the reference has no time.

    Args:
        production: records with features and a time column.
        reference: records from before, with the same features.
        windows: how many; fewer where a window would have under 30 rows.
        alpha: chance of any false alarm over all windows.
        min_effect: smallest distance that matters.

    Returns:
        The monitor after the last window; None without a time column, shared quantities, or rows
        for two windows.
    """
    order = time_order(production)
    pair = (
        None
        if reference.features is None or production.features is None
        else shared_columns(production, reference, None, quantities)
    )
    if order is None or pair is None:
        return None
    names, _, before, after = paired_values(pair)
    count = min(windows, len(production) // _FEWEST_ROWS)
    if count < 2 or not names or not len(reference):
        return None
    earlier = time_order(reference)
    series = after[order] if earlier is None else before[earlier]
    times = cautious(autocorrelation_time(series), len(series))
    monitor = DriftMonitor(
        prepare_reference(before, names=names), alpha=alpha, min_effect=min_effect, times=times
    )
    assert production.metadata is not None
    moments = production.metadata[str(production.schema.time)]
    for rows in order.tensor_split(count):
        monitor.update(after[rows], moment=str(moments.iloc[int(rows[0])]))
    return monitor
