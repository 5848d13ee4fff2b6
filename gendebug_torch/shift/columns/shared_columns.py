"""The columns that two records share, as tensors and tables that can be compared."""

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

from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import numeric_features
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.exclusions import dtype_reason, is_numbering
from gendebug_torch.shift.columns.prepared import PreparedReference, prepare_reference
from gendebug_torch.shift.two_sample.ks import KSTest, ks_two_sample
from gendebug_torch.stats.dependence.design_effects import group_keys
from gendebug_torch.stats.dependence.effective_sample_size import (
    two_sample_autocorrelation_times,
    two_sample_group_effects,
)

Column = NDArray[np.float64]
# Float64 is exact for whole numbers up to here.
MAX_EXACT_INTEGER = 2**53
# Distinct whole numbers in fewer rows may be quantities.
MIN_IDENTIFIERS = 100


@dataclass(frozen=True)
class SharedColumns:
    """The columns of the reference that production has, and those that it lacks.

    Args:
        reference: records before deployment.
        production: records after it.
        names: names of the columns in both.
        absent: names of the columns that production lacks.
    """

    reference: Records
    production: Records
    names: tuple[str, ...]
    absent: tuple[str, ...]


def shared_columns(
    production: Records,
    validation: Records | None,
    train: Records | None,
    select: Callable[[Records], tuple[str, ...]],
) -> SharedColumns | None:
    """Columns shared with validation, or else with training; None where neither has features.

    Args:
        production: records with features.
        validation: records to compare with, or None.
        train: records to compare with otherwise, or None.
        select: names of the columns to compare, of the reference.

    Raises:
        InputError: a table against a tensor, or tensors of different shapes.
    """
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
        return SharedColumns(reference, production, select(reference), ())
    present = set(map(str, getattr(production.features, "columns", ())))
    names = select(reference)
    return SharedColumns(
        reference,
        production,
        tuple(c for c in names if c in present),
        tuple(c for c in names if c not in present),
    )


def column_count(records: Records | None) -> int:
    """Number of feature columns, those of a tensor flattened; 0 without features."""
    return (
        0 if records is None or records.features is None else math.prod(records.features.shape[1:])
    )


def quantity_names(records: Records) -> tuple[str, ...]:
    """Names of the numeric columns; booleans are categories."""
    features = records.features
    if features is None or isinstance(features, Tensor):
        return (
            ()
            if features is None
            else tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
        )
    chosen = features.select_dtypes(include=["number"], exclude=["timedelta"]).columns
    left_out = {*records.schema.categorical, *wide_integer_names(records)}
    return tuple(str(c) for c in chosen if c not in left_out)


def wide_integer_names(records: Records) -> tuple[str, ...]:
    """Names of the integer columns with values beyond 2**53: ids or hashes, not quantities."""
    features = records.features
    if features is None or isinstance(features, Tensor):
        return ()
    whole = features.select_dtypes(include=["integer"], exclude=["timedelta"])
    return tuple(
        str(c)
        for c in whole.columns
        if whole[c].max() > MAX_EXACT_INTEGER or whole[c].min() < -MAX_EXACT_INTEGER
    )


def category_names(records: Records) -> tuple[str, ...]:
    """Names of the columns of text, categories or booleans, and of those the schema declares so."""
    features = records.features
    if features is None or isinstance(features, Tensor):
        return ()
    chosen = set(
        features.select_dtypes(include=["object", "string", "category", "bool"]).columns
    ) | set(records.schema.categorical)
    return tuple(str(c) for c in features.columns if c in chosen and not dtype_reason(features[c]))


def all_feature_names(records: Records) -> tuple[str, ...]:
    """Names of all feature columns."""
    return (
        quantity_names(records)
        if isinstance(records.features, Tensor)
        else tuple(map(str, getattr(records.features, "columns", ())))
    )


def quantity_values(pair: SharedColumns) -> tuple[tuple[str, ...], tuple[str, ...], Tensor, Tensor]:
    """Names of the quantities, of those not numeric in production, and values of both samples."""
    sides = [numeric_features(records) for records in (pair.reference, pair.production)]
    numbers = [{name: i for i, name in enumerate(names)} for names, _ in sides]
    names = tuple(name for name in pair.names if name in numbers[1])
    before, after = (
        values[:, [number[name] for name in names]]
        for (_, values), number in zip(sides, numbers, strict=True)
    )
    for i, name in enumerate(names):
        kinds = {str(_dtype(records, name)) for records in (pair.reference, pair.production)}
        if len(kinds) > 1 and "float32" in kinds:
            before[:, i], after[:, i] = before[:, i].float().double(), after[:, i].float().double()
    return names, tuple(name for name in pair.names if name not in numbers[1]), before, after


@dataclass(frozen=True, eq=False)
class QuantityComparison:
    """The quantities of two samples, sorted and tested.

    Args:
        names: names of the two samples, the reference first.
        rows: numbers of rows of the two samples.
        before: the `d` sorted columns of the reference.
        after: the same columns of production.
        independent: tests with all rows taken as independent.
        test: tests at the effective sample sizes of rows in time.
        identifiers: names of the columns that number their rows.
    """

    names: tuple[str, str]
    rows: tuple[int, int]
    before: PreparedReference
    after: PreparedReference
    independent: KSTest
    test: KSTest
    identifiers: frozenset[str] = frozenset()


def quantity_comparison(
    pair: SharedColumns, alpha: float
) -> tuple[QuantityComparison, tuple[str, ...]]:
    """The tested quantities, and the names of those that are not numeric in production.

    Args:
        pair: columns of both samples.
        alpha: level; dependence is estimated only for columns that are significant at it.
    """
    names, non_numeric, before, after = quantity_values(pair)
    reference, live = (prepare_reference(values, names=names) for values in (before, after))
    independent = ks_two_sample(reference, live)
    significant = (independent.adjusted < alpha).nonzero().flatten()
    times = design_effects(pair.reference, pair.production, before, after, significant)
    identifiers = frozenset(
        names[i] for i in significant.tolist() if is_identifier(before[:, i], after[:, i])
    )
    comparison = QuantityComparison(
        names=(pair.reference.name, pair.production.name),
        rows=(len(pair.reference), len(pair.production)),
        before=reference,
        after=live,
        independent=independent,
        test=independent.with_autocorrelation(*times),
        identifiers=identifiers,
    )
    return comparison, non_numeric


def design_effects(
    reference: Records, production: Records, before: Tensor, after: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows that count for one independent row, of series of both samples, `[d]` each.

    The autocorrelation time of rows in time, or the design effect of rows in groups where that is
    larger; 1 for the other columns, and where the schema names neither.

    Args:
        reference: records whose schema may name a time and a group column.
        production: records whose schema may name them.
        before: series of the reference, `[n, d]`, in its order of rows.
        after: series of production, `[m, d]`.
        columns: numbers of the series to look at, `[c]`.
    """
    effects = torch.ones(2, before.shape[1], dtype=torch.float64)
    dependence = RowDependence.of(reference, production) if len(columns) else RowDependence()
    if dependence.known:
        parts = (side[:, columns.to(side.device)] for side in (before, after))
        effects[:, columns.cpu()] = dependence.effects(*parts)
    return effects[0], effects[1]


@dataclass(frozen=True, eq=False)
class RowDependence:
    """In which order of time, and in which groups, the rows of two samples stand.

    Args:
        orders: rows of either side in the order of time, `[n]` and `[m]` int64, where known.
        groups: id of the group of each row of either side, `[n]` and `[m]` int64, or None.
    """

    orders: tuple[Tensor | None, Tensor | None] = (None, None)
    groups: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, reference: Records, production: Records) -> RowDependence:
        """What the schemas of two records say."""
        orders = time_order(reference), time_order(production)
        return cls(orders, shared_group_ids(reference, production))

    @property
    def known(self) -> bool:
        """Whether rows may depend on each other at all."""
        return self.orders != (None, None) or self.groups is not None

    def effects(self, before: Tensor, after: Tensor) -> Tensor:
        """Rows that count for one independent row, of series of both samples, `[2, c]`.

        Args:
            before: series of the reference, `[n, c]`, in its order of rows.
            after: series of production, `[m, c]`.
        """
        effects = torch.ones(2, before.shape[1], dtype=torch.float64)
        if before.shape[1] and self.orders != (None, None):
            series = [
                None if order is None else values[order]
                for order, values in zip(self.orders, (before, after), strict=True)
            ]
            effects = torch.stack(two_sample_autocorrelation_times(*series)).cpu()
        if before.shape[1] and self.groups is not None:
            effects = effects.maximum(two_sample_group_effects(before, after, *self.groups))
        return effects


def is_identifier(before: Tensor, after: Tensor) -> bool:
    """Whether a column numbers its rows: whole numbers, none twice in a sample, evenly spread.

    Args:
        before: values of the reference, `[n]`; False under 100 rows.
        after: values of production, `[m]`; False under 100 rows.
    """
    samples = [values.cpu().numpy() for values in (before, after)]
    return min(map(len, samples)) >= MIN_IDENTIFIERS and all(map(is_numbering, samples))


def _dtype(records: Records, name: str) -> Any:
    return (
        None
        if records.features is None or isinstance(records.features, Tensor)
        else records.features[name].dtype
    )


def missing_mask(records: Records, names: tuple[str, ...]) -> Tensor:
    """Missing values of the named columns, `[n, d]` bool."""
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
    """Rows in the order of time, `[n]` int64; None without a time column or with missing times."""
    name, metadata = records.schema.time, records.metadata
    if name is None or metadata is None or name not in metadata:
        return None
    times = parse_times(metadata[name], name)
    return None if times.missing else times.order


def shared_group_ids(reference: Records, production: Records) -> tuple[Tensor, Tensor] | None:
    """Group of each row of both, `[n]` and `[m]` int64 from 0; None unless both have groups."""
    column = reference.group_column
    keys = [group_keys(records, column) for records in (reference, production)]
    if keys[0] is None or keys[1] is None:
        return None
    codes = torch.from_numpy(pd.factorize(pd.concat(keys, ignore_index=True))[0]).long()
    # A row without a group is one of its own.
    alone = codes < 0
    codes[alone] = len(codes) + torch.arange(int(alone.sum()))
    first, second = torch.split(codes, [len(reference), len(production)])
    return first, second


def column_values(records: Records, name: str) -> Any:
    """Values of one column of a table, `[n]`."""
    features: Any = records.features
    return features[next(column for column in features.columns if str(column) == name)]
