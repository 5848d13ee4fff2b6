"""The columns that two records share as tables, without those that change by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.exclusions import (
    ABSENT,
    IDENTIFIER,
    NON_NUMERIC,
    WIDE_INTEGERS,
    dtype_reason,
    level_reason,
    number_reason,
)
from gendebug_torch.shift.columns.shared_columns import (
    Column,
    RowDependence,
    category_names,
    is_identifier,
    quantity_names,
    quantity_values,
    shared_columns,
    wide_integer_names,
)
from gendebug_torch.shift.two_sample.categories import level_counts


@dataclass(frozen=True, eq=False)
class SharedTables:
    """The shared columns of two records as tables on the host, without identifiers.

    Args:
        reference: table of the reference, `[n, d]`: quantities as numbers, others as categories.
        production: table of production, `[m, d]`.
        quantities: names of the columns that are quantities.
        excluded: columns of the reference that are not compared, each with the reason.
        dependence: in which order of time and in which groups the rows stand.
    """

    reference: pd.DataFrame
    production: pd.DataFrame
    quantities: tuple[str, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    dependence: RowDependence = field(default_factory=RowDependence)

    def without(self, excluded: Mapping[str, str]) -> SharedTables:
        """The same without some columns.

        Args:
            excluded: columns to leave out, each with the reason.
        """
        present = [name for name in self.reference.columns if name in excluded]
        return replace(
            self,
            reference=self.reference.drop(columns=present),
            production=self.production.drop(columns=present),
            quantities=tuple(name for name in self.quantities if name not in excluded),
            excluded={**self.excluded, **excluded},
        )

    @property
    def orders(self) -> tuple[Tensor | None, Tensor | None]:
        """Rows of either side in the order of time, `[n]` and `[m]` int64, where known."""
        return self.dependence.orders

    def design_effects(self, name: str) -> tuple[float, float]:
        """Rows of a quantity that count for one independent row, on both sides; 1 if unknown."""
        if name not in self.quantities:
            return 1.0, 1.0
        sides = (
            torch.from_numpy(side[[name]].to_numpy(dtype=np.float64, copy=True))
            for side in (self.reference, self.production)
        )
        first, second = self.dependence.effects(*sides)[:, 0].tolist()
        return first, second

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns that are categories."""
        return tuple(str(name) for name in self.reference.columns if name not in self.quantities)

    def finite(self, name: str) -> tuple[Column, Column]:
        """Finite values of a quantity in both samples, float64."""
        before, after = (
            side[name].to_numpy(dtype=np.float64) for side in (self.reference, self.production)
        )
        return before[np.isfinite(before)], after[np.isfinite(after)]


def shared_tables(production: Records, reference: Records) -> SharedTables | None:
    """Shared columns of two records as tables; None where either has no features."""
    if production.features is None or reference.features is None:
        return None
    pair = shared_columns(production, reference, None, quantity_names)
    coded = shared_columns(production, reference, None, category_names)
    if pair is None or coded is None:
        return None
    names, non_numeric, before, after = quantity_values(pair)
    sides = [
        _with_categories(values, names, records, coded.names)
        for values, records in ((before, reference), (after, production))
    ]
    excluded = dict.fromkeys((*pair.absent, *coded.absent), ABSENT)
    excluded |= dict.fromkeys(non_numeric, NON_NUMERIC)
    excluded |= {
        name: IDENTIFIER for i, name in enumerate(names) if is_identifier(before[:, i], after[:, i])
    }
    dependence = RowDependence.of(reference, production)
    tables = SharedTables(sides[0], sides[1], names, dependence=dependence)
    tables = tables.without(excluded | excluded_by_type(reference, production))
    return tables.without(_excluded_by_values(tables))


def _with_categories(
    values: Tensor, names: tuple[str, ...], records: Records, coded: tuple[str, ...]
) -> pd.DataFrame:
    """The quantities `[n, d]` as a table, followed by the categories."""
    numbers = pd.DataFrame(values.cpu().numpy(), columns=list(names))
    if not coded or not isinstance(records.features, pd.DataFrame):
        return numbers
    table = records.features
    by_name = {str(column): column for column in table.columns}
    levels = {
        name: pd.Series(table[by_name[name]].to_numpy(object), dtype=object) for name in coded
    }
    return pd.concat([numbers, pd.DataFrame(levels, index=numbers.index)], axis=1)


def excluded_by_type(reference: Records, production: Records) -> dict[str, str]:
    """Columns that cannot be compared by their type on either side, each with the reason."""
    before, after = reference.features, production.features
    if isinstance(before, Tensor) or isinstance(after, Tensor) or before is None or after is None:
        return {}
    reasons = {str(name): dtype_reason(before[name]) for name in before.columns}
    for name in after.columns:
        if str(name) in reasons:
            reasons[str(name)] = reasons[str(name)] or dtype_reason(after[name])
    reasons |= dict.fromkeys(wide_integer_names(reference), WIDE_INTEGERS)
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _excluded_by_values(tables: SharedTables) -> dict[str, str]:
    """Columns that change by themselves, each with the reason."""
    reasons = {name: number_reason(name, *tables.finite(name)) for name in tables.quantities}
    for name in tables.categorical:
        counts = [level_counts(side[name]) for side in (tables.reference, tables.production)]
        reasons[name] = level_reason(name, *counts)
    return {name: reason for name, reason in reasons.items() if reason is not None}
