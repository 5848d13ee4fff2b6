"""`Origin`: where the inputs of rows can be read again that are not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Origin:
    """Numbers of rows in a data set, and how inputs are read there.

    Args:
        read: function of row numbers `[m]` int64 -> inputs of these rows, as the model takes them.
        numbers: number of each row in the data set, `[n]` int64.

    Example:
        >>> import torch
        >>> pixels = torch.arange(6.0)
        >>> origin = Origin(lambda rows: pixels[rows], torch.arange(6)).select(torch.tensor([4, 1]))
        >>> origin.inputs().tolist()
        [4.0, 1.0]
    """

    read: Callable[[Tensor], Any]
    numbers: Tensor

    def inputs(self) -> Any:
        """Inputs of all rows, in order."""
        return self.read(self.numbers)

    def select(self, positions: Tensor) -> Origin:
        """The rows at int positions.

        Args:
            positions: `[m]` int64.
        """
        return Origin(self.read, self.numbers[positions])

    @staticmethod
    def concat(parts: Sequence[Any]) -> Origin | None:
        """That of the rows of all records in order; None unless all come from one data set.

        Args:
            parts: records.
        """
        origins = [part.origin for part in parts if part.origin is not None]
        if len(origins) < len(parts) or len({id(origin.read) for origin in origins}) > 1:
            return None
        return Origin(origins[0].read, torch.cat([origin.numbers for origin in origins]))


def inputs_of(records: Any) -> Any:
    """Features, or inputs read again that were not kept, as the model takes them; None of neither.

    Args:
        records: records.
    """
    if records.features is not None or records.origin is None:
        return records.features
    return records.origin.inputs()
