"""Drift monitoring in windows of time, with one error rate over the whole stream."""

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
    quantity_names,
    quantity_values,
    shared_columns,
    time_order,
)
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.stats.dependence.effective_sample_size import (
    autocorrelation_time,
    autocorrelation_time_bound,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows of a window.
_MIN_ROWS = 30


@dataclass(frozen=True)
class DriftStep:
    """The test of one window.

    Args:
        window: number of the window, from 1.
        rows: number of rows of the window.
        feature: name of the column with the smallest p-value.
        statistic: Kolmogorov-Smirnov distance of that column.
        p_value: p-value of that column, adjusted for all columns.
        level: level of this window's test.
        alarm: whether the p-value is at most the level and the distance at least `min_effect`.
        moment: start of the window, if known.
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
    """Tests of windows against one reference, with one false-alarm rate over an endless stream.

    Window t is tested at the level `alpha / (t (t + 1))`; the levels sum to alpha. By the union
    bound the probability of any false alarm is at most alpha, although all windows share one
    reference.

    Source: Lan and DeMets (1983), Biometrika 70:659, for alpha spending.

    Args:
        reference: reference rows, as `prepare_reference` returns them.
        alpha: probability of any false alarm over the whole stream.
        min_effect: smallest distance that raises an alarm.
        times: autocorrelation times of the columns, `[d]`, see `autocorrelation_time`; default 1.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> monitor = DriftMonitor(prepare_reference(torch.randn(1000, 2, generator=generator)))
        >>> monitor.update(torch.randn(300, 2, generator=generator)).alarm
        False
        >>> monitor.update(torch.randn(300, 2, generator=generator) + 0.5).alarm
        True
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
        """Test the next window; an empty one is not tested and uses none of the error rate.

        Args:
            live: values of the window, `[m, d]`.
            moment: start of the window, for the table.
        """
        test = ks_two_sample(self.reference, live)
        if self.times is not None:
            test = test.with_autocorrelation(self.times, self.times)
        window = 1 + sum(step.rows > 0 for step in self.steps)
        level = self.alpha / (window * (window + 1))
        p = test.adjusted.nan_to_num(1.0)
        least = int(p.argmin()) if len(p) else -1
        tested = least >= 0 and len(live) > 0
        statistic = float(test.statistic[least]) if tested else math.nan
        value = float(p[least]) if tested else math.nan
        alarm = tested and value <= level and statistic >= self.min_effect
        feature, spent = (test.labels[least], level) if tested else ("", 0.0)
        step = DriftStep(
            len(self.steps) + 1, len(live), feature, statistic, value, spent, alarm, moment
        )
        self.steps.append(step)
        return step

    def state_dict(self) -> dict[str, Any]:
        """The windows so far, as values that JSON can hold; the reference is saved separately."""
        return {
            "alpha": self.alpha,
            "min_effect": self.min_effect,
            "steps": [asdict(step) for step in self.steps],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.alpha, self.min_effect = state["alpha"], state["min_effect"]
        self.steps = [DriftStep(**step) for step in state["steps"]]

    def table(self) -> pd.DataFrame:
        """One row per window."""
        return pd.DataFrame([asdict(step) for step in self.steps])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The p-value and the level of each window, with the alarms."""
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
                label="level of the window",
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
            "window" if not len(frame) or not frame["moment"].any() else "start of the window"
        )
        ax.set_ylabel("p-value; an alarm lies under the level")
        ax.set_title(f"Drift per window, {self.alpha:.0%} false-alarm rate over the whole stream")
        return ax


def drift_windows(
    production: Records,
    reference: Records,
    *,
    windows: int = 20,
    alpha: float = 0.05,
    min_effect: float = 0.1,
) -> DriftMonitor | None:
    """Tests of windows of equally many production rows, in the order of time, against a reference.

    At the effective sample sizes that follow from the autocorrelation of each feature in the
    reference, or in production where the reference has no time.

    Args:
        production: records with features and a time column.
        reference: records from before, with the same features.
        windows: number of windows; fewer where a window would have under 30 rows.
        alpha: probability of any false alarm over all windows.
        min_effect: smallest distance that raises an alarm.

    Returns:
        The monitor after the last window; None without a time column, shared quantities, or rows
        for two windows.

    Cost: one sort of all values, and a few Fourier transforms of each feature.

    Example:
        >>> import torch
        >>> from gendebug_torch import Schema
        >>> generator, schema = torch.Generator().manual_seed(0), Schema(time="day")
        >>> values = torch.randn(600, generator=generator)
        >>> values[400:] += 1.0
        >>> days = pd.DataFrame({"day": range(600)})
        >>> records = Records(pd.DataFrame({"age": values}), metadata=days, schema=schema)
        >>> production, reference = records.select(range(200, 600)), records.select(range(200))
        >>> drift = drift_windows(production, reference, windows=4)
        >>> [step.alarm for step in drift.steps]
        [False, False, True, True]
    """
    order = time_order(production)
    pair = (
        None
        if reference.features is None or production.features is None
        else shared_columns(production, reference, None, quantity_names)
    )
    if order is None or pair is None:
        return None
    names, _, before, after = quantity_values(pair)
    count = min(windows, len(production) // _MIN_ROWS)
    if count < 2 or not names or not len(reference):
        return None
    reference_order = time_order(reference)
    series = after[order] if reference_order is None else before[reference_order]
    times = autocorrelation_time_bound(autocorrelation_time(series), len(series))
    monitor = DriftMonitor(
        prepare_reference(before, names=names), alpha=alpha, min_effect=min_effect, times=times
    )
    assert production.metadata is not None
    moments = production.metadata[str(production.schema.time)]
    for rows in order.tensor_split(count):
        monitor.update(after[rows], moment=str(moments.iloc[int(rows[0])]))
    return monitor
