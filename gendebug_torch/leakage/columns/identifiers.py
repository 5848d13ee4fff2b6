"""Columns that identify rows, and columns whose names resemble an outcome."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.data.inputs.nested_values import is_nested
from gendebug_torch.data.inputs.written_quantities import written_units

# Fewer rows cannot distinguish an id from a quantity whose values all differ.
_MIN_ROWS = 50
_DISTINCT = 0.99
# Texts that tell whether a column holds numbers with their unit.
_FIRST = 1000
# Texts of more characters, or with more blanks per row, are not ids.
_MAX_ID_LENGTH, _MAX_ID_BLANKS = 64, 0.2
_OUTCOME = re.compile(
    r"(^|[_\W])(target|label|outcome|y_true|ground_?truth|response|result|resolution|verdict)s?"
    r"($|[_\W])",
    re.IGNORECASE,
)


def identifier_columns(features: pd.DataFrame) -> dict[str, str]:
    """Columns that have a different value in nearly every row and are no measurements.

    Returns a mapping of column name -> kind of identifier. Whole numbers count if they run without
    gaps, or fill their range as evenly as a hash or a counter does: the distance of their
    distribution from a uniform one is within what chance allows. Amounts in cents may all differ,
    but concentrate at the small end. Text counts if it is one short word per row and no number with
    a unit.

    Source: Kolmogorov (1933), G. Ist. Ital. Attuari 4:83, for the distance and its limit
    `1.95 / sqrt(n)`.

    Args:
        features: table `[n, d]`.

    Example:
        >>> import pandas as pd
        >>> rows = range(100)
        >>> table = pd.DataFrame({"ticket": rows, "age": [20 + row % 60 for row in rows]})
        >>> identifier_columns(table)
        {'ticket': 'a row number'}
    """
    kinds = {str(column): _identifier_kind(features[column]) for column in features.columns}
    return {column: kind for column, kind in kinds.items() if kind}


def _identifier_kind(values: pd.Series[Any]) -> str:
    present = values.dropna()
    n, text_type = len(present), str(values.dtype) in ("str", "string")
    if n < _MIN_ROWS or is_nested(values) or (values.dtype.kind not in "iuOTM" and not text_type):
        return ""
    if values.dtype.kind in "iu":
        return _integer_kind(np.sort(present.to_numpy()))
    if present.nunique() < _DISTINCT * n:
        return ""
    if values.dtype.kind == "M":
        return "a time stamp"
    text = present.astype(str)
    if written_units(text.head(_FIRST)):
        return ""
    # Sentences are what a model of texts is fed, and identify nothing.
    short = text.str.len().mean() <= _MAX_ID_LENGTH
    return "an id" if short and text.str.count(r"\s").mean() < _MAX_ID_BLANKS else ""


def _integer_kind(ordered: np.ndarray[Any, Any]) -> str:
    n = len(ordered)
    distinct = 1 + int((ordered[1:] != ordered[:-1]).sum())
    low, high = int(ordered[0]), int(ordered[-1])
    if distinct < _DISTINCT * n or high == low:
        return ""
    if high - low < 1.05 * n:
        return "a row number"
    position = (ordered[:: max(n // 20_000, 1)].astype(np.float64) - low) / (high - low)
    distance = np.abs(position - np.linspace(0, 1, len(position))).max()
    if distance < 1.95 / np.sqrt(len(position)) or high - low > 2**40:
        return "an evenly spread whole number (an id, a hash or a counter of time)"
    return ""


def written_quantities(features: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Text columns of numbers with a unit, more than rows in a level repeat, each with its units.

    Args:
        features: table `[n, d]`.
    """
    found = {}
    for name in features.columns:
        column = features[name]
        if column.dtype.kind not in "OT" and str(column.dtype) not in ("str", "string"):
            continue
        present = column.dropna().head(_FIRST)
        distinct = set() if is_nested(column) else set(present.astype(str))
        if len(distinct) >= _MIN_ROWS and (units := written_units(distinct)):
            found[str(name)] = units
    return found


def outcome_like_names(features: pd.DataFrame, target: str | None) -> tuple[str, ...]:
    """Columns whose name contains that of the target, or a word for outcomes."""
    named = target is not None and len(target) >= 3
    same = re.compile(rf"(^|[_\W]){re.escape(target or '')}($|[_\W])", re.IGNORECASE)
    names = map(str, features.columns)
    return tuple(n for n in names if _OUTCOME.search(n) or (named and same.search(n)))
