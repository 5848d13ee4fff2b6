"""Transformations that were fitted on validation rows, where the stored values prove it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import (
    Features,
    feature_table,
    is_quantity,
    numeric_values,
)
from gendebug_torch.leakage.preprocessing import encodings, scalings
from gendebug_torch.leakage.preprocessing.stored_column import FittedColumn, StoredColumn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FRACTIONAL_TESTS = (
    encodings.rank_transformed,
    scalings.standardised,
    encodings.target_mean_encoded,
    encodings.frequency_encoded,
    scalings.scaled_to_range,
    scalings.imputed_with_mean,
)
_INTEGER_TESTS = (encodings.frequency_encoded, encodings.list_encoded)


@dataclass(frozen=True, eq=False)
class PreprocessingLeaks:
    """Rows that the transformation of each column was fitted on, as far as its values tell.

    Args:
        leaks: columns that were fitted on validation rows, by p-value.
        clean: columns that were fitted on training alone.
        undecidable: names of columns of which nothing can be said.
    """

    leaks: tuple[FittedColumn, ...]
    clean: tuple[FittedColumn, ...]
    undecidable: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row per column: operation, rows it was fitted on, p-value and the two errors."""
        rows = [
            [f.column, f.operation, " + ".join(f.fitted_on), f.p_value, f.error, f.train_error]
            for f in (*self.leaks, *self.clean)
        ]
        rows += [[name, "", "unknown", np.nan, np.nan, np.nan] for name in self.undecidable]
        names = ["column", "operation", "fitted on", "p_value", "error", "train_error"]
        return pd.DataFrame(rows, columns=names)

    def plot(self, ax: Axes | None = None) -> Axes:
        """How many times closer to exact each column is over the fitted rows than over training."""
        frame = self.table().head(len(self.leaks))
        ratio = frame["train_error"].clip(lower=1e-17) / frame["error"].clip(lower=1e-17)
        frame = frame.assign(digits=np.log10(ratio.astype(float)))
        return BarEvidence(
            frame,
            "column",
            "digits",
            "Columns fitted on validation rows",
            "digits by which the value is more exact than over training alone",
            limit=15,
        ).plot(ax)


def preprocessing_leaks(
    train: Features,
    validation: Features,
    *,
    targets: tuple[Tensor, Tensor] | None = None,
    alpha: float = 1e-4,
) -> PreprocessingLeaks:
    """Columns whose stored values were computed from validation rows, only where that is certain.

    A column standardised over a set of rows has there mean 0 and deviation 1 to rounding; one
    scaled to a range ends exactly at both ends; one imputed with the mean holds the mean of its
    other values; an encoding by target means or frequencies holds them; ranks and quantiles are
    uniform; a list of levels or terms made before the split has entries that occur in validation
    only. Each is tested over train with validation and over validation alone; what train alone
    explains is clean. With m validation rows of N, the mean over all N differs from 0 by
    `sqrt(m) / N` deviations if the column was fitted on training, which gives the p-value; those of
    mean and deviation are combined.

    Source: own derivation; the fault is described by Kaufman, Rosset, Perlich and Stitelman (2012),
    ACM TKDD 6:15, and measured by Moscovich and Rosset (2022), JRSS B 84:1474.

    Args:
        train: table `[n, d]` or tensor `[n, ...]`.
        validation: table `[m, d]` or tensor `[m, ...]`.
        targets: numbers, `[n]` and `[m]`, for the encoding by target means.
        alpha: chance of any false result, over all columns.

    Raises:
        InputError: a table is compared with a tensor, or rows have different shapes.

    Cost: sorting each column once.

    Example:
        >>> import torch
        >>> rows = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> scaled = (rows - rows.mean()) / rows.std()
        >>> (leak,) = preprocessing_leaks(scaled[:400], scaled[400:]).leaks
        >>> leak.operation, leak.fitted_on
        ('standardised', ('train', 'validation'))
    """
    leaks, clean, undecidable, terms = [], [], [], []
    columns = list(_stored_columns(train, validation, targets))
    limit = alpha / max(len(columns), 1)
    for stored in columns:
        # What is cached of a column goes with it: all sorted columns at once are the whole table.
        column = replace(stored)
        if encodings.is_term(column):
            terms.append(column)
        tests = _FRACTIONAL_TESTS if column.fractional else _INTEGER_TESTS
        fits = [fit for test in tests if (fit := test(column, limit)) is not None]
        if not fits:
            undecidable.append(column.name)
        elif leak := next((fit for fit in fits if fit.leaks), None):
            leaks.append(leak)
        else:
            clean.append(fits[0])
    if (vocabulary := encodings.vocabulary_encoded(terms, limit)) is not None:
        leaks.append(vocabulary)
    leaks.sort(key=lambda fit: fit.p_value)
    return PreprocessingLeaks(tuple(leaks), tuple(clean), tuple(undecidable))


def _stored_columns(
    train: Features, validation: Features, targets: tuple[Tensor, Tensor] | None
) -> Iterator[StoredColumn]:
    """Shared numeric columns with at least two values in either split."""
    tensors = isinstance(train, Tensor), isinstance(validation, Tensor)
    if tensors[0] != tensors[1]:
        reject(
            "validation",
            "a table with a table, or a tensor with a tensor",
            "a mixture",
            "Build both splits in the same way.",
        )
    if tensors[0] and train.shape[1:] != validation.shape[1:]:
        reject(
            "validation",
            "rows of the shape that training has",
            f"{list(validation.shape[1:])} against {list(train.shape[1:])}",
            "Build both splits with the same preprocessing.",
        )
    before, after = feature_table(train), feature_table(validation)
    for name in [c for c in before.columns if c in after.columns]:
        if not is_quantity(before[name]) or not is_quantity(after[name]):
            continue
        a, b = (torch.from_numpy(numeric_values(part[name])) for part in (before, after))
        rows = a.isfinite(), b.isfinite()
        labels = None
        if targets is not None:
            labels = (targets[0].cpu()[rows[0]].double(), targets[1].cpu()[rows[1]].double())
        column = StoredColumn(name, a[rows[0]], b[rows[1]], labels)
        if min(len(column.train), len(column.validation)) >= 2:
            yield column
