"""Where two networks begin to differ: the first tensor of their states, or the first module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.shift.serving.explanations import as_fed


def first_difference(model: Any, served: Any, inputs: Tensor, tolerance: float) -> str:
    """The first thing that differs between two networks, in words; empty where nothing is known.

    Weights are compared by name, and where they are equal the outputs of modules of the same name,
    in the order in which the first network calls them. What a compiled or exported program does
    inside cannot be watched; of it only weights are compared.

    Args:
        model: one network.
        served: the other.
        inputs: a few rows.
        tolerance: largest difference that counts as equal, relative to the largest value.

    Example:
        >>> first, second = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> _ = second.load_state_dict(first.state_dict())
        >>> _ = second.bias.data.add_(1.0)
        >>> first_difference(first, second, torch.ones(3, 2), 1e-4)
        'weights `bias` (largest difference 1)'
    """
    if not (isinstance(model, nn.Module) and isinstance(served, nn.Module)):
        return ""
    own, other = model.state_dict(), served.state_dict()
    for name, weight in own.items():
        if name not in other:
            continue
        if other[name].shape != weight.shape:
            shapes = f"{list(weight.shape)} against {list(other[name].shape)}"
            return f"weights `{name}` (shape {shapes})"
        if gap := _gap(weight, other[name], tolerance):
            return f"weights `{name}` (largest difference {gap:.3g})"
    if any(isinstance(network, torch.jit.ScriptModule) for network in (model, served)):
        return ""
    before, after = _answers(model, inputs), _answers(served, inputs)
    for name, answer in before.items():
        if name not in after:
            continue
        if after[name].shape != answer.shape:
            return f"module `{name}` (its outputs have another shape)"
        if gap := _gap(answer, after[name], tolerance):
            return f"module `{name}` (largest difference {gap:.3g})"
    return ""


def _gap(a: Tensor, b: Tensor, tolerance: float) -> float:
    """Largest difference where it is beyond the tolerance, else 0."""
    if not a.numel():
        return 0.0
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    gap = float((a - b).abs().max())
    return gap if not gap <= tolerance * (1e-12 + float(a.abs().max())) else 0.0


def _answers(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Outputs of every module that returns a tensor, by name, in the order of the calls."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, answer: Any) -> None:
            if isinstance(answer, Tensor):
                found.setdefault(name, answer.clone())

        return hook

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in network.named_modules()
        if name and not list(module.children())
    ]
    try:
        with torch.no_grad():
            network(as_fed(network, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return found
