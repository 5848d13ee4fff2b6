"""A curve taken apart: what falls, what rises from some epoch on, sudden steps, and the noise that
is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Curve = NDArray[np.float64]

# Time constants of the falling part, as shares of the length: any loss that falls ever more slowly
# is a sum of these.
_TIMES = (*np.geomspace(0.008, 0.8, 16), 3.0)
# Correlation of neighbouring epochs before the curve is seen, and its standard deviation: a short
# curve says little.
PRIOR_CORRELATION, PRIOR_SD = 0.3, 0.25
# What the fit takes out of white noise, in values, and of its lag-one correlation: means over
# simulated curves.
_TAKEN, _LAG_LOST, _LAG_DAMPED = 8.2, 5.0, 11.0
_STEP_IN_SD = 5.0
# Twice the log-likelihood that a rise which levels off must gain over a straight one: a straight
# one is located better.
_BEND = 6.0
# Epochs from which a rise is tried first; around the best of them all are tried.
_COARSE = 24


@dataclass(frozen=True)
class Noise:
    """AR(1) noise about a smooth course, as far as a single curve tells.

    Args:
        sd: standard deviation of a single value.
        correlation: lag-one autocorrelation.
        uncertainty: standard error of that correlation.
        freedom: values that the estimate of `sd` rests on.
    """

    sd: float
    correlation: float
    uncertainty: float
    freedom: float


@dataclass(frozen=True, eq=False)
class Trend:
    """The smooth course of a curve and the noise about it.

    Args:
        fit: `[t]` smooth course, steps included.
        steps: `[t]` the part of it that is sudden jumps.
        null_steps: `[t]` the same of the best fit that never rises: a rise is tested against these,
            as a step that is taken too deep makes one.
        jumps: (index after the jump, height) of each.
        noise: about the fit.
        lowest: index of the lowest point of the fit without its steps; `turn` locates it better.
    """

    fit: Curve
    steps: Curve
    null_steps: Curve
    jumps: tuple[tuple[int, float], ...]
    noise: Noise
    lowest: int


def trend(values: Curve) -> Trend:
    """Least squares of a falling part, steps, and a rising part from the best epoch on.

    The falling part is a sum of decaying exponentials with weights >= 0, the rising part a line and
    a saturating exponential with weights >= 0 from an epoch that is searched over; steps are free.
    Weights come from non-negative least squares (Lawson and Hanson, 1974) on values whitened by the
    AR(1) correlation of a first fit.

    Args:
        values: `[t]`, t >= 5, finite.

    Cost: about 100 least-squares problems of t rows and 20 columns, some 30 ms.
    """
    jumps = _jumps(values)
    t = len(values)
    free = _columns(t, [at for at, _ in jumps])
    coarse = sorted({*np.linspace(0, t - 3, min(t - 2, _COARSE)).astype(int).tolist(), t})
    noise = _noise(
        values, min((_solve(values, free, start, 0.0) for start in coarse), key=_error)[1]
    )
    scale = max(noise.sd**2 * (1 - noise.correlation**2), 1e-30)
    straight, bent = (
        [_solve(values, free, start, noise.correlation, bend) for start in coarse]
        for bend in (False, True)
    )
    bend = min(map(_error, straight)) - min(map(_error, bent)) > _BEND * scale
    white = bent if bend else straight
    _, fit, flat = straight[coarse.index(t)]
    around = coarse[white.index(min(white, key=_error))]
    reach = range(max(around - t // _COARSE, 0), min(around + t // _COARSE, t - 3) + 1)
    white += [
        _solve(values, free, start, noise.correlation, bend)
        for start in reach
        if start not in coarse
    ]
    best = min(white, key=_error)
    return Trend(best[1], best[1] - best[2], fit - flat, jumps, noise, int(np.argmin(best[2])))


def _error(found: tuple[float, Curve, Curve]) -> float:
    return found[0]


def _columns(t: int, jumps: list[int]) -> Curve:
    """`[t, c]`: a level of either sign, decays from the start and onsets of decays after each jump,
    then jumps of either sign.
    """
    index = np.arange(t, dtype=np.float64)
    columns = [np.ones(t), -np.ones(t)]
    for start in [0, *jumps]:
        since = (index - start).clip(0)
        columns += [np.exp(-since / max(share * t, 0.3)) - (start > 0) for share in _TIMES]
    for start in jumps:
        after = (index >= start).astype(np.float64)
        columns += [after, -after]
    return np.stack(columns, 1)


def _solve(
    values: Curve, falling: Curve, start: int, correlation: float, saturating: bool = False
) -> tuple[float, Curve, Curve]:
    """Whitened residual sum of squares, fit, and fit without the steps, of a rise from one epoch
    on.
    """
    t = len(values)
    since = (np.arange(t, dtype=np.float64) - start).clip(0)
    shapes = [since / t, 1 - np.exp(-since / max(0.1 * t, 1.0))][: 1 + saturating]
    rising = np.stack(shapes, 1) if start < t else np.zeros((t, 0))
    design = np.concatenate([falling, rising], 1)
    left, right = whiten(design.T, correlation).T, whiten(values, correlation)
    weights, norm = nnls(left, right, maxiter=50 * design.shape[1])
    count = 2 * max(0, (falling.shape[1] - 2 - len(_TIMES)) // (len(_TIMES) + 2))
    fit = design @ weights
    steps = (
        falling[:, falling.shape[1] - count :]
        @ weights[falling.shape[1] - count : falling.shape[1]]
        if count
        else np.zeros(t)
    )
    return float(norm) ** 2, fit, fit - steps


def whiten(series: Curve, correlation: float) -> Curve:
    """`[..., t]` series, so that AR(1) noise of this correlation in them becomes white."""
    white = series.copy()
    white[..., 1:] -= correlation * series[..., :-1]
    white[..., 0] *= (1 - correlation**2) ** 0.5
    return white


def _noise(values: Curve, fit: Curve) -> Noise:
    """Strength and lag-one correlation of the residual, corrected for what the fit takes out of
    both.
    """
    residual = values - fit
    t = len(residual)
    total = float((residual**2).sum())
    lag = float((residual[1:] * residual[:-1]).sum()) / total if total > 0 else 0.0
    damped = max(1 - _LAG_DAMPED / t, 0.1)
    estimate, variance = (lag + _LAG_LOST / t) / damped, 1 / (t * damped**2)
    trust = PRIOR_SD**2 / (PRIOR_SD**2 + variance)
    correlation = float(np.clip(trust * estimate + (1 - trust) * PRIOR_CORRELATION, 0.0, 0.9))
    taken = t * (1 - np.exp(-_TAKEN * ((1 + correlation) / (1 - correlation)) ** 0.85 / t))
    return Noise(
        float((total / max(t - taken, 1.0)) ** 0.5),
        correlation,
        (trust * variance) ** 0.5,
        float(max(t - taken, 2.0)),
    )


def _jumps(values: Curve) -> tuple[tuple[int, float], ...]:
    """At most four sudden lasting changes: far beyond the differences around them, and still there
    four epochs later.
    """
    t = len(values)
    if t < 12:
        return ()
    steps = np.diff(values)
    usual = _spread(steps)
    found: list[tuple[int, float]] = []
    for at in range(4, t - 4):
        around = np.concatenate([steps[max(0, at - 7) : at - 1], steps[at : at + 6]])
        spread = max(_spread(around), usual, 1e-12)
        drift = float(np.median(around))
        height = float(np.median(values[at : at + 4]) - np.median(values[at - 4 : at])) - 4 * drift
        own = float(steps[at - 1]) - drift
        if (
            abs(own) > _STEP_IN_SD * spread
            and own * height > 0
            and abs(height) > max(0.6 * abs(own), 2.5 * spread)
        ):
            found.append((at, height))
    found.sort(key=lambda jump: -abs(jump[1]))
    apart = [
        jump
        for i, jump in enumerate(found)
        if all(abs(jump[0] - other[0]) > 3 for other in found[:i])
    ]
    return tuple(sorted(apart[:4]))


def _spread(steps: Curve) -> float:
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
