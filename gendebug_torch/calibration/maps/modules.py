"""CalibrationMap maps of logits as modules, and a network with one behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.maps.isotonic import IsotonicMap
from gendebug_torch.calibration.maps.temperature import Temperature
from gendebug_torch.calibration.maps.top_label_map import TopLabelMap, top_label_mapped
from gendebug_torch.model.runner import output_tensor
from gendebug_torch.stats.logit_scaling import AffineFit

CalibrationMap = Temperature | AffineFit | TopLabelMap | IsotonicMap


class AffineModule(nn.Module):
    """`scale * logits + bias` along the class axis; 0-dimensional values act on all logits."""

    scale: Tensor
    bias: Tensor

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", bias.float())

    def forward(self, logits: Tensor) -> Tensor:
        """Mapped logits `[n]`, `[n, k]` or `[n, k, ...]`."""
        scale, bias = self.scale, self.bias
        if scale.ndim and logits.ndim > 2:
            scale, bias = (part.view(-1, *([1] * (logits.ndim - 2))) for part in (scale, bias))
        return logits * scale + bias


class TopLabelModule(nn.Module):
    """`TopLabelMap` as a module: a handful of tensor operations, exportable."""

    values: Tensor

    def __init__(self, fitted: TopLabelMap) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor([fitted.temperature, *fitted.coefficients]))

    def forward(self, logits: Tensor) -> Tensor:
        """Mapped logits `[n]` or `[n, k, ...]`."""
        temperature, a, b, m = self.values.unbind()
        return top_label_mapped(logits, temperature, a, b, m)


class IsotonicModule(nn.Module):
    """`IsotonicMap` as a module: one search among the steps."""

    steps: Tensor
    levels: Tensor

    def __init__(self, fitted: IsotonicMap) -> None:
        super().__init__()
        self.register_buffer("steps", fitted.steps.float())
        self.register_buffer("levels", fitted.levels.float())

    def forward(self, logits: Tensor) -> Tensor:
        """Mapped logits `[n]`, or `[n, 2]` whose first column is 0."""
        return IsotonicMap(self.steps, self.levels)(logits)


class CalibratedModel(nn.Module):
    """A network followed by a calibration map; inputs are passed through."""

    def __init__(self, model: nn.Module, calibration: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calibration = calibration

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Calibrated logits, in float32 at least, of whatever form the network's output has."""
        logits = output_tensor(self.model(*inputs, **named))
        if logits.dtype in (torch.float16, torch.bfloat16):
            # Rounded to few digits again, two classes could become equal and a prediction change.
            logits = logits.float()
        if logits.ndim > 1 and logits.shape[1] == 1:
            column: Tensor = self.calibration(logits.reshape(-1)).view(logits.shape)
            return column
        mapped: Tensor = self.calibration(logits)
        return mapped


def as_module(fitted: CalibrationMap) -> nn.Module:
    """A fitted map as an `nn.Module` on logits."""
    if isinstance(fitted, TopLabelMap):
        return TopLabelModule(fitted)
    if isinstance(fitted, IsotonicMap):
        return IsotonicModule(fitted)
    return AffineModule(*affine_parts(fitted))


def device_of_module(module: nn.Module) -> torch.device:
    """Device of the last parameter or buffer of a module, where its outputs are."""
    tensors = [*module.buffers(), *module.parameters()]
    return tensors[-1].device if tensors else torch.device("cpu")


def affine_parts(fitted: Temperature | AffineFit) -> tuple[Tensor, Tensor]:
    """Scale and bias of a temperature or an affine map."""
    if isinstance(fitted, AffineFit):
        return fitted.scale, fitted.bias
    return torch.tensor(1 / fitted.bounded), torch.tensor(0.0)
