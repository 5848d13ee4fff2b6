"""Where rows lie in a network: its inputs and what its layers make of them, as unit vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from gendebug_torch.influences.methods.sketch import sketch
from gendebug_torch.model.batches import leaves
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_of

# Layers that are looked at, from the input to the last, and values that are kept of each.
_LAYERS, _WIDTH = 4, 1024


@contextlib.contextmanager
def layer_inputs(model: Model) -> Iterator[dict[str, Tensor]]:
    """A dict that each pass of the model fills with the inputs of its layers with weights.

    They stand in the order in which the layers were called, by name. A plain callable, or a
    compiled or quantized network, shows none.

    Args:
        model: module or callable.
    """
    seen: dict[str, Tensor] = {}
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
                seen[name] = inputs[0].detach()

        hooks.append(module.register_forward_pre_hook(keep))

    hidden = not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule)
    for name, module in () if hidden else plain_module(model).named_modules():
        weights = module.parameters(recurse=False)
        if isinstance(module, nn.RNNBase) or any(weight.ndim > 1 for weight in weights):
            watch(name, module)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def plain_module(model: Any) -> Any:
    """The module that torch.compile wrapped, whose layers can be watched; others as they are."""
    return getattr(model, "_orig_mod", model)


@dataclass(frozen=True, eq=False)
class RowSpace:
    """Unit vectors of rows: the inputs of some layers, each centred and scaled, side by side.

    The product of two of them is the mean over the layers of their cosines.

    Args:
        model: network.
        layers: names of the layers; without any, the inputs of the network are used.
        tokens: whether the network reads token ids, of which positions are averaged.
        centers: mean of each layer over training rows, `[w]` each.
        scales: what each layer is divided by, `[w]` each.
    """

    model: Model
    layers: tuple[str, ...]
    tokens: bool
    centers: tuple[Tensor, ...] = ()
    scales: tuple[Tensor, ...] = ()

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Vectors `[b, w]` and logits `[b]` or `[b, k]` of a batch."""
        values, logits = self._values(inputs)
        units = [
            normalize((value - center.to(value)) / scale.to(value), dim=1)
            for value, center, scale in zip(values, self.centers, self.scales, strict=True)
        ]
        return torch.cat(units, 1) / len(units) ** 0.5, logits

    def _values(self, inputs: Any) -> tuple[list[Tensor], Tensor]:
        """What each layer is given, `[b, w]` each, and the logits."""
        model = plain_module(self.model)
        with layer_inputs(model) as seen:
            logits = logits_of(model, inputs)
        layers = [seen[name] for name in self.layers] or [
            part.flatten(1) for part in leaves(inputs)
        ]
        return [_flat(layer, averaged=self.tokens) for layer in layers], logits


def row_space(model: Model, inputs: Any, *, columns: bool) -> RowSpace:
    """The space of rows of a network, centred at some training rows.

    Args:
        model: network in evaluation mode.
        inputs: inputs of some training rows, on its device.
        columns: whether the inputs are columns of a table, each with a unit of its own.
    """
    rows = len(next(leaves(inputs)))
    with layer_inputs(plain_module(model)) as seen:
        logits_of(plain_module(model), inputs)
    names = [name for name, value in seen.items() if len(value) == rows]
    picked = torch.linspace(0, max(0, len(names) - 1), min(_LAYERS, len(names))).round().long()
    tokens = not any(part.is_floating_point() for part in leaves(inputs))
    bare = RowSpace(model, tuple(names[at] for at in picked.tolist()), tokens)
    values, _ = bare._values(inputs)
    scales = [torch.ones_like(value[0]) for value in values]
    if columns:
        spread = values[0].std(0)
        scales[0] = torch.where(spread > 0, spread, torch.ones_like(spread))
    return RowSpace(
        model, bare.layers, tokens, tuple(value.mean(0) for value in values), tuple(scales)
    )


def _flat(values: Tensor, *, averaged: bool) -> Tensor:
    """`[b, w]` floats: positions averaged where texts have them, pictures made smaller."""
    if values.ndim == 3 and averaged:
        values = values.float().mean(1)
    elif values.ndim == 4 and values[0].numel() > _WIDTH:
        side = max(1, int((_WIDTH / values.shape[1]) ** 0.5))
        height, width = (min(side, size) for size in values.shape[2:])
        values = adaptive_avg_pool2d(values.float(), (height, width))
    flat = values.float().flatten(1)
    return sketch(flat, _WIDTH) if flat.shape[1] > 2 * _WIDTH else flat
