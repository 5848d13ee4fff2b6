"""Distribution of a column in constant size: the same whatever the order and the partitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Cells of the grid of a column; 32 bytes each.
CELLS = 8192
# Hashes by which distinct values are counted.
DISTINCT = 256
_LEVELS = 63
# Most cells that are counted in one array.
_WIDEST = 1 << 21
_SIGN = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class Sketch:
    """Values counted in the cells of the finest dyadic grid of floats with at most `CELLS` used.

    A cell holds the floats whose bits agree but for the last `level`, so cells are narrow where
    numbers are small. Merging adds counts, and halves the grid while too many cells are used: the
    level depends on the set of values alone. Hence `+` is exactly associative and commutative,
    unlike that of KLL and t-digest. Up to `CELLS` distinct values are kept as they are.

    Source: Masson, Rim and Lee (2019), PVLDB 12:2195 (DDSketch); Epicoco et al. (2020), IEEE Access
    8:147604, for merging cells in pairs until they fit.

    Args:
        keys: ascending numbers of the used cells, `[b]` int64.
        counts: numbers of values per cell, `[b]` int64.
        low: smallest value of each cell, `[b]` float64.
        high: largest value of each cell, `[b]` float64.
        level: number of trailing bits that a cell leaves open.
    """

    keys: Integers
    counts: Integers
    low: Floats
    high: Floats
    level: int = 0

    @property
    def n(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def error(self) -> float:
        """Largest distance of its distribution function from that of all values."""
        several = self.counts[self.low < self.high]
        return float(several.max(initial=0)) / max(self.n, 1)

    def __add__(self, other: Sketch) -> Sketch:
        level = max(self.level, other.level)
        parts = [coarser(side, level) for side in (self, other)]
        joined = [np.concatenate(pair) for pair in zip(*map(_arrays, parts), strict=True)]
        order = np.argsort(joined[0], kind="stable")
        keys, counts, low, high = (array[order] for array in joined)
        return _fitted(_grouped(keys, counts, low, high, level))

    def quantiles(self, size: int) -> Floats:
        """Evenly spaced quantiles, `[min(n, size)]` ascending: all values where they are few.

        Within a cell values are taken as evenly spaced between its ends.

        Args:
            size: largest number of quantiles.
        """
        stored = min(self.n, size)
        if not stored:
            return np.empty(0)
        ranks = (np.arange(stored) + 0.5) * (self.n / stored)
        total = self.counts.cumsum()
        cell = np.searchsorted(total, ranks, side="right").clip(max=len(total) - 1)
        share = (ranks - total[cell] + self.counts[cell]) / self.counts[cell]
        low, high = self.low[cell], self.high[cell]
        with np.errstate(invalid="ignore", over="ignore"):
            between = low + (high - low) * share
        inside = np.isfinite(between)
        found: Floats = np.where((low < high) & inside, between, low)
        return found


@dataclass(frozen=True, eq=False)
class Distinct:
    """The values with the smallest hashes and how often each occurs: a sample of distinct values.

    Source: Bar-Yossef et al. (2002), RANDOM, algorithm 2, for the k smallest hashes.

    Args:
        hashes: ascending hashes, `[k]` int64, `DISTINCT` at most.
        counts: numbers of rows with each value, `[k]` int64, exact.
    """

    hashes: Integers
    counts: Integers

    def __add__(self, other: Distinct) -> Distinct:
        hashes = np.concatenate([self.hashes, other.hashes])
        return distinct_values(hashes, np.concatenate([self.counts, other.counts]))

    @property
    def estimate(self) -> float:
        """Number of distinct values, with a relative standard error of `DISTINCT ** -0.5`."""
        if len(self.hashes) < DISTINCT:
            return float(len(self.hashes))
        return (DISTINCT - 1) / ((float(self.hashes[-1]) + 2.0**63) / 2.0**64)

    @property
    def repeats(self) -> bool:
        """Whether one of the values occurs twice."""
        return bool((self.counts > 1).any())


def distinct_values(hashes: Integers, counts: Integers) -> Distinct:
    """The smallest of some hashes, each once.

    Args:
        hashes: hashes of values, `[m]` int64, in any order.
        counts: numbers of rows, `[m]` int64.
    """
    import pandas as pd

    if len(hashes) > 8 * DISTINCT:
        near = hashes <= np.partition(hashes, 4 * DISTINCT)[4 * DISTINCT]
        if len(pd.unique(hashes[near])) > DISTINCT:
            hashes, counts = hashes[near], counts[near]
    codes, unique = pd.factorize(hashes)
    total = np.bincount(codes, counts, len(unique)).astype(np.int64)
    order = np.argsort(unique)[:DISTINCT]
    return Distinct(unique[order], total[order])


def sketch(values: Floats, level: int = 0) -> Sketch:
    """The sketch of some values.

    Args:
        values: values, `[n]` without NaN, in any order.
        level: level that the whole column needs at least, so that nothing finer is counted.

    Cost: a few nanoseconds per value; one hash table where the values spread over many floats.
    """
    values = values + 0.0
    if level == 0 and len(values) > 2 * CELLS:
        # A part needs no finer grid than the whole, and its level is found faster.
        level = _exact(values[: 2 * CELLS]).level
    if level == 0 or not len(values):
        return _exact(values)
    keys = ordered_keys(values) >> np.int64(level)
    least = keys.min()
    width = int(keys.max()) - int(least) + 1
    if width > _WIDEST:
        return _exact(values)
    cells = keys - least
    counts = np.bincount(cells, minlength=width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    np.minimum.at(low, cells, values)
    np.maximum.at(high, cells, values)
    used = np.flatnonzero(counts)
    return _fitted(Sketch(used + least, counts[used], low[used], high[used], level))


def _exact(values: Floats) -> Sketch:
    """The sketch by way of the distinct values."""
    import pandas as pd

    codes, distinct = pd.factorize(values)
    counts, order = np.bincount(codes, minlength=len(distinct)), np.argsort(distinct)
    distinct = distinct[order]
    return _fitted(Sketch(ordered_keys(distinct), counts[order], distinct, distinct))


def mixed(bits: Any) -> Integers:
    """Words whose every bit depends on every bit of the given ones: SplitMix64's finaliser.

    Args:
        bits: words of 64 bits, of any integer type.
    """
    words = np.array(bits).view(np.uint64)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words.view(np.int64)


def ordered_keys(values: Floats) -> Integers:
    """Integers in the order of the floats: the bits, those of negative numbers mirrored.

    Args:
        values: floats without a negative zero, `[n]`.
    """
    bits = values.view(np.int64)
    return bits ^ ((bits >> np.int64(63)) & _SIGN)


def first_places(keys: Integers) -> NDArray[np.intp]:
    """First places of the runs of equal keys.

    Args:
        keys: ascending keys, `[n]`.
    """
    if not len(keys):
        return np.empty(0, np.intp)
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])


def _arrays(side: Sketch) -> tuple[Any, ...]:
    return side.keys, side.counts, side.low, side.high


def _grouped(keys: Integers, counts: Integers, low: Floats, high: Floats, level: int) -> Sketch:
    """Cells with ascending keys, those of one key as one."""
    starts = first_places(keys)
    if len(starts) == len(keys):
        return Sketch(keys, counts, low, high, level)
    totals = np.add.reduceat(counts, starts)
    ends = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    return Sketch(keys[starts], totals, *ends, level)


def coarser(side: Sketch, level: int) -> Sketch:
    """The same counts on a grid of at least this level.

    Args:
        side: sketch of a column.
        level: number of trailing bits that a cell leaves open.
    """
    if side.level >= level:
        return side
    keys = side.keys >> np.int64(level - side.level)
    return _grouped(keys, side.counts, side.low, side.high, level)


def finest_level(keys: Integers, level: int, most: int) -> int:
    """Level of the finest grid that fits: found by halving, as coarser grids never use more.

    Args:
        keys: ascending numbers of cells, `[b]`.
        level: level of their grid.
        most: largest number of cells.
    """
    least, highest = level, _LEVELS
    while least < highest:
        middle = (least + highest) // 2
        used = 1 + int((np.diff(keys >> np.int64(middle - level)) != 0).sum())
        least, highest = (least, middle) if used <= most else (middle + 1, highest)
    return least


def _fitted(side: Sketch) -> Sketch:
    """The same on the finest grid that fits."""
    if len(side.keys) <= CELLS:
        return side
    return coarser(side, finest_level(side.keys, side.level, CELLS))
