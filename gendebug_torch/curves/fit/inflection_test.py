"""Whether a curve turns from falling to rising, and where: an average over all shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gendebug_torch.curves.fit.trend import PRIOR_CORRELATION, PRIOR_SD, Curve, whiten

# Time constants of the decays, and of power laws `(1 + i / c) ** -power`, as shares of the length.
_DECAYS, _SCALES = np.geomspace(0.008, 0.8, 40), np.geomspace(0.005, 0.5, 12)
_POWERS = (0.5, 1.0, 2.0)
# Time constants of a rise that levels off; beside them a straight rise and one that gathers speed.
_LEVELLING = (0.05, 0.1, 0.2, 0.4)
_CORRELATIONS = (PRIOR_CORRELATION, 0.0, 0.15, 0.45, 0.6, 0.75)
# Falling shapes this far below the best, as log-likelihood under the first correlation, are dropped
# for the others.
_PRUNING = 15.0
# Curves sampled from the posterior of each set of falling shapes and each correlation.
_SAMPLES = 2000
# The last so many values must rise: a shape that only falls more slowly is no rise.
_END = 4


@dataclass(frozen=True)
class InflectionPosterior:
    """Where a curve has its minimum, and whether it rises from there.

    Args:
        minimum: index of the minimum: the median of its posterior.
        interval: indices that hold 95 % of the posterior, and one to either side.
        log_odds: natural logarithm of the Bayes factor of a rise at the end against a curve that
            only falls.
    """

    minimum: int
    interval: tuple[int, int]
    log_odds: float


@dataclass(frozen=True, eq=False)
class _FallingShapes:
    """Shapes `[m, p, t]` of p columns: a level, decays with weights >= 0, columns for shifts."""

    columns: Curve
    decays: int

    def subset(self, which: NDArray[np.bool_]) -> _FallingShapes:
        return _FallingShapes(self.columns[which], self.decays)


@dataclass(frozen=True, eq=False)
class _RisingShapes:
    """Shapes `[r, t]` of a rise from each index on, and the log prior `[r]` of each."""

    columns: Curve
    log_prior: Curve


@dataclass(frozen=True, eq=False)
class _LeastSquares:
    """Whitened fits of each falling shape alone and with each rise.

    Args:
        rss: residual sum of squares without a rise, `[m]`.
        gain: what each rise takes off it, `[m, r]`.
        weights: weights of the falling shape without a rise, `[m, p]`.
        falling: weights of the falling shape beside each rise, `[m, p, r]`.
        rising: weight of each rise, `[m, r]`.
    """

    rss: Curve
    gain: Curve
    weights: Curve
    falling: Curve
    rising: Curve


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The posterior under one correlation.

    Args:
        no_rise: log marginal likelihood of the curves without a rise.
        weight: log weights `[s]` of sampled curves with a rise.
        minimum: index `[s]` of the minimum of each.
        likely: falling shapes near the best, `[m]` bool.
    """

    no_rise: float
    weight: Curve
    minimum: NDArray[np.int64]
    likely: NDArray[np.bool_]


def inflection_posterior(values: Curve, level_shifts: tuple[int, ...] = ()) -> InflectionPosterior:
    """The posterior of the minimum over falling shapes, rising shapes, onsets, and AR(1) noise.

    A curve is a level, none, one or two decays (exponentials or a power law), and a rise from
    index k on (straight, levelling off or gathering speed), with weights >= 0 by least squares of
    the values whitened by the correlation. Its marginal likelihood is
    `RSS ** (-(t - p) / 2) * t ** (-p / 2)` for p weights: Jeffreys' prior on the noise, and the
    unit-information prior of Kass and Wasserman (1995, J. Am. Stat. Assoc. 90:928) on the weights.
    None, one and two decays are as likely before the values are seen, and so is each index for the
    rise.

    A curve that only falls passes a Bayes factor of b with a chance of 1 / b at most (Markov's
    inequality), as far as the shapes hold the true one.

    Args:
        values: finite curve, `[t]`, t >= 6.
        level_shifts: indices at which a level shift begins; a level and a decay of their own follow
            each.

    Cost: some 7e4 * t**2 operations: 40 ms for t = 60, 0.2 s for t = 200.
    """
    t = len(values)
    scaled = (values - values.mean()) / max(float(values.std()), 1e-300)
    rises = _rising_shapes(t)
    no_rise, weights, minima = [], [], []
    for shapes in _falling_shapes(t, level_shifts):
        candidates = shapes
        for correlation in _CORRELATIONS:
            distance = (correlation - PRIOR_CORRELATION) / PRIOR_SD
            log_prior = -0.5 * distance**2 - np.log(len(shapes.columns))
            posterior = _posterior(scaled, candidates, rises, correlation)
            no_rise.append(log_prior + posterior.no_rise)
            weights.append(log_prior + posterior.weight)
            minima.append(posterior.minimum)
            if candidates is shapes:
                candidates = shapes.subset(posterior.likely)
    if not any(map(len, weights)):
        return InflectionPosterior(int(values.argmin()), (0, t - 1), -np.inf)
    weight = np.concatenate(weights)
    log_odds = np.logaddexp.reduce(weight) - np.logaddexp.reduce(no_rise)
    median, interval = _quantiles(weight, np.concatenate(minima), t)
    return InflectionPosterior(median, interval, float(log_odds))


def _quantiles(log_weight: Curve, minima: NDArray[np.int64], t: int) -> tuple[int, tuple[int, int]]:
    """Median and 95 % interval of sampled indices.

    The interval is one index wider to either side: the shapes are a grid, not the truth, and an
    index is the finest resolution.
    """
    share = np.exp(log_weight - log_weight.max())
    cumulative = np.bincount(minima, share, t).cumsum() / share.sum()
    low, median, high = (int(np.searchsorted(cumulative, q)) for q in (0.025, 0.5, 0.975))
    return median, (max(low - 1, 0), min(high + 1, t - 1))


def _falling_shapes(t: int, level_shifts: tuple[int, ...]) -> Iterator[_FallingShapes]:
    """Shapes of no, one and two decays.

    Weights of two neighbouring time constants make the one that lies between.
    """
    index = np.arange(t, dtype=np.float64)
    times = (_DECAYS * t)[_DECAYS * t >= 0.3]
    decays = np.exp(-index / times[:, None])
    laws = [(1 + index / (_SCALES * t)[:, None]) ** -power for power in _POWERS]
    one = np.concatenate([np.stack([shapes[:-1], shapes[1:]], 1) for shapes in (decays, *laws)])
    first, second = np.triu_indices(len(times), 2)
    two = np.stack([decays[first], decays[second]], 1)
    shifts = _shift_columns(index, level_shifts)
    for decaying in (np.zeros((1, 0, t)), one, two):
        if t - (1 + decaying.shape[1] + len(shifts)) >= 3:
            level = np.ones((len(decaying), 1, t))
            own = np.broadcast_to(shifts, (len(decaying), *shifts.shape))
            yield _FallingShapes(np.concatenate([level, decaying, own], 1), decaying.shape[1])


def _shift_columns(index: Curve, level_shifts: tuple[int, ...]) -> Curve:
    """A step and a decay after each level shift, `[2s, t]`."""
    columns: list[Curve] = []
    for at in level_shifts:
        decay = 1 - np.exp(-(index - at).clip(0) / (0.1 * len(index)))
        columns += [(index >= at).astype(np.float64), decay]
    return np.reshape(columns, (-1, len(index)))


def _rising_shapes(t: int) -> _RisingShapes:
    """Each shape of a rise from each index on.

    Three in four of the prior are on a straight rise, as a bend is one more thing to be shown.
    """
    onsets = t - _END + 1
    since = (np.arange(t, dtype=np.float64) - np.arange(onsets)[:, None]).clip(0) / t
    levelling = [1 - np.exp(-since / share) for share in _LEVELLING]
    bent = 1 + len(_LEVELLING)
    prior = np.repeat([0.75, *[0.25 / bent] * bent], onsets) / onsets
    return _RisingShapes(np.concatenate([since, since**2, *levelling]), np.log(prior))


def _posterior(
    values: Curve, shapes: _FallingShapes, rises: _RisingShapes, correlation: float
) -> _Posterior:
    """Marginal likelihoods under one correlation, and a sample of the curves that rise."""
    t, p = len(values), shapes.columns.shape[1]
    fits = _least_squares(values, shapes, rises, correlation)
    decays = slice(1, 1 + shapes.decays)
    jacobian = 0.5 * np.log(1 - correlation**2)
    flat = np.where(
        (fits.weights[:, decays] >= 0).all(1), _marginal(fits.rss, t, p) + jacobian, -np.inf
    )
    end = shapes.columns[:, :, -1] - shapes.columns[:, :, -_END]
    late = rises.columns[:, -1] - rises.columns[:, -_END]
    slope = (end[:, None] @ fits.falling)[:, 0] + fits.rising * late
    allowed = (fits.rising > 0) & (slope > 0) & (fits.falling[:, decays] >= 0).all(1)
    likelihood = _marginal(fits.rss[:, None] - fits.gain, t, p + 1) + jacobian
    marginal = np.where(allowed, likelihood + rises.log_prior, -np.inf)
    best = np.maximum(marginal.max(1), flat)
    sample, weight = _systematic_sample(marginal.reshape(-1))
    fall, rise = np.divmod(sample, marginal.shape[1])
    smooth = slice(0, 1 + shapes.decays)
    curves = (fits.falling[fall, smooth, rise][:, None] @ shapes.columns[fall, smooth])[:, 0]
    curves = curves + fits.rising[fall, rise][:, None] * rises.columns[rise]
    likely = best >= best.max() - _PRUNING
    return _Posterior(float(np.logaddexp.reduce(flat)), weight, curves.argmin(1), likely)


def _least_squares(
    values: Curve, shapes: _FallingShapes, rises: _RisingShapes, correlation: float
) -> _LeastSquares:
    """Fits of each falling shape with each rise, by projecting the rises off the falling shape."""
    y, late = whiten(values, correlation), whiten(rises.columns, correlation)
    basis, upper = np.linalg.qr(whiten(shapes.columns, correlation).transpose(0, 2, 1))
    along = basis.transpose(0, 2, 1) @ y
    residual = y - (basis @ along[:, :, None])[:, :, 0]
    shared = basis.transpose(0, 2, 1) @ late.T
    spread = ((late**2).sum(1) - (shared**2).sum(1)).clip(1e-12)
    rising = residual @ late.T / spread
    inverse = np.linalg.inv(upper)
    return _LeastSquares(
        rss=(residual**2).sum(1),
        gain=rising**2 * spread,
        weights=(inverse @ along[:, :, None])[:, :, 0],
        falling=inverse @ (along[:, :, None] - shared * rising[:, None]),
        rising=rising,
    )


def _systematic_sample(log_weight: Curve) -> tuple[NDArray[np.int64], Curve]:
    """Indices sampled by their log weight, and the log weight of each: in all as much as before."""
    largest = float(log_weight.max())
    if largest == -np.inf:
        return np.zeros(0, np.int64), np.zeros(0)
    cumulative = np.exp(log_weight - largest).cumsum()
    positions = (np.arange(_SAMPLES) + 0.5) / _SAMPLES * cumulative[-1]
    indices, counts = np.unique(np.searchsorted(cumulative, positions), return_counts=True)
    return indices, largest + np.log(cumulative[-1] * counts / _SAMPLES)


def _marginal(rss: Curve, t: int, p: int) -> Curve:
    """Log marginal likelihood of a fit of p weights to t values."""
    likelihood: Curve = -(t - p) / 2 * np.log(rss.clip(1e-20 * t)) - p / 2 * np.log(t)
    return likelihood
