"""Metrics of one sample with their sampling variance: accuracy, areas, squared errors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Stands for an error of 0, which has no logarithm.
_LEAST_ERROR = 1e-150


@dataclass(frozen=True, eq=False)
class Metric(ABC):
    """A metric of n rows, as its change is judged.

    Args:
        name: name of the metric.
        value: its value.
        influence: contribution of each row to its error, `[n]` float64 on the host; mean 0.
        counts: numbers of rows that contribute so, `[n]`; None counts each once.
    """

    name: str
    value: float
    influence: Tensor
    counts: Tensor | None = field(default=None, kw_only=True)

    lower_is_better = False

    @property
    def rows(self) -> float:
        """Number of rows."""
        return len(self.influence) if self.counts is None else float(self.counts.sum())

    @property
    def variance(self) -> float:
        """Mean square of the contributions of the rows."""
        squares = self.influence.square()
        if self.counts is None:
            return float(squares.mean())
        return float((squares * self.counts).sum() / self.counts.sum())

    @abstractmethod
    def moments(self, effect: float) -> tuple[float, float]:
        """Center and variance on the scale on which two samples are compared.

        Args:
            effect: ratio of the variance to that of independent rows, at least 1.
        """

    def back(self, center: float, change: float) -> float:
        """A change on the scale of comparison as a change of the value, which is 1 at most.

        Args:
            center: value of the metric that it is a change of.
            change: difference on the scale of comparison.
        """
        return min(change, 1 - self.value)


class MeanMetric(Metric):
    """Accuracy, or the mean of any per-row score that is 1 at best: with two pseudo rows, 0 and 1.

    Source: Agresti and Caffo (2000), Am. Stat. 54:280, so that an accuracy of 1 has a width.
    """

    def moments(self, effect: float) -> tuple[float, float]:
        """Mean and variance with two pseudo rows, among the rows that these are worth."""
        n = self.rows / effect
        center = (n * self.value + 1) / (n + 2)
        spread = self.variance + (self.value - center) ** 2
        return center, (n * spread + center**2 + (1 - center) ** 2) / (n + 2) ** 2


@dataclass(frozen=True, eq=False)
class AreaMetric(Metric):
    """Area under the ROC curve, or its mean over labels.

    Args:
        classes: positives and negatives per label, `[l, 2]`.
    """

    classes: Tensor

    def moments(self, effect: float) -> tuple[float, float]:
        """Area and its variance: DeLong's, and what an area of 1 can hide among so few rows.

        Source: Hanley and McNeil (1982), Radiology 143:29, at the area that one discordant pseudo
        row would leave, so that an area of 1 has a width.
        """
        positives, negatives = (self.classes / effect).unbind(1)
        fewest = torch.minimum(positives, negatives)
        area = (fewest + 1) / (fewest + 2)
        first, second = area / (2 - area), 2 * area.square() / (1 + area)
        hidden = area * (1 - area) + (positives - 1).clamp(min=0) * (first - area.square())
        hidden += (negatives - 1).clamp(min=0) * (second - area.square())
        hidden = hidden.clamp(min=0) / (positives * negatives) / len(area) ** 2
        return self.value, self.variance * effect / self.rows + float(hidden.sum())

    def back(self, center: float, change: float) -> float:
        """A change that leaves the area in [0, 1]."""
        return super().back(center, max(change, -self.value))


class ErrorMetric(Metric):
    """Root mean squared error, compared on the scale of its logarithm."""

    lower_is_better = True

    def moments(self, effect: float) -> tuple[float, float]:
        """Logarithm and its variance by the delta method."""
        value = max(self.value, _LEAST_ERROR)
        own = self.variance * effect / self.rows
        return math.log(value), own / value**2

    def back(self, center: float, change: float) -> float:
        """A difference of logarithms as a difference of errors."""
        return max(center, _LEAST_ERROR) * math.expm1(min(change, 700.0))


def mean_metric(name: str, values: Tensor) -> MeanMetric:
    """Mean of a per-row score.

    Args:
        name: name of the metric.
        values: scores, `[n]`, 1 at best.
    """
    values = values.double().cpu()
    mean = float(values.mean())
    return MeanMetric(name, mean, values - mean)


def area_metric(name: str, placements: Tensor, positive: Tensor, negative: Tensor) -> AreaMetric:
    """Area under the ROC curve, the mean over labels where there are several.

    Args:
        name: name of the metric.
        placements: placements of the rows, `[n, l]` float64, as `auc_placements` gives them.
        positive: whether a row has the label, `[n, l]` bool, some in each column.
        negative: whether it is known not to have it, `[n, l]` bool, some in each column.
    """
    n, placements = len(placements), placements.cpu()
    positive, negative = positive.cpu(), negative.cpu()
    counts, others = positive.sum(0).double(), negative.sum(0).double()
    weights = positive * (n / counts) + negative * (n / others)
    areas = (placements * positive).sum(0) / counts
    influence = ((placements - areas) * weights).mean(1)
    return AreaMetric(name, float(areas.mean()), influence, torch.stack([counts, others], 1))


def error_metric(name: str, errors: Tensor) -> ErrorMetric:
    """Root mean squared error.

    Args:
        name: name of the metric.
        errors: predictions less targets, `[n]` or, in comparable units, `[n, k]`; NaN where one of
            several targets is missing.
    """
    squares = errors.double().cpu().square().reshape(len(errors), -1).nanmean(1)
    value = math.sqrt(float(squares.mean()))
    influence = (squares - squares.mean()) / (2 * max(value, _LEAST_ERROR))
    return ErrorMetric(name, value, influence)
