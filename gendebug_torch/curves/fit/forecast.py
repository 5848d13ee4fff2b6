"""Where a falling curve is heading: a power law with a floor, its interval, or the reason why it
cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gendebug_torch.curves.fit.trend import Curve, Noise
from gendebug_torch.curves.fit.trend_tests import ar_noise

_POWERS = np.geomspace(0.1, 3.0, 240)
_FEWEST = 8
# A law whose residual is this many times the noise does not describe the curve.
_POOR = 1.6


@dataclass(frozen=True)
class Forecast:
    """A power law `floor + scale * x ** -power`, extended.

    Args:
        at: the x it is extended to.
        value: expected there; None where the law is refused.
        interval: of 90 %, None where refused.
        floor: what more x cannot go below; None where refused.
        power: of the law; None where refused.
        refused: why nothing is told; empty otherwise.
    """

    at: float
    value: float | None
    interval: tuple[float, float] | None
    floor: float | None
    power: float | None
    refused: str = ""


def extend(
    x: Curve,
    y: Curve,
    at: float,
    noise: Noise,
    *,
    relative: Curve | None = None,
    replicates: int = 400,
    seed: int = 0,
) -> Forecast:
    """The value of a falling curve at a later x, by a power law with a floor >= 0 where the curve
    is positive.

    Source: Hestness et al. (2017, arXiv 1712.00409), Deep Learning Scaling is Predictable, for the
    law; Efron (1979) for the interval, by a parametric bootstrap with AR(1) noise.

    Args:
        x: `[t]` positive, ascending: epochs from 1, or numbers of rows.
        y: `[t]` losses.
        at: beyond the last x.
        noise: of a single y.
        relative: `[t]` noise of each y as a multiple of `noise.sd`; all 1 by default.
        replicates: of the bootstrap.
        seed: of the bootstrap.
    """
    if len(y) < _FEWEST:
        return _refusal(
            at, f"{len(y)} points are too few for a law of three parameters; {_FEWEST} are needed"
        )
    scale = np.ones(len(y)) if relative is None else relative
    least = 0.0 if y.min() > 0 else -np.inf
    fitted = _fit(x, y[None], scale**-2, least)
    residual = (y - fitted.curve(x)[0]) / scale
    spread = float((residual**2).sum() / max(len(y) - 3, 1)) ** 0.5
    if spread > _POOR * noise.sd + 1e-12:
        return _refusal(
            at,
            f"a power law misses the curve by {spread:.2g}, more than its noise of {noise.sd:.2g}",
        )
    if fitted.scale[0] <= 0:
        return _refusal(at, "the curve does not fall")
    generator = np.random.default_rng(seed)
    shocks = ar_noise(generator, replicates, len(y), np.full(replicates, noise.correlation))
    again = _fit(x, fitted.curve(x) + max(spread, noise.sd) * scale * shocks, scale**-2, least)
    low, high = np.quantile(again.curve(np.array([at]))[:, 0], [0.05, 0.95]).tolist()
    value = float(fitted.curve(np.array([at]))[0, 0])
    return Forecast(
        at,
        value,
        (min(low, value), max(high, value)),
        float(fitted.floor[0]),
        float(fitted.power[0]),
    )


@dataclass(frozen=True, eq=False)
class _Laws:
    floor: Curve
    scale: Curve
    power: Curve

    def curve(self, x: Curve) -> Curve:
        values: Curve = self.floor[:, None] + self.scale[:, None] * x ** -self.power[:, None]
        return values


def _fit(x: Curve, y: Curve, weight: Curve, least: float) -> _Laws:
    """Weighted least squares of `[r, t]` curves over a grid of powers; the floor and the scale are
    solved for, and bounded below.
    """
    weight = weight / weight.sum()
    mean = y @ weight
    best = np.full(len(y), np.inf)
    found = np.zeros((3, len(y)))
    for power in _POWERS:
        basis = x**-power
        centred = basis - basis @ weight
        scale = (y @ (weight * centred) / (weight @ centred**2)).clip(0)
        level = mean - scale * (basis @ weight)
        low = level < least
        scale = np.where(
            low,
            ((y - (least if low.any() else 0.0)) @ (weight * basis) / (weight @ basis**2)).clip(0),
            scale,
        )
        level = np.where(low, least, level)
        error = (y - level[:, None] - scale[:, None] * basis) ** 2 @ weight
        better = error < best
        best = np.where(better, error, best)
        found[:, better] = np.stack([level, scale, np.full(len(y), power)])[:, better]
    return _Laws(*found)


def _refusal(at: float, why: str) -> Forecast:
    return Forecast(at, None, None, None, None, why)
