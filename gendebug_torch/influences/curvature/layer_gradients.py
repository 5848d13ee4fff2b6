"""What single rows ask of the weights of each layer, from one forward pass and a few back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad, unfold

from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.runner import logits_of

State = Mapping[str, Tensor]
# From logits `[b, k]` to slopes `[c, b, k]` by them, of c losses.
Slopes = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LayerPass:
    """A layer in a pass of b rows, each at p positions (1 without any).

    The gradient of loss c of a row by the weights is the sum over p of `slopes` times `inputs`.

    Args:
        inputs: what the weights are multiplied with, `[b, p, i]`; 1 at the end for a bias.
        slopes: slopes of c losses by what the layer returns, `[c, b, p, o]`.
    """

    inputs: Tensor
    slopes: Tensor

    def gradients(self, loss: int = 0) -> Tensor:
        """`[b, o, i]` gradient of each row by the weights, bias last."""
        return torch.einsum("bpo,bpi->boi", self.slopes[loss], self.inputs)


def layer_passes(
    model: nn.Module, layers: Mapping[str, nn.Module], state: State, inputs: Any, slopes: Slopes
) -> dict[str, LayerPass]:
    """The layers in a pass of some rows, by name.

    Args:
        model: network in evaluation mode, so that rows do not touch each other.
        layers: linear and convolutional layers that are watched.
        state: weights in place of the network's own; may be empty.
        inputs: inputs of b rows.
        slopes: of which losses.

    Raises:
        UnsupportedError: inputs of a layer are written over later in the pass.
    """

    def called(*parts: Any, **named: Any) -> Any:
        return (
            functional_call(model, dict(state), parts, named) if state else model(*parts, **named)
        )

    with torch.enable_grad(), _watching(layers) as seen:
        logits = logits_of(called, inputs)
        outputs = [seen[name][1] for name in seen]
        flat = logits.reshape(len(logits), -1)
        wanted = slopes(flat.detach())
        found = [torch.autograd.grad(flat, outputs, one, retain_graph=True) for one in wanted]
    passes = {}
    for at, (name, (given, _, version)) in enumerate(seen.items()):
        if given._version != version:
            raise UnsupportedError(f"the input of `{name}` is written over in the forward pass")
        back = torch.stack([_positions(one[at], layers[name]) for one in found])
        passes[name] = LayerPass(_unfolded(given, layers[name]), back)
    return passes


def watchable_layers(model: Any, inputs: Any) -> dict[str, nn.Module]:
    """Linear and convolutional layers of which gradients of single rows can be read, by name.

    Left out are layers that are called never or twice in a pass, whose first axis is not that of
    the rows, and convolutions in groups or with a padding other than zeros.

    Args:
        model: network.
        inputs: some rows.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return {}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    layers = {name: m for name, m in layers.items() if isinstance(m, nn.Linear) or _plain(m)}
    calls: dict[str, list[int]] = {name: [] for name in layers}

    def count(name: str) -> Callable[..., None]:
        return lambda _, given, output: calls[name].append(len(output))

    hooks = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    try:
        rows = len(logits_of(model, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: layer for name, layer in layers.items() if calls[name] == [rows]}


def _plain(layer: nn.Module) -> bool:
    """Whether a convolution is a linear layer over patches."""
    groups, mode, padding = (getattr(layer, key) for key in ("groups", "padding_mode", "padding"))
    return groups == 1 and mode == "zeros" and not isinstance(padding, str)


@contextlib.contextmanager
def _watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor, int]]]:
    """A dict that a pass fills with input, output and version of the input of each layer."""
    seen: dict[str, tuple[Tensor, Tensor, int]] = {}

    def watch(name: str) -> Callable[..., Tensor]:
        def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            own = output if output.requires_grad else output.requires_grad_()
            seen[name] = given[0].detach(), own, given[0]._version
            # A copy, as an activation in place would write over what gradients are taken by.
            return own.clone()

        return keep

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _unfolded(given: Tensor, layer: nn.Module) -> Tensor:
    """`[b, p, i]` inputs of a layer as of a linear one, and 1 at the end for a bias."""
    if isinstance(layer, nn.Linear):
        flat = given.reshape(len(given), -1, given.shape[-1])
    else:
        line = isinstance(layer, nn.Conv1d)
        sizes = {
            key: getattr(layer, key) for key in ("kernel_size", "dilation", "padding", "stride")
        }
        if line:
            given = given[:, :, None]
            sizes = {key: (int(key != "padding"), *value) for key, value in sizes.items()}
        flat = unfold(given, **sizes).mT
    return pad(flat, (0, 1), value=1.0) if layer.bias is not None else flat


def _positions(values: Tensor, layer: nn.Module) -> Tensor:
    """`[b, p, o]` of what a layer returns."""
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])
    return values.flatten(2).mT
