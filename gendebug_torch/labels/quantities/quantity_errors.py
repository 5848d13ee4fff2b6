"""Wrong values of a regression target: residuals beyond any tail, and their unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.stats.auc import normal_scores
from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_ITERATIONS = 100
# Bounds of the parameters of the residuals: location and slope, logarithm of the scale and its
# slope, skewness, logarithm of the degrees of freedom above 1.
_BOUNDS = ((-1.0, 1.0), (0.0, 2.0), (-9.0, 1.0), (0.0, 2.0), (-1.0, 1.0), (-1.0, 5.0))
# Log odds of a wrong value, bounded or none.
_ODDS, _NO_ODDS = (-12.0, 0.0), -40.0
# A penalty of so many rows keeps the fit of separable rows finite.
_RIDGE = 0.01
# Values that the median prediction at a row is taken of: its neighbours by prediction.
_NEIGHBOURS = 41
# A unit: at least this factor, and this many scales of the residuals away; their spread may differ
# by as much. Factors between which a test could choose.
_MIN_FACTOR, _MIN_SCALES, _SPREAD, _FACTORS = 1.8, 4.0, 2.0, 100
_MIN_UNIT_ROWS = 5


@dataclass(frozen=True, eq=False)
class QuantityErrors:
    """Estimated share of wrong values of a quantity, and each row's probability of one.

    Args:
        rate: share of values that are wrong, in [0, 1).
        low: lower bound of its 95 % interval.
        high: upper bound of its 95 % interval.
        p_value: p-value of no wrong values at all.
        targets: values, `[n]` float64.
        predicted: median prediction in the unit of the values, `[n]` float64.
        error_probability: probability that the value is wrong, `[n]` float64.
        factor: common factor of the wrong values over their predictions; None if there is none.
        rows: row numbers in the table that they were drawn from, `[n]` int64; None for all rows.
    """

    rate: float
    low: float
    high: float
    p_value: float
    targets: Tensor
    predicted: Tensor
    error_probability: Tensor
    factor: float | None = None
    rows: Tensor | None = None

    @property
    def suspicious(self) -> Tensor:
        """`[n]` bool, rows whose value is more likely wrong than right."""
        return self.error_probability > 0.5

    def table(self) -> DataFrame:
        """One row per suspicious row: value, prediction, probability, most suspicious first."""
        import pandas as pd

        order = self.error_probability.argsort(descending=True, stable=True)
        rows = order[: max(int(self.suspicious.sum()), 10)].cpu()
        columns = {
            "row": rows,
            "value": self.targets.cpu()[rows],
            "predicted": self.predicted.cpu()[rows],
            "probability_wrong": self.error_probability.cpu()[rows],
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Values over predictions, suspicious rows apart."""
        ax = axes(ax)
        wrong = self.suspicious.cpu()
        for rows, color, label in ((~wrong, REFERENCE, "other rows"), (wrong, LIVE, "suspicious")):
            x, y = (part.cpu()[rows].numpy() for part in (self.predicted, self.targets))
            ax.scatter(x, y, s=4, color=color, label=f"{label}: {len(x):,}")
        ax.set_xlabel("prediction")
        ax.set_ylabel("given value")
        ax.set_title(f"Wrong values: {self.rate:.1%}")
        ax.legend(loc="upper left")
        return ax


def scores_of(predicted: Tensor, values: Tensor) -> Tensor:
    """`[n]` predictions on the scale of the values' normal scores, interpolated.

    Args:
        predicted: predictions in the unit of the values, `[n]`.
        values: values, `[m]`.
    """
    ordered, scores = (
        part.double().cpu().sort().values for part in (values, normal_scores(values))
    )
    found = np.interp(predicted.double().cpu().numpy(), ordered.numpy(), scores.numpy())
    return torch.from_numpy(found).to(predicted.device)


def quantity_errors(
    predicted: Tensor, targets: Tensor, log_scale: Tensor, *, level: float = 0.95
) -> QuantityErrors:
    """Share and probabilities of wrong values, beyond what the tails of the residuals explain.

    On the scale of normal scores, a right value is `s = a + b m + e` around its prediction m, where
    e has a skewed t distribution whose scale varies with the row: tails may be heavy and spreads
    unequal. A wrong value is one of another row, `s ~ N(0, 1)`, whatever its prediction. Or, for
    positive quantities, wrong values have another unit: `log y` is shifted by a constant. The share
    is by maximum likelihood; its test is half of a chi-square with one degree of freedom, since a
    share cannot be negative (Chernoff, 1954), with Bonferroni for the kinds and the factors.

    Source: Hawkins (1980), Identification of Outliers; Lange, Little and Taylor (1989), JASA
    84:881, t residuals; Fernandez and Steel (1998), JASA 93:359, skewness. Cost: some hundred
    passes over `[n]`.

    Args:
        predicted: out-of-sample predictions of the normal scores, `[n]`.
        targets: values, `[n]`.
        log_scale: predictor of the logarithm of the residuals' scale, `[n]`; need not be scaled.
        level: coverage of the interval.
    """
    values, center = targets.double().cpu(), predicted.double().cpu()
    score, spread = normal_scores(values), log_scale.double().cpu()
    spread = (spread - spread.mean()) / spread.std().clamp(min=1e-9)
    median = _running_median(values, center)
    every = torch.ones_like(score, dtype=torch.bool)
    kinds = [(Residuals(score, center, spread, 0.0, 1.0), every)]
    if (unit := _unit_residuals(values, median, spread)) is not None:
        kinds.append(unit)
    fits = [_mixture(rows) for rows, _ in kinds]
    best = max(range(len(kinds)), key=lambda i: fits[i][1])
    (rows, used), (point, gain) = kinds[best], fits[best]
    p_value = min(1.0, len(kinds) * 0.5 * math.erfc(math.sqrt(max(gain, 0.0))))
    wrong = torch.zeros_like(score)
    wrong[used] = _wrong_probability(point, rows)
    share, part = float(point[6].sigmoid()), float(used.double().mean())
    low, high = _interval(point, rows, level)
    if p_value >= 1 - level:
        low, share = 0.0, min(share, float(wrong.mean()))
    factor = math.exp(rows.mean) if best else None
    values, median, wrong = (each.to(targets.device) for each in (values, median, wrong))
    return QuantityErrors(share * part, low * part, high, p_value, values, median, wrong, factor)


def _wrong_probability(point: Tensor, rows: Residuals) -> Tensor:
    right, other = _densities(point, rows)
    share = point[6].sigmoid()
    return share * other / (share * other + (1 - share) * right).clamp(min=1e-300)


@dataclass(frozen=True, eq=False)
class Residuals:
    """What the residuals of right and wrong values are told by.

    Args:
        score: values on the scale of the residuals, `[n]`.
        center: predictions on this scale, `[n]`.
        spread: predictor of the logarithm of the scale, `[n]`.
        mean: mean of wrong values.
        deviation: standard deviation of wrong values.
    """

    score: Tensor
    center: Tensor
    spread: Tensor
    mean: float
    deviation: float


def _running_median(values: Tensor, center: Tensor) -> Tensor:
    """`[n]` median value of the neighbours by prediction: few wrong values do not move it."""
    n = len(values)
    width = min(_NEIGHBOURS, n - 1 + n % 2)
    order = center.argsort(stable=True)
    medians = values[order].unfold(0, width, 1).median(1).values
    position = (torch.arange(n) - width // 2).clamp(0, len(medians) - 1)
    return torch.empty_like(values).index_copy_(0, order, medians[position])


def _unit_residuals(
    values: Tensor, median: Tensor, spread: Tensor
) -> tuple[Residuals, Tensor] | None:
    """Log ratios to the prediction with the most frequent shift, and the rows that have one.

    None where most are not positive, or no shift is far from the residuals.
    """
    positive = (values > 0) & (median > 0)
    if float(positive.double().mean()) < 0.9:
        return None
    ratio = (values[positive] / median[positive]).log()
    scale = float(ratio.abs().median()) * 1.4826
    apart = max(_MIN_SCALES * scale, math.log(_MIN_FACTOR))
    sides = [ratio[ratio > apart], ratio[ratio < -apart]]
    shifted = max(sides, key=len)
    if len(shifted) < _MIN_UNIT_ROWS or scale <= 0:
        return None
    mean = shifted.median()
    deviation = float((shifted - mean).abs().median()) * 1.4826
    deviation = min(max(deviation, scale / _SPREAD), scale * _SPREAD)
    zeros = torch.zeros_like(ratio)
    return Residuals(ratio, zeros, spread[positive], float(mean), deviation), positive


def _mixture(rows: Residuals) -> tuple[Tensor, float]:
    """Parameters `[7]` of right and wrong values, and the gain over right values alone in nats.

    A chosen shift costs the logarithm of the number of shifts.
    """
    residual = rows.score - rows.center
    scale = float((residual - residual.median()).abs().median().clamp(min=1e-3)) * 1.5
    start = np.array([0.0, 1.0, math.log(scale), 0.1, 0.0, 2.0, _NO_ODDS])
    none, nats_none = _fitted(rows, start, (_NO_ODDS, _NO_ODDS))
    found, nats = _fitted(rows, np.array([*none[:6], -3.5]), _ODDS)
    cost = math.log(_FACTORS) if rows.mean else 0.0
    return torch.from_numpy(found), nats_none - nats - cost


def _fitted(rows: Residuals, start: Any, odds: tuple[float, float]) -> tuple[Any, float]:
    """Parameters `[7]` of least penalized loss, and the loss."""
    from scipy.optimize import minimize

    def evaluate(point: Any) -> tuple[float, Any]:
        parameters = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            loss = _loss(parameters, rows)
            (slope,) = torch.autograd.grad(loss, parameters)
        gradient = slope.numpy()
        gradient[6] *= odds[0] < odds[1]
        return float(loss.detach()), gradient

    bounds = (*_BOUNDS, odds)
    options: Any = {"maxiter": _ITERATIONS, "ftol": 1e-9}
    fit = minimize(evaluate, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return fit.x, float(fit.fun)


def _loss(point: Tensor, rows: Residuals) -> Tensor:
    right, other = _densities(point, rows)
    share = point[6].sigmoid()
    nats = -((1 - share) * right + share * other).clamp(min=1e-300).log().sum()
    return nats + _RIDGE * point[:6].square().sum()


def _densities(point: Tensor, rows: Residuals) -> tuple[Tensor, Tensor]:
    """Densities `[n]` of right values, by a two-piece t, and of wrong ones, normal."""
    freedom = 1 + point[5].exp()
    residual = rows.score - point[0] - point[1] * rows.center
    scale = (point[2] + point[3] * rows.spread).exp()
    side = torch.where(residual > 0, point[4], -point[4]).exp()
    constant = torch.lgamma((freedom + 1) / 2) - torch.lgamma(freedom / 2)
    constant = constant - (math.pi * freedom).log() / 2 - torch.cosh(point[4]).log()
    tail = (residual / (scale * side)).square() / freedom
    right = (constant - scale.log() - (freedom + 1) / 2 * tail.log1p()).exp()
    distance = ((rows.score - rows.mean) / rows.deviation).square()
    return right, (-distance / 2).exp() / (rows.deviation * math.sqrt(2 * math.pi))


def _interval(point: Tensor, rows: Residuals, level: float) -> tuple[float, float]:
    """Bounds of the share, from the curvature of the loss by the log odds.

    Next to 0 the curvature says nothing: the upper bound is where the share costs too much
    likelihood.
    """
    odds, quantile = float(point[6]), normal_quantile(0.5 + level / 2)
    if len(rows.score) / (1 + math.exp(-odds)) <= 0.5:
        right, other = _densities(point, rows)
        shares = torch.cat([torch.zeros(1), torch.logspace(-6, -0.01, 100)]).double()
        parts = [((1 - s) * right + s * other).clamp(min=1e-300).log().sum() for s in shares]
        gain = torch.stack(parts)
        return 0.0, float(shares[gain >= gain.max() - quantile**2 / 2].max())
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda p: _loss(p, rows), point
    )
    variance = float(torch.linalg.pinv(hessian, hermitian=True)[6, 6])
    half = quantile * math.sqrt(min(max(variance, 0.0), 100.0))
    return 1 / (1 + math.exp(half - odds)), 1 / (1 + math.exp(-half - odds))
