"""Encoded columns, and the rows from which ranks, frequencies, means or lists were computed.

Each test returns the rows that the operation was fitted on, or None if the values do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.leakage.preprocessing.stored_column import (
    BOTH,
    TRAIN,
    VALIDATION,
    FittedColumn,
    StoredColumn,
)

# Kolmogorov's distance in units of `1 / sqrt(n)` at which 5 % of all uniform samples are closer.
_FAR = 0.52
RANKS, FREQUENCIES = "transformed to ranks or quantiles", "encoded by frequencies"
TARGET_MEANS = "encoded by target means"
LEVEL_LIST, VOCABULARY = "encoded by a list of levels", "encoded by a vocabulary"
# Fewer values per split are no evidence of ranks, fewer levels none of frequencies.
_MIN_VALUES, _MIN_LEVELS, _MIN_MEANS = 50, 5, 3
_TARGET_ERROR = 1e-5


def rank_transformed(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Shares, or normal scores, that are more uniform over some rows than chance allows.

    Values that were ranked, or mapped to their quantiles, over some rows have there a distribution
    function within one step of the map. A map fitted on training differs from uniform in validation
    by `D_m` (Kolmogorov), and over both splits by `m / N D_m`; values without any fit differ by
    `D_N`. The larger of both chances is the p-value.
    """
    n, m = len(column.train), len(column.validation)
    values = column.both
    if min(n, m) < _MIN_VALUES or len(column.runs[0]) < 0.5 * len(values):
        return None
    low, high = float(values[0]), float(values[-1])
    shares = low >= 0.0 and high <= 1.0
    if not shares and not (-8.0 < low < -1.0 and 1.0 < high < 8.0):
        return None
    error, train_error, own_error = (
        _kolmogorov_distance(part if shares else torch.special.ndtr(part))
        for part in (values, column.train, column.validation)
    )
    p = max(_as_uniform(error, n + m), _as_uniform(min(1.0, error * (n + m) / m), m))
    if p < limit and train_error > 2 * error and not _equally_spaced(column.train):
        return FittedColumn(column.name, RANKS, BOTH, p, error, train_error)
    p = _as_uniform(own_error, m)
    if p < limit:
        return FittedColumn(column.name, RANKS, VALIDATION, p, own_error, train_error)
    clean = _as_uniform(train_error, n) < limit
    return FittedColumn(column.name, RANKS, TRAIN) if clean else None


def _kolmogorov_distance(shares: Tensor) -> float:
    """Kolmogorov's distance from a uniform distribution; half a step of 1 / n at least."""
    n = len(shares)
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    # NumPy sorts several times faster than torch on a CPU.
    ordered = torch.from_numpy(np.sort(shares.numpy()))
    return float((ordered - middle).abs().max()) + 0.5 / n


def _as_uniform(distance: float, n: int) -> float:
    """Chance that n uniform values are as close to uniform; 1 where it is far from small."""
    if distance * math.sqrt(n) > _FAR:
        return 1.0
    from scipy.stats import kstwo

    return float(kstwo.cdf(distance, n))


def _equally_spaced(values: Tensor) -> bool:
    """Whether values are positions of rows in a table rather than ranks of a quantity."""
    steps = values.sort().values.diff()
    return float(steps.std()) < 0.2 * float(steps.mean())


def frequency_encoded(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Values that are the number of rows, or their share, that hold them.

    Levels of the same frequency share a value v, so that the number of rows that hold it is a
    multiple of v; for values of another origin the chance of that is 1 / v for each of them.
    """
    values, _ = column.runs
    if len(values) < _MIN_LEVELS or len(values) > len(column.both) / 5 or float(values[0]) <= 0:
        return None
    before, after = column.counts()
    for splits, rows in ((TRAIN, before), (BOTH, before + after), (VALIDATION, after)):
        held = rows > 0
        frequency = values[held] * (float(rows.sum()) if column.fractional else 1.0)
        whole = frequency.round().clamp(min=1)
        exact = (frequency - whole).abs() <= 1e-6 * frequency.clamp(min=1)
        p = float((-whole.log().sum()).exp())
        if bool((exact & (rows[held] % whole == 0)).all()) and len(whole) >= _MIN_LEVELS:
            train_error = float((before[held] % whole).sum()) / len(column.train)
            if p < limit and splits == TRAIN:
                return FittedColumn(column.name, FREQUENCIES, TRAIN)
            if p < limit:
                return FittedColumn(column.name, FREQUENCIES, splits, p, 0.0, train_error)
    return None


def target_mean_encoded(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Levels that hold the mean target of their rows in both splits."""
    values, _ = column.runs
    if column.targets is None or len(values) < _MIN_MEANS or len(values) > len(column.both) / 5:
        return None
    deviation = float(torch.cat(column.targets).std())
    if deviation == 0:
        return None
    before, after = column.counts()
    sums = []
    for part, labels in zip((column.train, column.validation), column.targets, strict=True):
        level = torch.searchsorted(values, part)
        sums.append(torch.zeros(len(values), dtype=torch.float64).index_add_(0, level, labels))
    shared = (before > 0) & (after > 0)
    if int(shared.sum()) < _MIN_MEANS:
        return None
    mean, train_mean = (sums[0] + sums[1]) / (before + after), sums[0] / before
    errors, train_errors = (
        (value - values).abs()[shared] / deviation for value in (mean, train_mean)
    )
    error, train_error = float(errors.max()), float(train_errors.median())
    if error < _TARGET_ERROR and train_error > 100 * error:
        return FittedColumn(column.name, TARGET_MEANS, BOTH, 0.0, error, train_error)
    clean = float(train_errors.max()) < _TARGET_ERROR
    return FittedColumn(column.name, TARGET_MEANS, TRAIN) if clean else None


def list_encoded(column: StoredColumn, limit: float) -> FittedColumn | None:
    """Codes 0 to K - 1 without a gap over both splits, of which many do not occur in training.

    Not numbers of rows, nor numbers given out one after the other, as to customers who join.
    """
    values, _ = column.runs
    start, entries = float(values[0]), len(values)
    if start not in (0.0, 1.0) or float(values[-1]) != start + entries - 1:
        return None
    if entries > len(column.both) / 2:
        return None
    before, after = column.counts()
    absent = before == 0
    if int((absent & (values > column.train.max())).sum()) > 0.5 * int(absent.sum()):
        return None
    p = _list_p_value(absent, after, len(column.train), len(column.validation))
    share = float(absent.double().mean())
    return FittedColumn(column.name, LEVEL_LIST, BOTH, p, 0.0, share) if p < limit else None


def is_term(column: StoredColumn) -> bool:
    """Whether a column is mostly empty, as those of terms and indicators are."""
    return float(column.both[0]) >= 0 and float(column.both[len(column.both) // 2]) == 0


def vocabulary_encoded(terms: Sequence[StoredColumn], limit: float) -> FittedColumn | None:
    """Mostly empty columns, of which some occur in validation only."""
    empty = [column for column in terms if float(column.train.max()) == 0]
    if not empty or any(float(column.both[-1]) == 0 for column in empty):
        return None
    absent = torch.tensor([float(column.train.max()) == 0 for column in terms])
    rows = torch.tensor([int((column.validation > 0).sum()) for column in terms])
    p = _list_p_value(absent, rows, len(empty[0].train), len(empty[0].validation))
    if p >= limit:
        return None
    name = f"{empty[0].name} and {len(empty) - 1} more"
    return FittedColumn(name, VOCABULARY, BOTH, p, 0.0, len(empty) / len(terms))


def _list_p_value(absent: Tensor, rows: Tensor, n: int, m: int) -> float:
    """Chance that a list from elsewhere has no empty entry where training has so many.

    An entry that occurs at a rate r per training row is absent there with chance exp(-n r), and
    occurs in validation with chance 1 - exp(-m r). Of all entries at most `entries exp(-n r)` are
    absent from training, which bounds the rates of those that are; entries that occur in validation
    much more often than this are there because of how rows were split, and the result is 1. Own
    derivation.

    Args:
        absent: whether an entry does not occur in training, `[entries]` bool.
        rows: number of validation rows of each entry, `[entries]`.
        n: number of training rows.
        m: number of validation rows.
    """
    missing = int(absent.sum())
    if not missing:
        return 1.0
    expected = (math.log(len(absent) / missing) + 1.0) * m / n
    if float(rows[absent].double().mean()) > 1.5 * (1.0 + expected):
        return 1.0
    return (1 - math.exp(-expected)) ** missing
