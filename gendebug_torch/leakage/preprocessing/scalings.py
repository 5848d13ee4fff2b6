"""Scaled and imputed columns, and the rows over which mean, deviation or range are exact.

Each test returns the rows that the operation was fitted on, or None if the values do not tell.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.leakage.preprocessing.stored_column import (
    BOTH,
    TRAIN,
    VALIDATION,
    FittedColumn,
    StoredColumn,
)

STANDARDISED, RANGE, IMPUTED = "standardised", "scaled to a range", "imputed with the mean"
# Fewer different values are codes or flags: a balanced column of -1 and 1 has mean 0 and deviation
# 1 by itself.
_MIN_DISTINCT = 20
# A mean and deviation further than this from 0 and 1 are no rounding; over training alone they are
# exact up to the second limit.
_MAX_ERROR, _TRAIN_ERROR = 1e-4, 1e-5
# The error over training alone must be so many times larger.
_MARGIN = 100
_SMALLEST_P = 1e-300
# Rounding of float32 and of float64.
_SINGLE, _DOUBLE = 2.5e-7, 1e-12
# Share and number of rows that hold the imputed value.
_MIN_IMPUTED_SHARE, _MIN_IMPUTED = 0.01, 5


def standardised(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Mean 0 and deviation 1 over both splits, over validation alone, or over training alone."""
    if len(column.runs[0]) < _MIN_DISTINCT:
        return None
    train_error, _ = _standard_error(column.train, 1.0)
    alone = 1 / math.sqrt(len(column.validation))
    error, p = _standard_error(column.both, column.mean_error)
    if p < limit and train_error > _MARGIN * error:
        return FittedColumn(column.name, STANDARDISED, BOTH, p, error, train_error)
    error, p = _standard_error(column.validation, alone)
    if p < limit:
        return FittedColumn(column.name, STANDARDISED, VALIDATION, p, error, train_error)
    return FittedColumn(column.name, STANDARDISED, TRAIN) if train_error < _TRAIN_ERROR else None


def _standard_error(values: Tensor, mean_error: float) -> tuple[float, float]:
    """Largest difference of mean and deviation from 0 and 1, and the p-value of both."""
    n, mean = len(values), float(values.mean())
    square = (values - mean).square_()
    variance = float(square.mean())
    deviation = min(abs(math.sqrt(variance * n / (n - d)) - 1) for d in (0, 1))
    error = max(abs(mean), deviation)
    if error > _MAX_ERROR or variance <= 0:
        return error, 1.0
    kurtosis = float(square.square_().mean()) / variance**2
    deviation_error = mean_error * math.sqrt(max(kurtosis - 1, 1e-6)) / 2
    densities = (abs(mean) / mean_error, deviation / deviation_error)
    p = math.prod(min(z * math.sqrt(2 / math.pi), 1.0) for z in densities)
    p = max(p, _SMALLEST_P)
    # Fisher's combination of two p-values.
    return error, p * (1 - math.log(p))


def scaled_to_range(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Both ends reached exactly once over both splits, and one of them not in training.

    Only for columns without ties.
    """
    values, counts = column.runs
    if len(values) < 0.9 * len(column.both) or int(counts[0]) > 1 or int(counts[-1]) > 1:
        return None
    low, high = float(values[0]), float(values[-1])
    # A sine is dense at its ends and comes arbitrarily close to 1 by itself; the ends of a scaled
    # quantity are apart from the rest.
    step = min(float(values[1]) - low, high - float(values[-2]))
    if step < 0.1 * (high - low) / len(column.both):
        return None
    rounding = _SINGLE if bool((values == values.float().double()).all()) else _DOUBLE
    for start in (0.0, -1.0):
        error, train_error = (
            max(abs(float(side.min()) - start), abs(float(side.max()) - 1.0))
            for side in (values, column.train)
        )
        if error <= rounding and train_error <= rounding:
            return FittedColumn(column.name, RANGE, TRAIN)
        if error <= rounding:
            return FittedColumn(column.name, RANGE, BOTH, 0.0, error, train_error)
    return None


def imputed_with_mean(column: StoredColumn, limit: float) -> FittedColumn | None:
    """A frequent value of both splits that is the mean of all other values of both."""
    values, counts = column.runs
    value, count = float(values[counts.argmax()]), int(counts.max())
    # A mean of measurements has many decimals; a round value that happens to be the mean was
    # measured.
    decimals = abs(value * 1e6 - round(value * 1e6)) > 1e-4
    frequent = count >= max(_MIN_IMPUTED, _MIN_IMPUTED_SHARE * len(column.both))
    if not frequent or not decimals or not bool((column.validation == value).any()):
        return None
    before, after = (part[part != value] for part in (column.train, column.validation))
    others = torch.cat([before, after])
    deviation = float(others.std()) if len(others) > 1 else 0.0
    if min(len(before), len(after)) < 2 or deviation == 0:
        return None
    error, train_error = (abs(float(part.mean()) - value) / deviation for part in (others, before))
    p = min(error * math.sqrt(2 / math.pi) * len(others) / math.sqrt(len(after)), 1.0)
    if p < limit and train_error > _MARGIN * error:
        return FittedColumn(column.name, IMPUTED, BOTH, p, error, train_error)
    return FittedColumn(column.name, IMPUTED, TRAIN) if train_error < 1e-6 else None
