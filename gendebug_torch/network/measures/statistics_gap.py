"""`RunningStatistics`: the running statistics of BatchNorm against those of its batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Copies of the running statistics before a step, and what they say behind it.

    All layers are read at once; the batches themselves are not read.

    Args:
        norms: positions of the modules, and the modules.

    Attributes:
        calls: calls in training mode during the step, by position.
    """

    def __init__(self, norms: Sequence[tuple[int, _BatchNorm]]) -> None:
        self._norms = dict(norms)
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self.calls: dict[int, int] = {}

    def begin(self) -> None:
        """Copy the running statistics before the first call of a step."""
        self.calls = {}
        known = {at: pair for at, norm in self._norms.items() if (pair := _running(norm))}
        copies = [_copies([pair[k] for pair in known.values()]) for k in range(2)]
        self._before = dict(zip(known, zip(*copies, strict=True), strict=True))

    def drop(self) -> None:
        """Forget the copies."""
        self.calls, self._before = {}, {}

    def close(self) -> tuple[tuple[int, ...], Tensor | None]:
        """Positions of the layers that were called in training mode, and the gap of each.

        It is the mean over the channels of `|m - M| / S + |log(s / S)|` with the mean and standard
        deviation of the batches (m, s) and the running ones (M, S). Those of the batches follow
        from the running ones before and after: with momentum a and k calls these hold
        `1 - (1 - a)^k` of them, with a cumulative mean over n calls `k / n`.
        """
        alike: dict[tuple[float, float], list[int]] = {}
        for position, calls in self.calls.items():
            norm = self._norms[position]
            if position not in self._before or norm.momentum == 0:
                continue
            # A momentum of -1 stands for a cumulative mean, whose part is known on the device.
            kept = 1 - (1 - norm.momentum) ** calls if norm.momentum is not None else -1.0
            alike.setdefault((kept, norm.eps), []).append(position)
        gaps: dict[int, Tensor] = {}
        for (kept, eps), positions in alike.items():
            gaps |= zip(positions, self._gaps(positions, kept, eps), strict=True)
        self.drop()
        return tuple(gaps), torch.stack(list(gaps.values())) if gaps else None

    def _gaps(self, positions: list[int], kept: float, eps: float) -> list[Tensor]:
        """Gaps of layers whose running statistics hold the same part of the batches."""
        norms = [self._norms[at] for at in positions]
        pairs = [pair for norm in norms if (pair := _running(norm))]
        home, sizes = pairs[0][0].device, [len(pair[0]) for pair in pairs]
        before, after = (
            [torch.cat([pair[k].to(home) for pair in group]) for k in range(2)]
            for group in ([self._before[at] for at in positions], pairs)
        )
        part: float | Tensor = kept
        if kept < 0:
            calls = [
                (self.calls[at], norm.num_batches_tracked)
                for at, norm in zip(positions, norms, strict=True)
            ]
            parts = [k / n.clamp(min=k) for k, n in calls if n is not None]
            part = torch.cat([p.to(home).expand(n) for p, n in zip(parts, sizes, strict=True)])
        own, spread = (old + (new - old) / part for old, new in zip(before, after, strict=True))
        deviation = (after[1] + eps).sqrt()
        shift = (own - after[0]).abs() / deviation
        width = spread.clamp(min=0).sqrt() + eps**0.5
        gaps: Tensor = shift + (width / deviation).log().abs()
        return [gap.mean() for gap in torch.split(gaps, sizes)]


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of vectors; of those of one kind and device as views of one."""
    if len({(one.device, one.dtype) for one in tensors}) != 1:
        return [one.clone() for one in tensors]
    return list(torch.split(torch.cat(tensors), [len(one) for one in tensors]))


def _running(norm: _BatchNorm) -> tuple[Tensor, Tensor] | None:
    mean, variance = norm._buffers["running_mean"], norm._buffers["running_var"]
    return None if mean is None or variance is None else (mean, variance)
