"""Labels given the score, before and after: is the event rate at the same score the same?

Of quantities it is the mean, and the mean size, of the error at the same prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from scipy.special import chdtrc
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval
from gendebug_torch.stats.logit_scaling import affordable_family, fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Rows, and variance of the number of events, that either side needs in a bin before its normal
# approximation is trusted.
_MIN_ROWS = 10
_MIN_VARIANCE = 2.0
_MAX_BINS = 10
# Change of the event rate given the score from which it matters; of an error, in its standard
# deviations.
MIN_EFFECT = 0.03
_MIN_ERROR_EFFECT = 0.1
# Rows of either side per bin of a prediction, and the standard deviations at which errors are cut,
# so that a few outliers do not decide.
_ROWS_PER_BIN = 50
_MOST_DEVIATIONS = 5.0
# Standard deviations per median absolute deviation of a normal distribution.
_DEVIATIONS_PER_MEDIAN = 1.4826


@dataclass(frozen=True, eq=False)
class RelationChange:
    """Labels within bins of the calibrated score, reference first and production second.

    Args:
        edges: bin edges, probabilities `[b + 1]` float64.
        rows: row counts, `[2, b]` int64.
        observed: event counts, `[2, b]` float64.
        expected: sums of the calibrated probabilities, `[2, b]` float64.
        variance: variance of `observed` if the probabilities are right, `[2, b]` float64.
        event: name of what is counted, or of the error whose mean is compared.
        unit: standard deviation of the error, in which sums of errors are counted; None for events.
        comparisons: number of labels or outputs of which this one changed most.
    """

    edges: Tensor
    rows: Tensor
    observed: Tensor
    expected: Tensor
    variance: Tensor
    event: str
    unit: float | None = None
    comparisons: int = 1

    @property
    def difference(self) -> Tensor:
        """Change of the event rate beyond the expected one, `[b]`; NaN in bins with few rows."""
        excess = (self.observed - self.expected) / self.rows.clamp(min=1)
        return (excess[1] - excess[0]).masked_fill(~self._judged, math.nan)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `difference`, `[b]`."""
        return (
            (self.variance / self.rows.clamp(min=1).square())
            .sum(0)
            .sqrt()
            .masked_fill(~self._judged, math.nan)
        )

    @cached_property
    def p_value(self) -> float:
        """P-value of an unchanged relation: a chi-square test over the bins; NaN with none.

        Multiplied by the number of labels or outputs that were compared (Bonferroni).
        """
        judged = self._judged
        if not bool(judged.any()):
            return math.nan
        z_scores = (self.difference / self.standard_error)[judged]
        p_value = float(chdtrc(int(judged.sum()), float(z_scores.square().sum())))
        return min(1.0, p_value * self.comparisons)

    @property
    def matters(self) -> bool:
        """Whether the change is large enough: 0.03 of a rate, 0.1 deviations of errors."""
        return self.effect >= (MIN_EFFECT if self.unit is None else _MIN_ERROR_EFFECT)

    @property
    def effect(self) -> float:
        """Mean absolute change of the event rate over production rows, less noise; in [0, 1]."""
        judged = self._judged
        if not bool(judged.any()):
            return 0.0
        weight = self.rows[1][judged].double()
        change = (
            self.difference[judged].abs() - math.sqrt(2 / math.pi) * self.standard_error[judged]
        )
        return max(0.0, float((weight * change).sum() / weight.sum()))

    @property
    def direction(self) -> float:
        """Mean signed change of the event rate over production rows."""
        judged = self._judged
        weight = self.rows[1][judged].double()
        if not bool(judged.any()):
            return 0.0
        return float((weight * self.difference[judged]).sum() / weight.sum())

    def table(self) -> DataFrame:
        """One row per bin: rows, observed and expected rates, change with its standard error."""
        import pandas as pd

        rate, expected = (part / self.rows.clamp(min=1) for part in (self.observed, self.expected))
        columns = {"low": self.edges[:-1], "high": self.edges[1:]}
        for i, side in enumerate(("reference", "production")):
            columns |= {
                f"{side}_rows": self.rows[i],
                f"{side}_rate": rate[i],
                f"{side}_expected": expected[i],
            }
        columns |= {"change": self.difference, "standard_error": self.standard_error}
        return pd.DataFrame({key: value.numpy() for key, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Observed over expected event rate on both sides, with 95 % intervals."""
        ax = axes(ax)
        if self.unit is not None:
            return self._draw_errors(ax)
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1.0, label="as expected")
        for i, (colour, side) in enumerate(((REFERENCE, "reference"), (LIVE, "production"))):
            rows = self.rows[i]
            filled = rows > 0
            rate = self.observed[i][filled] / rows[filled]
            low, high = wilson_interval(self.observed[i][filled], rows[filled])
            whiskers = torch.stack([(rate - low).clamp(min=0), (high - rate).clamp(min=0)]).numpy()
            expected = (self.expected[i][filled] / rows[filled]).numpy()
            label = f"{side} (n = {int(rows.sum()):,})"
            ax.errorbar(
                expected,
                rate.numpy(),
                yerr=whiskers,
                fmt="o-",
                markersize=4,
                color=colour,
                capsize=2,
                linewidth=1.2,
                label=label,
            )
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="expected event rate (calibrated score)",
            ylabel=f"observed event rate ({self.event})",
        )
        ax.set_title(f"Event rate given the score: mean change {self.effect:.3f}")
        ax.legend(loc="upper left", frameon=True)
        return ax

    def _draw_errors(self, ax: Axes) -> Axes:
        """Mean error by bin of the prediction on both sides, with 95 % intervals."""
        ax.axhline(0.0, color=NEUTRAL, linestyle="--", linewidth=1.0)
        centres = (self.edges[1:] + self.edges[:-1]) / 2
        excess = (self.observed - self.expected) / self.rows.clamp(min=1)
        half = normal_quantile(0.975) * self.variance.sqrt() / self.rows.clamp(min=1)
        for i, (colour, side) in enumerate(((REFERENCE, "reference"), (LIVE, "production"))):
            label = f"{side} (n = {int(self.rows[i].sum()):,})"
            ax.errorbar(
                centres.numpy(),
                excess[i].numpy(),
                yerr=half[i].numpy(),
                fmt="o-",
                markersize=4,
                color=colour,
                capsize=2,
                linewidth=1.2,
                label=label,
            )
        ax.set(xlabel="prediction", ylabel=f"{self.event}, in standard deviations")
        ax.set_title(f"Error given the prediction: mean change {self.effect:.2f}")
        ax.legend(loc="upper left", frameon=True)
        return ax

    @property
    def _judged(self) -> Tensor:
        enough = (self.rows >= _MIN_ROWS).all(0)
        return enough & (self.variance >= (_MIN_VARIANCE if self.unit is None else 1e-12)).all(0)


def relation_change(
    logits: Tensor,
    targets: Tensor,
    live_logits: Tensor,
    live_targets: Tensor,
    *,
    bias: Tensor | None = None,
    event: str = "",
) -> RelationChange:
    """Change of the event rate given the score: of class 1, or of being right with more classes.

    The score is calibrated on the reference (`fit_affine`), and rows are compared in up to ten bins
    of it. Only residuals from the calibrated probability are compared, so that scores which shift
    within a bin do not count as a change.

    Source: Cochran (1954), Biometrics 10:417, for tests over strata; Platt (1999) for the
    calibration.

    Args:
        logits: logits of labeled reference rows, `[n]` binary or `[n, k]`.
        targets: class ids of the reference, `[n]` int64.
        live_logits: logits of labeled production rows, `[m]` or `[m, k]`.
        live_targets: class ids of production, `[m]` int64.
        bias: change of the logits that a change of class shares explains, `[k]` nats.
        event: name of what is counted; default `class 1` or `correct prediction`.

    Cost: about eight passes over the reference, one over production.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(4000, generator=generator)
        >>> y = (torch.rand(4000, generator=generator) < z.sigmoid()).long()
        >>> same = relation_change(z[:2000], y[:2000], z[2000:], y[2000:])
        >>> reverse = relation_change(z[:2000], y[:2000], z[2000:], 1 - y[2000:])
        >>> same.p_value > 0.01, reverse.p_value < 1e-9
        (True, True)
    """
    sides = _calibrated(logits, targets, live_logits, live_targets, bias)
    bins = min(len(logits), len(live_logits)) // (4 * _MIN_ROWS)
    inner = _inner_edges(torch.cat([probability for probability, _ in sides]), bins)
    sums = [_sums_by_bin(probability, inner, outcome) for probability, outcome in sides]
    rows, observed, expected, variance = (torch.stack(pair) for pair in zip(*sums, strict=True))
    # Where the score was always right, only what is observed has a variance.
    rate = observed.sum(0) / rows.sum(0).clamp(min=1)
    variance = torch.maximum(variance, rows * rate * (1 - rate))
    edges = torch.cat([torch.zeros(1), inner, torch.ones(1)]).double()
    binary = logits.ndim == 1 or logits.shape[1] == 2
    name = event or ("class 1" if binary else "correct prediction")
    return RelationChange(edges, rows.long(), observed, expected, variance, name)


def error_change(
    predictions: Tensor,
    targets: Tensor,
    live_predictions: Tensor,
    live_targets: Tensor,
    *,
    name: str = "the target",
) -> RelationChange | None:
    """Change of the mean, or of the mean size, of a quantity's error at the same prediction.

    Errors are those of a straight line from prediction to target, fitted on the reference, cut at
    five of their standard deviations. Both are compared in up to ten bins of the prediction, at the
    variance of both sides together; of the two the more significant one is returned, and counted
    as one of two comparisons.

    Source: Cochran (1954), Biometrics 10:417, for tests over strata.

    Args:
        predictions: predictions of labeled reference rows, `[n]`.
        targets: quantities of the reference, `[n]`.
        live_predictions: predictions of labeled production rows, `[m]`.
        live_targets: quantities of production, `[m]`.
        name: name of the quantity.

    Returns:
        The change; None with fewer than 50 rows on a side, or where the reference has no errors.

    Cost: one sort of the predictions, and a few passes over both sides.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
        >>> target = x + noise
        >>> drifted = error_change(x[:1000], target[:1000], x[1000:], target[1000:] + 1)
        >>> drifted.event, round(drifted.direction), drifted.p_value < 1e-9
        ('mean error of the target', 1, True)
    """
    bins = min(len(predictions), len(live_predictions)) // _ROWS_PER_BIN
    if not bins:
        return None
    sides = (predictions, live_predictions, targets, live_targets)
    x, live_x, y, live_y = (side.detach().double().cpu().contiguous() for side in sides)
    centre = x.mean()
    slope = ((x - centre) * (y - y.mean())).sum() / (x - centre).square().sum().clamp(min=1e-300)
    errors = [b - y.mean() - slope * (a - centre) for a, b in ((x, y), (live_x, live_y))]
    unit = float((errors[0] - errors[0].median()).abs().median()) * _DEVIATIONS_PER_MEDIAN
    unit = unit or float(errors[0].std(correction=0))
    if not unit > 0:
        return None
    errors = [(error / unit).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS) for error in errors]
    inner = _inner_edges(torch.cat([x, live_x]), bins)
    ends = torch.cat([x, live_x]).aminmax()
    edges = torch.cat([ends.min[None], inner, ends.max[None]])
    means = [
        _mean_change([part(error) for error in errors], (x, live_x), inner, edges, unit, event)
        for part, event in (
            (torch.Tensor.clone, f"mean error of {name}"),
            (torch.abs, f"mean size of the error of {name}"),
        )
    ]
    return most_changed(means)


def most_changed(changes: Sequence[RelationChange]) -> RelationChange | None:
    """The most significant of several changes, its p-value corrected for their number.

    Args:
        changes: changes of labels, or of outputs; those that are not judged do not count.
    """
    judged = [change for change in changes if change.p_value >= 0]
    if not judged:
        return None
    least = min(judged, key=lambda change: (change.p_value, -change.effect))
    return replace(least, comparisons=sum(change.comparisons for change in judged))


def _mean_change(
    errors: list[Tensor],
    predictions: tuple[Tensor, Tensor],
    inner: Tensor,
    edges: Tensor,
    unit: float,
    event: str,
) -> RelationChange:
    """Means by bin of the prediction on both sides, with the variance of both together."""
    bins = len(inner) + 1
    places = [torch.searchsorted(inner, side, right=True) for side in predictions]
    rows = torch.stack([place.bincount(minlength=bins) for place in places])
    empty = torch.zeros(bins, dtype=torch.float64)
    sums, squares = (
        torch.stack(
            [
                empty.index_add(0, place, error**power)
                for place, error in zip(places, errors, strict=True)
            ]
        )
        for power in (1, 2)
    )
    # About the mean of each side, so that a change of the mean is not taken for variance.
    within = (squares - sums.square() / rows.clamp(min=1)).sum(0) / (rows.sum(0) - 2).clamp(min=1)
    return RelationChange(
        edges, rows, sums, torch.zeros_like(sums), rows * within, event, unit=unit
    )


def _inner_edges(values: Tensor, bins: int) -> Tensor:
    """Edges between at most ten bins of about equally many values."""
    bins, pooled = max(1, min(_MAX_BINS, bins)), values.sort().values
    if not len(pooled):
        return pooled
    inner: Tensor = torch.unique(pooled[(torch.arange(1, bins) * len(pooled)) // bins])
    return inner


def _calibrated(
    logits: Tensor, targets: Tensor, live_logits: Tensor, live_targets: Tensor, bias: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Calibrated probability of the event and the event, of the reference and of production."""
    fit = fit_affine(logits, targets, family=affordable_family(logits))
    sides = []
    for i, (z, y) in enumerate(((logits, targets), (live_logits, live_targets))):
        mapped = fit(z.double())
        if i and bias is not None:
            mapped = mapped + (bias[1] - bias[0] if z.ndim == 1 else bias).to(mapped)
        probs = two_class_logits(mapped).softmax(1)
        if probs.shape[1] == 2:
            probability, event = probs[:, 1], y == 1
        else:
            probability, event = probs.amax(1), probs.argmax(1) == y
        sides.append((probability.cpu().contiguous(), event.cpu()))
    return sides


def _sums_by_bin(probability: Tensor, inner: Tensor, event: Tensor) -> list[Tensor]:
    """Rows, events, expected events and their variance in each bin between the inner edges."""
    bins = torch.searchsorted(inner, probability, right=True)
    parts = (
        torch.ones_like(probability),
        event.double(),
        probability,
        probability * (1 - probability),
    )
    empty = torch.zeros(len(inner) + 1, dtype=torch.float64)
    return [empty.clone().index_add_(0, bins, part) for part in parts]
