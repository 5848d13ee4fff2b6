"""The diagnosis of learning curves: regime, inflection and forecast, beyond the curves' noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from gendebug_torch.curves.diagnosis.accuracy import AccuracyChange, accuracy_change
from gendebug_torch.curves.diagnosis.curve_diagnosis import CurveDiagnosis
from gendebug_torch.curves.diagnosis.notes import notes
from gendebug_torch.curves.diagnosis.regimes import CurveNumbers, Verdict, verdict
from gendebug_torch.curves.fit.curve_statistics import (
    MAX_ALPHA,
    CurveStatistics,
    curve_statistics,
)
from gendebug_torch.curves.fit.forecast import Forecast, power_law_forecast
from gendebug_torch.curves.generalization_gap import generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.errors import reject

_MAX_LOSS = 1e100


def diagnose_curves(
    curves: LearningCurves,
    *,
    window: int = 5,
    tolerance: float = 0.025,
    alpha: float = 0.02,
    baseline_loss: float | None = None,
    target_loss: float | None = None,
    seed: int = 0,
) -> CurveDiagnosis:
    """The regime of a training from its curves, each verdict beyond the curve's own noise.

    - `diverged`: a loss ends as NaN or infinite, or the training loss itself rises by more than a
      tenth, or ends above that of the untrained network.
    - `overfit`: the validation loss rises towards its end (`rising_tail_p_value`,
      `inflection_posterior`), by more than 1.5 standard deviations of an epoch and more than
      `tolerance`. A rise that came down again is a note, not this.
    - `oscillating`: one period stands out of the noise, and its amplitude is above `tolerance`.
    - `underfit`: at the end the training loss is at 95 % or more of the loss of a constant
      prediction, or both losses are above `target_loss` and near each other.
    - `still_improving`: between the halves of the last third the validation loss fell by more than
      `tolerance`.
    - `too_noisy`: the standard error of that change is more than `tolerance`.
    - `converged`: none of these: the validation loss stays within `tolerance`.

    Source: Prechelt (1998), Early Stopping - But When?, for the question; the tests are those of
    `rising_tail_p_value` and `inflection_posterior`.

    Args:
        curves: losses per epoch; a verdict needs at least 6 epochs with a validation loss.
        window: odd number of epochs of the centred moving average.
        tolerance: relative change that counts as none, 0.02 to 0.03.
        alpha: chance of finding an inflection in a curve that only falls, at most 0.2.
        baseline_loss: loss of the best constant prediction, e.g. the entropy of the class shares;
            by default `curves.untrained_loss`.
        target_loss: loss of a sufficient model.
        seed: seed of the simulated curves.

    Raises:
        InputError: an even window, a tolerance that is not positive, or an alpha outside (0, 0.2].

    Example:
        >>> import torch
        >>> from gendebug_torch.curves import LearningCurves
        >>> epoch = torch.arange(40)
        >>> noise = 0.004 * torch.randn(40, generator=torch.Generator().manual_seed(0))
        >>> fall = torch.exp(-epoch / 4)
        >>> val = 0.5 + fall + 0.01 * (epoch - 20).clamp(min=0) + noise
        >>> result = diagnose_curves(LearningCurves(epoch, 0.4 + fall, val))
        >>> result.regime, abs(result.inflection_epoch - 20) <= 2
        ('overfit', True)
    """
    if not 0 < alpha <= MAX_ALPHA:
        reject(
            "alpha", f"a chance above 0 and up to {MAX_ALPHA}", str(alpha), "Choose 0.01 or 0.02."
        )
    if not tolerance > 0:
        reject(
            "tolerance", "a positive share such as 0.025", str(tolerance), "Choose 0.02 to 0.03."
        )
    curves = _without_overflow(curves)
    val, train = (
        curve_statistics(curves.epoch, loss, window=window, seed=seed)
        for loss in (curves.val_loss, curves.train_loss)
    )
    numbers = CurveNumbers(
        curves=curves,
        train=train,
        val=val,
        gap=generalization_gap(curves, window=window, baseline_loss=baseline_loss),
        baseline=curves.untrained_loss if baseline_loss is None else baseline_loss,
        target=target_loss,
        tolerance=tolerance,
        alpha=alpha,
    )
    if val is None:
        return _without_statistics(numbers, verdict(numbers))
    return _with_statistics(numbers, val, verdict(numbers))


def _without_overflow(curves: LearningCurves) -> LearningCurves:
    """The curves, losses whose squares overflow made infinite."""
    train, val = (
        loss.masked_fill(loss.abs() > _MAX_LOSS, math.inf)
        for loss in (curves.train_loss, curves.val_loss)
    )
    return replace(curves, train_loss=train, val_loss=val)


def _without_statistics(numbers: CurveNumbers, result: Verdict) -> CurveDiagnosis:
    """The diagnosis of curves with too few validation losses."""
    return CurveDiagnosis(
        regime=result.regime,
        inflection_epoch=None,
        interval=None,
        confidence=0.0,
        best_epoch=None,
        rise=math.nan,
        change=math.nan,
        gap=numbers.gap,
        noise=math.nan,
        learned=numbers.learned,
        summary=result.summary,
        notes=notes(numbers),
        accuracy=None,
        forecast=None,
        curves=numbers.curves,
        val_loss_smooth=torch.full((len(numbers.curves),), torch.nan, dtype=torch.float64),
    )


def _with_statistics(
    numbers: CurveNumbers, val: CurveStatistics, result: Verdict
) -> CurveDiagnosis:
    curves, rises = numbers.curves, numbers.rises
    smooth = torch.full((len(curves),), torch.nan, dtype=torch.float64)
    smooth[curves.val_loss.isfinite()] = torch.from_numpy(val.fit)
    inflection, low, high = (int(val.epoch[index]) for index in (val.minimum, *val.interval))
    falling = result.regime in ("still_improving", "underfit") and val.change < 0
    forecast = _forecast(val) if falling else None
    outlook = () if forecast is None else (_outlook(forecast, val, curves.unit),)
    accuracy = accuracy_change(curves, inflection) if result.regime == "overfit" else None
    better = (_better_decisions(accuracy),) if accuracy is not None and accuracy.rises else ()
    return CurveDiagnosis(
        regime=result.regime,
        inflection_epoch=inflection if rises else None,
        interval=(low, high) if rises else None,
        confidence=1 - val.p_value,
        best_epoch=inflection if rises else int(val.epoch[val.best]),
        rise=max(val.relative_rise, 0.0),
        change=val.change,
        gap=numbers.gap,
        noise=val.relative_noise,
        learned=numbers.learned,
        summary=result.summary,
        notes=(*better, *notes(numbers), *outlook),
        accuracy=accuracy,
        forecast=forecast,
        curves=curves,
        val_loss_smooth=smooth,
    )


def _better_decisions(accuracy: AccuracyChange) -> str:
    return (
        f"Meanwhile {accuracy.name} rises from {accuracy.before:.4g} to {accuracy.after:.4g}: the "
        "later network decides better, but is overconfident."
    )


def _forecast(val: CurveStatistics) -> Forecast:
    """The validation loss after another stretch, from the later two thirds of the curve."""
    t = len(val.fit)
    late = slice(t // 3, t)
    x = np.arange(1, t + 1, dtype=np.float64)
    return power_law_forecast(x[late], val.values[late], float(t + val.stretch), val.noise)


def _outlook(forecast: Forecast, val: CurveStatistics, unit: str) -> str:
    if forecast.value is None or forecast.interval is None:
        return f"There is no forecast for more {unit}s: {forecast.refusal}."
    low, high = forecast.interval
    return (
        f"Another {val.stretch} {unit}s would bring the validation loss from {val.end:.4g} to "
        f"about {forecast.value:.4g} (90 % interval {low:.4g} to {high:.4g})."
    )
