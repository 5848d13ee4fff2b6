"""The penultimate embedding of a network: what its last layer sees, taken in the same forward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import did_you_mean, reject

Wanted = str | Callable[..., Any] | None
# Wider embeddings are projected at random, which keeps distances to about 3 %.
_WIDEST = 4096
_PROJECTED = 1024


@contextlib.contextmanager
def embedding_of(model: Any, wanted: Wanted) -> Iterator[Callable[[Any], Tensor | None]]:
    """A function that gives the embedding `[n, e]` of the inputs that the model was fed last.

    Positions and channels between the first and the last axis are averaged. Its hooks are removed
    at the end.

    Args:
        model: network; of other callables there is no embedding unless `wanted` is a function.
        wanted: `auto`, the input of the linear layer that is called last; the name of a layer, its
            output; a function of the inputs; or None.

    Raises:
        InputError: no such layer.
    """
    if callable(wanted):
        function = wanted
        yield lambda inputs: _as_rows(_called(function, inputs))
        return
    seen: list[Any] = []
    handles = _hooked(model, wanted, seen) if wanted is not None else []

    def last(inputs: Any) -> Tensor | None:
        found = seen.pop() if seen else None
        return _as_rows(found)

    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def _hooked(model: Any, wanted: str, seen: list[Any]) -> list[Any]:
    """Hooks that leave in `seen` what the wanted layer was last fed or gave."""
    is_network = isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule)
    layers = dict(model.named_modules()) if is_network else {}
    if wanted == "auto":
        linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]

        def fed(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[:] = inputs[:1]

        return [layer.register_forward_pre_hook(fed) for layer in linear]
    if wanted not in layers:
        remedy = f"{did_you_mean(wanted, layers)}`model.named_modules()` lists them."
        reject("embedding", "`auto`, the name of a layer, a function or None", wanted, remedy)

    def gave(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[:] = [output[0] if isinstance(output, (tuple, list)) else output]

    return [layers[wanted].register_forward_hook(gave)]


def _called(function: Callable[..., Any], inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return function(**inputs)
    return function(*inputs) if isinstance(inputs, (tuple, list)) else function(inputs)


def _as_rows(found: Any) -> Tensor | None:
    """A tensor as one float32 vector per row; None of anything else."""
    if not isinstance(found, Tensor) or found.ndim < 2 or not found.is_floating_point():
        return None
    rows: Tensor = found.detach().float()
    if rows.ndim == 4:
        rows = rows.flatten(2).mean(2)
    elif rows.ndim > 2:
        rows = rows.flatten(1, -2).mean(1)
    if rows.shape[1] <= _WIDEST:
        return rows
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(rows.shape[1], _PROJECTED, generator=generator) / _PROJECTED**0.5
    projected: Tensor = rows @ projection.to(rows.device)
    return projected
