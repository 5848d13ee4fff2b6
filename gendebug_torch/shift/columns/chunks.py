"""Tables that need not fit in memory, read in chunks: every column in constant size, and some rows
drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendebug_torch.data.records import Records, numeric_features
from gendebug_torch.data.schema import Schema
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference
from gendebug_torch.shift.columns.prepared_table import MOST_LEVELS, PreparedTable
from gendebug_torch.shift.columns.shared_columns import WIDEST, time_order
from gendebug_torch.shift.two_sample.categories import level_counts
from gendebug_torch.stats.effective_sample_size import autocorrelation_time, cautious

# Read at once: rows of a chunk, and columns of a pass over a Parquet file; 16 MiB of float64
# together.
ROWS = 1 << 16
COLUMNS = 32
# Bytes of a chunk of CSV, which is read once, all columns together.
_CSV_BYTES = 1 << 24
# Values of the rows that are drawn (160 MB); tables that hold no more are drawn whole.
CELLS = 20_000_000
# What production may lack.
UNKNOWN = ("target", "label_time", "source", "logits", "probs")


@dataclass(frozen=True)
class _Source:
    """A file as chunks of columns: `chunks(columns)` reads it once."""

    fields: dict[str, Any]
    passes: list[list[str]]
    chunks: Callable[[list[str]], Iterator[Any]]


def prepare_table(
    path: str | Path, *, schema: Schema | None = None, size: int = 4096, name: str = ""
) -> PreparedTable:
    """A Parquet or CSV file in constant size, read in chunks whatever the size of its row groups.

    Distances of columns are within `quantities.error` of those of all rows,
    `(1 + log2(chunks)) / (2 size)` at most, and exact up to `size` values.

    Args:
        path: of the file.
        schema: what the columns are; those that it calls target, time, ids, metadata ... are no
            features.
        size: most values kept of a column; a million makes tables of up to so many rows exact.
        name: of the table; default that of the file.

    Raises:
        InputError: no readable Parquet or CSV file, or a size under 2.

    Cost: one pass over a Parquet file per 32 columns. Holds 65,536 rows of them, `log2(n / 65536)`
    thinned chunks, and the rows drawn to see how far neighbours in time depend on each other.
    """
    return read_table_in_chunks(path, schema or Schema(), size=size, name=name)[0]


def read_table_in_chunks(
    path: str | Path,
    schema: Schema,
    *,
    size: int = 4096,
    name: str = "",
    optional: tuple[str, ...] = UNKNOWN,
    cells: int = CELLS,
) -> tuple[PreparedTable, Records]:
    """A file in constant size, and some of its rows, in one pass: columns are compared on all rows,
    rows on those drawn.

    Args:
        path: of the file, as for `prepare_table`.
        schema: what the columns are.
        size: most values kept of a column.
        name: of both; default that of the file.
        optional: schema keys whose columns may be absent.
        cells: values of the rows drawn, which are all rows of a table that holds no more; they stay
            in their order.

    Raises:
        InputError: as `prepare_table`, or columns that the schema names and the file lacks.
    """
    if size < 2:
        reject("size", "at least 2", str(size), "4096 keeps distances within about 0.001.")
    import pyarrow

    label = name or Path(path).stem
    try:
        source = _source(Path(path))
        # What the schema asks for and the file lacks is told before anything is read.
        nothing = pyarrow.schema(list(source.fields.items())).empty_table().to_pandas()
        Records.from_frame(nothing, schema, name=label, optional=optional)
        most = max(1, cells // max(len(source.fields), 1))
        parts, drawn = zip(
            *(_pass(source, columns, schema, size, most) for columns in source.passes), strict=True
        )
    except (OSError, pyarrow.ArrowInvalid) as error:
        reject(
            "path",
            "a readable Parquet or CSV file",
            f"{path}: {error}",
            "Check that the path is right and the file is whole.",
        )
    frame = reduce(lambda left, right: left.join(right), (rows.to_pandas() for rows in drawn))
    sample = Records.from_frame(frame, schema, name=label, optional=optional)
    return _in_time(replace(_side_by_side(parts), name=label), sample), sample


def is_large(path: str | Path) -> bool:
    """Whether a Parquet or CSV file holds more values than are drawn, by its footer or its size on
    disk.
    """
    source = Path(path)
    if not source.is_file():
        return False
    if source.suffix.lower() not in (".parquet", ".pq"):
        return source.stat().st_size > 8 * CELLS
    import pyarrow
    from pyarrow.parquet import read_metadata

    try:
        footer = read_metadata(source)
    except (OSError, pyarrow.ArrowInvalid):
        # Whoever reads it says what is wrong with it.
        return False
    return int(footer.num_rows) * int(footer.num_columns) > CELLS


def _source(path: Path) -> _Source:
    if path.suffix.lower() in (".parquet", ".pq"):
        from pyarrow.parquet import read_schema

        fields = {field.name: field.type for field in read_schema(path)}
        names = list(fields)
        passes = [names[i : i + COLUMNS] for i in range(0, len(names), COLUMNS)]
        return _Source(fields, passes, lambda columns: _batches(path, columns))
    from pyarrow import csv

    reading = csv.ReadOptions(block_size=_CSV_BYTES)
    fields = {field.name: field.type for field in csv.open_csv(path, read_options=reading).schema}
    return _Source(fields, [list(fields)], lambda _: iter(csv.open_csv(path, read_options=reading)))


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    # Buffered ahead, all row groups of the columns would be held at once.
    with ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(ROWS, columns=columns)


def _pass(
    source: _Source, columns: list[str], schema: Schema, size: int, most: int
) -> tuple[PreparedTable, Any]:
    """Some columns of a file: those that are features prepared, and all of them for the rows that
    are drawn.
    """
    rows = _Reservoir(most)
    features = [name for name in columns if name not in schema.outside_features]
    kinds = {
        name: "level" if name in schema.categorical else _kind(source.fields[name])
        for name in features
    }

    def pieces() -> Iterator[PreparedTable]:
        # One of no rows first, so that an empty file has one too.
        yield _prepared(None, kinds, size)
        for batch in source.chunks(columns):
            rows.add(batch)
            yield _prepared(batch, kinds, size)

    return _summed(pieces()), rows.table(columns, source.fields)


class _Reservoir:
    """So many rows drawn at random, in their order: every row draws a number, and those with the
    smallest ones stay.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        # The same seed in every pass over a file draws the same rows.
        self.rng = np.random.default_rng(0)
        self.limit = 1.0
        self.numbers: list[np.ndarray[Any, Any]] = []
        self.parts: list[Any] = []

    def add(self, batch: Any) -> None:
        numbers = self.rng.random(len(batch))
        stay = np.flatnonzero(numbers < self.limit)
        self.numbers.append(numbers[stay])
        self.parts.append(batch.take(stay))
        if sum(map(len, self.numbers)) > 2 * self.most:
            self._prune()

    def table(self, columns: list[str], fields: dict[str, Any]) -> Any:
        """The rows, as an arrow table."""
        import pyarrow as pa

        self._prune()
        return pa.Table.from_batches(
            self.parts, schema=pa.schema([(name, fields[name]) for name in columns])
        )

    def _prune(self) -> None:
        numbers = np.concatenate([*self.numbers, np.zeros(0)])
        if len(numbers) <= self.most:
            return
        import pyarrow as pa

        self.limit = float(np.partition(numbers, self.most)[self.most])
        stay = np.flatnonzero(numbers < self.limit)
        self.numbers = [numbers[stay]]
        self.parts = pa.Table.from_batches(self.parts).take(stay).combine_chunks().to_batches()


def _kind(field: Any) -> str:
    from pyarrow import types

    if types.is_integer(field) or types.is_floating(field):
        return "quantity"
    level = (
        types.is_boolean(field)
        or types.is_string(field)
        or types.is_large_string(field)
        or types.is_dictionary(field)
    )
    return "level" if level else "other"


def _prepared(batch: Any, kinds: dict[str, str], size: int) -> PreparedTable:
    """One chunk of rows."""
    import pyarrow as pa

    rows = 0 if batch is None else len(batch)
    columns = {name: pa.array([]) if batch is None else batch.column(name) for name in kinds}
    names = tuple(name for name, kind in kinds.items() if kind == "quantity")
    block = np.empty((len(names), rows))
    wide = set()
    for place, name in enumerate(names):
        block[place] = columns[name].cast("float64", safe=False).to_numpy(zero_copy_only=False)
        if (
            rows
            and pa.types.is_integer(columns[name].type)
            and np.nanmax(np.abs(block[place]), initial=0.0) > WIDEST
        ):
            wide.add(name)
    block.sort(axis=1)
    gaps = np.isnan(block).sum(1)
    n = torch.from_numpy(rows - gaps)
    distinct = (block[:, 1:] != block[:, :-1]).all(1) & (gaps == 0)
    counting = {
        name
        for place, name in enumerate(names)
        if distinct[place] and (block[place] == np.floor(block[place])).all()
    }
    exact = torch.zeros(len(names), dtype=torch.float64)
    whole = PreparedReference(torch.from_numpy(block), n, rows - n, exact, names)
    missing = {name: _gaps(column) for name, column in columns.items()}
    return PreparedTable(
        whole.thinned(size),
        {name: _levels(columns[name]) for name, kind in kinds.items() if kind == "level"},
        missing,
        rows,
        frozenset(counting | wide),
        frozenset(
            name for name in names if batch is None or pa.types.is_float32(columns[name].type)
        ),
        torch.ones(len(names), dtype=torch.float64),
    )


def _gaps(column: Any) -> int:
    from pyarrow import compute

    return int(compute.sum(compute.is_null(column, nan_is_null=True)).as_py() or 0)


def _levels(column: Any) -> dict[str, int] | None:
    found = column.value_counts()
    if len(found) > MOST_LEVELS:
        return None
    pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    return level_counts(
        {level: count for level, count in pairs if level is not None and level == level}
    )


def _in_time(table: PreparedTable, sample: Records) -> PreparedTable:
    """The table with how far neighbours in time depend on each other, as the drawn rows show it."""
    order = time_order(sample)
    names = table.quantities.names
    if order is None or not names:
        return table
    numeric, values = numeric_features(sample)
    found = cautious(
        autocorrelation_time(values[order][:, [numeric.index(name) for name in names]]), len(sample)
    )
    apart = table.rows / max(len(sample), 1)
    return replace(table, times=torch.where(found > 1, found * apart, found), judged=len(sample))


def _side_by_side(parts: tuple[PreparedTable, ...]) -> PreparedTable:
    """The columns of several passes over one file as one table."""
    quantities = [part.quantities for part in parts]
    width = max(part.columns.shape[1] for part in quantities)
    padded = [
        torch.nn.functional.pad(part.columns, (0, width - part.columns.shape[1]), value=torch.nan)
        for part in quantities
    ]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in quantities])
        for name in ("n", "missing", "error")
    }
    names = tuple(name for part in quantities for name in part.names)
    return replace(
        parts[0],
        quantities=replace(quantities[0], columns=torch.cat(padded), names=names, **joined),
        levels={name: count for part in parts for name, count in part.levels.items()},
        missing={name: count for part in parts for name, count in part.missing.items()},
        numbering=frozenset().union(*(part.numbering for part in parts)),
        single=frozenset().union(*(part.single for part in parts)),
        times=torch.cat([part.times for part in parts]),
    )


def _summed(pieces: Iterable[PreparedTable]) -> PreparedTable:
    """Pieces added pairwise, like the digits of a binary counter: no row is thinned more often than
    the logarithm of their number.
    """
    waiting: list[tuple[int, PreparedTable]] = []
    for piece in pieces:
        level, total = 0, piece
        while waiting and waiting[-1][0] == level:
            level, total = level + 1, waiting.pop()[1] + total
        waiting.append((level, total))
    return reduce(lambda total, one: one[1] + total, reversed(waiting[:-1]), waiting[-1][1])
