"""Columns that look like a group (a customer, a patient, a session) and are not declared as one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gendebug_torch.data.inputs.nested_values import hashable_values

if TYPE_CHECKING:
    from gendebug_torch.data.records import Records

# Rows, and cells of the table, in which groups are looked for.
_MAX_ROWS, _MAX_CELLS = 200_000, 2**25
# Fewer values are levels; fewer pairs of rows are no evidence.
_MIN_VALUES, _MIN_PAIRS = 20, 30
# A column is constant within groups from this agreement of two rows of one group, and counts only
# up to this agreement of any two rows.
_WITHIN, _OVERALL = 0.95, 0.5
# Number and share of the other columns that have to be constant within the groups.
_MIN_CONSTANT, _MIN_CONSTANT_SHARE = 2, 0.3
# Columns that are compared with all others, and pairs of rows at a time.
_MAX_CANDIDATES, _PAIRS = 50, 2000


@dataclass(frozen=True)
class LikelyGroup:
    """A column that looks like a group.

    Args:
        column: column name.
        values: number of its values.
        pairs: number of neighbouring rows of one value that were compared.
        constant: names of the columns that are constant within a value.
    """

    column: str
    values: int
    pairs: int
    constant: tuple[str, ...]


def likely_groups(table: pd.DataFrame) -> list[LikelyGroup]:
    """Columns of names or whole numbers that repeat, and within whose values others are constant.

    Each row is compared with its neighbour of the same value. A column is constant if 95 % of the
    pairs agree in it while at most half of any two rows do (`sum p^2`); 30 % of the other columns
    have to be constant, and two at least. Two columns with the same information (a code and its
    name) are counted once. The 50 columns with the most values are compared with all others.

    Args:
        table: rows and columns, `[n, d]`; of more than 200,000 rows, or 34 million cells, the first
            rows are used.

    Cost: a sort for each column that repeats, and one pass over the table for at most 50 of those.
    """
    part = table.iloc[: searched_rows(table)]
    named = [name for name, dtype in part.dtypes.items() if dtype.kind != "f"]
    sizes = _sizes(_codes(part[named]))
    candidates = _repeated(sizes)[:_MAX_CANDIDATES]
    if not candidates:
        return []
    codes = _codes(part)
    sizes = _sizes(codes)
    # The same numbers of rows per value: a code and its name, but no quantity.
    keys = {name: name.encode() for name in sizes}
    keys |= {str(name): np.sort(sizes[str(name)]).tobytes() for name in named}
    varied = [
        name
        for name, size in sizes.items()
        if float(((size / max(size.sum(), 1)) ** 2).sum()) <= _OVERALL
    ]
    stacked = np.stack([codes[name] for name in varied], 1) if varied else np.empty((len(part), 0))
    found = []
    for name in candidates:
        other = np.array([keys[o] != keys[name] for o in varied], dtype=bool)
        if not other.any():
            continue
        left, right = _neighbours(codes[name])
        constant = other & _constant(stacked, left, right)
        if constant.sum() >= max(_MIN_CONSTANT, _MIN_CONSTANT_SHARE * other.sum()):
            names = tuple(varied[i] for i in np.flatnonzero(constant))
            found.append(LikelyGroup(name, len(sizes[name]), len(left), names))
    return sorted(found, key=lambda group: -len(group.constant))


def without_labeling(
    features: object, metadata: pd.DataFrame | None, outside: Collection[str | None]
) -> pd.DataFrame | None:
    """Features and metadata as one table, without some columns; None without any table.

    Args:
        features: features of the rows; not used unless they are a table.
        metadata: what is known besides, or None.
        outside: names of columns that say how and when a row was labeled.
    """
    parts = [
        part.reset_index(drop=True)
        for part in (features, metadata)
        if isinstance(part, pd.DataFrame)
    ]
    if not parts:
        return None
    whole = pd.concat(parts, axis=1)
    return whole.loc[:, ~whole.columns.duplicated() & ~whole.columns.isin(list(outside))]


def group_column(records: Records) -> str | None:
    """Column of whom a row is about: the schema's group, or what looks most like one, or None.

    Only texts are taken for one without being named: whole numbers may be quantities, within whose
    values all that is computed from them is constant.

    Args:
        records: rows with a table of features or metadata.
    """
    schema = records.schema
    table = without_labeling(records.features, records.metadata, schema.labeling)
    if schema.group is not None or table is None:
        return schema.group
    names = (group.column for group in likely_groups(table))
    return next((name for name in names if _holds_texts(table[name])), None)


def _holds_texts(values: pd.Series[Any]) -> bool:
    return isinstance(next(iter(values.dropna()), None), str)


def searched_rows(table: pd.DataFrame) -> int:
    """Number of rows in which groups are looked for, the first ones.

    Args:
        table: rows and columns, `[n, d]`.
    """
    return min(len(table), _MAX_ROWS, _MAX_CELLS // max(table.shape[1], 1))


def _codes(table: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Number of the value of each row, -1 where missing, by column."""
    return {
        str(name): pd.factorize(hashable_values(table[name]))[0].astype(np.int32)
        for name in table.columns
    }


def _sizes(codes: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of each value, by column."""
    return {name: np.bincount(code[code >= 0]) for name, code in codes.items()}


def _repeated(sizes: dict[str, np.ndarray[Any, Any]]) -> list[str]:
    """Columns whose values repeat, those with the most values first."""
    repeated = [
        name
        for name, size in sizes.items()
        if len(size) >= _MIN_VALUES and size.sum() - len(size) >= _MIN_PAIRS
    ]
    return sorted(repeated, key=lambda name: -len(sizes[name]))


def _constant(
    codes: np.ndarray[Any, Any], left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Whether rows of one value agree in each column, `[c]` bool.

    Args:
        codes: value of each row and column, `[n, c]`.
        left: rows, `[p]`.
        right: rows of the same values, `[p]`.
    """
    agree = np.zeros(codes.shape[1])
    for start in range(0, len(left), _PAIRS):
        block = slice(start, start + _PAIRS)
        agree += (codes[left[block]] == codes[right[block]]).sum(0)
        # No more of the pairs can agree than those that are left.
        if (agree + max(len(left) - start - _PAIRS, 0) < _WITHIN * len(left)).all():
            break
    constant: np.ndarray[Any, Any] = agree >= _WITHIN * len(left)
    return constant


def _neighbours(code: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Positions of rows and of the next row with the same value."""
    order = np.argsort(code, kind="stable")
    same = (code[order][1:] == code[order][:-1]) & (code[order][1:] >= 0)
    return order[:-1][same], order[1:][same]
