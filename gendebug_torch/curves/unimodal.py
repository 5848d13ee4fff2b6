"""Whether a noisy curve only falls, or falls and then rises: order-restricted regression and its bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

# Longer curves are averaged into this many blocks first: the fit is quadratic in none, but the bootstrap repeats it.
_MOST_POINTS = 200


@dataclass(frozen=True)
class Turn:
    """A test of falling against falling-then-rising.

    Args:
        p_value: chance of so much better a fit by turning, if the curve only falls.
        at: index of the lowest point of the turning fit.
        interval: indices that hold the lowest point in 90 % of bootstrap replicates.
        rise: how far the fit rises from there to the end.
        noise: standard deviation of a single value about the fit.
        correlation: lag-one autocorrelation of that noise.
    """

    p_value: float
    at: int
    interval: tuple[int, int]
    rise: float
    noise: float
    correlation: float


def turning_point(values: Curve, *, replicates: int = 200, seed: int = 0) -> Turn:
    """Test whether the curve turns from falling to rising, and where.

    The statistic is how much the residual sum of squares of the best falling fit drops if the fit may rise
    after some point (isotonic and unimodal regression, Barlow et al., 1972). Its distribution under a curve
    that only falls comes from a parametric bootstrap of the falling fit with AR(1) noise, whose strength is
    taken from the turning fit and corrected for the degrees of freedom that order-restricted fits use up
    (Meyer and Woodroofe, 2000, Ann. Stat. 28:1083).

    Args:
        values: `[t]`, t >= 5, finite.
        replicates: of the bootstrap.
        seed: of the bootstrap.
    """
    block = -(-len(values) // _MOST_POINTS)
    y = values[: len(values) // block * block].reshape(-1, block).mean(1) if block > 1 else values
    falling = monotone(-y) * -1.0
    turning, at, gain = _turning(y, falling)
    noise, correlation = _noise(y, turning)
    generator = np.random.default_rng(seed)
    null = [_turning(curve, monotone(-curve) * -1.0)[2] for curve in falling + _ar(generator, replicates, len(y), noise, correlation)]
    exceed = sum(value >= gain for value in null)
    found = [_lowest(curve) for curve in turning + _ar(generator, replicates, len(y), noise, correlation)]
    low, high = np.quantile(found, [0.05, 0.95])
    p_value = (1 + exceed) / (1 + replicates) if gain > 0 else 1.0
    rise = float(turning[-1] - turning[at])
    return Turn(p_value, at * block, (int(low) * block, int(np.ceil(high)) * block), rise, noise * block**0.5, correlation)


def monotone(y: Curve) -> Curve:
    """Rising least-squares fit by pooling adjacent violators (Ayer et al., 1955)."""
    means, sizes = _pools(y)
    fit: Curve = np.repeat(means, sizes)
    return fit


def _pools(y: Curve) -> tuple[list[float], list[int]]:
    means: list[float] = []
    sizes: list[int] = []
    for value in y.tolist():
        mean, size = value, 1
        while means and means[-1] >= mean:
            other, count = means.pop(), sizes.pop()
            mean, size = (other * count + mean * size) / (count + size), count + size
        means.append(mean)
        sizes.append(size)
    return means, sizes


def _prefix_errors(y: Curve) -> Curve:
    """`[t + 1]` residual sum of squares of the rising fit of every prefix, in one pass."""
    errors = np.zeros(len(y) + 1)
    pools: list[tuple[float, int, float]] = []
    total = 0.0
    for i, value in enumerate(y.tolist()):
        mean, size, error = value, 1, 0.0
        while pools and pools[-1][0] >= mean:
            other, count, own = pools.pop()
            total -= own
            error += own + (other - mean) ** 2 * count * size / (count + size)
            mean, size = (other * count + mean * size) / (count + size), count + size
        pools.append((mean, size, error))
        total += error
        errors[i + 1] = total
    return errors


def _turning(y: Curve, falling: Curve) -> tuple[Curve, int, float]:
    """Best falling-then-rising fit, the index of its lowest value, and its gain over the falling fit."""
    before = _prefix_errors(-y)
    after = _prefix_errors(-y[::-1])[::-1]
    split = int(np.argmin(before + after))
    fit = np.concatenate([-monotone(-y[:split]), monotone(y[split:])])
    gain = float(((y - falling) ** 2).sum() - ((y - fit) ** 2).sum())
    lowest = np.flatnonzero(fit <= fit.min() + 1e-15)
    return fit, int(lowest[len(lowest) // 2]), gain


def _lowest(y: Curve) -> int:
    return _turning(y, y)[1]


def _noise(y: Curve, fit: Curve) -> tuple[float, float]:
    """Standard deviation and lag-one correlation of the noise about a fit with as many freedoms as it has levels."""
    residual = y - fit
    freedom = max(1.0, len(y) - 1.5 * len(np.unique(fit)))
    variance = float((residual**2).sum() / freedom)
    # Successive differences of a smooth curve hold the noise alone; they guard against a fit that follows the noise.
    steps = np.diff(y - fit)
    lag = float((residual[1:] * residual[:-1]).sum() / max((residual**2).sum(), 1e-300))
    correlation = float(np.clip(lag + (1 + 4 * max(lag, 0.0)) / len(y), 0.0, 0.9))
    by_steps = float((steps**2).mean() / (2 * (1 - correlation)))
    return max(variance, by_steps) ** 0.5, correlation


def _ar(generator: np.random.Generator, replicates: int, length: int, noise: float, correlation: float) -> Curve:
    """`[r, t]` stationary AR(1) noise."""
    shocks: Curve = generator.normal(size=(replicates, length)) * noise * (1 - correlation**2) ** 0.5
    shocks[:, 0] /= (1 - correlation**2) ** 0.5
    for i in range(1, length):
        shocks[:, i] += correlation * shocks[:, i - 1]
    return shocks
