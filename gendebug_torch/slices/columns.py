"""Every column as a few named levels, so that slices can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

OTHER = "(other)"
MISSING = "(missing)"


@dataclass(frozen=True, eq=False)
class Level:
    """One level of one column: an interval of a quantity, a name, or what is left over.

    Args:
        column: name of the column.
        label: how the level reads, e.g. `3 to 7`.
    """

    column: str
    label: str

    def __str__(self) -> str:
        return f"{self.column} = {self.label}"


@dataclass(frozen=True, eq=False)
class Binning:
    """How one column is cut into levels, fixed on the reference so that another table is cut alike.

    Args:
        column: name of the column.
        edges: inner cuts of a quantity; None for names.
        names: the frequent values of a column of names.
    """

    column: str
    edges: tuple[float, ...] | None
    names: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels, the leftover ones last."""
        if self.edges is None:
            return tuple(Level(self.column, name) for name in (*self.names, OTHER, MISSING))
        cuts = [f"{edge:.4g}" for edge in self.edges]
        inner = [f"{low} to {high}" for low, high in pairwise(cuts)]
        labels = [f"up to {cuts[0]}", *inner, f"above {cuts[-1]}"] if cuts else ["any value"]
        return tuple(Level(self.column, label) for label in (*labels, MISSING))

    def codes(self, frame: pd.DataFrame) -> Tensor:
        """`[n]` int64 level of each row; a column that the table lacks is missing everywhere."""
        if self.column not in frame:
            return torch.full((len(frame),), len(self.levels) - 1)
        values = frame[self.column]
        if self.edges is None:
            position = {name: index for index, name in enumerate(self.names)}
            text = values.astype("string")
            known = text.map(position).astype("Float64").fillna(len(self.names)).where(~text.isna(), len(self.names) + 1)
            return torch.from_numpy(known.to_numpy(dtype=np.int64))
        numbers = _numbers(values)
        codes = np.searchsorted(np.asarray(self.edges), numbers, side="left")
        return torch.from_numpy(np.where(np.isnan(numbers), len(self.edges) + 1, codes).astype(np.int64))


def fit_binnings(frame: pd.DataFrame, *, bins: int = 5, most_levels: int = 20, categorical: Sequence[str] = ()) -> tuple[Binning, ...]:
    """Cuts for every column: quantiles of quantities and times, the most frequent values of the rest.

    Columns of one value tell no slice apart and are left out; beyond `most_levels` values are pooled as
    `(other)`, so that a column of a million names costs one level.

    Args:
        frame: `[n, c]`.
        bins: levels of a quantity.
        most_levels: levels of a column of names.
        categorical: numeric columns that hold codes.
    """
    binnings = [_fit(frame[column], str(column), bins, most_levels, column in categorical) for column in frame.columns]
    return tuple(binning for binning in binnings if binning is not None)


def _fit(values: pd.Series[Any], column: str, bins: int, most_levels: int, coded: bool) -> Binning | None:
    distinct = values.nunique(dropna=False)
    if distinct < 2:
        return None
    quantity = values.dtype.kind in "fiuM" and not coded and values.nunique() > bins
    if quantity:
        numbers = _numbers(values)
        cuts = np.unique(np.nanquantile(numbers, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
        cuts = cuts[cuts < np.nanmax(numbers)]
        return Binning(column, tuple(map(float, cuts))) if len(cuts) else None
    frequent = values.astype("string").value_counts().head(most_levels)
    return Binning(column, None, tuple(map(str, frequent.index)))


def _numbers(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    if values.dtype.kind == "M":
        values = values.astype("int64")
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
