"""One side of a comparison in constant size, whatever its rows: quantities as quantiles, levels
counted, missing values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, load_tensors, save_tensors
from gendebug_torch.shift.columns.shared_columns import FEWEST_IDS, Sides
from gendebug_torch.shift.two_sample.categories import CategoryShift, MissingShift, category_shift
from gendebug_torch.shift.two_sample.ks import ks_two_sample, worth

# A column with more levels is text or a key: its levels are not counted.
MOST_LEVELS = 1 << 14


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """What the columns of a table are compared by. Adds over rows.

    Args:
        quantities: the numeric columns.
        levels: code column -> level -> rows; None where there are more than 16,384 levels.
        missing: feature column -> rows without a value.
        rows: of the table.
        numbering: quantities that number their rows: whole, and no value twice among neighbours, or
            beyond 2**53.
        single: quantities in single precision.
        times: `[d]` float64 rows that are worth one independent row, of the quantities; 1 where no
            time is named.
        judged: rows that those times were seen on; no more count as independent. None where no time
            is named.
        name: of the table.
    """

    quantities: PreparedReference
    levels: Mapping[str, Mapping[str, int] | None]
    missing: Mapping[str, int]
    rows: int
    numbering: frozenset[str]
    single: frozenset[str]
    times: Tensor
    judged: int | None = None
    name: str = "table"

    @property
    def columns(self) -> tuple[str, ...]:
        """All feature columns."""
        return tuple(self.missing)

    def __add__(self, other: PreparedTable) -> PreparedTable:
        if self.columns != other.columns or self.levels.keys() != other.levels.keys():
            reject(
                "other",
                f"the columns {list(self.columns)}",
                str(list(other.columns)),
                "Add pieces of one table.",
            )
        return replace(
            self,
            quantities=self.quantities + other.quantities,
            levels={
                name: merged_levels(self.levels[name], other.levels[name]) for name in self.levels
            },
            missing={name: count + other.missing[name] for name, count in self.missing.items()},
            rows=self.rows + other.rows,
            numbering=self.numbering & other.numbering,
            single=self.single & other.single,
            times=self.times.maximum(other.times),
            judged=None
            if self.judged is None or other.judged is None
            else self.judged + other.judged,
        )

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        table = {
            "levels": self.levels,
            "missing": self.missing,
            "rows": self.rows,
            "numbering": sorted(self.numbering),
            "single": sorted(self.single),
            "judged": self.judged,
            "name": self.name,
        }
        return save_tensors(
            path,
            self.quantities.tensors() | {"times": self.times},
            self.quantities.header() | {"table": table},
        )

    @classmethod
    def load(cls, path: str | Path) -> PreparedTable:
        """Read what `save` wrote."""
        tensors, header = load_tensors(path, "PreparedTable.save")
        if "table" not in header:
            reject(
                "path",
                "a file written by `PreparedTable.save`",
                f"another one, {path}",
                "Prepare the reference anew.",
            )
        table: dict[str, Any] = dict(header["table"])
        table |= {name: frozenset(table[name]) for name in ("numbering", "single")}
        return cls(PreparedReference.from_tensors(tensors, header), times=tensors["times"], **table)


@dataclass(frozen=True, eq=False)
class TablePair:
    """Two prepared tables, compared column by column.

    Args:
        quantities: those of both, sorted and tested.
        missing: missing values of the columns of both.
        categories: one per code column of both.
        absent: columns that production lacks.
        textual: quantities of the reference that are no numbers in production.
        uncounted: code columns with too many levels on a side.
    """

    quantities: Sides
    missing: MissingShift
    categories: tuple[CategoryShift, ...]
    absent: tuple[str, ...]
    textual: tuple[str, ...]
    uncounted: tuple[str, ...]


def table_pair(reference: PreparedTable, live: PreparedTable) -> TablePair:
    """What the columns of two prepared tables say of each other."""
    both = tuple(name for name in reference.columns if name in live.missing)
    counts = [
        torch.tensor([side.missing[name] for name in both], dtype=torch.int64)
        for side in (reference, live)
    ]
    coded = [name for name in reference.levels if name in live.levels]
    categories = {}
    for name in coded:
        sides = reference.levels[name], live.levels[name]
        if sides[0] is not None and sides[1] is not None:
            categories[name] = category_shift(*sides, name=name)
    return TablePair(
        quantities=_sides(reference, live),
        missing=MissingShift(counts[0], counts[1], reference.rows, live.rows, both),
        categories=tuple(categories.values()),
        absent=tuple(name for name in reference.columns if name not in live.missing),
        textual=tuple(
            name
            for name in reference.quantities.names
            if name in both and name not in live.quantities.names
        ),
        uncounted=tuple(name for name in coded if name not in categories),
    )


def _sides(reference: PreparedTable, live: PreparedTable) -> Sides:
    """The quantities of both; production takes the longer time of both sides, as in
    `for_dependent_rows`.
    """
    places = [
        {name: place for place, name in enumerate(side.quantities.names)}
        for side in (reference, live)
    ]
    names = [name for name in places[0] if name in places[1]]
    chosen = [[place[name] for name in names] for place in places]
    mixed = torch.tensor(
        [(name in reference.single) is not (name in live.single) for name in names],
        dtype=torch.bool,
    )
    before, after = (
        _rounded(side.quantities.select(place), mixed)
        for side, place in zip((reference, live), chosen, strict=True)
    )
    alone = ks_two_sample(before, after)
    times = reference.times[chosen[0]], live.times[chosen[1]]
    test = worth(alone, times[0], times[0].maximum(times[1]))
    n, m = (
        rows if judged is None else rows.clamp(max=judged)
        for rows, judged in ((test.n, reference.judged), (test.m, live.judged))
    )
    sizes = (reference.rows, live.rows)
    numbering = reference.numbering & live.numbering if min(sizes) >= FEWEST_IDS else frozenset()
    return Sides(
        (reference.name, live.name), sizes, before, after, alone, replace(test, n=n, m=m), numbering
    )


def _rounded(side: PreparedReference, mixed: Tensor) -> PreparedReference:
    """The same with the columns that are single on one side alone rounded to it, so that 0.1 equals
    0.1.
    """
    return replace(
        side, columns=torch.where(mixed[:, None], side.columns.float().double(), side.columns)
    )


def merged_levels(
    one: Mapping[str, int] | None, other: Mapping[str, int] | None
) -> dict[str, int] | None:
    """Rows per level of both; None where they are too many."""
    if one is None or other is None:
        return None
    total = {level: one.get(level, 0) + other.get(level, 0) for level in {**one, **other}}
    return total if len(total) <= MOST_LEVELS else None
