"""Columns of lists and arrays, which are not hashable."""

from __future__ import annotations

from typing import Any

import pandas as pd


def is_nested(values: pd.Series[Any]) -> bool:
    """Whether a column holds lists, arrays or other values that are not hashable."""
    if values.dtype.kind != "O":
        return False
    first = values.dropna().head(1)
    try:
        first.map(hash)
    except TypeError:
        return True
    return False


def hashable_values(values: pd.Series[Any]) -> pd.Series[Any]:
    """The same column, with lists and arrays as text."""
    return values.map(str, na_action="ignore") if is_nested(values) else values
