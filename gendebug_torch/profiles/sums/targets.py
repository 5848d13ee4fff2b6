"""Sums of the target by the values of a column: what a column alone tells of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from gendebug_torch.data.task import missing_labels
from gendebug_torch.profiles.sums.sketch import (
    Floats,
    Integers,
    finest_level,
    first_places,
    ordered_keys,
)
from gendebug_torch.shift.two_sample.categories import level_text

# Numbers per column, cells at most and at least, and levels at most.
_NUMBERS, _CELLS, _FEWEST, _LEVELS = 1 << 14, 1 << 12, 1 << 7, 1 << 12
# Classes beyond which no column is counted against the target.
MAX_CLASSES = 256
# Most cells that are counted in one array.
_WIDEST = 1 << 20


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums over the cells of the finest dyadic grid of floats that fits; adds over rows.

    As in a `Sketch`, the grid follows from the set of values (and from the number w of sums) alone.

    Args:
        keys: ascending numbers of the used cells, `[b]` int64.
        sums: sums per cell, `[b, w]` float64.
        level: number of trailing bits that a cell leaves open.
    """

    keys: Integers
    sums: Floats
    level: int = 0

    def __add__(self, other: CellSums) -> CellSums:
        level, width = max(self.level, other.level), max(self.sums.shape[1], other.sums.shape[1])
        parts = [side.coarser(level).padded(width) for side in (self, other)]
        keys = np.concatenate([part.keys for part in parts])
        return _fitted(keys, np.concatenate([part.sums for part in parts]), level)

    def coarser(self, level: int) -> CellSums:
        """The same sums on a grid of at least this level.

        Args:
            level: number of trailing bits that a cell leaves open.
        """
        if self.level >= level:
            return self
        return _grouped(self.keys >> np.int64(level - self.level), self.sums, level)

    def padded(self, width: int) -> CellSums:
        """The same with zeros for classes that it does not know.

        Args:
            width: number of sums per cell.
        """
        return replace(self, sums=_padded(self.sums, width))


@dataclass(frozen=True, eq=False)
class TargetSums:
    """The target of the labeled rows by the values of one column; adds over rows.

    Args:
        real: whether the target is a quantity; else there are k classes.
        cells: by cell of a quantity, the rows of each class, or rows and sum of the target.
        names: levels of a column of names; None with too many, or for a quantity.
        levels: the same sums by level, `[L, w]` float64.
        moments: number, mean and squared deviations of the finite values of each class, `[k, 3]`;
            of a real target number, both means, both squared deviations and their product, `[1, 6]`
            with the column first.
        missing: rows of each class without a value, `[k]`; number, mean and squared deviations of a
            real target where there is a value, and where there is none, `[2, 3]`.
        lost: cells of a real target where there is none.
    """

    real: bool
    cells: CellSums | None
    names: tuple[str, ...] | None
    levels: Floats
    moments: Floats
    missing: Floats
    lost: CellSums | None = None

    def __add__(self, other: TargetSums) -> TargetSums:
        names, levels = _added_levels(self, other)
        added = _moments_sum if self.real else _padded_sum
        return TargetSums(
            self.real,
            sum_of_known(self.cells, other.cells),
            names,
            levels,
            _moments_sum(self.moments, other.moments),
            added(self.missing, other.missing),
            sum_of_known(self.lost, other.lost),
        )

    @property
    def present(self) -> Floats:
        """Sums of each cell of a quantity, ascending, or of each level, `[b, w]`."""
        return self.levels if self.cells is None else self.cells.sums


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a chunk.

    Args:
        rows: which rows are labeled, `[n]` bool.
        values: class ids `[m]` int64, or quantities `[m]` float64, of these rows.
    """

    rows: Any
    values: Any

    @property
    def real(self) -> bool:
        """Whether the target is a quantity."""
        return bool(self.values.dtype.kind == "f")

    @property
    def width(self) -> int:
        """Number of sums: classes, or rows and sum of a quantity."""
        return 2 if self.real else int(self.values.max(initial=0)) + 1


def labels_of(targets: Tensor | None) -> Labels | None:
    """The labels of a chunk; None without any, or with several per row or too many classes.

    Args:
        targets: as records hold them.
    """
    if targets is None or targets.ndim != 1:
        return None
    rows = (~missing_labels(targets)).cpu()
    values = targets.cpu()[rows]
    kept = values.double().numpy() if values.is_floating_point() else values.numpy()
    found = Labels(rows.numpy(), kept)
    return found if found.real or found.width <= MAX_CLASSES else None


def quantity_sums(numbers: Floats, labels: Labels, level: int) -> TargetSums:
    """The target by the values of a quantity.

    Args:
        numbers: values, `[n]`, NaN where missing.
        labels: labels of the rows.
        level: level that the grid needs at least.

    Cost: some ten operations per value.
    """
    numbers = numbers[labels.rows]
    there = ~np.isnan(numbers)
    every = bool(there.all())
    values, own = (numbers, labels.values) if every else (numbers[there], labels.values[there])
    cells = cell_sums(values, own, labels.width, level)
    finite = np.isfinite(values)
    if not finite.all():
        values, own = values[finite], own[finite]
    moments = _joint_moments(values, own) if labels.real else _moments(values, own, labels.width)
    lost = np.zeros(len(numbers), bool) if every else ~there
    return TargetSums(labels.real, cells, None, _no_sums(labels), moments, *_missing(lost, labels))


def level_sums(values: Any, labels: Labels) -> TargetSums:
    """The target by the levels of a column of names or codes.

    Args:
        values: pyarrow.ChunkedArray.
        labels: labels of the rows.
    """
    coded = values.combine_chunks().dictionary_encode()
    names = [None if v is None or v != v else level_text(v) for v in coded.dictionary.to_pylist()]
    listed = sorted({name for name in names if name is not None})
    distinct = {name: i for i, name in enumerate(listed)}
    places = np.array([*(-1 if name is None else distinct[name] for name in names), -1])
    codes = places[coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)][labels.rows]
    there = codes >= 0
    sums = _by_code(codes[there], labels.values[there], len(distinct), labels.width)
    used = np.flatnonzero(sums[:, 0] if labels.real else sums.sum(1))
    return TargetSums(
        labels.real,
        None,
        *_few_levels(tuple(listed[i] for i in used), sums[used]),
        _no_moments(labels),
        *_missing(~there, labels),
    )


def empty_sums(labels: Labels) -> TargetSums:
    """The target where a column has no value.

    Args:
        labels: labels of the rows.
    """
    lost = _missing(np.ones(len(labels.values), bool), labels)
    return TargetSums(labels.real, None, (), _no_sums(labels), _no_moments(labels), *lost)


def cell_sums(values: Floats, targets: Any, width: int, level: int) -> CellSums:
    """Sums of the target over the cells of a quantity.

    Args:
        values: values, `[m]` without NaN.
        targets: class ids `[m]` int64 or quantities `[m]` float64.
        width: number of sums.
        level: level that the grid needs at least.
    """
    most = most_cells(width)
    keys = ordered_keys(values + 0.0)
    if not level and len(keys) > 2 * most:
        # A part needs no finer grid than the whole, and its level is found faster.
        level = finest_level(np.unique(keys[: 2 * most]), 0, most)
    keys = keys >> np.int64(level)
    least = keys.min(initial=0) if len(keys) else np.int64(0)
    if not len(keys) or float(keys.max()) - float(least) >= _WIDEST:
        unique, codes = np.unique(keys, return_inverse=True)
        return _fitted(unique, _by_code(codes, targets, len(unique), width), level)
    codes = keys - least
    sums = _by_code(codes, targets, int(codes.max()) + 1, width)
    used = np.flatnonzero(sums[:, 0] if targets.dtype.kind == "f" else sums.any(1))
    return _fitted(used + least, sums[used], level)


def most_cells(width: int) -> int:
    """Largest number of cells of a column.

    Args:
        width: number of sums per cell.
    """
    return min(_CELLS, max(_NUMBERS // max(width, 1), _FEWEST))


def sum_of_known(one: Any, other: Any) -> Any:
    """The sum of what both have, else of one.

    Args:
        one: anything that adds, or None.
        other: the same.
    """
    return (other if one is None else one) if None in (one, other) else one + other


def _by_code(codes: Integers, targets: Any, size: int, width: int) -> Floats:
    """`[size, w]` rows of each class, or rows and sums of a quantity, by code."""
    if targets.dtype.kind == "f":
        parts = [np.bincount(codes, minlength=size), np.bincount(codes, targets, size)]
        return np.stack(parts, 1).astype(np.float64)
    counts = np.bincount(codes * width + targets, minlength=size * width)
    return counts.reshape(size, width).astype(np.float64)


def _moments(values: Floats, classes: Integers, k: int) -> Floats:
    """`[k, 3]` number, mean and squared deviations of each class."""
    n = np.bincount(classes, minlength=k).astype(np.float64)
    mean = np.bincount(classes, values, k) / np.maximum(n, 1)
    squares = np.bincount(classes, (values - mean[classes]) ** 2, k)
    return np.stack([n, mean, squares], 1)


def _joint_moments(values: Floats, targets: Floats) -> Floats:
    """`[1, 6]` number, means, squared deviations and their product."""
    if not len(values):
        return np.zeros((1, 6))
    means = values.mean(), targets.mean()
    x, y = values - means[0], targets - means[1]
    return np.array([[len(values), *means, x @ x, y @ y, x @ y]])


def _missing(lost: Any, labels: Labels) -> tuple[Floats, CellSums | None]:
    """Labels of the rows without a value, `[m]` bool: counts by class, or moments and cells."""
    own = labels.values[lost]
    if not labels.real:
        return np.bincount(own, minlength=labels.width).astype(np.float64), None
    return _moments(labels.values, lost.astype(np.int64), 2), quantity_cells(own)


def quantity_cells(values: Floats) -> CellSums:
    """Numbers of values of a quantity by cell, `w = 1`.

    Args:
        values: values, `[m]` without NaN.
    """
    return cell_sums(values, np.zeros(len(values), np.int64), 1, 0)


def _no_sums(labels: Labels) -> Floats:
    return np.zeros((0, labels.width))


def _no_moments(labels: Labels) -> Floats:
    return np.zeros((1, 6)) if labels.real else np.zeros((labels.width, 3))


def _moments_sum(one: Floats, other: Floats) -> Floats:
    """Moments of both together, row by row, by Chan's update; rows beyond the shorter are zero."""
    size = max(len(one), len(other))
    one, other = (_padded(part.T, size).T for part in (one, other))
    d = 2 if one.shape[1] == 6 else 1
    n = one[:, :1] + other[:, :1]
    share = other[:, :1] / np.maximum(n, 1)
    change = other[:, 1 : 1 + d] - one[:, 1 : 1 + d]
    means = one[:, 1 : 1 + d] + change * share
    products = [change, change[:, :1] * change[:, 1:]] if d == 2 else [change]
    squares = np.concatenate([change**2, *products[1:]], 1)
    return np.concatenate(
        [n, means, one[:, 1 + d :] + other[:, 1 + d :] + squares * one[:, :1] * share], 1
    )


def _added_levels(one: TargetSums, other: TargetSums) -> tuple[tuple[str, ...] | None, Floats]:
    """Levels of both and their sums; None with too many."""
    width = max(one.levels.shape[1], other.levels.shape[1])
    if one.names is None or other.names is None:
        return None, np.zeros((0, width))
    names = dict.fromkeys(sorted({*one.names, *other.names}))
    places = {name: i for i, name in enumerate(names)}
    sums = np.zeros((len(names), width))
    for part in (one, other):
        rows = np.array([places[name] for name in part.names or ()], np.int64)
        sums[rows] += _padded(part.levels, width)
    return _few_levels(tuple(names), sums)


def _few_levels(names: tuple[str, ...], sums: Floats) -> tuple[tuple[str, ...] | None, Floats]:
    """Levels and their sums if they are few enough to be counted."""
    few = len(names) <= _LEVELS and sums.size <= 4 * _NUMBERS
    return (names, sums) if few else (None, sums[:0])


def _fitted(keys: Integers, sums: Floats, level: int) -> CellSums:
    """Sums by cell on the finest grid that fits."""
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], sums[order]
    finest = finest_level(keys, level, most_cells(sums.shape[1]))
    return _grouped(keys >> np.int64(finest - level), sums, finest)


def _grouped(keys: Integers, sums: Floats, level: int) -> CellSums:
    """Cells with ascending keys, those of one key as one."""
    starts = first_places(keys)
    if len(starts) == len(keys):
        return CellSums(keys, sums, level)
    return CellSums(keys[starts], np.add.reduceat(sums, starts), level)


def _padded(values: Floats, width: int) -> Floats:
    more = width - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, more)]) if more else values


def _padded_sum(one: Floats, other: Floats) -> Floats:
    size = max(len(one), len(other))
    return _padded(one, size) + _padded(other, size)
