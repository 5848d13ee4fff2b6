"""A column as it is stored in both splits, and the rows that its transformation was fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

TRAIN, VALIDATION, BOTH = ("train",), ("validation",), ("train", "validation")


@dataclass(frozen=True, eq=False)
class FittedColumn:
    """A column whose transformation was fitted on an identifiable set of rows.

    Args:
        column: column name.
        operation: what was done to it, e.g. `standardised`.
        fitted_on: names of the splits whose rows were used.
        p_value: chance that a column fitted on training alone is as close by accident; 0 if that
            is impossible.
        error: difference from the exact value over the rows of `fitted_on`, in standard deviations
            of the column; of ranks, Kolmogorov's distance from a uniform distribution; of lists,
            the share of their entries that is empty.
        train_error: the same over training alone.
    """

    column: str
    operation: str
    fitted_on: tuple[str, ...]
    p_value: float = math.nan
    error: float = math.nan
    train_error: float = 0.0

    @property
    def leaks(self) -> bool:
        """Whether rows of validation were used."""
        return self.fitted_on != TRAIN


@dataclass(frozen=True, eq=False)
class StoredColumn:
    """One column of both splits without its missing values.

    Args:
        name: column name.
        train: values, `[n]` float64.
        validation: values, `[m]` float64.
        targets: targets of the same rows, `[n]` and `[m]` float64, or None.
    """

    name: str
    train: Tensor
    validation: Tensor
    targets: tuple[Tensor, Tensor] | None

    @cached_property
    def both(self) -> Tensor:
        """All values of both splits, ascending."""
        # NumPy sorts float64 with vector instructions, several times faster than torch on a CPU.
        return torch.from_numpy(np.sort(torch.cat([self.train, self.validation]).numpy()))

    @cached_property
    def runs(self) -> tuple[Tensor, Tensor]:
        """The different values, ascending, and how often each occurs."""
        values, counts = torch.unique_consecutive(self.both, return_counts=True)
        return values, counts

    @cached_property
    def fractional(self) -> bool:
        """Whether a value has a fractional part; most columns that do show it early."""
        parts = (part for split in (self.train, self.validation) for part in (split[:1000], split))
        return any(bool((part != part.round()).any()) for part in parts)

    @property
    def mean_error(self) -> float:
        """Standard error of the mean over both splits, in deviations, if centred on training."""
        return math.sqrt(len(self.validation)) / len(self.both)

    def counts(self) -> tuple[Tensor, Tensor]:
        """`[v]` number of training rows, and of validation rows, of each different value."""
        values, _ = self.runs
        before, after = (
            torch.bincount(torch.searchsorted(values, split), minlength=len(values))
            for split in (self.train, self.validation)
        )
        return before, after
