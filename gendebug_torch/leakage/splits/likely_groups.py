"""Columns that look like a group (a customer, a patient, a session) and are not declared as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.leakage.columns.column_codes import hashable_values

_MAX_ROWS = 200_000
# Fewer values are levels; fewer pairs of rows are no evidence.
_MIN_VALUES, _MIN_PAIRS = 20, 30
# A column is constant within groups from this agreement of two rows of one group, and counts only
# up to this agreement of any two rows.
_WITHIN, _OVERALL = 0.95, 0.5
# Number and share of the other columns that have to be constant within the groups.
_MIN_CONSTANT, _MIN_CONSTANT_SHARE = 2, 0.3


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
    name) are counted once.

    Args:
        table: rows and columns, `[n, d]`; of more than 200,000 rows the first ones are used.

    Cost: a sort for each column that repeats, and one pass over the table for each of those.
    """
    part = table.iloc[:_MAX_ROWS]
    codes = {str(name): pd.factorize(hashable_values(part[name]))[0] for name in part.columns}
    sizes = {name: np.bincount(code[code >= 0]) for name, code in codes.items()}
    varied = [
        name
        for name, size in sizes.items()
        if float(((size / max(size.sum(), 1)) ** 2).sum()) <= _OVERALL
    ]
    found = []
    for name in map(str, part.columns[[dtype.kind != "f" for dtype in part.dtypes]]):
        if len(sizes[name]) < _MIN_VALUES:
            continue
        others = [o for o in varied if o != name and not _same_sizes(sizes[o], sizes[name])]
        left, right = _neighbours(codes[name])
        if len(left) < _MIN_PAIRS or not others:
            continue
        constant = _constant_columns(codes, others, left, right)
        if len(constant) >= max(_MIN_CONSTANT, _MIN_CONSTANT_SHARE * len(others)):
            found.append(LikelyGroup(name, len(sizes[name]), len(left), constant))
    return sorted(found, key=lambda group: -len(group.constant))


def _neighbours(code: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Positions of rows and of the next row with the same value."""
    order = np.argsort(code, kind="stable")
    same = (code[order][1:] == code[order][:-1]) & (code[order][1:] >= 0)
    return order[:-1][same], order[1:][same]


def _constant_columns(
    codes: dict[str, np.ndarray[Any, Any]],
    names: Sequence[str],
    left: np.ndarray[Any, Any],
    right: np.ndarray[Any, Any],
) -> tuple[str, ...]:
    return tuple(
        name for name in names if (codes[name][left] == codes[name][right]).mean() >= _WITHIN
    )


def _same_sizes(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Whether two columns have the same numbers of rows per value, as a code and its name do."""
    return len(one) == len(other) and bool((np.sort(one) == np.sort(other)).all())
