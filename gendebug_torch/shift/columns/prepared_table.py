"""Tables in constant size: quantile sketches, level counts, missing values; their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, load_tensors, save_tensors
from gendebug_torch.shift.columns.shared_columns import MIN_IDENTIFIERS, QuantityComparison
from gendebug_torch.shift.two_sample.categories import CategoryShift, category_shift
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.shift.two_sample.missing import MissingShift

# A column with more levels is text or a key.
MAX_COUNTED_LEVELS = 1 << 14


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """Statistics of the columns of a table; adds over rows.

    Args:
        quantities: quantiles of the numeric columns.
        levels: numbers of rows by level, by categorical column; None with more than 16,384 levels.
        missing: numbers of missing values by column.
        rows: number of rows of the table.
        identifiers: names of the quantities that number their rows: whole, and no value twice among
            neighbours, or beyond 2**53.
        single_precision: names of the quantities in single precision.
        times: autocorrelation times of the quantities, `[d]` float64; 1 without a time column.
        excluded: reasons why columns cannot be compared, by name.
        timed_rows: number of rows that the times were estimated from, which bounds the effective
            sample size; None without a time column.
        name: name of the table.
    """

    quantities: PreparedReference
    levels: Mapping[str, Mapping[str, int] | None]
    missing: Mapping[str, int]
    rows: int
    identifiers: frozenset[str]
    single_precision: frozenset[str]
    times: Tensor
    excluded: Mapping[str, str] = field(default_factory=dict)
    timed_rows: int | None = None
    name: str = "table"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all feature columns."""
        return tuple(self.missing)

    def __add__(self, other: PreparedTable) -> PreparedTable:
        if self.columns != other.columns or self.levels.keys() != other.levels.keys():
            reject(
                "other",
                f"the columns {list(self.columns)}",
                str(list(other.columns)),
                "Add parts of one table.",
            )
        timed = None not in (self.timed_rows, other.timed_rows)
        return replace(
            self,
            quantities=self.quantities + other.quantities,
            levels={
                name: merged_levels(self.levels[name], other.levels[name]) for name in self.levels
            },
            missing={name: count + other.missing[name] for name, count in self.missing.items()},
            rows=self.rows + other.rows,
            identifiers=self.identifiers & other.identifiers,
            single_precision=self.single_precision & other.single_precision,
            times=self.times.maximum(other.times),
            timed_rows=(self.timed_rows or 0) + (other.timed_rows or 0) if timed else None,
        )

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        table = {
            "levels": self.levels,
            "missing": self.missing,
            "rows": self.rows,
            "identifiers": sorted(self.identifiers),
            "single_precision": sorted(self.single_precision),
            "excluded": self.excluded,
            "timed_rows": self.timed_rows,
            "name": self.name,
        }
        return save_tensors(
            path,
            self.quantities.tensors() | {"times": self.times},
            self.quantities.header() | {"table": table},
        )

    @classmethod
    def load(cls, path: str | Path) -> PreparedTable:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, a file of another kind, or a damaged one.
        """
        return load_tensors(path, "PreparedTable.save", cls._from_tensors)

    @classmethod
    def _from_tensors(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> PreparedTable:
        table: dict[str, Any] = dict(header["table"])
        table |= {name: frozenset(table[name]) for name in ("identifiers", "single_precision")}
        return cls(PreparedReference.from_tensors(tensors, header), times=tensors["times"], **table)


@dataclass(frozen=True, eq=False)
class TableComparison:
    """Two prepared tables, compared column by column.

    Args:
        quantities: the quantities of both, sorted and tested.
        missing: missing values of the columns of both.
        categories: level counts of the categorical columns of both.
        absent: names of the columns that production lacks.
        excluded: reasons why columns cannot be compared, by name.
        non_numeric: names of the quantities of the reference that are not numeric in production.
        not_counted: names of the categorical columns with too many levels.
    """

    quantities: QuantityComparison
    missing: MissingShift
    categories: tuple[CategoryShift, ...]
    absent: tuple[str, ...]
    excluded: Mapping[str, str]
    non_numeric: tuple[str, ...]
    not_counted: tuple[str, ...]


def table_comparison(reference: PreparedTable, live: PreparedTable) -> TableComparison:
    """Tests of all columns that two prepared tables share."""
    both = tuple(name for name in reference.columns if name in live.missing)
    counts = [
        torch.tensor([side.missing[name] for name in both], dtype=torch.int64)
        for side in (reference, live)
    ]
    categorical = [name for name in reference.levels if name in live.levels]
    categories = {}
    for name in categorical:
        sides = reference.levels[name], live.levels[name]
        if sides[0] is not None and sides[1] is not None:
            categories[name] = category_shift(*sides, name=name)
    excluded = {name: live.excluded[name] for name in both if name in live.excluded}
    excluded |= {name: reference.excluded[name] for name in both if name in reference.excluded}
    return TableComparison(
        quantities=_quantity_comparison(reference, live),
        missing=MissingShift(counts[0], counts[1], reference.rows, live.rows, both),
        categories=tuple(categories.values()),
        absent=tuple(name for name in reference.columns if name not in live.missing),
        excluded=excluded,
        non_numeric=tuple(
            name
            for name in reference.quantities.names
            if name in both and name not in (*live.quantities.names, *excluded)
        ),
        not_counted=tuple(name for name in categorical if name not in categories),
    )


def _quantity_comparison(reference: PreparedTable, live: PreparedTable) -> QuantityComparison:
    """The quantities of both; production takes the longer autocorrelation time of both."""
    numbers = [
        {name: i for i, name in enumerate(table.quantities.names)} for table in (reference, live)
    ]
    names = [name for name in numbers[0] if name in numbers[1]]
    chosen = [[number[name] for name in names] for number in numbers]
    before, after = _same_precision(reference, live, names, chosen)
    independent = ks_two_sample(before, after)
    times = reference.times[chosen[0]], live.times[chosen[1]]
    test = independent.with_autocorrelation(times[0], times[0].maximum(times[1]))
    n, m = (
        rows if limit is None else rows.clamp(max=limit)
        for rows, limit in ((test.n, reference.timed_rows), (test.m, live.timed_rows))
    )
    rows = (reference.rows, live.rows)
    identifiers = reference.identifiers & live.identifiers
    return QuantityComparison(
        names=(reference.name, live.name),
        rows=rows,
        before=before,
        after=after,
        independent=independent,
        test=replace(test, n=n, m=m),
        identifiers=identifiers if min(rows) >= MIN_IDENTIFIERS else frozenset(),
    )


def _same_precision(
    reference: PreparedTable, live: PreparedTable, names: list[str], chosen: list[list[int]]
) -> tuple[PreparedReference, PreparedReference]:
    """The chosen columns, rounded where one table alone is in single precision: 0.1 equals 0.1."""
    mixed = torch.tensor(
        [(name in reference.single_precision) != (name in live.single_precision) for name in names],
        dtype=torch.bool,
    )[:, None]
    before, after = (
        table.quantities.select(columns)
        for table, columns in zip((reference, live), chosen, strict=True)
    )
    before, after = (
        replace(side, columns=torch.where(mixed, side.columns.float().double(), side.columns))
        for side in (before, after)
    )
    return before, after


def merged_levels(
    one: Mapping[str, int] | None, other: Mapping[str, int] | None
) -> dict[str, int] | None:
    """Numbers of rows by level of two tables; None with too many levels."""
    if one is None or other is None:
        return None
    total = {level: one.get(level, 0) + other.get(level, 0) for level in {**one, **other}}
    return total if len(total) <= MAX_COUNTED_LEVELS else None
