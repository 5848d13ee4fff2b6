"""`SampledRows`: the measures of each sampled step, as short rows on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Columns of a row that holds a value for each of them.
_ALL: tuple[int, ...] = ()


class SampledRows:
    """One Tensor per sampled step, of the columns that it has values for.

    Args:
        width: number of all columns.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._columns: list[tuple[int, ...]] = []
        self._rows: list[tuple[int, Tensor]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, columns: tuple[int, ...], parts: Sequence[Tensor]) -> None:
        """Add a row.

        Args:
            columns: columns of its values.
            parts: its values, vectors that are put behind each other.
        """
        home = parts[0].device
        if any(part.device != home for part in parts):
            parts = [part.to(home) for part in parts]
        # A training has a few patterns, the last ones most often.
        if columns not in self._columns:
            self._columns.append(columns)
        self._rows.append((self._columns.index(columns), torch.cat(list(parts))))

    def dense(self) -> Tensor:
        """All rows on the host, `[t, width]` float64, NaN where there is no value.

        It waits for the device once for each pattern of columns.
        """
        values = torch.full((len(self._rows), self._width), torch.nan, dtype=torch.float64)
        for pattern, columns in enumerate(self._columns):
            at = [row for row, (kind, _) in enumerate(self._rows) if kind == pattern]
            if at:
                part = torch.stack([self._rows[row][1] for row in at]).cpu().double()
                index = columns if columns != _ALL else range(self._width)
                values[torch.tensor(at)[:, None], torch.tensor(list(index))] = part
        return values

    def load(self, values: Tensor) -> None:
        """Go on from rows of an earlier record.

        Args:
            values: result of `dense`.
        """
        self._columns = [_ALL]
        self._rows = [(0, row) for row in values]
