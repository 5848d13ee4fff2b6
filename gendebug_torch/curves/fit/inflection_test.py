"""Where a curve turns from falling to rising, and whether it does: an average over all shapes it
may have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gendebug_torch.curves.fit.trend import PRIOR_CORRELATION, PRIOR_SD, Curve, whiten

# Time constants of the decays, and of power laws `(1 + i / c) ** -power`, as shares of the length.
_DECAYS, _SCALES, _POWERS = (
    np.geomspace(0.008, 0.8, 40),
    np.geomspace(0.005, 0.5, 12),
    (0.5, 1.0, 2.0),
)
# Time constants of a rise that levels off; beside them a straight rise and one that gathers speed.
_LEVELLING = (0.05, 0.1, 0.2, 0.4)
_CORRELATIONS = (PRIOR_CORRELATION, 0.0, 0.15, 0.45, 0.6, 0.75)
# Falling shapes this far below the best, as log-likelihood under the first correlation, are dropped
# for the others.
_HOPELESS = 15.0
# Courses drawn from the posterior of each set of falling shapes and each correlation.
_DRAWN = 2000
# The last so many values must rise: a shape that only falls more slowly is no rise.
_END = 4


@dataclass(frozen=True)
class Turn:
    """What the average over the shapes says.

    Args:
        lowest: index of the lowest point of the course: the median of its posterior.
        interval: indices that hold 95 % of the posterior, and one to either side.
        log_odds: natural logarithm of the Bayes factor of a rise at the end against a curve that
            only falls.
    """

    lowest: int
    interval: tuple[int, int]
    log_odds: float


@dataclass(frozen=True, eq=False)
class _Falls:
    """`[m, p, t]` falling shapes of p columns: a level, decays with weights >= 0, and free columns
    for steps.
    """

    columns: Curve
    decays: int

    def keep(self, which: NDArray[np.bool_]) -> _Falls:
        return _Falls(self.columns[which], self.decays)


@dataclass(frozen=True, eq=False)
class _Courses:
    """`[n]` courses drawn from the posterior: log weight, falling shape, rise and the weights of
    both.
    """

    weight: Curve
    fall: NDArray[np.int64]
    rise: NDArray[np.int64]
    fall_weights: Curve
    rise_weight: Curve


def turn(values: Curve, jumps: tuple[int, ...] = ()) -> Turn:
    """The posterior of the lowest point over falling shapes, rising shapes, where the rise sets in,
    and AR(1) noise.

    A course is a level, none, one or two decays (exponentials or a power law), and a rise from
    index k on (straight, levelling off or gathering speed), with weights >= 0 by least squares of
    the values whitened by the correlation. Its marginal likelihood is
    `RSS ** (-(t - p) / 2) * t ** (-p / 2)` for p weights: Jeffreys' prior on the noise, and the
    unit-information prior of Kass and Wasserman (1995, J. Am. Stat. Assoc. 90:928) on the weights.
    None, one and two decays are as likely before the values are seen, and so is each index for the
    rise.

    A curve that only falls passes a Bayes factor of b with a chance of 1 / b at most (Markov's
    inequality), as far as the shapes hold the true one.

    Args:
        values: `[t]`, t >= 6, finite.
        jumps: indices at which a step begins; a level and a decay of their own follow each.

    Cost: some 7e4 * t**2 operations: 40 ms for t = 60, 0.2 s for t = 200.
    """
    t = len(values)
    scaled = (values - values.mean()) / max(float(values.std()), 1e-300)
    rises, rise_prior = _rises(t), _rise_prior(t)
    flat, weights, lowest = [], [], []
    for falls in _falling(t, jumps):
        rivals = falls
        for correlation in _CORRELATIONS:
            prior = -0.5 * ((correlation - PRIOR_CORRELATION) / PRIOR_SD) ** 2 - np.log(
                len(falls.columns)
            )
            falling, courses, near = _weigh(scaled, rivals, rises, rise_prior, correlation)
            flat.append(prior + falling)
            weights.append(prior + courses.weight)
            lowest.append(_lowest(rivals, rises, courses))
            rivals = falls.keep(near) if rivals is falls else rivals
    weight = np.concatenate(weights)
    if not len(weight):
        return Turn(int(values.argmin()), (0, t - 1), -np.inf)
    share = np.exp(weight - weight.max())
    below = np.bincount(np.concatenate(lowest), share, t).cumsum() / share.sum()
    low, middle, high = (int(np.searchsorted(below, level)) for level in (0.025, 0.5, 0.975))
    # The shapes are a grid, not the truth, and an index is the finest that can be told: one to
    # either side.
    interval = max(low - 1, 0), min(high + 1, t - 1)
    return Turn(middle, interval, float(np.logaddexp.reduce(weight) - np.logaddexp.reduce(flat)))


def _falling(t: int, jumps: tuple[int, ...]) -> Iterator[_Falls]:
    """Shapes of no, one and two decays; weights of two neighbouring time constants make the one
    that lies between.
    """
    index = np.arange(t, dtype=np.float64)
    times = (_DECAYS * t)[_DECAYS * t >= 0.3]
    decays = np.exp(-index / times[:, None])
    laws = [(1 + index / (_SCALES * t)[:, None]) ** -power for power in _POWERS]
    one = np.concatenate([np.stack([shapes[:-1], shapes[1:]], 1) for shapes in (decays, *laws)])
    first, second = np.triu_indices(len(times), 2)
    two = np.stack([decays[first], decays[second]], 1)
    steps = []
    for at in jumps:
        steps += [(index >= at).astype(np.float64), 1 - np.exp(-(index - at).clip(0) / (0.1 * t))]
    for decaying in (np.zeros((1, 0, t)), one, two):
        level = np.ones((len(decaying), 1, t))
        own = np.broadcast_to(np.reshape(steps, (-1, t)), (len(decaying), len(steps), t))
        if t - (1 + decaying.shape[1] + len(steps)) >= 3:
            yield _Falls(np.concatenate([level, decaying, own], 1), decaying.shape[1])


def _rises(t: int) -> Curve:
    """`[r, t]` each shape of a rise from each index on."""
    since = (np.arange(t, dtype=np.float64) - np.arange(t - _END + 1)[:, None]).clip(0) / t
    return np.concatenate([since, since**2, *(1 - np.exp(-since / share) for share in _LEVELLING)])


def _rise_prior(t: int) -> Curve:
    """`[r]` log prior of each of `_rises`: three in four on a straight rise, as a bend is one more
    thing to be shown.
    """
    onsets = t - _END + 1
    bent = 1 + len(_LEVELLING)
    prior: Curve = np.log(np.repeat([0.75, *[0.25 / bent] * bent], onsets) / onsets)
    return prior


def _weigh(
    values: Curve, falls: _Falls, rises: Curve, rise_prior: Curve, correlation: float
) -> tuple[float, _Courses, NDArray[np.bool_]]:
    """Log marginal likelihood of no rise, the courses that rise at their end, and which falling
    shapes come near the best.
    """
    t, p = len(values), falls.columns.shape[1]
    y, late = whiten(values, correlation), whiten(rises, correlation)
    basis, upper = np.linalg.qr(whiten(falls.columns, correlation).transpose(0, 2, 1))
    along = basis.transpose(0, 2, 1) @ y
    left = y - (basis @ along[:, :, None])[:, :, 0]
    shared = basis.transpose(0, 2, 1) @ late.T
    spread = ((late**2).sum(1) - (shared**2).sum(1)).clip(1e-12)
    slope = left @ late.T / spread
    rss = (left**2).sum(1)
    inverse = np.linalg.inv(upper)
    alone = (inverse @ along[:, :, None])[:, 1 : 1 + falls.decays, 0]
    weights = inverse @ (along[:, :, None] - shared * slope[:, None])
    jacobian = 0.5 * np.log(1 - correlation**2)
    flat = np.where((alone >= 0).all(1), _marginal(rss, t, p) + jacobian, -np.inf)
    end = falls.columns[:, :, -1] - falls.columns[:, :, -_END]
    rising = (end[:, None] @ weights)[:, 0] + slope * (rises[:, -1] - rises[:, -_END]) > 0
    allowed = (slope > 0) & rising & (weights[:, 1 : 1 + falls.decays] >= 0).all(1)
    marginal = np.where(
        allowed,
        _marginal(rss[:, None] - slope**2 * spread, t, p + 1) + jacobian + rise_prior,
        -np.inf,
    )
    best = np.maximum(marginal.max(1), flat)
    drawn, weight = _drawn(marginal.reshape(-1))
    fall, rise = np.divmod(drawn, marginal.shape[1])
    courses = _Courses(weight, fall, rise, weights[fall, :, rise], slope[fall, rise])
    return float(np.logaddexp.reduce(flat)), courses, best >= best.max() - _HOPELESS


def _drawn(weight: Curve) -> tuple[NDArray[np.int64], Curve]:
    """A systematic sample of indices by their log weight, and what each then weighs: in all as much
    as before.
    """
    largest = float(weight.max())
    if largest == -np.inf:
        return np.zeros(0, np.int64), np.zeros(0)
    below = np.exp(weight - largest).cumsum()
    drawn, times = np.unique(
        np.searchsorted(below, (np.arange(_DRAWN) + 0.5) / _DRAWN * below[-1]), return_counts=True
    )
    return drawn, largest + np.log(below[-1] * times / _DRAWN)


def _marginal(rss: Curve, t: int, p: int) -> Curve:
    likelihood: Curve = -(t - p) / 2 * np.log(rss.clip(1e-20 * t)) - p / 2 * np.log(t)
    return likelihood


def _lowest(falls: _Falls, rises: Curve, courses: _Courses) -> NDArray[np.int64]:
    """Index of the lowest point of each course, steps left out."""
    smooth = slice(0, 1 + falls.decays)
    fall = (courses.fall_weights[:, None, smooth] @ falls.columns[courses.fall, smooth])[:, 0]
    lowest: NDArray[np.int64] = (fall + courses.rise_weight[:, None] * rises[courses.rise]).argmin(
        1
    )
    return lowest
