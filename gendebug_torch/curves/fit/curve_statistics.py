"""The statistics of one curve: trend, noise, rise at its end, last stretch, transient rise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.curves.fit.inflection_test import inflection_posterior
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.curves.fit.trend import Curve, Noise, Trend, fit_trend, robust_sd
from gendebug_torch.curves.fit.trend_tests import (
    Oscillation,
    TransientRise,
    rising_tail_p_value,
    strongest_oscillation,
    transient_rise,
)

MIN_VALUES = 6
# Longer curves are averaged into this many blocks: no more are needed to see a shape.
_MAX_BLOCKS = 200
_MIN_OSCILLATION_VALUES = 16
# A transient rise must be this much higher than its feet: in noise of a single epoch, and as a
# share of the loss.
_TRANSIENT_IN_SD, _TRANSIENT_SHARE = 6.0, 0.03
# A residual so many times the noise of neighbouring epochs is shape that the trend does not have,
# e.g. a late fall.
_MAX_MISFIT = 3.0
# A curve whose final rise is more likely than this by chance is not tested any further, unless the
# trend misses its shape.
MAX_ALPHA = 0.2


@dataclass(frozen=True, eq=False)
class CurveStatistics:
    """Statistics of one curve; indices count its finite values.

    Args:
        epoch: epochs of the finite values, `[t]`.
        values: finite values, `[t]`.
        fit: smooth curve, `[t]`.
        noise: noise of a single value about it.
        scale: loss that relative numbers refer to: the minimum of the smooth curve, or 2 % of its
            range where that is more.
        minimum: index of the minimum of the smooth curve without level shifts, where a rise would
            start.
        interval: indices that hold it in 95 %; all where `p_value` is above `MAX_ALPHA`.
        p_value: chance of so strong a rise towards the end if the curve only falls.
        rise: difference of the end and the minimum.
        change: relative change between the halves of the last `stretch` values, without level
            shifts.
        change_error: standard error of `change`.
        stretch: number of values that it spans.
        level_shifts: (epoch, relative height) of each.
        transient: rise that came down again, by epochs and relative height; None where there was
            none.
        oscillation: strongest oscillation about the smooth curve, its amplitude relative.
    """

    epoch: Tensor
    values: Curve
    fit: Curve
    noise: Noise
    scale: float
    minimum: int
    interval: tuple[int, int]
    p_value: float
    rise: float
    change: float
    change_error: float
    stretch: int
    level_shifts: tuple[tuple[int, float], ...]
    transient: TransientRise | None
    oscillation: Oscillation

    @property
    def best(self) -> int:
        """Index of the minimum of the smooth curve, level shifts included."""
        return int(self.fit.argmin())

    @property
    def end(self) -> float:
        """The smooth curve at the last epoch."""
        return float(self.fit[-1])

    @property
    def relative_rise(self) -> float:
        """Rise from the minimum to the end, as a share of the loss."""
        return self.rise / self.scale

    @property
    def relative_noise(self) -> float:
        """Standard deviation of a single value, as a share of the loss."""
        return self.noise.sd / self.scale


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Means `[b]` of blocks of a curve from its end, each of `size` values; the curve has `t`."""

    means: Curve
    size: int
    t: int

    @property
    def start(self) -> int:
        """Index of the first value of the first block."""
        return self.t - len(self.means) * self.size

    def index(self, block: int) -> int:
        """The middle of a block as an index into the values."""
        return min(self.start + block * self.size + (self.size - 1) // 2, self.t - 1)

    def interpolate(self, fit: Curve) -> Curve:
        """A curve over the blocks, `[b]`, as one over the values, `[t]`."""
        centres = self.start + (np.arange(len(fit)) + 0.5) * self.size - 0.5
        values: Curve = np.interp(np.arange(self.t), centres, fit)
        return values


def curve_statistics(
    epoch: Tensor, values: Tensor, *, window: int = 5, seed: int = 0
) -> CurveStatistics | None:
    """The statistics of the finite values of a curve; None where they are fewer than six.

    Where the curve rose and came down again, only what follows its descent is tested for its end.

    Args:
        epoch: epochs, `[t]` int64.
        values: losses, `[t]` float.
        window: odd number of epochs of the centred moving average.
        seed: seed of the simulated curves.
    """
    finite = values.isfinite()
    epoch, y = epoch[finite].cpu(), values[finite].double().cpu().numpy()
    if len(y) < MIN_VALUES:
        return None
    smooth = moving_average(torch.from_numpy(y), window).numpy()
    scale = max(float(abs(smooth.min())), 0.02 * float(np.ptp(smooth)), 1e-12)
    whole = _statistics(epoch, y, smooth, scale, 0, window, seed)
    transient = _significant_transient(y, smooth, scale)
    # What recurs is an oscillation: none of its rises is over for good.
    if transient is None or whole.oscillation.is_significant:
        return whole
    first = _index_after(transient, smooth)
    first = first if len(y) - first >= 2 * MIN_VALUES else 0
    rest = _statistics(epoch, y, smooth, scale, first, window, seed) if first else whole
    start, top, end = (int(epoch[i]) for i in transient[:3])
    return replace(rest, transient=TransientRise(start, top, end, transient.height / scale))


def _statistics(
    epoch: Tensor, y: Curve, smooth: Curve, scale: float, first: int, window: int, seed: int
) -> CurveStatistics:
    """The statistics of the values from an index on."""
    blocks = _blocks(y, first)
    trend = fit_trend(blocks.means)
    p_value, at, bounds = _final_rise(blocks.means, trend, seed)
    minimum, low, high = (blocks.index(i) for i in (at, *bounds))
    fit = blocks.interpolate(trend.fit)
    noise = _local_noise(blocks.means, trend.noise)
    sd = noise.sd if blocks.size == 1 else float((y - fit)[first:].std())
    if first:
        # Before the transient rise the loss may have been lower still: the best epoch is that of
        # the whole curve.
        fit[:first] = smooth[:first]
        minimum = int(fit.argmin())
        low, high = min(low, minimum), max(high, minimum)
    change, error, stretch = _last_stretch(
        blocks.means - trend.shifts,
        noise,
        window if blocks.size == 1 else 1,
    )
    oscillation = _oscillation(blocks, trend, seed)
    shifts = ((int(epoch[blocks.index(i)]), height / scale) for i, height in trend.level_shifts)
    return CurveStatistics(
        epoch=epoch,
        values=y,
        fit=fit,
        noise=replace(trend.noise, sd=sd),
        scale=scale,
        minimum=minimum,
        interval=(low, high),
        p_value=p_value,
        rise=_rise(blocks.means, trend, noise, at, window),
        change=change / scale,
        change_error=error / scale,
        stretch=stretch * blocks.size,
        level_shifts=tuple(shifts),
        transient=None,
        oscillation=replace(oscillation, amplitude=oscillation.amplitude / scale),
    )


def _blocks(y: Curve, first: int) -> _Blocks:
    """The values from an index on, averaged into at most `_MAX_BLOCKS` blocks."""
    tail = y[first:]
    size = -(-len(tail) // _MAX_BLOCKS)
    whole = len(tail) // size * size
    return _Blocks(tail[len(tail) - whole :].reshape(-1, size).mean(1), size, len(y))


def _final_rise(y: Curve, trend: Trend, seed: int) -> tuple[float, int, tuple[int, int]]:
    """Chance of so strong a rise in a curve that only falls; index of the minimum; its interval.

    A rise of the last values is tested without a shape; where that is less than sure, the p-value
    is divided by the Bayes factor of the shapes that rise (a p-value over an e-value is one where
    they are independent: Vovk and Wang, 2021, Ann. Stat. 49:1736; both rest on one curve here, so
    `scripts/bench_curves.py` counts the false alarms).
    """
    p_value = rising_tail_p_value(y - trend.null_shifts, trend.noise, seed=seed)
    # Noise that is shape hides every rise from the first test; the second has its own shapes.
    misfit = _local_noise(y, trend.noise) is not trend.noise
    if p_value > MAX_ALPHA and not misfit:
        return p_value, trend.minimum, (0, len(y) - 1)
    posterior = inflection_posterior(y, tuple(at for at, _ in trend.level_shifts))
    p_value *= float(np.exp(-max(posterior.log_odds, 0.0)))
    return p_value, posterior.minimum, posterior.interval


def _rise(y: Curve, trend: Trend, noise: Noise, minimum: int, window: int) -> float:
    """Rise from the minimum to the end, level shifts left out.

    It is that of the trend, or of the moving average where the trend misses the shape.
    """
    if noise is trend.noise:
        smooth = trend.fit - trend.shifts
        return float(smooth[-1] - smooth[trend.minimum])
    average = moving_average(torch.from_numpy(y - trend.shifts), window)
    return float(average[-1] - average[minimum])


def _local_noise(y: Curve, noise: Noise) -> Noise:
    """The noise of second differences, where the trend misses the shape and its residual is shape.

    Its correlation is taken as at most 0.3, as a shape that the trend misses looks like one.
    """
    second = np.diff(y, 2)
    correlation = min(noise.correlation, 0.3)
    unit = (2 * (3 - 4 * correlation + correlation**2)) ** 0.5
    sd = 1.4826 * float(np.median(np.abs(second))) / unit
    return replace(noise, sd=sd, correlation=correlation) if noise.sd > _MAX_MISFIT * sd else noise


def _oscillation(blocks: _Blocks, trend: Trend, seed: int) -> Oscillation:
    """The strongest oscillation after the first fifth, its period in values; none in few values."""
    residual = (blocks.means - trend.fit)[len(blocks.means) // 5 :]
    if len(residual) < _MIN_OSCILLATION_VALUES:
        return Oscillation(float(len(residual)) * blocks.size, 0.0, 0.0, 1.0)
    strongest = strongest_oscillation(residual, trend.noise, seed=seed)
    return replace(strongest, period=strongest.period * blocks.size)


def _last_stretch(y: Curve, noise: Noise, window: int) -> tuple[float, float, int]:
    """Change between the halves of the last stretch, its standard error, and the stretch's length.

    The standard error is that of AR(1) noise.
    """
    t = len(y)
    half = max(2, min(t // 4, max(window, t // 6)))
    inflation = (1 + noise.correlation) / (1 - noise.correlation)
    change = float(y[-half:].mean() - y[-2 * half : -half].mean())
    return change, noise.sd * min(2 * inflation / half, 2.0) ** 0.5, 2 * half


def _significant_transient(y: Curve, smooth: Curve, scale: float) -> TransientRise | None:
    """A transient rise beyond the noise of neighbouring epochs and beyond a share of the loss."""
    rise = transient_rise(smooth)
    if rise is None:
        return None
    sd = robust_sd(np.diff(y)) / 2**0.5
    return rise if rise.height > max(_TRANSIENT_IN_SD * sd, _TRANSIENT_SHARE * scale) else None


def _index_after(transient: TransientRise, smooth: Curve) -> int:
    """Index from which a transient rise has lost most of its height."""
    _, top, end, height = transient
    return top + int(np.argmax(smooth[top : end + 1] <= smooth[top] - 0.7 * height))
