"""Folding of an affine map of the logits into the layer that makes them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.maps.modules import device_of_module
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.batches import moved
from gendebug_torch.model.evaluation import evaluating
from gendebug_torch.model.runner import logits_of

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Largest difference of the folded logits, relative to the largest logit: rounding of float32 and no
# more.
_TOLERANCE = 1e-5


def fold_affine(model: nn.Module, scale: Tensor, bias: Tensor, probe: Any) -> nn.Module:
    """A copy of a network whose last linear or convolution layer gives `scale * logits + bias`.

    The layer is found by running `probe` and comparing each layer's output with the logits. `W' =
    scale W`, `b' = scale b + bias`; a layer without a bias gets one where it is needed.

    Args:
        model: network to logits; not changed.
        scale: float `[k]` or `[]`.
        bias: float `[k]` or `[]`.
        probe: some inputs of the network, on which the result is verified.

    Raises:
        UnsupportedError: the network is TorchScript, the logits are not the output of such a
            layer, it is used or its weights are shared elsewhere, or the folded network differs on
            the probe.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UnsupportedError(
            "a TorchScript module cannot be folded, since its weights may be constants; ship "
            "`.model` instead, or fold the network before it is scripted, traced or frozen"
        )
    folded = copy.deepcopy(model)
    probe = moved(probe, device_of_module(model))
    layer = _last_layer(folded, probe)
    with torch.no_grad():
        scales = scale.to(layer.weight).expand(layer.weight.shape[0])
        layer.weight.mul_(scales.view(-1, *([1] * (layer.weight.ndim - 1))))
        biases = bias.to(layer.weight).expand(layer.weight.shape[0])
        if layer.bias is not None:
            layer.bias.mul_(scales).add_(biases)
        elif bool((biases != 0).any()):
            layer.bias = nn.Parameter(biases.clone())
    _verify(model, folded, scale, bias, probe)
    return folded


def _last_layer(model: nn.Module, probe: Any) -> Any:
    """The layer whose output, up to reshaping, is what the network returns."""
    outputs: dict[nn.Module, list[Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda layer, _, out: outputs.setdefault(layer, []).append(out)
        )
        for module in model.modules()
        if isinstance(module, _LAYERS)
    ]
    try:
        with torch.no_grad(), evaluating(model):
            logits = logits_of(model, probe)
    finally:
        for handle in handles:
            handle.remove()
    for layer, calls in outputs.items():
        if len(calls) == 1 and _same_values(calls[0], logits):
            if _shares_weight(model, layer):
                raise UnsupportedError(
                    "the weights of the last layer are shared with another layer; ship `.model` "
                    "instead"
                )
            return layer
    raise UnsupportedError(
        "the logits are not the output of a linear or convolution layer; ship `.model` instead"
    )


def _same_values(output: Tensor, logits: Tensor) -> bool:
    return output.numel() == logits.numel() and torch.equal(
        output.reshape(-1).float(), logits.reshape(-1)
    )


def _shares_weight(model: nn.Module, layer: nn.Module) -> bool:
    return any(
        parameter is layer.weight
        for module in model.modules()
        if module is not layer
        for parameter in module.parameters(recurse=False)
    )


def _verify(model: nn.Module, folded: nn.Module, scale: Tensor, bias: Tensor, probe: Any) -> None:
    with torch.no_grad(), evaluating(model), evaluating(folded):
        before, after = logits_of(model, probe), logits_of(folded, probe)
    shape = (-1, *([1] * (before.ndim - 2)))
    scales, biases = (
        part.to(before).view(shape) if part.ndim else part.to(before) for part in (scale, bias)
    )
    expected = before * scales + biases
    error = float((after - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    if not error <= _TOLERANCE:
        raise UnsupportedError(
            f"the folded network differs by {error:.1e} of its largest logit on the probe; ship "
            "`.model` instead"
        )
