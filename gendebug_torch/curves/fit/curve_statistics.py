"""The numbers of one curve: its trend and noise, whether it rises at its end, what its last stretch
does, its hump.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.curves.fit.inflection_test import turn
from gendebug_torch.curves.fit.trend import Curve, Noise, Trend, trend
from gendebug_torch.curves.fit.trend_tests import Swing, hump, rising_tail, swing
from gendebug_torch.curves.learning_curves import moving_average

FEWEST = 6
# Longer curves are averaged into this many blocks: no more are needed to see a shape.
_MOST_POINTS = 200
# A passing hump must be this much higher than its feet: in noise of a single epoch, and as a share
# of the loss.
_HUMP_IN_SD, _HUMP_SHARE = 6.0, 0.03
# A residual so many times the noise of neighbouring epochs is shape that the trend does not have,
# e.g. a late fall.
_MISFIT = 3.0
# Where a curve that only falls rises so at its end by more than this chance, no shape is asked
# whether it rises.
LOOK = 0.2


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of one curve; indices count its finite values.

    Args:
        epoch: `[t]` of the values.
        values: `[t]` the finite ones.
        fit: `[t]` smooth course.
        noise: of a single value about it.
        level: loss that relative numbers refer to: the lowest of the course, or 2 % of its range
            where that is more.
        lowest: index of the lowest point of the course without its steps, where a rise would start.
        interval: indices that hold it in 95 %; all where `p_value` is above `LOOK`.
        p_value: chance of so strong a rise towards the end if the curve only falls.
        rise: from the lowest point to the end.
        slope: relative change between the halves of the last `stretch` values, sudden steps left
            out.
        slope_error: its standard error.
        stretch: how many values that is.
        jumps: (epoch, relative height) of sudden lasting steps.
        hump: (first, top, last epoch, relative height) of a rise that passed; None where there was
            none.
        swing: the strongest swing about the course, its amplitude relative.
    """

    epoch: Tensor
    values: Curve
    fit: Curve
    noise: Noise
    level: float
    lowest: int
    interval: tuple[int, int]
    p_value: float
    rise: float
    slope: float
    slope_error: float
    stretch: int
    jumps: tuple[tuple[int, float], ...]
    hump: tuple[int, int, int, float] | None
    swing: Swing

    @property
    def best(self) -> int:
        """Index of the lowest point of the course, steps included."""
        return int(self.fit.argmin())

    @property
    def end(self) -> float:
        """The smooth course at the last epoch."""
        return float(self.fit[-1])


def measure(epoch: Tensor, values: Tensor, *, window: int = 5, seed: int = 0) -> Measured | None:
    """The numbers of the finite values of a curve; None where they are fewer than six.

    Where the curve rose and came down again, only what follows its descent is judged for its end.
    """
    known = values.isfinite()
    epoch, y = epoch[known].cpu(), values[known].double().cpu().numpy()
    if len(y) < FEWEST:
        return None
    smooth = moving_average(torch.from_numpy(y), window).numpy()
    level = max(float(abs(smooth.min())), 0.02 * float(np.ptp(smooth)), 1e-12)
    whole = _numbers(epoch, y, 0, level, window, None, seed)
    passed = _passed(y, smooth, level)
    # What recurs is a swing: none of its humps passed for good.
    if passed is None or whole.swing.stands_out:
        return whole
    first = _after(passed, smooth)
    first = first if len(y) - first >= 2 * FEWEST else 0
    return _numbers(epoch, y, first, level, window, passed, seed)


def _numbers(
    epoch: Tensor,
    y: Curve,
    first: int,
    level: float,
    window: int,
    passed: tuple[int, int, int, float] | None,
    seed: int,
) -> Measured:
    tail = y[first:]
    block = -(-len(tail) // _MOST_POINTS)
    whole = len(tail) // block * block
    blocks = tail[len(tail) - whole :].reshape(-1, block).mean(1)
    course = trend(blocks)
    p_value, turned, held = _rise(blocks, course, seed)
    lowest, low, high = (_index(i, block, len(y), whole) for i in (turned, *held))
    fit = np.interp(
        np.arange(len(y)), len(y) - whole + (np.arange(len(blocks)) + 0.5) * block - 0.5, course.fit
    )
    sd = course.noise.sd if block == 1 else float((tail - fit[first:]).std())
    smooth = moving_average(torch.from_numpy(y), window).numpy()
    if first:
        # Before the hump the loss may have been lower still: the best epoch is that of the whole
        # curve.
        fit[:first] = smooth[:first]
        lowest = int(fit.argmin())
        low, high = (min(low, lowest), max(high, lowest))
    slope, error, stretch = _last_stretch(
        blocks - course.steps, _local(blocks, course.noise), window if block == 1 else 1
    )
    swings = _swing((blocks - course.fit)[len(blocks) // 5 :], course.noise, seed)
    jumps = tuple(
        (int(epoch[_index(at, block, len(y), whole)]), height / level)
        for at, height in course.jumps
    )
    return Measured(
        epoch=epoch,
        values=y,
        fit=fit,
        noise=replace(course.noise, sd=sd),
        level=level,
        lowest=lowest,
        interval=(low, high),
        p_value=p_value,
        rise=float(
            course.fit[-1]
            - course.fit[course.lowest]
            - (course.steps[-1] - course.steps[course.lowest])
        ),
        slope=slope / level,
        slope_error=error / level,
        stretch=stretch * block,
        jumps=jumps,
        hump=None
        if passed is None
        else (
            int(epoch[passed[0]]),
            int(epoch[passed[1]]),
            int(epoch[passed[2]]),
            passed[3] / level,
        ),
        swing=replace(swings, period=swings.period * block, amplitude=swings.amplitude / level),
    )


def _rise(y: Curve, course: Trend, seed: int) -> tuple[float, int, tuple[int, int]]:
    """The chance of so strong a rise if the curve only falls, the index of the lowest point, and
    what holds it.

    A rise of the last values is tested without a shape; where that is less than sure, the p-value
    is divided by the Bayes factor of the shapes that rise (a p-value over an e-value is one where
    they are independent: Vovk and Wang, 2021, Ann. Stat. 49:1736; both rest on one curve here, so
    `scripts/bench_curves.py` counts the false alarms).
    """
    _, p_value = rising_tail(y - course.null_steps, course.noise, seed=seed)
    if p_value > LOOK:
        return p_value, course.lowest, (0, len(y) - 1)
    found = turn(y, tuple(at for at, _ in course.jumps))
    return p_value * float(np.exp(-max(found.log_odds, 0.0))), found.lowest, found.interval


def _local(y: Curve, noise: Noise) -> Noise:
    """The noise that second differences show, where the trend misses the shape so far that its
    residual is shape.
    """
    second = np.diff(y, 2)
    correlation = min(noise.correlation, 0.3)
    unit = (2 * (3 - 4 * correlation + correlation**2)) ** 0.5
    sd = 1.4826 * float(np.median(np.abs(second))) / unit
    return replace(noise, sd=sd, correlation=correlation) if noise.sd > _MISFIT * sd else noise


def _swing(residual: Curve, noise: Noise, seed: int) -> Swing:
    """As `swing`; fewer than sixteen values show none."""
    return (
        swing(residual, noise, seed=seed)
        if len(residual) >= 16
        else Swing(float(len(residual)), 0.0, 0.0, 1.0)
    )


def _index(at: int, block: int, length: int, whole: int) -> int:
    """The middle of a block as an index into the values."""
    return min(length - whole + at * block + (block - 1) // 2, length - 1)


def _last_stretch(y: Curve, noise: Noise, window: int) -> tuple[float, float, int]:
    """Change from the earlier to the later half of the last stretch, its standard error under AR(1)
    noise, and its length.
    """
    t = len(y)
    half = max(2, min(t // 4, max(window, t // 6)))
    inflation = (1 + noise.correlation) / (1 - noise.correlation)
    change = float(y[-half:].mean() - y[-2 * half : -half].mean())
    return change, noise.sd * min(2 * inflation / half, 2.0) ** 0.5, 2 * half


def _passed(y: Curve, smooth: Curve, level: float) -> tuple[int, int, int, float] | None:
    """A hump far beyond the noise that neighbouring epochs show, and beyond a share of the loss."""
    found = hump(smooth)
    if found is None:
        return None
    steps = np.diff(y)
    sd = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / 2**0.5
    return found if found[3] > max(_HUMP_IN_SD * sd, _HUMP_SHARE * level) else None


def _after(passed: tuple[int, int, int, float], smooth: Curve) -> int:
    """Index from which a hump has lost most of its height, so that what follows only falls off."""
    _, top, end, height = passed
    return top + int(np.argmax(smooth[top : end + 1] <= smooth[top] - 0.7 * height))
