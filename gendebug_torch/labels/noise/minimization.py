"""The scale and offsets of logits that minimize a loss, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# A penalty of a hundredth of a row pulls the scale to 1: separable classes have a finite fit. The
# offsets' prior is standard normal: free ones of classes with few rows would take labels by chance
# for noise.
_SCALE_RIDGE, _OFFSET_RIDGE = 0.01, 0.5
# Fits stop when a step gains less than this in nats over all rows: tests need no more.
_TOLERANCE = 1e-4
# Probabilities computed at once: what stays in the cache of a core, or what fills a device.
_HOST_CELLS, _DEVICE_CELLS = 2**16, 2**26

# Negative log-likelihood of some rows, its gradient by their calibrated logits `[k, m]`, and by the
# further parameters, from their probabilities `[k, m]`, the rows, and the further parameters. By
# class and not by row: a softmax over the two neighbours in memory takes ten times as long.
RowLoss = Callable[[Tensor, slice, Tensor], tuple[Tensor, Tensor, Tensor]]


def offset_penalty(offsets: Tensor) -> float:
    """Nats that offsets `[k]` cost."""
    return _OFFSET_RIDGE * float(offsets.square().sum())


def minimized(
    z: Tensor, start: Tensor, loss: RowLoss, *, iterations: int = 60, fixed_offsets: bool = False
) -> Tensor:
    """Parameters of least penalized loss: log scale, offsets `[k]` and further ones, in a vector.

    On the host, in units of each offset's standard error, since classes differ in rows; the loss is
    summed over blocks of rows.

    Source: Liu and Nocedal (1989), Math. Program. 45:503.

    Args:
        z: logits, `[n, k]` float64.
        start: parameters to start from, `[1 + k + j]` float64 on the host.
        loss: loss of some rows.
        iterations: most iterations.
        fixed_offsets: whether offsets stay as they start.
    """
    from scipy.optimize import minimize

    if not len(z):
        return start
    objective = _Objective(z, start, loss, fixed_offsets)
    first = (start * objective.units).numpy()
    tolerance = _TOLERANCE / max(abs(objective(first)[0]), 1.0)
    options: Any = {"maxiter": iterations, "ftol": tolerance, "gtol": 1e-3}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found) / objective.units


class _Objective:
    """Penalized loss and its gradient by parameters in units of their standard errors.

    Args:
        z: logits, `[n, k]` float64.
        start: parameters at which the standard errors are taken.
        loss: loss of some rows.
        fixed_offsets: whether offsets stay as they start.
    """

    def __init__(self, z: Tensor, start: Tensor, loss: RowLoss, fixed_offsets: bool) -> None:
        n, k = z.shape
        size = max(1, (_DEVICE_CELLS if z.device.type == "cuda" else _HOST_CELLS) // k)
        parts = (slice(i, i + size) for i in range(0, n, size))
        self._blocks = [(rows, z[rows].T.contiguous()) for rows in parts]
        self._loss, self._classes, self._fixed_offsets = loss, k, fixed_offsets
        point, mass = start.to(z.device), z.new_zeros(k)
        for _, block in self._blocks:
            share = self._probs(block, point)
            mass += (share * (1 - share)).sum(1)
        self.units = torch.full_like(start, n**0.5)
        self.units[1 : k + 1] = mass.clamp(min=1.0).sqrt().cpu()

    def _probs(self, block: Tensor, point: Tensor) -> Tensor:
        offsets = point[1 : self._classes + 1, None]
        return torch.addcmul(offsets, block, point[0].exp()).softmax(0)

    def __call__(self, scaled: Any) -> tuple[float, Any]:
        k, host = self._classes, torch.from_numpy(scaled) / self.units
        point = host.to(self._blocks[0][1].device)
        nats, slopes = torch.zeros_like(point[0]), torch.zeros_like(point)
        for rows, block in self._blocks:
            value, gradient, further = self._loss(self._probs(block, point), rows, point[k + 1 :])
            nats += value
            slopes[0] += gradient.flatten().dot(block.flatten()) * point[0].exp()
            slopes[1 : k + 1] += gradient.sum(1)
            slopes[k + 1 :] += further
        slope = slopes.cpu()
        slope[0] += 2 * _SCALE_RIDGE * host[0]
        slope[1 : k + 1] += 2 * _OFFSET_RIDGE * host[1 : k + 1]
        if self._fixed_offsets:
            slope[1 : k + 1] = 0
        penalty = _SCALE_RIDGE * float(host[0].square()) + offset_penalty(host[1 : k + 1])
        return float(nats) + penalty, (slope / self.units).numpy()
