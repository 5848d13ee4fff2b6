"""`FiniteOutputs`: the first output of a module that was not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Different orders of calls that are kept, and the distance of their codes.
_MOST_PATTERNS, STRIDE = 64, 2**16
# Steps whose outputs are judged together.
_HELD = 16


class FiniteOutputs:
    """The first output of a module that was not finite, kept on the device.

    Sums of outputs are held until several steps are judged together.

    Attributes:
        first: step and code of the first one, `[2]`, -1 where there was none; None before a step.
        patterns: positions of modules in the order of their calls; a code is the number of its
            pattern times `STRIDE` and the index in it.
    """

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.patterns: list[list[int]] = []
        self._sums: list[Tensor] = []
        # Step of the first held sums, and their pattern.
        self._since = 0, 0

    def add(self, step: int, positions: list[int], sums: list[Tensor]) -> None:
        """Hold the sums of a step.

        Args:
            step: optimizer step.
            positions: positions of the modules that were called; -1 for the inputs.
            sums: sum over the output of each.
        """
        if not sums:
            return
        if positions not in self.patterns:
            if len(self.patterns) >= _MOST_PATTERNS:
                return
            self.patterns.append(positions)
        pattern = self.patterns.index(positions)
        if self._since != (step - len(self._sums), pattern) or len(self._sums) >= _HELD:
            self.judge()
            self._since = step, pattern
        self._sums.append(stacked(sums))

    def judge(self) -> None:
        """Look for the first sum that is not finite among those held."""
        if not self._sums:
            return
        (since, pattern), modules = self._since, len(self._sums[0])
        bad = ~torch.cat(self._sums).isfinite()
        at, self._sums = bad.int().argmax(), []
        now = torch.stack([since + at // modules, pattern * STRIDE + at % modules])
        now = torch.where(bad.any(), now, -1)
        first = now if self.first is None else self.first.to(now.device)
        self.first = torch.where(first[0] >= 0, first, now)

    def state_dict(self) -> dict[str, Any]:
        """What was found so far; one wait for the device."""
        self.judge()
        first = None if self.first is None else self.first.cpu()
        return {"first_bad": first, "patterns": [list(pattern) for pattern in self.patterns]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what was found.

        Args:
            state: result of `state_dict`.
        """
        self.first = state["first_bad"]
        self.patterns = [list(pattern) for pattern in state["patterns"]]


def stacked(scalars: Sequence[Tensor]) -> Tensor:
    """Scalars as one Tensor `[s]`, whatever their types and devices.

    Args:
        scalars: one and more Tensors without axes.
    """
    home = scalars[0].device
    if any(scalar.device != home for scalar in scalars):
        scalars = [scalar.to(home) for scalar in scalars]
    return torch.stack(list(scalars))
