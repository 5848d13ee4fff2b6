"""Mean losses per epoch, recorded without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# References kept before they are summed: one stacking per this many steps instead of one wait per step.
_STEPS = 50


@dataclass
class MeanBuffer:
    """A weighted mean of scalars that stay on their device; sums in float64, so nothing drifts over long epochs."""

    values: list[Tensor] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    sums: Tensor | None = None

    def add(self, value: Tensor, rows: int) -> None:
        """Keep a reference to a scalar loss of so many rows."""
        self.values.append(value)
        self.rows.append(rows)
        if len(self.values) >= _STEPS:
            self._flush()

    def total(self) -> Tensor:
        """`[2]` float64 weighted sum and weight, on the device of the values; empties the buffer."""
        self._flush()
        sums = torch.zeros(2, dtype=torch.float64) if self.sums is None else self.sums
        self.sums = None
        return sums

    def _flush(self) -> None:
        if not self.values:
            return
        device = self.values[0].device
        losses = torch.stack([value.detach().reshape(()).to(device) for value in self.values]).double()
        weight = torch.tensor(self.rows, dtype=torch.float64)
        weight = weight.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else weight.to(device)
        sums = torch.stack([losses @ weight, weight.sum()])
        self.sums = sums if self.sums is None else self.sums + sums
        self.values.clear()
        self.rows.clear()


def batch_rows(batch: object) -> int:
    """Rows of a batch: the length of its first tensor; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    return 1
