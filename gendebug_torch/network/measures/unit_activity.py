"""`UnitActivity`: when each unit of a layer last had a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Layout:
    """Where the units of the layers of a step are among all; None if they are all, in their order.

    Where the units of each layer end among those of the step, and their number.
    """

    units: Tensor | None
    ends: Tensor
    sizes: Tensor


class UnitActivity:
    """The last step at which each unit of each layer had a gradient, all in one Tensor.

    A layer costs two reductions of the gradient of its output; all else is done for all layers of
    a step at once.
    """

    def __init__(self) -> None:
        # Start and size of each layer by its position, and the last steps of all units.
        self._spans: dict[int, tuple[int, int]] = {}
        self._last: Tensor | None = None
        self._layouts: dict[tuple[int, ...], _Layout] = {}
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, position: int, gradient: Tensor, axis: int) -> None:
        """Hold which units have a gradient.

        Args:
            position: position of the layer.
            gradient: gradient of its output.
            axis: axis of the units.
        """
        others = [at for at in range(gradient.ndim) if at != axis]
        low, high = (gradient.amin(others), gradient.amax(others)) if others else (gradient,) * 2
        if position in self._seen:
            one, other = self._seen[position]
            low, high = low.minimum(one), high.maximum(other)
        self._seen[position] = low, high

    def close(self, step: int) -> tuple[tuple[int, ...], Tensor | None]:
        """Positions of the layers of this step, and the share of the units of each without any.

        Args:
            step: optimizer step.
        """
        seen = {at: pair for at, pair in self._seen.items() if self._fits(at, len(pair[0]))}
        self._seen = {}
        positions = tuple(seen)
        if not positions:
            return (), None
        home = next(iter(seen.values()))[0].device
        low, high = (torch.cat([pair[k].to(home) for pair in seen.values()]) for k in range(2))
        last, layout = self._steps(home), self._layout(positions, home)
        active = (low != 0) | (high != 0)
        if layout.units is None:
            self._last = torch.where(active, step, last)
        else:
            last[layout.units] = torch.where(active, step, last[layout.units])
        ends = active.cumsum(0)[layout.ends]
        return positions, 1 - torch.cat([ends[:1], ends.diff()]) / layout.sizes

    def _fits(self, position: int, size: int) -> bool:
        """Whether a layer has as many units as before."""
        end = max((start + width for start, width in self._spans.values()), default=0)
        return self._spans.setdefault(position, (end, size))[1] == size

    def _steps(self, home: torch.device) -> Tensor:
        units = max(start + width for start, width in self._spans.values())
        last = torch.zeros(0, dtype=torch.int64, device=home) if self._last is None else self._last
        if len(last) < units or last.device != home:
            more = torch.zeros(units - len(last), dtype=torch.int64, device=home)
            last, self._layouts = torch.cat([last.to(home), more]), {}
        self._last = last
        return last

    def _layout(self, positions: tuple[int, ...], home: torch.device) -> _Layout:
        """Made once for each set of layers, without a copy from the host."""
        if positions not in self._layouts:
            spans = [self._spans[at] for at in positions]
            units = [torch.arange(at, at + width, device=home) for at, width in spans]
            whole = list(self._spans) == list(positions)
            sizes = torch.cat([torch.full((1,), width, device=home) for _, width in spans])
            self._layouts[positions] = _Layout(
                None if whole else torch.cat(units), sizes.cumsum(0) - 1, sizes
            )
        return self._layouts[positions]

    def last_active(self, position: int) -> Tensor | None:
        """Last steps at which the units of a layer had a gradient, `[u]` int64; 0 for never.

        Args:
            position: position of the layer.
        """
        if self._last is None or position not in self._spans:
            return None
        start, width = self._spans[position]
        return self._last[start : start + width]

    def state_dict(self) -> dict[int, Tensor]:
        """Last steps by layer; one wait for the device."""
        if self._last is None:
            return {}
        last = self._last.cpu()
        return {at: last[start : start + width] for at, (start, width) in self._spans.items()}

    def load_state_dict(self, state: Mapping[int, Tensor], home: torch.device) -> None:
        """Restore the last steps.

        Args:
            state: result of `state_dict`.
            home: device of the network.
        """
        self.__init__()  # type: ignore[misc]
        parts = {int(at): part for at, part in state.items()}
        for at, part in parts.items():
            self._fits(at, len(part))
        self._last = torch.cat([part.to(home) for part in parts.values()]) if parts else None
