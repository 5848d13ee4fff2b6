"""Rows that a profile keeps: a random sample by hash, and those with the extreme values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.profiles.sums.columns import Chunk, chunk_of, hashed
from gendebug_torch.profiles.sums.sketch import Integers, mixed

_LAST = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class RowSample:
    """The distinct rows with the smallest hashes, with their numbers: a random sample of rows.

    Whether a row belongs to it depends on its values alone, so the sample is the same for every
    order and partitioning of the rows.

    Source: Cohen and Kaplan (2007), PODC, on bottom-k sketches.

    Args:
        hashes: ascending hashes of the rows, `[m]` int64.
        counts: numbers of equal rows, `[m]` int64.
        table: the rows, pyarrow.Table.
        size: largest number of distinct rows.
    """

    hashes: Integers
    counts: Integers
    table: Any
    size: int

    def __add__(self, other: RowSample) -> RowSample:
        hashes = np.concatenate([self.hashes, other.hashes])
        counts = np.concatenate([self.counts, other.counts])
        return _smallest(hashes, counts, joined(self.table, other.table), self.size)

    @property
    def limit(self) -> Any:
        """Hash above which a row cannot belong to the sample."""
        return self.hashes[-1] if len(self.hashes) >= self.size else _LAST

    def rows(self) -> Any:
        """The sample as a pyarrow.Table of `size` rows at most, in the order of their hashes.

        A row that occurs often stands there as often as its share says.
        """
        total = int(self.counts.sum())
        if total == len(self.counts):
            return self.table
        kept = min(total, self.size)
        ranks = (np.arange(kept) + 0.5) * (total / kept)
        places = np.searchsorted(self.counts.cumsum(), ranks, side="right")
        return self.table.take(places)


def row_sample(chunk: Chunk, hashes: Integers, size: int, limit: Any = _LAST) -> RowSample:
    """The sample of the rows of one chunk.

    Args:
        chunk: some rows.
        hashes: hashes of its rows, `[n]` int64.
        size: largest number of distinct rows.
        limit: hash above which no row is needed.
    """
    near = np.flatnonzero(hashes <= limit)
    ones = np.ones(len(near), np.int64)
    return _smallest(hashes[near], ones, chunk.table.take(near), size)


def row_hashes(chunk: Chunk) -> Integers:
    """Hashes of whole rows, `[n]` int64, whatever the order of the columns.

    Source: Carter and Wegman (1979), J. Comput. Syst. Sci. 18:143, for sums of products.

    Args:
        chunk: some rows.
    """
    names = np.array(chunk.table.column_names, dtype=object)
    total = np.zeros(len(chunk), np.uint64)
    import pandas as pd

    factors = pd.util.hash_array(names, categorize=False) | np.uint64(1)
    for name, factor in zip(names, factors, strict=True):
        bits = hashed(chunk, name).view(np.uint64)
        # Floats with few digits end in zeros, which a product would keep.
        total += (bits ^ (bits >> np.uint64(32))) * factor
    return mixed(total)


def extreme_rows(table: Any, names: Sequence[str]) -> Any:
    """The rows that hold the smallest and the largest value of each column, as a pyarrow.Table.

    Among equal values the row with the smallest hash is taken.

    Args:
        table: some rows, pyarrow.Table.
        names: names of the numeric columns.
    """
    chunk = chunk_of(table)
    hashes = row_hashes(chunk)
    found = set()
    for name in names:
        values = chunk.numbers[name]
        if np.isnan(values).all():
            continue
        for end in (np.nanmin(values), np.nanmax(values)):
            ties = np.flatnonzero(values == end)
            found.add(int(ties[hashes[ties].argmin()]))
    order = sorted(found, key=lambda row: int(hashes[row]))
    return chunk.table.take(np.array(order, dtype=np.int64))


def beyond(
    chunk: Chunk,
    hashes: Integers,
    names: Sequence[str],
    lowest: Sequence[float],
    highest: Sequence[float],
) -> Any:
    """The rows of a chunk that hold its extreme values, if these may be extreme of all.

    Args:
        chunk: some rows.
        hashes: hashes of its rows, `[n]` int64.
        names: names of the numeric columns, `d` of them.
        lowest: smallest values so far by column, `[d]`; infinite where there is none.
        highest: largest values so far by column, `[d]`.
    """
    places = set()
    for name, low, high in zip(names, lowest, highest, strict=True):
        values = chunk.numbers[name]
        least, most = np.fmin.reduce(values), np.fmax.reduce(values)
        for end, reached in ((least, least <= low), (most, most >= high)):
            if reached:
                ties = np.flatnonzero(values == end)
                places.add(int(ties[hashes[ties].argmin()]))
    return chunk.table.take(np.array(sorted(places), dtype=np.int64))


def joined(one: Any, other: Any) -> Any:
    """The rows of two Arrow tables with the same columns in any order and of compatible types."""
    import pyarrow as pa

    if not other.num_rows:
        return one
    if not one.num_rows:
        return other
    # What one of them lacks, as labels that are not there yet, is missing in its rows.
    order = [name for name in one.column_names if name in other.column_names]
    other = other.select([*order, *(n for n in other.column_names if n not in order)])
    try:
        return pa.concat_tables([one, other], promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        remedy = "Read all partitions with the same types."
        reject("rows", "columns of the same types in all parts", str(error), remedy)


def packed(table: Any) -> Tensor:
    """An Arrow table as bytes, `[b]` uint8."""
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def unpacked(content: Tensor) -> Any:
    """The inverse of `packed`."""
    import pyarrow as pa

    table = pa.ipc.open_stream(content.numpy().tobytes()).read_all()
    return intact(table)


def intact(table: Any) -> Any:
    """An Arrow table of a file, after its texts and its notes for pandas were found readable.

    Args:
        table: pyarrow.Table.

    Raises:
        ValueError: they are damaged.
    """
    table.validate(full=True)
    table.slice(0, 0).to_pandas()
    return table


def _smallest(hashes: Integers, counts: Integers, table: Any, size: int) -> RowSample:
    """Rows with the smallest hashes, each once, with the sum of its counts."""
    if len(hashes) > 4 * size:
        near = np.flatnonzero(hashes <= np.partition(hashes, 2 * size)[2 * size])
        if len(np.unique(hashes[near])) > size:
            hashes, counts, table = hashes[near], counts[near], table.take(near)
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    total = np.bincount(inverse, counts, len(unique)).astype(np.int64)
    kept = table.take(first[:size]).combine_chunks()
    return RowSample(unique[:size], total[:size], kept, size)
