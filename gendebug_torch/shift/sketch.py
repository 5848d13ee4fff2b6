"""Columns in constant size, built chunk by chunk: a table too large for memory becomes a reference all the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.records import Schema
from gendebug_torch.shift.ks import KSTest, PreparedReference, ks_two_sample, prepare_reference

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# Read at once: rows of a batch, and columns of a pass over the file; 16 MiB of float64 together.
ROWS = 1 << 16
COLUMNS = 32


@dataclass(frozen=True, eq=False)
class QuantileSketch:
    """Evenly spaced order statistics of d columns, with a bound of what they are off. Adds over chunks of rows.

    Args:
        columns: `[d, k]` float64, each row ascending, NaN last; every value stands for equally many rows.
        n: `[d]` int64, values kept.
        rows: `[d]` int64, values that they stand for.
        missing: `[d]` int64, missing values, which are left out.
        error: `[d]` float64, how far the distribution function of the kept values is from that of all, at most.
        size: most values kept of a column.
        names: `d` column names.
    """

    columns: Tensor
    n: Tensor
    rows: Tensor
    missing: Tensor
    error: Tensor
    size: int
    names: tuple[str, ...] = ()

    def __add__(self, other: QuantileSketch) -> QuantileSketch:
        """Both together, thinned to `size` again, which adds `1 / (2 size)` to the weighted mean of both errors.

        Up to `size` rows nothing is thinned, and the error is 0.
        """
        if (self.names, self.size) != (other.names, other.size):
            reject("other", f"a sketch of {self.size} values of the same columns", "another one", "Build both with the same call.")
        columns = torch.cat([self.columns, other.columns], 1)
        # Two ascending runs: a stable sort merges them in one pass.
        order = torch.from_numpy(np.argsort(columns.numpy(), axis=1, kind="stable"))
        weights = torch.cat([_weights(self), _weights(other)], 1).gather(1, order)
        rows = self.rows + other.rows
        kept = rows.clamp(max=self.size)
        place = torch.arange(min(self.size, columns.shape[1]))[None, :]
        ranks = (place + 0.5) * (rows / kept.clamp(min=1))[:, None]
        index = torch.searchsorted(weights.cumsum(1), ranks).clamp(max=max(columns.shape[1] - 1, 0))
        values = columns.gather(1, order.gather(1, index)).masked_fill(place >= kept[:, None], torch.nan)
        mixed = (self.rows * self.error + other.rows * other.error) / rows.clamp(min=1)
        error = mixed + (rows > self.size) * (0.5 / self.size)
        return QuantileSketch(values, kept, rows, self.missing + other.missing, error, self.size, self.names)

    def prepared(self) -> PreparedReference:
        """A reference for `ks_two_sample`: distances are within `error`, p-values those of `size` rows, which is conservative."""
        return PreparedReference(self.columns, self.n, self.names)


def quantile_sketch(values: Tensor, *, names: Sequence[str] = (), size: int = 4096) -> QuantileSketch:
    """One chunk of rows as a sketch that adds to those of other chunks.

    Values at evenly spaced ranks, as in the buffers of Munro and Paterson; adding chunks pairwise keeps the error at
    `(1 + log2(chunks)) / (2 size)` or less, and the sketch says what it is.

    Source: Munro and Paterson (1980), Theor. Comput. Sci. 12:315; Manku, Rajagopalan and Lindsay (1998), SIGMOD, section 4.

    Args:
        values: `[n, d]` or `[n]` real numbers; NaN is missing.
        names: `d` column names, or empty.
        size: most values kept of a column; up to so many rows are kept as they are.

    Raises:
        InputError: not real numbers, or a size under 2.

    Cost: `d n log n` here; `d size` to add two.
    """
    if size < 2:
        reject("size", "at least 2", str(size), "4096 keeps distances within about 0.001.")
    whole = prepare_reference(values.detach().double().cpu(), names=names)
    kept = whole.thinned(size)
    error = (whole.n > size) * (0.5 / size)
    return QuantileSketch(kept.columns, kept.n, whole.n, whole.missing, error, size, whole.names)


def sketch_parquet(
    path: str | Path, columns: Sequence[str] | None = None, *, schema: Schema | None = None, size: int = 4096
) -> QuantileSketch:
    """The columns of a Parquet file as a sketch, read in batches whatever the size of its row groups.

    Sketches of several files add, if they have the same columns.

    Args:
        path: of the file.
        columns: numeric columns to read; by default all but those that the schema calls target, time, ids, categorical ...
        schema: what the columns are.
        size: most values kept of a column; a million makes tables of up to so many rows exact.

    Raises:
        InputError: not a Parquet file, or a column that is absent or no number.

    Cost: one pass over the file per 32 columns. Holds 65,536 rows of them and `log2(n / 65536)` sketches.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        # Buffered ahead, all row groups of the columns would be held at once.
        with ParquetFile(path, pre_buffer=False) as file:
            names = _numeric(file, columns, schema)
            parts = [_summed(_chunks(file, names[i : i + COLUMNS], size)) for i in range(0, len(names), COLUMNS)]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reject("path", "a readable Parquet file", f"{path}: {error}", "Check that the path is right and the file is whole.")
    width = max((part.columns.shape[1] for part in parts), default=0)
    padded = [torch.nn.functional.pad(part.columns, (0, width - part.columns.shape[1]), value=torch.nan) for part in parts]
    n, rows, missing, off = (torch.cat([getattr(part, name) for part in parts]) for name in ("n", "rows", "missing", "error"))
    return QuantileSketch(torch.cat(padded), n, rows, missing, off, size, tuple(names))


def prepare_reference_from_parquet(
    path: str | Path, columns: Sequence[str] | None = None, *, schema: Schema | None = None, size: int = 4096
) -> PreparedReference:
    """What `prepare_reference` makes of a table, of a Parquet file that need not fit in memory; see `sketch_parquet`."""
    return sketch_parquet(path, columns, schema=schema, size=size).prepared()


def ks_of_parquet(
    reference: str | Path | PreparedReference,
    live: str | Path,
    columns: Sequence[str] | None = None,
    *,
    schema: Schema | None = None,
    size: int = 4096,
) -> KSTest:
    """Kolmogorov-Smirnov tests between two Parquet files, neither of which has to fit in memory.

    The statistic is within the sum of both errors of that of all rows (`sketch_parquet`); p-values take each side for
    `size` rows at most, which is conservative: with 4096, distances under about 0.04 pass for noise.

    Args:
        reference: file, or what `prepare_reference` or `prepare_reference_from_parquet` made, with names.
        live: file with the same columns, in whatever order.
        columns: numeric columns to compare; default those of the reference.
        schema: what the columns are.
        size: most values kept of a column and side.

    Raises:
        InputError: as `sketch_parquet`, or a prepared reference without names.
    """
    if isinstance(reference, PreparedReference):
        known = reference
        if not known.names:
            reject("reference", "a reference with names", "one without", "Pass `names` to `prepare_reference`.")
    else:
        known = prepare_reference_from_parquet(reference, columns, schema=schema, size=size)
    return ks_two_sample(known, sketch_parquet(live, known.names, size=size).columns.T)


def _weights(sketch: QuantileSketch) -> Tensor:
    """`[d, k]` rows that each kept value stands for; 0 where there is none."""
    held = torch.arange(sketch.columns.shape[1])[None, :] < sketch.n[:, None]
    return held * (sketch.rows / sketch.n.clamp(min=1)).double()[:, None]


def _numeric(file: ParquetFile, columns: Sequence[str] | None, schema: Schema | None) -> list[str]:
    """Names of the columns to read, all of them numbers."""
    from pyarrow import types

    kinds = {field.name: field.type for field in file.schema_arrow}
    numbers = [name for name, kind in kinds.items() if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)]
    if columns is None:
        left_out = () if schema is None else {*schema.outside_features, *schema.categorical}
        return [name for name in numbers if name not in left_out]
    if strange := [name for name in columns if name not in numbers]:
        reject("columns", f"numeric columns among {', '.join(numbers)}", ", ".join(strange), "Select columns that hold numbers.")
    return list(columns)


def _chunks(file: ParquetFile, names: list[str], size: int) -> Iterator[QuantileSketch]:
    """Sketches of batches of rows; one of no rows first, so that an empty file has one too."""
    yield quantile_sketch(torch.zeros(0, len(names), dtype=torch.float64), names=names, size=size)
    for batch in file.iter_batches(ROWS, columns=names):
        yield quantile_sketch(_floats(batch, names), names=names, size=size)


def _floats(batch: Any, names: list[str]) -> Tensor:
    """`[n, d]` float64 of a record batch, nulls as NaN."""
    columns = [batch.column(name).cast("float64", safe=False).to_numpy(zero_copy_only=False) for name in names]
    return torch.from_numpy(np.stack(columns, 1))


def _summed(pieces: Iterable[QuantileSketch]) -> QuantileSketch:
    """Pieces added pairwise, like the digits of a binary counter: no row is thinned more often than the logarithm of their number."""
    waiting: list[tuple[int, QuantileSketch]] = []
    for piece in pieces:
        level, total = 0, piece
        while waiting and waiting[-1][0] == level:
            level, total = level + 1, waiting.pop()[1] + total
        waiting.append((level, total))
    return reduce(lambda total, one: one[1] + total, reversed(waiting[:-1]), waiting[-1][1])
