"""The columns that two records share, as values that the topic's maths can compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.data.records import Records, numeric_features
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, prepare_reference
from gendebug_torch.shift.time.split_moments import moments_of
from gendebug_torch.shift.two_sample.ks import KSTest, ks_two_sample, worth
from gendebug_torch.stats.effective_sample_size import dependent_times

Column = NDArray[np.float64]
# Float64 tells whole numbers apart up to here.
WIDEST = 2**53
# Whole numbers that differ in so few rows may well be quantities.
FEWEST_IDS = 100


@dataclass(frozen=True)
class SharedColumns:
    """The columns that reference and production share, and those that production lacks."""

    reference: Records
    production: Records
    names: tuple[str, ...]
    absent: tuple[str, ...]


def shared_columns(
    production: Records,
    validation: Records | None,
    train: Records | None,
    wanted: Callable[[Records], tuple[str, ...]],
) -> SharedColumns | None:
    """Both sides and their columns; None where nothing is given to compare with."""
    given = [
        records
        for records in (validation, train)
        if records is not None and records.features is not None
    ]
    if not given:
        return None
    reference = given[0]
    if isinstance(reference.features, Tensor) is not isinstance(production.features, Tensor):
        got = (
            f"a {type(production.features).__name__} against a {type(reference.features).__name__}"
        )
        reject(
            "production.features",
            f"the kind of features that {reference.name!r} has",
            got,
            "Pass tables, or tensors, on both sides.",
        )
    if isinstance(reference.features, Tensor) and isinstance(production.features, Tensor):
        shapes = [
            list(records.features.shape[1:])
            for records in (reference, production)
            if isinstance(records.features, Tensor)
        ]
        if shapes[0] != shapes[1]:
            reject(
                "production.features",
                f"rows of shape {shapes[0]}",
                str(shapes[1]),
                "Build both with the same preprocessing.",
            )
        return SharedColumns(reference, production, wanted(reference), ())
    present = set(map(str, getattr(production.features, "columns", ())))
    names = wanted(reference)
    return SharedColumns(
        reference,
        production,
        tuple(c for c in names if c in present),
        tuple(c for c in names if c not in present),
    )


def width(records: Records | None) -> int:
    """Feature columns, those of a tensor flattened; 0 without features."""
    return (
        0 if records is None or records.features is None else math.prod(records.features.shape[1:])
    )


def quantities(records: Records) -> tuple[str, ...]:
    """Numeric columns but booleans, which are levels rather than quantities."""
    features = records.features
    if features is None or isinstance(features, Tensor):
        return (
            ()
            if features is None
            else tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
        )
    chosen = features.select_dtypes(include=["number"]).columns
    left_out = {*records.schema.categorical, *wide_integers(records)}
    return tuple(str(c) for c in chosen if c not in left_out)


def wide_integers(records: Records) -> tuple[str, ...]:
    """Whole columns with values beyond 2**53, which float64 cannot tell apart: ids or hashes, not
    quantities.
    """
    features = records.features
    if features is None or isinstance(features, Tensor):
        return ()
    whole = features.select_dtypes(include=["integer"])
    return tuple(
        str(c) for c in whole.columns if whole[c].max() > WIDEST or whole[c].min() < -WIDEST
    )


def codes(records: Records) -> tuple[str, ...]:
    """Columns of text, categories or booleans, and those that the schema calls categorical."""
    features = records.features
    if features is None or isinstance(features, Tensor):
        return ()
    chosen = set(
        features.select_dtypes(include=["object", "string", "category", "bool"]).columns
    ) | set(records.schema.categorical)
    return tuple(str(c) for c in features.columns if c in chosen)


def every_column(records: Records) -> tuple[str, ...]:
    """All feature columns, of whatever kind."""
    return (
        quantities(records)
        if isinstance(records.features, Tensor)
        else tuple(map(str, getattr(records.features, "columns", ())))
    )


def paired_values(pair: SharedColumns) -> tuple[tuple[str, ...], tuple[str, ...], Tensor, Tensor]:
    """Shared quantities, those that are no numbers in production, and the `[n, d]` and `[m, d]`
    values.
    """
    sides = [numeric_features(records) for records in (pair.reference, pair.production)]
    places = [{name: i for i, name in enumerate(names)} for names, _ in sides]
    names = tuple(name for name in pair.names if name in places[1])
    before, after = (
        values[:, [place[name] for name in names]]
        for (_, values), place in zip(sides, places, strict=True)
    )
    for i, name in enumerate(names):
        kinds = {str(_dtype(records, name)) for records in (pair.reference, pair.production)}
        if len(kinds) > 1 and "float32" in kinds:
            before[:, i], after[:, i] = before[:, i].float().double(), after[:, i].float().double()
    return names, tuple(name for name in pair.names if name not in places[1]), before, after


@dataclass(frozen=True, eq=False)
class Sides:
    """The quantities that two samples share, sorted and compared.

    Args:
        names: what the samples are called, the reference first.
        rows: of each.
        before: `d` columns of the reference.
        after: the same ones of production.
        alone: the test of rows that are taken as independent.
        test: the same, with rows in time counted as the independent ones that they are worth.
        numbering: columns that number their rows.
    """

    names: tuple[str, str]
    rows: tuple[int, int]
    before: PreparedReference
    after: PreparedReference
    alone: KSTest
    test: KSTest
    numbering: frozenset[str] = frozenset()


def compared_quantities(pair: SharedColumns, alpha: float) -> tuple[Sides, tuple[str, ...]]:
    """Both sides, and the quantities that are no numbers in production.

    Only columns that would be significant at alpha are asked how far their rows depend on each
    other.
    """
    names, textual, before, after = paired_values(pair)
    reference, live = (prepare_reference(values, names=names) for values in (before, after))
    alone = ks_two_sample(reference, live)
    significant = (alone.adjusted < alpha).nonzero().flatten()
    test = worth(alone, *times_between(pair.reference, pair.production, before, after, significant))
    numbering = frozenset(
        names[place]
        for place in significant.tolist()
        if is_identifier(before[:, place], after[:, place])
    )
    rows = len(pair.reference), len(pair.production)
    return Sides(
        (pair.reference.name, pair.production.name), rows, reference, live, alone, test, numbering
    ), textual


def times_between(
    reference: Records, production: Records, before: Tensor, after: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """`[d]` rows of either side that are worth one independent row; 1 for columns not asked, and
    where no time is known.

    Args:
        reference: whose schema may name a time column.
        production: likewise.
        before: `[n, d]` series of the reference, in its order of rows.
        after: `[m, d]` of production.
        columns: `[c]` places of the series to ask.
    """
    orders = [time_order(records) for records in (reference, production)]
    everywhere = torch.ones(2, before.shape[1], dtype=torch.float64)
    if len(columns) and any(order is not None for order in orders):
        series = [
            None if order is None else side[order][:, columns]
            for order, side in zip(orders, (before, after), strict=True)
        ]
        everywhere[:, columns] = torch.stack(dependent_times(*series))
    return everywhere[0], everywhere[1]


def is_identifier(before: Tensor, after: Tensor) -> bool:
    """Whether a column numbers its rows: whole, and never the same value twice on a side; `[n]` and
    `[m]` of 100 rows at least.
    """
    sides = (before, after)
    if min(map(len, sides)) < FEWEST_IDS or not all(
        bool((side == side.floor()).all()) for side in sides
    ):
        return False
    return all(len(torch.unique(side)) == len(side) for side in sides)


@dataclass(frozen=True, eq=False)
class Compared:
    """Shared columns as tables on the host: quantities as numbers, all others as text codes;
    without row numbers.

    Args:
        reference: `[n, d]`.
        production: `[m, d]`.
        quantities: which columns are quantities.
    """

    reference: pd.DataFrame
    production: pd.DataFrame
    quantities: tuple[str, ...]

    @property
    def categorical(self) -> tuple[str, ...]:
        """Columns that hold codes."""
        return tuple(str(name) for name in self.reference.columns if name not in self.quantities)

    def finite(self, name: str) -> tuple[Column, Column]:
        """Finite values of a quantity on both sides, float64."""
        before, after = (
            side[name].to_numpy(dtype=np.float64) for side in (self.reference, self.production)
        )
        return before[np.isfinite(before)], after[np.isfinite(after)]


def compared(production: Records, reference: Records) -> Compared | None:
    """The shared columns of two records as tables; None where a side has no features."""
    if production.features is None or reference.features is None:
        return None
    pair = shared_columns(production, reference, None, quantities)
    coded = shared_columns(production, reference, None, codes)
    if pair is None or coded is None:
        return None
    names, _, before, after = paired_values(pair)
    kept = [
        place for place in range(len(names)) if not is_identifier(before[:, place], after[:, place])
    ]
    names = tuple(names[place] for place in kept)
    sides = [
        pd.DataFrame(values[:, kept].cpu().numpy(), columns=list(names))
        for values in (before, after)
    ]
    for name in coded.names:
        for side, records in zip(sides, (reference, production), strict=True):
            side[name] = pd.Series(list(level_values(records, name)), dtype=object)
    return Compared(sides[0], sides[1], names)


def _dtype(records: Records, name: str) -> Any:
    return (
        None
        if records.features is None or isinstance(records.features, Tensor)
        else records.features[name].dtype
    )


def gaps(records: Records, names: tuple[str, ...]) -> Tensor:
    """`[n, d]` booleans, True where missing."""
    features = records.features
    if isinstance(features, Tensor):
        return features.reshape(len(features), len(names)).isnan()
    if features is None or not names:
        return torch.zeros(len(records), 0, dtype=torch.bool)
    by_name = {str(column): column for column in features.columns}
    return torch.from_numpy(
        features[[by_name[name] for name in names]].isna().to_numpy(dtype=bool, copy=True)
    )


def time_order(records: Records) -> Tensor | None:
    """`[n]` places of the rows in the order of the time column that the schema names; None where
    there is none, or it has gaps.
    """
    name, metadata = records.schema.time, records.metadata
    if name is None or metadata is None or name not in metadata or metadata[name].isna().any():
        return None
    return torch.from_numpy(np.argsort(moments_of(metadata[name]), kind="stable"))


def level_values(records: Records, name: str) -> Any:
    """`[n]` values of one column of a table."""
    features: Any = records.features
    return features[next(column for column in features.columns if str(column) == name)]
