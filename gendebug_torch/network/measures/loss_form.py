"""The form of a loss, read from its gradient by the outputs of the last layer."""

from __future__ import annotations

import torch
from torch import Tensor

# Squared correlation from which a gradient is that of a cross-entropy.
FITS = 0.999
# Rows by which the form of the loss is read.
_FORM_ROWS = 1024


def cross_entropy_form(logits: Tensor, gradient: Tensor, axis: int) -> tuple[Tensor, ...]:
    """Factor and label smoothing of a mean cross-entropy with this gradient, and how well it fits.

    The gradient of `c` times the mean over n rows is `c / n (p - s / k)` over the classes that are
    not the target, with smoothing s of k classes: a line in the probabilities. Where they are too
    even for a line, s is taken to be 0.

    Args:
        logits: outputs of the last layer.
        gradient: gradient of the loss by them.
        axis: axis of the classes.

    Returns:
        `c`, the squared correlation (1 is exact) and `s`.
    """
    p, g = by_units(logits, axis), by_units(gradient, axis)
    rows, k = (g != 0).any(1).sum(), p.shape[1]
    p, g = p[:_FORM_ROWS].float().softmax(1), g[:_FORM_ROWS].float()
    labeled = (g != 0).any(1, keepdim=True)
    others = labeled.expand_as(g).scatter(1, g.argmin(1, keepdim=True), False)
    p, g = p * others, g * others
    slope, level, fit = _line(p, g, others)
    straight = fit > FITS
    even = (g * p).sum().square() / (g.square().sum() * p.square().sum()).clamp(min=1e-30)
    scale = rows * torch.where(straight, slope, g.sum() / p.sum().clamp(min=1e-30))
    smoothing = torch.where(straight, -k * level / slope, 0.0)
    return scale, torch.where(straight, fit, even), smoothing


def _line(x: Tensor, y: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, level at 0 and squared correlation of a line through the kept cells."""
    cells = kept.sum().clamp(min=1)
    mean, level = x.sum() / cells, y.sum() / cells
    spread, moved = (x - mean) * kept, (y - level) * kept
    product, square = (spread * moved).sum(), spread.square().sum()
    slope = product / square.clamp(min=1e-30)
    fit = product.square() / (square * moved.square().sum()).clamp(min=1e-30)
    return slope, level - slope * mean, fit


def by_units(values: Tensor, axis: int) -> Tensor:
    """Values with the units of a layer as columns, `[n, u]`.

    Args:
        values: outputs of a layer or their gradient.
        axis: axis of the units.
    """
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])
