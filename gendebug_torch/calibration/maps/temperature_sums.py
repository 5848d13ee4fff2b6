"""The temperature from sums that add over batches and ranks, for where all logits never meet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature import LabeledRows
from gendebug_torch.calibration.model_outputs import Chunk, validated

# 1 / T at which the derivatives are kept: T from 1/8 to 8.
GRID = tuple(2.0**power for power in range(-3, 4))


@dataclass(frozen=True, eq=False)
class TemperatureSums:
    """Derivatives of the log loss in 1 / T at seven places; adds over batches and ranks.

    Args:
        sums: `[7, 3]` float64: gradient, curvature and squared row gradients, summed over rows.
    """

    sums: Tensor

    def __add__(self, other: TemperatureSums) -> TemperatureSums:
        return TemperatureSums(self.sums + other.sums)

    def temperature(self) -> tuple[float, float]:
        """T and its standard error, to about a thousandth; NaN where T lies outside 1/8 to 8.

        The gradient is interpolated between the two places around its root by the cubic that has
        its slopes.
        """
        gradient, curvature, squared = self.sums.unbind(1)
        upper = int((gradient < 0).sum())
        if upper in (0, len(GRID)) or not bool((curvature > 0).all()):
            return math.nan, math.nan
        ends = slice(upper - 1, upper + 1)
        places = torch.tensor(GRID, dtype=torch.float64)[ends]
        # In x = log2(1 / T) the places are 1 apart and the slope of the gradient is b log(2) h.
        (y0, y1), (d0, d1) = (
            gradient[ends].tolist(),
            (curvature[ends] * places * math.log(2)).tolist(),
        )
        low, high = 0.0, 1.0
        for _ in range(50):
            t = (low + high) / 2
            value = (
                (1 + 2 * t) * (1 - t) ** 2 * y0
                + t * (1 - t) ** 2 * d0
                + t**2 * (3 - 2 * t) * y1
                - t**2 * (1 - t) * d1
            )
            low, high = (t, high) if value < 0 else (low, t)
        b = float(places[0]) * 2**low
        bent, noise = (
            float((1 - low) * part[ends][0] + low * part[ends][1]) for part in (curvature, squared)
        )
        return 1 / b, math.sqrt(noise) / bent / b**2


def temperature_sums(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    most_rows: int | None = None,
) -> TemperatureSums:
    """The sums of some rows, `[n, k]` or `[n]` logits with `[n]` class ids, or dense ones.

    Args:
        logits: as `fit_temperature` takes them.
        targets: one class id per row or position.
        weights: shaped like targets.
        ignore_index: target of rows that do not count.
        most_rows: read about this many evenly spaced rows in place of all; each stands for those it
            skips, and the standard error grows as it must.

    Raises:
        InputError: as `fit_temperature`.

    Cost: one read of the logits that are read, `n k` exponentials and some ten passes more per
    place.
    """
    validated(logits, targets, weights, ignore_index)
    step = 1 if most_rows is None else max(1, math.ceil(targets.numel() / most_rows))
    rows = LabeledRows(logits, targets, weights, ignore_index).every(step)
    sums = torch.zeros(len(GRID), 3, dtype=torch.float64, device=logits.device)
    for chunk in rows.chunks():
        sums += _derivatives(chunk)
    if not bool(sums.isfinite().all()):
        rows.refuse()
    return TemperatureSums(sums.cpu() * torch.tensor([step, step, step**2], dtype=torch.float64))


def _derivatives(chunk: Chunk) -> Tensor:
    """`[7, 3]` sums over the rows at each place; weights of the softmax at one are those before,
    squared.
    """
    shifted = chunk.logits - chunk.logits.amax(1, keepdim=True)
    own = shifted.gather(1, chunk.targets[:, None])[:, 0].double()
    weight = (shifted * GRID[0]).exp_()
    # A masked class has weight 0, which times -inf is no number.
    product = torch.empty_like(shifted.clamp_(min=-1e4))
    found = []
    for _ in GRID:
        mass = weight.sum(1).double()
        mean = torch.mul(weight, shifted, out=product).sum(1).double() / mass
        gradient = mean - own
        rows = torch.stack(
            [
                gradient,
                product.mul_(shifted).sum(1).double() / mass - mean.square(),
                gradient.square(),
            ]
        )
        if chunk.weights is not None:
            rows = torch.where(chunk.weights > 0, rows * chunk.weights, 0.0)
        found.append(rows.sum(1))
        weight.square_()
    return torch.stack(found)
