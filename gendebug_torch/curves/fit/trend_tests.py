"""Tests upon a curve whose noise is known as far as it tells: a rise that lasts to the end, a
swing, a passing hump.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gendebug_torch.curves.fit.trend import Curve, Noise

# A rise is a slope over at least this many values.
_FEWEST = 4
_SWING_P, _SWING_SHARE = 0.01, 0.5
# The first three frequencies with at least four periods: what correlated noise does more slowly is
# no swing.
_FIRST = 2


def rising_tail(
    values: Curve, noise: Noise, *, replicates: int = 2000, seed: int = 0
) -> tuple[int, float]:
    """Index from which the strongest rise lasts to the end, and the chance of one so strong in a
    flat curve.

    Strength is z, the least-squares slope of `values[s:]` over its standard error under AR(1)
    noise, the largest over all starts s. A falling curve exceeds the z of a flat one less often
    still, so the chance is an upper bound.

    Args:
        values: `[t]`, t >= 5, finite.
        noise: about its trend.
        replicates: flat curves, with noise drawn about the estimate so that a short curve is
            trusted less.
        seed: of the replicates.
    """
    z = _slopes(values[None], noise.sd, noise.correlation)[0]
    start = int(np.argmax(z))
    flat, scale = _flat_curves(len(values), noise, replicates, seed)
    null = _slopes(flat, 1.0, noise.correlation).max(1) * scale
    return start, float((1 + (null >= z[start]).sum()) / (1 + replicates))


@dataclass(frozen=True)
class Swing:
    """The strongest swing of a residual.

    Args:
        period: in values.
        amplitude: of a sine of as much power.
        share: of the scatter that it holds.
        p_value: chance of so large a share in AR(1) noise.
    """

    period: float
    amplitude: float
    share: float
    p_value: float

    @property
    def stands_out(self) -> bool:
        """Whether it is beyond chance and holds more than half of the scatter: many curves wander a
        little.
        """
        return self.p_value < _SWING_P and self.share > _SWING_SHARE


def swing(residual: Curve, noise: Noise, *, replicates: int = 2000, seed: int = 0) -> Swing:
    """The strongest swing, by the share of three neighbouring frequencies, among those of at least
    four periods.

    The statistic is the largest share that three neighbouring frequencies have in the periodogram
    of the tapered residual (Fisher, 1929, Proc. R. Soc. A 125:54, with one frequency and white
    noise): the taper keeps the power of a period between two frequencies from spreading further.
    """
    t = len(residual)
    power = _power(residual[None])
    shares = _shares(power)[0]
    at = _FIRST + int(np.argmax(shares[_FIRST:]))
    share = float(shares[at])
    # The swing itself correlates neighbours: the noise is what the other frequencies hold.
    others = power[0].copy()
    others[max(at - 1, 0) : at + 4] = 0
    lag = float(
        (others * np.cos(2 * np.pi * np.arange(1, len(others) + 1) / t)).sum()
        / max(float(others.sum()), 1e-300)
    )
    left = replace(noise, correlation=float(np.clip(lag, 0.0, 0.9)))
    null = _shares(_power(_flat_curves(t, left, replicates, seed)[0]))[:, _FIRST:].max(1)
    p_value = float((1 + (null >= share).sum()) / (1 + replicates))
    return Swing(t / (at + 2), float((2 * share) ** 0.5 * residual.std()), share, p_value)


def hump(smooth: Curve) -> tuple[int, int, int, float] | None:
    """The highest passing rise of a smoothed curve: where it starts, its top, where it is over, its
    height above the higher foot.
    """
    left = np.minimum.accumulate(smooth)
    right = np.minimum.accumulate(smooth[::-1])[::-1]
    height = smooth - np.maximum(left, right)
    top = int(np.argmax(height))
    if not height[top] > 0:
        return None
    start, end = int(np.argmin(smooth[: top + 1])), top + int(np.argmin(smooth[top:]))
    return start, top, end, float(height[top])


def ar_noise(generator: np.random.Generator, replicates: int, t: int, correlation: Curve) -> Curve:
    """`[r, t]` stationary AR(1) noise of unit variance, one correlation per row."""
    shocks: Curve = generator.normal(size=(replicates, t))
    shocks[:, 1:] *= (1 - correlation[:, None] ** 2) ** 0.5
    for i in range(1, t):
        shocks[:, i] += correlation * shocks[:, i - 1]
    return shocks


def _flat_curves(t: int, noise: Noise, replicates: int, seed: int) -> tuple[Curve, Curve]:
    """Flat curves of unit noise whose correlation is as uncertain as the estimate, and the error of
    its strength.
    """
    generator = np.random.default_rng(seed)
    correlation = np.clip(
        generator.normal(noise.correlation, noise.uncertainty, replicates), 0.0, 0.95
    )
    scale = np.sqrt(noise.freedom / generator.chisquare(noise.freedom, replicates))
    return ar_noise(generator, replicates, t, correlation), scale


def _slopes(values: Curve, sd: float, correlation: float) -> Curve:
    """`[r, s]` z of the slope of each tail `values[:, s:]`, by sums from the end."""
    t = values.shape[1]
    backwards = values[:, ::-1]
    total, moment = backwards.cumsum(1), (backwards * np.arange(t)).cumsum(1)
    length = np.arange(1, t + 1, dtype=np.float64)[_FEWEST - 1 :]
    spread = length * (length**2 - 1) / 12
    # Backwards in time a rise is a fall.
    slope = ((length - 1) / 2 * total[:, _FEWEST - 1 :] - moment[:, _FEWEST - 1 :]) / spread
    z: Curve = slope / (max(sd, 1e-300) * ((1 + correlation) / (1 - correlation) / spread) ** 0.5)
    return z[:, ::-1]


def _power(values: Curve) -> Curve:
    """`[r, f]` periodogram above zero, of values tapered by a cosine bell."""
    tapered = (values - values.mean(1, keepdims=True)) * np.hanning(values.shape[1] + 2)[1:-1]
    power: Curve = np.abs(np.fft.rfft(tapered, axis=1)[:, 1:]) ** 2
    return power


def _shares(power: Curve) -> Curve:
    """`[r, f]` share of each three neighbouring frequencies."""
    shares: Curve = (power[:, :-2] + power[:, 1:-1] + power[:, 2:]) / np.maximum(
        power.sum(1, keepdims=True), 1e-300
    )
    return shares
