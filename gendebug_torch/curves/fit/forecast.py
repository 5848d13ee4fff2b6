"""Where a falling curve is heading: a power law with a floor, its interval, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gendebug_torch.curves.fit.trend import Curve, Noise
from gendebug_torch.curves.fit.trend_tests import ar_noise

_POWERS = np.geomspace(0.1, 3.0, 240)
_MIN_VALUES = 8
# A law whose residual is this many times the noise does not describe the curve.
_MAX_MISFIT = 1.6


@dataclass(frozen=True)
class Forecast:
    """A power law `floor + scale * x ** -power`, extrapolated.

    Args:
        at: x of the forecast.
        value: expected loss there; None where the law is refused.
        interval: 90 % interval of the value; None where refused.
        floor: limit that more x cannot go below; None where refused.
        power: power of the law; None where refused.
        refusal: reason why there is no forecast; empty otherwise.
    """

    at: float
    value: float | None
    interval: tuple[float, float] | None
    floor: float | None
    power: float | None
    refusal: str = ""


def power_law_forecast(
    x: Curve,
    y: Curve,
    at: float,
    noise: Noise,
    *,
    relative_sd: Curve | None = None,
    replicates: int = 400,
    seed: int = 0,
) -> Forecast:
    """The value of a falling curve at a later x, by a power law with a floor.

    The floor is >= 0 where the curve is positive.

    Source: Hestness et al. (2017, arXiv 1712.00409), Deep Learning Scaling is Predictable, for the
    law; Efron (1979) for the interval, by a parametric bootstrap with AR(1) noise.

    Args:
        x: positive, ascending, `[t]`: epochs from 1, or numbers of rows.
        y: losses, `[t]`.
        at: x of the forecast, beyond the last one.
        noise: noise of a single y.
        relative_sd: noise of each y as a multiple of `noise.sd`, `[t]`; all 1 by default.
        replicates: number of bootstrap replicates.
        seed: seed of the bootstrap.
    """
    if len(y) < _MIN_VALUES:
        return _refusal(
            at,
            f"{len(y)} points are too few for a power law with a floor, which needs {_MIN_VALUES}",
        )
    scale = np.ones(len(y)) if relative_sd is None else relative_sd
    floor = 0.0 if y.min() > 0 else -np.inf
    law = _fit(x, y[None], scale**-2, floor)
    residual = (y - law.curve(x)[0]) / scale
    sd = float((residual**2).sum() / max(len(y) - 3, 1)) ** 0.5
    if sd > _MAX_MISFIT * noise.sd + 1e-12:
        return _refusal(
            at, f"a power law misses the curve by {sd:.2g}, more than its noise of {noise.sd:.2g}"
        )
    if law.scale[0] <= 0:
        return _refusal(at, "the curve does not fall")
    shocks = ar_noise(
        np.random.default_rng(seed), replicates, len(y), np.full(replicates, noise.correlation)
    )
    simulated = law.curve(x) + max(sd, noise.sd) * scale * shocks
    refits = _fit(x, simulated, scale**-2, floor)
    return _extrapolated(law, refits, at)


def _extrapolated(law: _PowerLaws, refits: _PowerLaws, at: float) -> Forecast:
    """The forecast of a law, with the interval of its bootstrap refits."""
    value = float(law.curve(np.array([at]))[0, 0])
    low, high = np.quantile(refits.curve(np.array([at]))[:, 0], [0.05, 0.95]).tolist()
    interval = min(low, value), max(high, value)
    return Forecast(at, value, interval, float(law.floor[0]), float(law.power[0]))


@dataclass(frozen=True, eq=False)
class _PowerLaws:
    floor: Curve
    scale: Curve
    power: Curve

    def curve(self, x: Curve) -> Curve:
        values: Curve = self.floor[:, None] + self.scale[:, None] * x ** -self.power[:, None]
        return values


def _fit(x: Curve, y: Curve, weight: Curve, least_floor: float) -> _PowerLaws:
    """Weighted least squares of curves `[r, t]` over powers, with floor and scale bounded."""
    weight = weight / weight.sum()
    mean = y @ weight
    least = np.full(len(y), np.inf)
    best = np.zeros((3, len(y)))
    for power in _POWERS:
        basis = x**-power
        centred = basis - basis @ weight
        scale = (y @ (weight * centred) / (weight @ centred**2)).clip(0)
        level = mean - scale * (basis @ weight)
        low = level < least_floor
        bound = least_floor if low.any() else 0.0
        bounded = ((y - bound) @ (weight * basis) / (weight @ basis**2)).clip(0)
        scale, level = np.where(low, bounded, scale), np.where(low, least_floor, level)
        error = (y - level[:, None] - scale[:, None] * basis) ** 2 @ weight
        better = error < least
        least = np.where(better, error, least)
        best[:, better] = np.stack([level, scale, np.full(len(y), power)])[:, better]
    return _PowerLaws(*best)


def _refusal(at: float, reason: str) -> Forecast:
    return Forecast(at, None, None, None, None, reason)
