"""Tests on a curve with AR(1) noise: a lasting rise, an oscillation, a transient rise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gendebug_torch.curves.fit.trend import Curve, Noise

# A rise is a slope over at least this many values.
_MIN_TAIL = 4
_OSCILLATION_P, _OSCILLATION_SHARE = 0.01, 0.5
# Frequencies start at four periods: what correlated noise does more slowly is no oscillation.
_FIRST_FREQUENCY = 2


def rising_tail_p_value(
    values: Curve, noise: Noise, *, replicates: int = 2000, seed: int = 0
) -> float:
    """Chance that a flat curve rises to its end as strongly as this one.

    The strength is z, the least-squares slope of `values[s:]` over its standard error under AR(1)
    noise, maximised over all starts s. A falling curve exceeds the z of a flat one less often
    still, so the chance is an upper bound.

    Args:
        values: finite curve, `[t]`, t >= 5.
        noise: noise about its trend.
        replicates: number of flat curves, with noise drawn about the estimate so that a short curve
            is trusted less.
        seed: seed of the replicates.
    """
    z = _tail_slopes(values[None], noise.sd, noise.correlation).max()
    flat, scale = _null_curves(len(values), noise, replicates, seed)
    null = _tail_slopes(flat, 1.0, noise.correlation).max(1) * scale
    return float((1 + (null >= z).sum()) / (1 + replicates))


@dataclass(frozen=True)
class Oscillation:
    """The strongest oscillation of a residual.

    Args:
        period: length of a cycle, in values.
        amplitude: height of a sine of as much power.
        power_share: share of the residual's power that it holds.
        p_value: chance of so large a share in AR(1) noise.
    """

    period: float
    amplitude: float
    power_share: float
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Whether it is beyond chance and holds more than half of the residual's power."""
        return self.p_value < _OSCILLATION_P and self.power_share > _OSCILLATION_SHARE


def strongest_oscillation(
    residual: Curve, noise: Noise, *, replicates: int = 2000, seed: int = 0
) -> Oscillation:
    """The oscillation of at least four periods that holds the largest share of the power.

    The statistic is the largest share that three neighbouring frequencies have in the periodogram
    of the tapered residual (Fisher, 1929, Proc. R. Soc. A 125:54, with one frequency and white
    noise): the taper keeps the power of a period between two frequencies from spreading further.

    Args:
        residual: curve minus its trend, `[t]`, t >= 16.
        noise: noise about the trend.
        replicates: number of curves of pure noise.
        seed: seed of the replicates.
    """
    t = len(residual)
    power = _periodogram(residual[None])
    shares = _neighbour_shares(power)[0]
    at = _FIRST_FREQUENCY + int(np.argmax(shares[_FIRST_FREQUENCY:]))
    share = float(shares[at])
    # The oscillation itself correlates neighbours: the noise is what the other frequencies hold.
    others = power[0].copy()
    others[max(at - 1, 0) : at + 4] = 0
    waves = np.cos(2 * np.pi * np.arange(1, len(others) + 1) / t)
    lag = float((others * waves).sum() / max(float(others.sum()), 1e-300))
    rest = replace(noise, correlation=float(np.clip(lag, 0.0, 0.9)))
    null = _neighbour_shares(_periodogram(_null_curves(t, rest, replicates, seed)[0]))
    above = (null[:, _FIRST_FREQUENCY:].max(1) >= share).sum()
    p_value = float((1 + above) / (1 + replicates))
    return Oscillation(t / (at + 2), float((2 * share) ** 0.5 * residual.std()), share, p_value)


class TransientRise(NamedTuple):
    """A rise that came down again: where it starts, its top, where it is over, its height."""

    start: int
    top: int
    end: int
    height: float


def transient_rise(smooth: Curve) -> TransientRise | None:
    """The highest transient rise of a smoothed curve, its height above the higher foot."""
    left = np.minimum.accumulate(smooth)
    right = np.minimum.accumulate(smooth[::-1])[::-1]
    height = smooth - np.maximum(left, right)
    top = int(np.argmax(height))
    if not height[top] > 0:
        return None
    start, end = int(np.argmin(smooth[: top + 1])), top + int(np.argmin(smooth[top:]))
    return TransientRise(start, top, end, float(height[top]))


def ar_noise(generator: np.random.Generator, replicates: int, t: int, correlation: Curve) -> Curve:
    """Stationary AR(1) noise of unit variance, `[r, t]`, with one correlation per row."""
    shocks: Curve = generator.normal(size=(replicates, t))
    shocks[:, 1:] *= (1 - correlation[:, None] ** 2) ** 0.5
    for i in range(1, t):
        shocks[:, i] += correlation * shocks[:, i - 1]
    return shocks


def _null_curves(t: int, noise: Noise, replicates: int, seed: int) -> tuple[Curve, Curve]:
    """Flat curves of unit noise, and the error of its strength.

    Correlation and strength are as uncertain as their estimates.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.normal(noise.correlation, noise.correlation_error, replicates)
    freedom = noise.degrees_of_freedom
    scale = np.sqrt(freedom / generator.chisquare(freedom, replicates))
    return ar_noise(generator, replicates, t, np.clip(drawn, 0.0, 0.95)), scale


def _tail_slopes(values: Curve, sd: float, correlation: float) -> Curve:
    """Slope over standard error of each tail `values[:, s:]`, `[r, s]`, by sums from the end."""
    t = values.shape[1]
    backwards = values[:, ::-1]
    total, moment = backwards.cumsum(1), (backwards * np.arange(t)).cumsum(1)
    length = np.arange(1, t + 1, dtype=np.float64)[_MIN_TAIL - 1 :]
    spread = length * (length**2 - 1) / 12
    # Backwards in time a rise is a fall.
    slope = ((length - 1) / 2 * total[:, _MIN_TAIL - 1 :] - moment[:, _MIN_TAIL - 1 :]) / spread
    z: Curve = slope / (max(sd, 1e-300) * ((1 + correlation) / (1 - correlation) / spread) ** 0.5)
    return z[:, ::-1]


def _periodogram(values: Curve) -> Curve:
    """Periodogram above zero, `[r, f]`, of values tapered by a cosine bell."""
    tapered = (values - values.mean(1, keepdims=True)) * np.hanning(values.shape[1] + 2)[1:-1]
    power: Curve = np.abs(np.fft.rfft(tapered, axis=1)[:, 1:]) ** 2
    return power


def _neighbour_shares(power: Curve) -> Curve:
    """Share of the power in each three neighbouring frequencies, `[r, f]`."""
    shares: Curve = (power[:, :-2] + power[:, 1:-1] + power[:, 2:]) / np.maximum(
        power.sum(1, keepdims=True), 1e-300
    )
    return shares
