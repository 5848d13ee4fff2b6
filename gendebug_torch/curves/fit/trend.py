"""Decomposition of a curve: a falling part, a rise from some epoch on, level shifts, and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

# Time constants of the falling part, as shares of the length: any loss that falls ever more slowly
# is a sum of these.
_TIME_CONSTANTS = (*np.geomspace(0.008, 0.8, 16), 3.0)
# Prior mean and standard deviation of the lag-one correlation: a short curve says little about it.
PRIOR_CORRELATION, PRIOR_SD = 0.3, 0.25
# What the fit takes out of white noise, in values, and of its lag-one correlation: means over
# simulated curves.
_FITTED_VALUES, _LAG_LOSS, _LAG_DAMPING = 8.2, 5.0, 11.0
_SHIFT_IN_SD = 5.0
# Twice the log-likelihood that a rise which levels off must gain over a straight one: a straight
# one is located better.
_SATURATION_GAIN = 6.0
# Number of epochs at which a rise is tried first; around the best of them all are tried.
_COARSE_ONSETS = 24


@dataclass(frozen=True)
class Noise:
    """AR(1) noise about a smooth trend, estimated from a single curve.

    Args:
        sd: standard deviation of a single value.
        correlation: lag-one autocorrelation.
        correlation_error: standard error of that correlation.
        degrees_of_freedom: number of independent values that the estimate of `sd` rests on.
    """

    sd: float
    correlation: float
    correlation_error: float
    degrees_of_freedom: float


@dataclass(frozen=True, eq=False)
class Trend:
    """The smooth trend of a curve and the noise about it.

    Args:
        fit: trend with its level shifts, `[t]`.
        shifts: sum of the level shifts alone, `[t]`.
        null_shifts: the same of the best fit that never rises, `[t]`: a rise is tested against it,
            as a level shift that is fitted too deep makes one.
        level_shifts: (index after the shift, height) of each.
        noise: noise about the fit.
        minimum: index of the minimum without level shifts; `inflection_posterior` locates it
            better.
    """

    fit: Curve
    shifts: Curve
    null_shifts: Curve
    level_shifts: tuple[tuple[int, float], ...]
    noise: Noise
    minimum: int


@dataclass(frozen=True, eq=False)
class _Fit:
    """A least-squares fit: whitened residual sum of squares, values, values without the shifts."""

    rss: float
    values: Curve
    smooth: Curve


def fit_trend(values: Curve) -> Trend:
    """Least squares of a falling part, level shifts, and a rise from the best epoch on.

    The falling part is a sum of decaying exponentials with weights >= 0, the rise a line and a
    saturating exponential with weights >= 0 from an onset that is searched over; level shifts are
    free. Weights come from non-negative least squares (Lawson and Hanson, 1974) on values whitened
    by the AR(1) correlation of a first fit.

    Args:
        values: finite curve, `[t]`, t >= 5.

    Cost: about 100 least-squares problems of t rows and 20 columns, some 30 ms.
    """
    level_shifts = _level_shifts(values)
    t = len(values)
    falling = _falling_columns(t, [index for index, _ in level_shifts])
    # An onset of t is none: the curve only falls.
    spaced = np.linspace(0, t - 3, min(t - 2, _COARSE_ONSETS)).astype(int)
    onsets = sorted({*spaced.tolist(), t})
    first = _best([_solve(values, falling, onset, 0.0) for onset in onsets])
    noise = _noise(values, first.values)
    best, flat = _whitened_fits(values, falling, onsets, noise)
    return Trend(
        fit=best.values,
        shifts=best.values - best.smooth,
        null_shifts=flat.values - flat.smooth,
        level_shifts=level_shifts,
        noise=noise,
        minimum=int(np.argmin(best.smooth)),
    )


def _whitened_fits(
    values: Curve, falling: Curve, onsets: list[int], noise: Noise
) -> tuple[_Fit, _Fit]:
    """The best fit of whitened values over all onsets, and the best that never rises."""
    t = len(values)
    scale = max(noise.sd**2 * (1 - noise.correlation**2), 1e-30)
    straight, saturating = (
        [_solve(values, falling, onset, noise.correlation, bend) for onset in onsets]
        for bend in (False, True)
    )
    bend = _best(straight).rss - _best(saturating).rss > _SATURATION_GAIN * scale
    fits = saturating if bend else straight
    nearest = onsets[fits.index(_best(fits))]
    reach = t // _COARSE_ONSETS
    others = range(max(nearest - reach, 0), min(nearest + reach, t - 3) + 1)
    fits = fits + [
        _solve(values, falling, onset, noise.correlation, bend)
        for onset in others
        if onset not in onsets
    ]
    return _best(fits), straight[onsets.index(t)]


def _best(fits: list[_Fit]) -> _Fit:
    return min(fits, key=lambda fit: fit.rss)


def _falling_columns(t: int, shifts: list[int]) -> Curve:
    """Columns `[t, c]`: a level of either sign, decays from the start and after each shift, shifts.

    The decays after a shift set in at it, and the shifts come in either sign.
    """
    index = np.arange(t, dtype=np.float64)
    columns = [np.ones(t), -np.ones(t)]
    for start in [0, *shifts]:
        since = (index - start).clip(0)
        columns += [np.exp(-since / max(share * t, 0.3)) - (start > 0) for share in _TIME_CONSTANTS]
    for start in shifts:
        after = (index >= start).astype(np.float64)
        columns += [after, -after]
    return np.stack(columns, 1)


def _solve(
    values: Curve, falling: Curve, onset: int, correlation: float, saturating: bool = False
) -> _Fit:
    """The whitened non-negative least-squares fit with a rise from one epoch on."""
    t = len(values)
    since = (np.arange(t, dtype=np.float64) - onset).clip(0)
    shapes = [since / t, 1 - np.exp(-since / max(0.1 * t, 1.0))][: 1 + saturating]
    rising = np.stack(shapes, 1) if onset < t else np.zeros((t, 0))
    design = np.concatenate([falling, rising], 1)
    white = whiten(design.T, correlation).T
    from scipy.optimize import nnls

    weights, norm = nnls(white, whiten(values, correlation), maxiter=50 * design.shape[1])
    fit = design @ weights
    last = falling.shape[1]
    shifts = slice(last - 2 * ((last - 2) // (len(_TIME_CONSTANTS) + 2)), last)
    return _Fit(float(norm) ** 2, fit, fit - falling[:, shifts] @ weights[shifts])


def whiten(series: Curve, correlation: float) -> Curve:
    """The series `[..., t]`, transformed so that AR(1) noise of this correlation becomes white."""
    white = series.copy()
    white[..., 1:] -= correlation * series[..., :-1]
    white[..., 0] *= (1 - correlation**2) ** 0.5
    return white


def _noise(values: Curve, fit: Curve) -> Noise:
    """Noise of the residuals, corrected for what the fit takes out of its strength and lag."""
    residual = values - fit
    t = len(residual)
    total = float((residual**2).sum())
    lag = float((residual[1:] * residual[:-1]).sum()) / total if total > 0 else 0.0
    damping = max(1 - _LAG_DAMPING / t, 0.1)
    estimate, variance = (lag + _LAG_LOSS / t) / damping, 1 / (t * damping**2)
    weight = PRIOR_SD**2 / (PRIOR_SD**2 + variance)
    correlation = float(np.clip(weight * estimate + (1 - weight) * PRIOR_CORRELATION, 0.0, 0.9))
    inflation = ((1 + correlation) / (1 - correlation)) ** 0.85
    fitted = t * (1 - np.exp(-_FITTED_VALUES * inflation / t))
    return Noise(
        sd=float((total / max(t - fitted, 1.0)) ** 0.5),
        correlation=correlation,
        correlation_error=(weight * variance) ** 0.5,
        degrees_of_freedom=float(max(t - fitted, 2.0)),
    )


def _level_shifts(values: Curve) -> tuple[tuple[int, float], ...]:
    """At most four sudden lasting changes: far beyond the differences around them, and lasting.

    A change lasts if it is still there four epochs later.
    """
    t = len(values)
    if t < 12:
        return ()
    steps = np.diff(values)
    usual = robust_sd(steps)
    shifts: list[tuple[int, float]] = []
    for at in range(4, t - 4):
        around = np.concatenate([steps[max(0, at - 7) : at - 1], steps[at : at + 6]])
        spread = max(robust_sd(around), usual, 1e-12)
        drift = float(np.median(around))
        height = float(np.median(values[at : at + 4]) - np.median(values[at - 4 : at])) - 4 * drift
        own = float(steps[at - 1]) - drift
        sudden = abs(own) > _SHIFT_IN_SD * spread and own * height > 0
        if sudden and abs(height) > max(0.6 * abs(own), 2.5 * spread):
            shifts.append((at, height))
    shifts.sort(key=lambda shift: -abs(shift[1]))
    apart = [
        shift
        for i, shift in enumerate(shifts)
        if all(abs(shift[0] - other[0]) > 3 for other in shifts[:i])
    ]
    return tuple(sorted(apart[:4]))


def robust_sd(steps: Curve) -> float:
    """Standard deviation by the median absolute deviation from the median."""
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
