"""A column as it is stored on both sides of a split, and what its values betray of how they were
computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One column whose values were computed from rows of a set beyond training.

    Args:
        column: its name.
        kind: what was done to it.
        fitted_on: names of the sides whose rows went into it.
        p_value: chance that a column fitted on training alone comes as close by accident; 0 where
            it cannot.
        offset: distance from the exact value when computed over `fitted_on`, in deviations of the
            column; of ranks, the distance from an even spread; of lists, the share of their places
            that is empty.
        train_offset: the same over training alone.
    """

    column: str
    kind: str
    fitted_on: tuple[str, ...]
    p_value: float
    offset: float
    train_offset: float


@dataclass(frozen=True, eq=False)
class StoredColumn:
    """One column on both sides without its missing values: `[n]` and `[m]` float64, and the targets
    of the same rows.
    """

    name: str
    before: Tensor
    after: Tensor
    targets: tuple[Tensor, Tensor] | None

    @cached_property
    def both(self) -> Tensor:
        """All values of both sides, ascending."""
        # NumPy sorts float64 with vector instructions, several times faster than torch on a CPU.
        return torch.from_numpy(np.sort(torch.cat([self.before, self.after]).numpy()))

    @cached_property
    def runs(self) -> tuple[Tensor, Tensor]:
        """The different values, ascending, and how often each occurs."""
        values, counts = torch.unique_consecutive(self.both, return_counts=True)
        return values, counts

    @cached_property
    def fractional(self) -> bool:
        """Whether a value has a fraction; most columns that do show it early."""
        parts = (part for side in (self.before, self.after) for part in (side[:1000], side))
        return any(bool((part != part.round()).any()) for part in parts)

    @property
    def strays(self) -> float:
        """Standard error of the mean over both sides, in deviations, where the column was centred
        on training.
        """
        return math.sqrt(len(self.after)) / len(self.both)
