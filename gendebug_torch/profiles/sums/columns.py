"""What a profile holds of one column: counts, moments, a sketch or levels, distinct values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gendebug_torch.errors import reject
from gendebug_torch.profiles.sums.sketch import (
    Distinct,
    Floats,
    Integers,
    Sketch,
    distinct_values,
    mixed,
    sketch,
)
from gendebug_torch.profiles.sums.targets import (
    Labels,
    TargetSums,
    empty_sums,
    level_sums,
    quantity_sums,
    sum_of_known,
)
from gendebug_torch.shift.columns.exclusions import arrow_reason
from gendebug_torch.shift.columns.prepared_table import MAX_COUNTED_LEVELS, merged_levels
from gendebug_torch.shift.columns.shared_columns import MAX_EXACT_INTEGER
from gendebug_torch.shift.two_sample.categories import level_counts

QUANTITY, LEVEL = "quantity", "level"
# A column without values yet may turn out as anything.
EMPTY = "empty"
_MISSING = np.int64(-0x2152411021524111)


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of finite values; adds by Chan's update.

    Source: Chan, Golub and LeVeque (1983), Am. Stat. 37:242.
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not n:
            return self
        change = other.mean - self.mean
        mean = (self.n * self.mean + other.n * other.mean) / n
        squares = self.squares + other.squares + change * change * self.n * other.n / n
        return Moments(n, mean, squares)

    @property
    def spread(self) -> float:
        """Standard deviation; NaN without values."""
        return math.sqrt(self.squares / self.n) if self.n else math.nan


NO_VALUES = Moments()


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a profile; adds over rows.

    Args:
        kind: `quantity`, `level`, `empty`, or the reason why its values are not compared.
        rows: number of rows.
        missing: number of missing values.
        sketch: distribution of a quantity.
        moments: moments of its finite values.
        whole: whether all values of a quantity are whole numbers.
        single: whether a quantity is stored in single precision.
        levels: numbers of rows by level; None with too many levels, or of a quantity.
        distinct: a sample of the distinct values, of whole numbers and levels.
        target: the target of the labeled rows by its values; None without any.
    """

    kind: str
    rows: int
    missing: int
    sketch: Sketch | None = None
    moments: Moments = NO_VALUES
    whole: bool = False
    single: bool = False
    levels: Mapping[str, int] | None = None
    distinct: Distinct | None = None
    target: TargetSums | None = None

    def plus(self, other: Column, name: str) -> Column:
        """Both together.

        Args:
            other: the same column of other rows.
            name: name of the column, for the message.

        Raises:
            InputError: it is numeric in one part and a text in the other.
        """
        rows, missing = self.rows + other.rows, self.missing + other.missing
        target = sum_of_known(self.target, other.target)
        if EMPTY in (self.kind, other.kind):
            filled = other if self.kind == EMPTY else self
            return replace(filled, rows=rows, missing=missing, target=target)
        if self.kind != other.kind:
            remedy = "Read all partitions with the same types, or declare it `categorical`."
            reject(f"rows[{name!r}]", f"a {self.kind} in all parts", f"a {other.kind}", remedy)
        whole = self.whole and other.whole
        counted = self.kind == LEVEL or whole
        return Column(
            self.kind,
            rows,
            missing,
            _sum(self.sketch, other.sketch),
            self.moments + other.moments,
            whole,
            self.single and other.single,
            merged_levels(self.levels, other.levels),
            _sum(self.distinct, other.distinct) if counted else None,
            target,
        )

    @property
    def numbers_rows(self) -> bool:
        """Whether a quantity numbers its rows: whole, none found twice, or beyond 2**53."""
        if self.sketch is None or not self.whole or not self.sketch.n:
            return False
        ends = max(abs(float(self.sketch.low[0])), abs(float(self.sketch.high[-1])))
        unique = self.distinct is not None and not self.distinct.repeats
        return ends > MAX_EXACT_INTEGER or unique


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a table, each column as numbers or as Arrow holds it.

    Args:
        table: the rows.
        numbers: float64 values of the numeric columns, NaN where missing.
    """

    table: Any
    numbers: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)


def chunk_of(table: Any) -> Chunk:
    """The rows of an Arrow table, its columns of one kind of text, moment and number each.

    Dictionaries are decoded, moments are in UTC, numbers in float64.

    Args:
        table: pyarrow.Table.
    """
    import pyarrow as pa
    from pyarrow import types

    numbers = {}
    for at, entry in enumerate(table.schema):
        kind = entry.type
        if types.is_dictionary(kind):
            table = table.set_column(at, entry.name, table.column(at).cast(kind.value_type))
        elif types.is_large_string(kind):
            table = table.set_column(at, entry.name, table.column(at).cast(pa.string()))
        elif types.is_timestamp(kind):
            utc = table.column(at).cast(pa.timestamp("us", "UTC"), safe=False)
            table = table.set_column(at, entry.name, utc)
        elif _is_number(kind):
            values = table.column(at).cast("float64", safe=False)
            numbers[entry.name] = values.to_numpy()
    return Chunk(table, numbers)


def column_of(
    chunk: Chunk,
    name: str,
    *,
    categorical: bool,
    earlier: Column | None,
    labels: Labels | None = None,
) -> Column:
    """The profile of one column of a chunk.

    Args:
        chunk: some rows.
        name: name of the column.
        categorical: whether its numbers are codes.
        earlier: the same column of earlier rows, which says how fine a grid has to be.
        labels: labels of the rows; None without any.
    """
    found = _column(chunk, name, categorical, earlier)
    if labels is None:
        return found
    known = None if earlier is None or earlier.target is None else earlier.target.cells
    if found.kind == QUANTITY:
        level = 0 if known is None else known.level
        return replace(found, target=quantity_sums(chunk.numbers[name], labels, level))
    if found.kind == LEVEL:
        return replace(found, target=level_sums(chunk.table.column(name), labels))
    return replace(found, target=empty_sums(labels)) if found.kind == EMPTY else found


def _column(chunk: Chunk, name: str, categorical: bool, earlier: Column | None) -> Column:
    """The column without its target."""
    from pyarrow import types

    values = chunk.table.column(name)
    kind, rows = values.type, len(chunk)
    numbers = chunk.numbers.get(name)
    if numbers is not None and not categorical and not types.is_null(kind):
        level = 0 if earlier is None or earlier.sketch is None else earlier.sketch.level
        whole = earlier is None or earlier.whole or earlier.kind == EMPTY
        return _quantity(numbers, level, whole, types.is_float32(kind), types.is_integer(kind))
    missing = values.null_count if numbers is None else int(np.isnan(numbers).sum())
    if missing == rows:
        return Column(EMPTY, rows, missing)
    reason = None if types.is_boolean(kind) else arrow_reason(kind)
    if reason is not None and not (categorical and not types.is_nested(kind)):
        return Column(reason, rows, missing)
    return _levels(values, name, missing)


def hashed(chunk: Chunk, name: str) -> Integers:
    """Hashes of the values of a column, `[n]` int64: equal for equal values of any numeric type.

    Args:
        chunk: some rows.
        name: name of the column.
    """
    numbers = chunk.numbers.get(name)
    if numbers is not None:
        bits: Integers = np.where(np.isnan(numbers), _MISSING, (numbers + 0.0).view(np.int64))
        return bits
    import pandas as pd
    import pyarrow as pa
    from pyarrow import types

    column = chunk.table.column(name)
    if types.is_timestamp(column.type):
        return np.asarray(column.cast("int64").fill_null(int(_MISSING)).to_numpy())
    if types.is_nested(column.type):
        texts = [None if value is None else str(value) for value in _in_python(column, name)]
        column = pa.chunked_array([pa.array(texts, pa.string())])
    codes = column.combine_chunks().dictionary_encode()
    known = _in_python(codes.dictionary, name)
    values = np.array([str(value) for value in known], dtype=object)
    words = pd.util.hash_array(values, categorize=False).view(np.int64)
    index = codes.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    found: Integers = np.append(words, _MISSING)[index]
    return found


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return any(is_kind(kind) for is_kind in tests)


def _quantity(numbers: Floats, level: int, whole: bool, single: bool, integers: bool) -> Column:
    """The profile of numbers; `whole` says whether all numbers before were whole."""
    missing = np.isnan(numbers)
    lost = int(missing.sum())
    values = numbers[~missing] if lost else numbers
    if not len(values):
        return Column(EMPTY, len(numbers), lost)
    finite = values[np.isfinite(values)] if not np.isfinite(values.sum()) else values
    mean = float(finite.mean()) if len(finite) else 0.0
    deviations = finite - mean
    moments = Moments(len(finite), mean, float(deviations @ deviations))
    whole = whole and (integers or bool((values == np.floor(values)).all()))
    seen = None
    if whole:
        hashes = mixed((values + 0.0).view(np.int64))
        seen = distinct_values(hashes, np.ones(len(hashes), np.int64))
    cells = sketch(values, level)
    return Column(QUANTITY, len(numbers), lost, cells, moments, whole, single, None, seen)


def _in_python(values: Any, name: str) -> list[Any]:
    """Values of an Arrow column, of which some have no counterpart, as dates of the year 10,000.

    Raises:
        InputError: there are such values.
    """
    try:
        listed: list[Any] = values.to_pylist()
    except (OverflowError, ValueError) as error:
        reject(name, "values that Python can hold", str(error), "Correct them, or drop the column.")
    return listed


def _levels(values: Any, name: str, missing: int) -> Column:
    """The profile of texts or codes."""
    import pandas as pd

    counts = values.value_counts()
    names = _in_python(counts.field("values"), name)
    numbers = counts.field("counts").to_numpy()
    pairs = {
        level: int(count)
        for level, count in zip(names, numbers, strict=True)
        if level is not None and level == level
    }
    levels = level_counts(pairs)
    texts = np.array(list(levels), dtype=object)
    hashes = pd.util.hash_array(texts, categorize=False).view(np.int64)
    seen = distinct_values(hashes, np.fromiter(levels.values(), np.int64, len(levels)))
    kept = dict(levels) if len(levels) <= MAX_COUNTED_LEVELS else None
    return Column(LEVEL, len(values), missing, levels=kept, distinct=seen)


def _sum(one: Any, other: Any) -> Any:
    """The sum of what both have; None where one lacks it."""
    return None if one is None or other is None else one + other
