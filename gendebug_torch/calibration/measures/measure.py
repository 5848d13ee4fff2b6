"""Measures of calibration with intervals, null values and p-values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins

Array = NDArray[np.float64]

# The smooth error works on this many cells: half a kernel width of any bandwidth that occurs.
_SMOOTH_CELLS = 840
_BISECTIONS = 16


@dataclass(frozen=True)
class Measure:
    """One measure of calibration.

    Args:
        measure: name of the measure.
        value: observed value.
        low: lower bound, corrected for the upward bias that noise gives.
        high: upper bound.
        null: mean of a perfectly calibrated model with these confidences and as many rows; NaN
            where there is none.
        p_value: probability of a value at least this far from `null` under calibration; NaN where
            there is none.
    """

    measure: str
    value: float
    low: float
    high: float
    null: float
    p_value: float


def binned_measures(
    cells: ReliabilityBins,
    *,
    bins: int = 15,
    level: float = 0.95,
    replicates: int = 500,
    seed: int = 0,
) -> tuple[Measure, ...]:
    """Measures of the predicted class from fine cells of confidence.

    These are `ece, mce, rms, adaptive_ece, smooth_ece, reliability, resolution`. Correct rows are
    drawn per cell from Binomial(n, mean confidence) for the null value and p-value (consistency
    resampling), and from Binomial(n, shrunken accuracy) of Poisson rows for the interval.

    Source: Naeini, Cooper and Hauskrecht (2015) for ECE and MCE; Nguyen and O'Connor (2015), EMNLP,
    for bins of equal mass; Murphy (1973), J. Appl. Meteorol. 12:595, for the parts of the Brier
    score; Błasiok and Nakkiran (2024), ICLR, arXiv:2309.12236, for the smooth error; Bröcker and
    Smith (2007), Weather and Forecasting 22:651.
    """
    names = ("ece", "mce", "rms", "adaptive_ece", "smooth_ece", "reliability", "resolution")
    starts = _equal_mass(cells.count.double().numpy(), bins)

    def values(count: Array, confidence: Array, correct: Array) -> Array:
        return _values(count, confidence, correct, bins, starts)

    rows = resampled_statistics(cells, bins, values, level=level, replicates=replicates, seed=seed)
    if rows is None:
        return tuple(Measure(name, 0.0, 0.0, 1.0, math.nan, math.nan) for name in names)
    measures = [Measure(name, *row) for name, row in zip(names, rows.tolist(), strict=True)]
    return (*measures[:-1], replace(measures[-1], null=math.nan, p_value=math.nan))


def ece_measure(
    bins: ReliabilityBins, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Measure:
    """The expected calibration error of some bins, with interval and p-value."""

    def values(count: Array, confidence: Array, correct: Array) -> Array:
        ece: Array = np.abs(confidence - correct).sum(1)[None] / np.maximum(count.sum(1), 1e-300)
        return ece

    rows = resampled_statistics(
        bins, len(bins.count), values, level=level, replicates=replicates, seed=seed
    )
    return Measure("ece", *((0.0, 0.0, 1.0, 0.0, 1.0) if rows is None else rows[0].tolist()))


def resampled_statistics(
    cells: ReliabilityBins,
    bins: int,
    values: Callable[[Array, Array, Array], Array],
    *,
    level: float,
    replicates: int,
    seed: int,
) -> Array | None:
    """`[s, 5]` value, bounds, null value and p-value of s statistics; None without rows.

    Args:
        cells: sums `[c]`, in `bins` equal bins of neighbouring cells.
        bins: number of bins in which the gap is taken as constant for the interval.
        values: statistics `[s, r]` of `[r, c]` counts, confidences and correct rows; a first axis
            of 1 applies to all replicates.
        level: coverage of the bounds.
        replicates: number of replicates under calibration, and of the bootstrap.
        seed: seed of a private generator.
    """
    count, confidence = cells.count.double().numpy(), cells.confidence.numpy()
    correct = cells.correct.double().numpy()
    if not count.any():
        return None
    generator = np.random.default_rng(seed)
    mean = np.divide(confidence, count, out=np.zeros_like(count), where=count > 0).clip(0, 1)
    observed = values(count[None], confidence[None], correct[None])[:, 0]
    calibrated = _draw_correct(generator, count[None], mean, replicates)
    null = values(count[None], confidence[None], calibrated)
    rates = _shrunken_rates(count, mean, confidence - correct, bins)
    truth = values(count[None], confidence[None], (count * rates)[None])[:, 0]
    # The confidences are a sample too: Poisson counts per cell are the Poisson bootstrap of the
    # rows.
    counts: Array = generator.poisson(count, size=(replicates, len(count))).astype(np.float64)
    bootstrap = values(counts, counts * mean, _draw_correct(generator, counts, rates, replicates))
    half = normal_quantile(0.5 + level / 2) * bootstrap.std(1)
    # Noise can only raise an error: the bias comes off the lower end alone.
    low = np.maximum(0.0, observed - np.maximum(0.0, bootstrap.mean(1) - truth) - half)
    p = (1 + (null >= observed[:, None]).sum(1)) / (1 + replicates)
    # A value that a calibrated model shows as well may be 0: the interval is the set that the test
    # accepts.
    low = np.where(p > (1 - level) / 2, 0.0, low)
    return np.stack([observed, low, observed + half, null.mean(1), p], 1)


def score_measure(name: str, row: Tensor, mass: float, *, level: float = 0.95) -> Measure:
    """A mean proper score with its normal interval; the null is its expectation under calibration.

    Source: Spiegelhalter (1986), Stat. Med. 5:421, for the test.
    """
    from scipy.special import ndtr

    if not mass > 0:
        return Measure(name, math.nan, math.nan, math.nan, math.nan, math.nan)
    total, squares, expected, variance = row.tolist()
    value = total / mass
    half = normal_quantile(0.5 + level / 2) * math.sqrt(max(squares / mass - value**2, 0.0) / mass)
    if variance > 0:
        z = (total - expected) / math.sqrt(variance)
    else:
        z = 0.0 if abs(total - expected) < 1e-9 * mass else math.inf
    p_value = float(2 * ndtr(-abs(z)))
    return Measure(name, value, value - half, value + half, expected / mass, p_value)


def _draw_correct(
    generator: np.random.Generator, count: Array, rate: Array, replicates: int
) -> Array:
    """`[replicates, c]` correct rows per cell, binomial.

    A fractional count is drawn as the next whole one and scaled.
    """
    whole = np.ceil(count)
    scale: Array = np.divide(count, whole, out=np.zeros_like(count), where=whole > 0)
    correct = generator.binomial(whole.astype(np.int64), rate, size=(replicates, count.shape[-1]))
    return correct.astype(np.float64) * scale


def _shrunken_rates(count: Array, mean: Array, residual: Array, bins: int) -> Array:
    """Accuracy per cell: its mean confidence less the gap of its bin, shrunken by its noise.

    Without the shrinkage noise would count twice, once in the data and once in the draws.
    """
    mass = count.reshape(bins, -1).sum(1)
    gap = residual.reshape(bins, -1).sum(1) / np.where(mass > 0, mass, 1.0)
    variance = (count * mean * (1 - mean)).reshape(bins, -1).sum(1)
    noise = variance / np.where(mass > 0, mass, 1.0) ** 2
    gap = np.sign(gap) * np.sqrt(np.maximum(gap**2 - noise, 0.0))
    rates: Array = (mean - np.repeat(gap, len(count) // bins)).clip(0, 1)
    return rates


def _values(
    count: Array, confidence: Array, correct: Array, bins: int, starts: NDArray[np.int64]
) -> Array:
    """`[7, r]` measures of `[r, c]` correct rows; `[1, c]` counts apply to all replicates."""
    n = np.maximum(count.sum(1), 1e-300)
    mass, confidence_sums, correct_sums = (
        part.reshape(len(part), bins, -1).sum(2) for part in (count, confidence, correct)
    )
    gap = confidence_sums - correct_sums
    safe = np.where(mass > 0, mass, 1.0)
    reliability = (gap**2 / safe).sum(1) / n
    accuracy = (correct_sums.sum(1) / n)[:, None]
    resolution = (mass * (correct_sums / safe - accuracy) ** 2).sum(1) / n
    largest = np.where(mass > 0, np.abs(gap) / safe, 0.0).max(1)
    residual = confidence - correct
    adaptive = np.abs(np.add.reduceat(residual, starts, axis=1)).sum(1) / n
    smooth = _smooth_errors(residual / n[:, None])
    return np.stack(
        [
            np.abs(gap).sum(1) / n,
            largest,
            np.sqrt(reliability),
            adaptive,
            smooth,
            reliability,
            resolution,
        ]
    )


def _equal_mass(count: Array, bins: int) -> NDArray[np.int64]:
    """First cell of each of at most `bins` groups of equal mass.

    Equal confidences stay together, so that there may be fewer groups.
    """
    if not count.any():
        return np.zeros(1, dtype=np.int64)
    middle = np.cumsum(count) - count / 2
    group = np.minimum((middle * bins / count.sum()).astype(int), bins - 1)
    return np.flatnonzero(np.diff(group, prepend=-1))


def _smooth_errors(residual: Array) -> Array:
    """Calibration error `[r]` after smoothing by a reflected normal kernel as wide as the error.

    The reflected kernel is diagonal in the cosine transform, so that all replicates are smoothed at
    once.
    """
    from scipy.fft import dct, idct

    cells = residual.reshape(len(residual), _SMOOTH_CELLS, -1).sum(2)
    waves = dct(cells, axis=1, norm="ortho")
    frequency = np.pi * np.arange(_SMOOTH_CELLS)
    low, high = np.zeros(len(cells)), np.ones(len(cells))
    for _ in range(_BISECTIONS):
        width = (low + high) / 2
        damped = waves * np.exp(-0.5 * (width[:, None] * frequency) ** 2)
        error = np.abs(idct(damped, axis=1, norm="ortho")).sum(1)
        wide = error < width
        high, low = np.where(wide, width, high), np.where(wide, low, width)
    return (low + high) / 2
