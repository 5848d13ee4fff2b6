"""The temperature from sums that add over batches and ranks, where all logits never meet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature import validate_loss
from gendebug_torch.calibration.rows.model_outputs import Chunk, labeled_outputs

# 1 / T at which the derivatives are evaluated: T from 1/8 to 8.
GRID = tuple(2.0**power for power in range(-3, 4))


@dataclass(frozen=True, eq=False)
class TemperatureSums:
    """Derivatives of the log loss in 1 / T at seven grid points; adds over batches and ranks.

    Args:
        sums: sums over rows `[7, 3]` float64 of gradient, curvature and squared row gradients.
    """

    sums: Tensor

    def __add__(self, other: TemperatureSums) -> TemperatureSums:
        return TemperatureSums(self.sums + other.sums)

    def temperature(self) -> tuple[float, float]:
        """T and its standard error, to about a thousandth; NaN where T lies outside 1/8 to 8.

        The gradient is interpolated between the two grid points around its root by the cubic that
        has its slopes there.
        """
        gradient, curvature, squared = self.sums.unbind(1)
        upper = int((gradient < 0).sum())
        if upper in (0, len(GRID)) or not bool((curvature > 0).all()):
            return math.nan, math.nan
        ends = slice(upper - 1, upper + 1)
        points = torch.tensor(GRID, dtype=torch.float64)[ends]
        # In x = log2(1 / T) the points are 1 apart and the slope of the gradient is b log(2) h.
        slopes = curvature[ends] * points * math.log(2)
        x = _cubic_root(gradient[ends], slopes)
        b = float(points[0]) * 2**x
        curvature_at, squared_at = (
            float((1 - x) * part[ends][0] + x * part[ends][1]) for part in (curvature, squared)
        )
        return 1 / b, math.sqrt(squared_at) / curvature_at / b**2


def temperature_sums(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    max_rows: int | None = None,
) -> TemperatureSums:
    """The sums of some rows, `[n, k]` or `[n]` logits with `[n]` class ids, or dense ones.

    Args:
        logits: logits as `fit_temperature` takes them.
        targets: one class id per row or position.
        weights: weights shaped like the targets.
        ignore_index: target of rows that do not count.
        max_rows: number of evenly spaced rows to read in place of all; each counts for those it
            skips, and the standard error grows accordingly.

    Raises:
        InputError: as `fit_temperature`.

    Cost: one read of those logits, `n k` exponentials and some ten passes more per grid point.
    """
    step = 1 if max_rows is None else max(1, math.ceil(targets.numel() / max_rows))
    rows = labeled_outputs(logits, targets, weights, ignore_index).every(step)
    sums = torch.zeros(len(GRID), 3, dtype=torch.float64, device=logits.device)
    for chunk in rows.chunks():
        sums += _derivatives(chunk)
    if not bool(sums.isfinite().all()):
        validate_loss(rows)
    return TemperatureSums(sums.cpu() * torch.tensor([step, step, step**2], dtype=torch.float64))


def _derivatives(chunk: Chunk) -> Tensor:
    """`[7, 3]` sums over the rows at each grid point.

    The weights of the softmax at one grid point are those at the point before, squared.
    """
    shifted = chunk.logits - chunk.logits.amax(1, keepdim=True)
    own = chunk.at_target(shifted).double()
    weight = (shifted * GRID[0]).exp_()
    # A masked class has weight 0, which times -inf is no number.
    product = torch.empty_like(shifted.clamp_(min=-1e4))
    sums = []
    for _ in GRID:
        mass = weight.sum(1).double()
        mean = torch.mul(weight, shifted, out=product).sum(1).double() / mass
        gradient = mean - own
        variance = product.mul_(shifted).sum(1).double() / mass - mean.square()
        rows = torch.stack([gradient, variance, gradient.square()])
        sums.append(chunk.weighted(rows).sum(1))
        weight.square_()
    return torch.stack(sums)


def _cubic_root(values: Tensor, slopes: Tensor) -> float:
    """Root in [0, 1] of the cubic with these `[2]` values (-, +) and slopes at its ends."""
    (y0, y1), (d0, d1) = values.tolist(), slopes.tolist()
    low, high = 0.0, 1.0
    for _ in range(50):
        t = (low + high) / 2
        from_start = (1 + 2 * t) * (1 - t) ** 2 * y0 + t * (1 - t) ** 2 * d0
        value = from_start + t**2 * (3 - 2 * t) * y1 - t**2 * (1 - t) * d1
        low, high = (t, high) if value < 0 else (low, t)
    return low
