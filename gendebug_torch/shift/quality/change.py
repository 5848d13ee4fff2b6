"""Change of one metric between two samples, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.special import ndtr, ndtri

from gendebug_torch.shift.quality.metrics import Metric
from gendebug_torch.stats.multiple_testing import holm_adjusted


@dataclass(frozen=True)
class MetricChange:
    """A metric in validation and in production.

    Args:
        name: name of the metric, e.g. `AUC`.
        before: value in validation.
        after: value in production.
        low: lower bound of `after - before`.
        high: upper bound of `after - before`.
        p_value: one-sided p-value of no fall, adjusted for the number of metrics or parts.
        level: coverage of the interval, over all metrics of the same model together.
        rows: numbers of rows, or those of the class, in validation and in production.
        lower_is_better: whether it is an error rather than a score.
    """

    name: str
    before: float
    after: float
    low: float
    high: float
    p_value: float
    level: float
    rows: tuple[int, int]
    lower_is_better: bool = False

    @property
    def fall(self) -> float:
        """Quality that was lost, in units of the metric; negative where it rose."""
        return self.after - self.before if self.lower_is_better else self.before - self.after

    @property
    def relative_fall(self) -> float:
        """`fall` as a share of the value in validation."""
        return self.fall / self.before if self.before else math.copysign(math.inf, self.fall)

    @property
    def fell(self) -> bool:
        """Whether quality was lost beyond the interval of the change."""
        return self.low > 0 if self.lower_is_better else self.high < 0

    def __str__(self) -> str:
        values = [self.before, self.after, self.after - self.before, self.low, self.high]
        digits = ".3g" if self.lower_is_better else ".3f"
        before, after = (f"{value:{digits}}" for value in values[:2])
        change, low, high = (f"{value:+{digits}}" for value in values[2:])
        return (
            f"{self.name} {before} in validation, {after} in production ({change}, "
            f"{100 * self.level:.3g} % interval {low} to {high})"
        )


def metric_changes(
    pairs: Sequence[tuple[Metric, Metric]],
    effects: tuple[float, float],
    level: float,
    rows: Sequence[tuple[int, int]],
) -> list[MetricChange]:
    """Changes of several metrics of the same rows, with simultaneous intervals (Bonferroni).

    Args:
        pairs: each metric in validation and in production.
        effects: ratios of the variances to those of independent rows.
        level: coverage of all intervals together, in (0, 1).
        rows: numbers of rows of each pair.
    """
    z = -float(ndtri((1 - level) / 2 / max(len(pairs), 1)))
    changes = []
    for (before, after), counts in zip(pairs, rows, strict=True):
        (center, variance), (live_center, live_variance) = (
            metric.moments(effect) for metric, effect in zip((before, after), effects, strict=True)
        )
        change, error = live_center - center, math.sqrt(variance + live_variance)
        low, high = (before.back(before.value, change + sign * z * error) for sign in (-1, 1))
        worse = change if before.lower_is_better else -change
        # Two perfect samples have no error and no change.
        p_value = float(ndtr(-worse / error)) if error > 0 else float(worse <= 0)
        values = before.value, after.value, low, high, p_value, level, counts
        changes.append(MetricChange(before.name, *values, before.lower_is_better))
    adjusted = holm_adjusted(torch.tensor([change.p_value for change in changes]))
    return [
        replace(change, p_value=p_value)
        for change, p_value in zip(changes, adjusted.tolist(), strict=True)
    ]
