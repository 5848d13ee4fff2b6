"""`FiniteOutputs`: the first output of a module that was not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

# Different orders of calls that are kept, and the distance of their codes.
_MOST_PATTERNS, STRIDE = 64, 2**16
# Steps whose outputs are judged together.
_HELD = 64


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
        # Held steps and sums by their pattern; a sampled step has another one.
        self._held: dict[int, tuple[list[int], list[Tensor]]] = {}
        self._steps = 0

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
        steps, held = self._held.setdefault(self.patterns.index(positions), ([], []))
        steps.append(step)
        held += sums
        self._steps += 1
        if self._steps >= _HELD:
            self.judge()

    def judge(self) -> None:
        """Look for the first sum that is not finite among those held."""
        for pattern, (steps, held) in self._held.items():
            home = held[0].device
            # Made there, since a copy from the host waits.
            numbers = [torch.full((), step, dtype=torch.int64, device=home) for step in steps]
            self._judge(pattern, torch.stack(numbers), held)
        self._held, self._steps = {}, 0

    def _judge(self, pattern: int, steps: Tensor, held: list[Tensor]) -> None:
        """Look for the first sum that is not finite in steps of one pattern.

        Infinities count if the outputs of the last module are not finite either: those of a mask
        before a softmax do no harm.
        """
        positions = self.patterns[pattern]
        sums = stacked(held).view(-1, len(positions))
        bad = ~sums.isfinite()
        last = [bad[:, at] for at, one in enumerate(positions) if one == positions[-1]]
        counts = sums.isnan() | (bad & reduce(torch.logical_or, last)[:, None])
        at = counts.view(-1).int().argmax()
        step = steps.take(at // len(positions))
        now = torch.stack([step, pattern * STRIDE + at % len(positions)])
        now = torch.where(counts.any(), now, -1)
        first = now if self.first is None else self.first.to(now.device)
        earlier = (first[0] >= 0) & ((now[0] < 0) | (first[0] <= now[0]))
        self.first = torch.where(earlier, first, now)

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
