"""Every column as a few named levels, so that slices can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import InputError, reject

OTHER = "(other)"
MISSING = "(missing)"
# Longer names are cut in labels; the values of the column stay as they are.
_MAX_LENGTH = 60
_MAX_CLASSES = 1000


@dataclass(frozen=True)
class Level:
    """One level of one column: an interval of a quantity, a name, or what is left over.

    Args:
        column: name of the column.
        label: name of the level, e.g. `above 3 to 7`.
        is_interval: whether it is one of a quantity.
    """

    column: str
    label: str
    is_interval: bool = False

    def __str__(self) -> str:
        return f"{self.column} {'is' if self.is_interval else '='} {self.label}"


@dataclass(frozen=True)
class Binning:
    """Levels of one column, fitted on one table and applied to others.

    Args:
        column: name of the column.
        edges: inner cuts of a quantity; None for names.
        names: frequent values of a column of names, as text.
        is_integer: whether the quantity takes whole numbers only.
        is_time: whether the quantity is a time, with cuts in nanoseconds.
    """

    column: str
    edges: tuple[float, ...] | None
    names: tuple[str, ...] = ()
    is_integer: bool = False
    is_time: bool = False

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels, `(other)` and `(missing)` last."""
        if self.edges is None:
            shown = [
                name if len(name) <= _MAX_LENGTH else f"{name[: _MAX_LENGTH - 3]}..."
                for name in self.names
            ]
            return tuple(Level(self.column, label) for label in (*shown, OTHER, MISSING))
        cuts = [self._text(edge) for edge in self.edges]
        inner = [f"above {low} to {high}" for low, high in pairwise(cuts)]
        intervals = (f"up to {cuts[0]}", *inner, f"above {cuts[-1]}")
        named = [Level(self.column, label, is_interval=True) for label in intervals]
        return (*named, Level(self.column, MISSING))

    def codes(self, frame: pd.DataFrame) -> Tensor:
        """`[n]` int64 level of each row; all missing if the table lacks the column."""
        if self.column not in frame:
            return torch.full((len(frame),), len(self.levels) - 1)
        values = frame[self.column]
        if self.edges is None:
            coded, distinct = _factorized(values)
            index = {name: i for i, name in enumerate(self.names)}
            other, missing = len(self.names), len(self.names) + 1
            level = [*(index.get(name, other) for name in distinct), missing]
            return torch.from_numpy(np.array(level, dtype=np.int64)[coded])
        numbers = _numbers(values)
        codes = np.searchsorted(np.asarray(self.edges), numbers, side="left")
        return torch.from_numpy(
            np.where(np.isnan(numbers), len(self.edges) + 1, codes).astype(np.int64)
        )

    def _text(self, edge: float) -> str:
        if self.is_time:
            return str(pd.Timestamp(int(edge)).floor("s"))
        return f"{edge:,.0f}" if self.is_integer else f"{edge:.4g}"


def fit_binnings(
    frame: pd.DataFrame, *, bins: int = 5, max_levels: int = 20, categorical: Sequence[str] = ()
) -> tuple[Binning, ...]:
    """Levels for every column: quantiles of quantities and times, frequent values of the rest.

    Constant columns, and columns of lists or dicts, are left out. Beyond `max_levels`, values are
    pooled as `(other)`, so that a column of a million names costs one level.

    Args:
        frame: table, `[n, c]`.
        bins: number of levels of a quantity.
        max_levels: most levels of a column of names.
        categorical: names of numeric columns that hold codes.
    """
    binnings = [
        _fit(frame[column], str(column), bins, max_levels, column in categorical)
        for column in frame.columns
    ]
    return tuple(binning for binning in binnings if binning is not None)


def class_binning(names: pd.Series[Any]) -> Binning:
    """One level for each of the most frequent classes.

    Args:
        names: name of the class of each row, `[n]`.
    """
    frequent = names.value_counts().sort_index(kind="stable").nlargest(_MAX_CLASSES).index
    return Binning(str(names.name), None, tuple(map(str, frequent)))


def level_codes(
    frame: pd.DataFrame, binnings: Sequence[Binning]
) -> tuple[tuple[Level, ...], Tensor]:
    """All levels of all columns, and `[n, c]` int64 level of each row in each column."""
    levels: list[Level] = []
    columns = []
    for binning in binnings:
        columns.append(binning.codes(frame) + len(levels))
        levels.extend(binning.levels)
    return tuple(levels), torch.stack(columns, 1) if columns else torch.empty(
        len(frame), 0, dtype=torch.int64
    )


def _fit(
    values: pd.Series[Any], column: str, bins: int, max_levels: int, coded: bool
) -> Binning | None:
    is_time = values.dtype.kind == "M"
    if values.dtype.kind in "fiuM" and not coded:
        numbers = _numbers(values)
        finite = np.sort(numbers[np.isfinite(numbers)])
        if 1 + np.count_nonzero(np.diff(finite)) > bins:
            places = np.ceil(np.linspace(0, 1, bins + 1)[1:-1] * len(finite)).astype(int) - 1
            cuts = np.unique(finite[places])
            cuts = cuts[cuts < finite[-1]]
            is_integer = not is_time and bool((finite == np.rint(finite)).all())
            edges = tuple(map(float, cuts))
            return Binning(column, edges, (), is_integer, is_time) if edges else None
    try:
        codes, distinct_names = _factorized(values)
    except InputError:
        # Lists and dicts have no levels; checks of shift name such columns.
        return None
    counts = np.bincount(codes[codes >= 0], minlength=len(distinct_names))
    if len(counts) + int((codes < 0).any()) < 2:
        return None
    frequent = nsmallest(
        max_levels, range(len(counts)), key=lambda i: (-counts[i], distinct_names[i])
    )
    return Binning(column, None, tuple(distinct_names[i] for i in frequent))


def _factorized(values: pd.Series[Any]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[str]]:
    """`[n]` int64 index of each value among the distinct ones (-1 if missing), and these as text.

    A whole number is the same text as int and as float, since a missing value turns one into the
    other.
    """
    try:
        codes, distinct = pd.factorize(values)
    except TypeError as error:
        reject(
            str(values.name),
            "a column of numbers, names or times",
            f"{error}",
            "Leave the column out, or turn its values into names.",
        )
    return codes, list(map(_text, distinct))


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if np.isfinite(value) and value == int(value) else f"{value:.7g}"
    return str(value)


def _numbers(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    if values.dtype.kind == "M":
        stamps = values.astype(
            "datetime64[ns, UTC]"
            if getattr(values.dtype, "tz", None) is not None
            else "datetime64[ns]"
        )
        return np.where(values.isna(), np.nan, stamps.astype("int64").to_numpy(dtype=np.float64))
    try:
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        remedy = "Mend the values, or leave the column out."
        reject(str(values.name), "numbers, as in the reference rows", str(error), remedy)
    return np.asarray(numbers, dtype=np.float64)
