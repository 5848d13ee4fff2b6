"""Sums of losses that stay on their device, so that no training step waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Losses and values that are held before they are summed: one stacking per so many in place of one
# wait per step.
_MAX_STEPS, _MAX_VALUES = 50, 2**20
# What a sum holds: weighted losses, weights, steps, steps whose loss was NaN or infinite.
FIELDS = 4


class LossSums:
    """Sums of losses on their device, in float64 so that nothing drifts over long epochs."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._rows: list[int] = []
        self._sums: Tensor | None = None
        self._values = 0

    def add(self, loss: Tensor, rows: int) -> None:
        """Hold the loss of a step.

        Args:
            loss: mean over the rows, `[]`, or one value per row, `[n]`, of which the first `rows`
                count.
            rows: number of rows that count.
        """
        if not rows:
            return
        loss = loss[:rows] if loss.ndim else loss
        self._losses.append(loss)
        self._rows.append(rows)
        self._values += loss.numel()
        if len(self._losses) >= _MAX_STEPS or self._values >= _MAX_VALUES:
            self._flush()

    def total(self) -> Tensor:
        """Weighted losses, weights, steps and non-finite steps, `[4]` float64; empties the sums."""
        self._flush()
        sums = torch.zeros(FIELDS, dtype=torch.float64) if self._sums is None else self._sums
        self._sums = None
        return sums

    def state_dict(self) -> dict[str, Any]:
        """The sums, and the held losses unsummed, so that a resumed run rounds as a whole one."""
        losses = [loss.cpu() for loss in self._losses]
        return {"values": losses, "rows": list(self._rows), "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums of a checkpoint.

        Args:
            state: result of `state_dict`.
        """
        self._losses, self._rows = list(state["values"]), list(state["rows"])
        self._sums = state["sums"]
        self._values = sum(loss.numel() for loss in self._losses)

    def _flush(self) -> None:
        if not self._losses:
            return
        device = self._losses[-1].device
        if all(loss.numel() == 1 for loss in self._losses):
            scalars = [loss.detach().reshape(()).to(device) for loss in self._losses]
            losses = torch.stack(scalars).double()
        else:
            means = [loss.detach().double().mean().to(device) for loss in self._losses]
            losses = torch.stack(means)
        weight = torch.tensor(self._rows, dtype=torch.float64)
        if device.type == "cuda":
            weight = weight.pin_memory()
        weight = weight.to(device, non_blocking=True)
        nonfinite = (~losses.isfinite()).double().sum()
        steps = torch.full_like(nonfinite, len(self._losses))
        sums = torch.stack([losses @ weight, weight.sum(), steps, nonfinite])
        self._sums = sums if self._sums is None else self._sums.to(device) + sums
        self._losses.clear()
        self._rows.clear()
        self._values = 0
