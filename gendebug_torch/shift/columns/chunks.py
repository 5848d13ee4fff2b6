"""Tables larger than memory, read in chunks: columns in constant size, and a sample of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import numeric_features, standard_codes
from gendebug_torch.errors import reading, reject
from gendebug_torch.shift.columns.exclusions import arrow_reason, is_numbering
from gendebug_torch.shift.columns.prepared import PreparedReference
from gendebug_torch.shift.columns.prepared_table import MAX_COUNTED_LEVELS, PreparedTable
from gendebug_torch.shift.columns.shared_columns import MAX_EXACT_INTEGER, time_order
from gendebug_torch.shift.two_sample.categories import level_counts
from gendebug_torch.stats.dependence.design_effects import group_ids
from gendebug_torch.stats.dependence.effective_sample_size import (
    autocorrelation_time,
    autocorrelation_time_bound,
    two_sample_group_effects,
)

# Rows of a chunk, and columns of a pass over a Parquet file: 16 MiB of float64 together.
CHUNK_ROWS = 1 << 16
CHUNK_COLUMNS = 32
# Bytes of a chunk of CSV, which is read in one pass.
CHUNK_BYTES = 1 << 24
# Values of the sampled rows (160 MB); smaller tables are sampled whole.
MAX_CELLS = 20_000_000
# What a column is compared as.
_QUANTITY, _LEVEL = "quantity", "level"
# Schema keys whose columns production may lack.
OPTIONAL = ("target", "label_time", "source", "logits", "probs")


@dataclass(frozen=True)
class _Source:
    """A file as chunks of columns: `chunks(columns)` reads it in one pass."""

    fields: dict[str, Any]
    passes: list[list[str]]
    chunks: Callable[[list[str]], Iterator[Any]]


def prepare_table(
    path: str | Path, *, schema: Schema | None = None, size: int = 4096, name: str = ""
) -> PreparedTable:
    """Statistics of the columns of a Parquet or CSV file in constant size, read in chunks.

    Distances of columns are within `quantities.error` of those of all rows,
    `(1 + log2(chunks)) / (2 size)` at most, and exact up to `size` values.

    Args:
        path: path of the file.
        schema: roles of the columns; those that it calls target, time, ids, metadata ... are no
            features.
        size: largest number of values stored per column; a million makes tables of up to so many
            rows exact.
        name: name of the table; default that of the file.

    Returns:
        The statistics, which add over files; `table_comparison` tests two of them.

    Raises:
        InputError: no readable Parquet or CSV file, or a size under 2.

    Cost: one pass over a Parquet file per 32 columns. Holds 65,536 rows of them, `log2(n / 65536)`
    sketches, and a sample of the rows for the autocorrelation times.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "rows.csv"
        ...     pd.DataFrame({"age": range(500), "city": "Bern"}).to_csv(path, index=False)
        ...     table = prepare_table(path)
        >>> table.rows, table.quantities.names, table.levels["city"]
        (500, ('age',), {'Bern': 500})
    """
    return read_table_in_chunks(path, schema or Schema(), size=size, name=name)[0]


def read_table_in_chunks(
    path: str | Path,
    schema: Schema,
    *,
    size: int = 4096,
    name: str = "",
    optional: tuple[str, ...] = OPTIONAL,
    cells: int = MAX_CELLS,
) -> tuple[PreparedTable, Records]:
    """Statistics of the columns of a file and a random sample of its rows, in one pass.

    Args:
        path: path of the file, as for `prepare_table`.
        schema: roles of the columns.
        size: largest number of values stored per column.
        name: name of both; default that of the file.
        optional: schema keys whose columns may be absent.
        cells: largest number of sampled values; a smaller table is sampled whole. Rows keep their
            order.

    Raises:
        InputError: as `prepare_table`, or columns that the schema names and the file lacks.
    """
    if size < 2:
        reject("size", "at least 2", str(size), "4096 keeps distances within about 0.001.")
    import pyarrow

    label = name or Path(path).stem
    expected = "a readable Parquet or CSV file"
    with reading(path, expected):
        source = _source(Path(path), (*schema.categorical, *schema.ids))
        empty = pyarrow.schema(list(source.fields.items())).empty_table().to_pandas()
    # Columns that the schema names and the file lacks are an error before anything is read.
    Records.from_frame(empty, schema, name=label, optional=optional)
    with reading(path, expected):
        limit = max(1, cells // max(len(source.fields), 1))
        parts, samples = zip(
            *(_pass(source, columns, schema, size, limit) for columns in source.passes), strict=True
        )
        frame = reduce(lambda left, right: left.join(right), (rows.to_pandas() for rows in samples))
        codes = [name for name in (*schema.categorical, *schema.ids) if name in frame]
        frame = frame.assign(**{name: standard_codes(frame[name]) for name in codes})
        sample = Records.from_frame(frame, schema, name=label, optional=optional)
        return with_times(replace(_side_by_side(parts), name=label), sample), sample


def is_large(path: str | Path) -> bool:
    """Whether a Parquet or CSV file holds more than 20 million values, by its footer or size."""
    source = Path(path)
    if not source.is_file():
        return False
    if source.suffix.lower() not in (".parquet", ".pq"):
        return source.stat().st_size > 8 * MAX_CELLS
    import pyarrow
    from pyarrow.parquet import read_metadata

    try:
        footer = read_metadata(source)
    except (OSError, pyarrow.ArrowInvalid):
        # The error is raised where the file is read.
        return False
    return int(footer.num_rows) * int(footer.num_columns) > MAX_CELLS


def _source(path: Path, codes: tuple[str, ...]) -> _Source:
    if path.suffix.lower() in (".parquet", ".pq"):
        from pyarrow.parquet import read_schema

        fields = {field.name: field.type for field in read_schema(path)}
        names = list(fields)
        passes = [names[i : i + CHUNK_COLUMNS] for i in range(0, len(names), CHUNK_COLUMNS)]
        return _Source(fields, passes, lambda columns: _batches(path, columns))
    from pyarrow import csv

    reading = csv.ReadOptions(block_size=CHUNK_BYTES)

    def rows() -> Any:
        return csv.open_csv(path, read_options=reading, convert_options=csv_options(codes))

    fields = {field.name: field.type for field in rows().schema}
    return _Source(fields, [list(fields)], lambda _: iter(rows()))


def csv_options(codes: tuple[str, ...]) -> Any:
    """How pyarrow turns the cells of a CSV file into values.

    Args:
        codes: names of the columns that hold codes, which stay texts.
    """
    import pyarrow as pa
    from pyarrow import csv

    # Guessed by file, the code 01001 would be a number in one and a text in the next. Missing is
    # what pandas reads as such, so that large files say what small ones say.
    return csv.ConvertOptions(
        column_types=dict.fromkeys(codes, pa.string()),
        strings_can_be_null=True,
        null_values=[*csv.ConvertOptions().null_values, "None", "<NA>"],
    )


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    # Buffered ahead, all row groups of the columns would be held at once.
    with ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(CHUNK_ROWS, columns=columns)


def _pass(
    source: _Source, columns: list[str], schema: Schema, size: int, limit: int
) -> tuple[PreparedTable, Any]:
    """Statistics of those columns that are features, and the sampled rows of all columns."""
    rows = _Reservoir(limit)
    features = [name for name in columns if name not in schema.outside_features]
    kinds = {
        name: _kind(source.fields[name], categorical=name in schema.categorical)
        for name in features
    }

    def chunks() -> Iterator[PreparedTable]:
        # One without rows first, so that an empty file has one too.
        yield _prepared(None, kinds, size)
        for batch in source.chunks(columns):
            rows.add(batch)
            yield _prepared(batch, kinds, size)

    return _summed(chunks()), rows.table(columns, source.fields)


class _Reservoir:
    """A uniform sample of rows in their order: those with the smallest random numbers."""

    def __init__(self, size: int) -> None:
        self.size = size
        # The same seed in every pass over a file samples the same rows.
        self.rng = np.random.default_rng(0)
        self.limit = 1.0
        self.numbers: list[np.ndarray[Any, Any]] = []
        self.parts: list[Any] = []

    def add(self, batch: Any) -> None:
        """Offer a batch of rows."""
        numbers = self.rng.random(len(batch))
        chosen = np.flatnonzero(numbers < self.limit)
        self.numbers.append(numbers[chosen])
        self.parts.append(batch.take(chosen))
        if sum(map(len, self.numbers)) > 2 * self.size:
            self._prune()

    def table(self, columns: list[str], fields: dict[str, Any]) -> Any:
        """The sampled rows, as an Arrow table."""
        import pyarrow as pa

        self._prune()
        return pa.Table.from_batches(
            self.parts, schema=pa.schema([(name, fields[name]) for name in columns])
        )

    def _prune(self) -> None:
        numbers = np.concatenate([*self.numbers, np.zeros(0)])
        if len(numbers) <= self.size:
            return
        import pyarrow as pa

        self.limit = float(np.partition(numbers, self.size)[self.size])
        chosen = np.flatnonzero(numbers < self.limit)
        self.numbers = [numbers[chosen]]
        self.parts = pa.Table.from_batches(self.parts).take(chosen).combine_chunks().to_batches()


def _kind(field: Any, *, categorical: bool) -> str:
    """`quantity`, `level`, or the reason why columns of this type cannot be compared."""
    from pyarrow import types

    if categorical and not types.is_nested(field):
        return _LEVEL
    numeric = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    if any(is_numeric(field) for is_numeric in numeric):
        return _QUANTITY
    return arrow_reason(field) or _LEVEL


def _prepared(batch: Any, kinds: dict[str, str], size: int) -> PreparedTable:
    """Statistics of one chunk of rows."""
    import pyarrow as pa

    rows = 0 if batch is None else len(batch)
    columns = {name: pa.array([]) if batch is None else batch.column(name) for name in kinds}
    names = tuple(name for name, kind in kinds.items() if kind == _QUANTITY)
    block = np.empty((len(names), rows))
    for i, name in enumerate(names):
        block[i] = columns[name].cast("float64", safe=False).to_numpy(zero_copy_only=False)
    block.sort(axis=1)
    n = torch.from_numpy(rows - np.isnan(block).sum(1))
    exact = torch.zeros(len(names), dtype=torch.float64)
    whole = PreparedReference(torch.from_numpy(block), n, rows - n, exact, names)
    single = {name for name in names if batch is None or pa.types.is_float32(columns[name].type)}
    return PreparedTable(
        quantities=whole.sketch(size),
        levels={name: _levels(columns[name]) for name, kind in kinds.items() if kind == _LEVEL},
        missing={name: _missing_values(column) for name, column in columns.items()},
        rows=rows,
        identifiers=_identifiers(block, names, columns),
        single_precision=frozenset(single),
        excluded={name: kind for name, kind in kinds.items() if kind not in (_QUANTITY, _LEVEL)},
        times=torch.ones(len(names), dtype=torch.float64),
    )


def _identifiers(
    block: np.ndarray[Any, Any], names: tuple[str, ...], columns: dict[str, Any]
) -> frozenset[str]:
    """Names of the ascending columns that hold distinct whole numbers, or integers beyond 2**53."""
    import pyarrow as pa

    distinct = (block[:, 1:] != block[:, :-1]).all(1) & ~np.isnan(block).any(1)
    found = set()
    for i, name in enumerate(names):
        integers = block.shape[1] and pa.types.is_integer(columns[name].type)
        if (integers and np.nanmax(np.abs(block[i]), initial=0.0) > MAX_EXACT_INTEGER) or (
            distinct[i] and is_numbering(block[i])
        ):
            found.add(name)
    return frozenset(found)


def _missing_values(column: Any) -> int:
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_float16(column.type):
        # Before pyarrow 19 it does not find NaN among these.
        column = column.cast(pa.float32())
    return int(compute.sum(compute.is_null(column, nan_is_null=True)).as_py() or 0)


def _levels(column: Any) -> dict[str, int] | None:
    counts = column.value_counts()
    if len(counts) > MAX_COUNTED_LEVELS:
        return None
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return level_counts(
        {level: count for level, count in pairs if level is not None and level == level}
    )


def with_times(table: PreparedTable, sample: Records) -> PreparedTable:
    """The table with the autocorrelation times of its quantities, estimated on the sampled rows.

    Where rows come in groups, all rows say no more than the sampled ones, each for its design
    effect there: how many rows of a group there are in all is not known.

    Args:
        table: statistics of all rows.
        sample: a random sample of them.
    """
    order, groups, names = time_order(sample), group_ids(sample), table.quantities.names
    if not names or (order is None and groups is None):
        return table
    numeric, values = numeric_features(sample)
    # A column without any value in the file is none in the sample.
    present = [i for i, name in enumerate(names) if name in numeric]
    values = values[:, [numeric.index(names[i]) for i in present]]
    times = torch.ones(len(names), dtype=torch.float64)
    if order is not None:
        found = autocorrelation_time(values[order])
        times[present] = autocorrelation_time_bound(found, len(sample))
    spacing = table.rows / max(len(sample), 1)
    times = torch.where(times > 1, times * spacing, times)
    if groups is not None and len(groups):
        apart = groups + int(groups.max()) + 1
        effects = two_sample_group_effects(values, values, groups, apart)[0]
        times[present] = times[present].maximum(effects * spacing)
    return replace(table, times=times, timed_rows=len(sample))


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
        identifiers=frozenset().union(*(part.identifiers for part in parts)),
        single_precision=frozenset().union(*(part.single_precision for part in parts)),
        excluded={name: reason for part in parts for name, reason in part.excluded.items()},
        times=torch.cat([part.times for part in parts]),
    )


def _summed(chunks: Iterable[PreparedTable]) -> PreparedTable:
    """The sum of chunks, added pairwise so that errors grow with the logarithm of their number."""
    waiting: list[tuple[int, PreparedTable]] = []
    for chunk in chunks:
        level, total = 0, chunk
        while waiting and waiting[-1][0] == level:
            level, total = level + 1, waiting.pop()[1] + total
        waiting.append((level, total))
    return reduce(lambda total, one: one[1] + total, reversed(waiting[:-1]), waiting[-1][1])
