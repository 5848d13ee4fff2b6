"""A model in evaluation mode for a while, and the promise to leave it as it was."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject

Model = Callable[..., Any]

# Buffers up to this size are restored where a forward pass writes into them; larger ones are taken
# for weights, which no forward pass in evaluation mode changes.
_LARGEST_BUFFER = 64 * 2**20


@contextlib.contextmanager
def evaluating(
    model: Model, *, device: torch.device | None = None, grad: bool = False
) -> Iterator[None]:
    """The model in evaluation mode with frozen parameters, restored on exit and after a failure.

    Restored are the mode of every submodule, `requires_grad`, `.grad`, buffers (of more than 64 MiB
    a write is warned of instead), hooks, the device, and the random states of Python, NumPy and
    torch (every device). Of a plain callable only the random states can be.

    Args:
        model: module or callable.
        device: device of the module meanwhile; None leaves it where it is.
        grad: whether gradients are wanted; parameters that were made under `inference_mode`, which
            allow none, are copies meanwhile.

    Raises:
        InputError: weights that are not in memory, or on several devices where one is given.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_states_restored())
        if isinstance(model, nn.Module):
            modules = list(model.modules())
            if grad:
                stack.enter_context(_differentiable(modules))
            stack.enter_context(on_device(model, device))
            stack.enter_context(_hooks_restored(modules))
            stack.enter_context(_buffers_restored(modules))
            stack.enter_context(_frozen(list(model.parameters())))
            stack.enter_context(_evaluation_mode(modules))
        yield


@contextlib.contextmanager
def random_states_restored() -> Iterator[None]:
    """Random states of Python, NumPy and torch that are afterwards what they were before."""
    state, numpy_state, torch_state = (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
    )
    cuda_states = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda_states = torch.cuda.get_rng_state_all()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@contextlib.contextmanager
def _differentiable(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Copies of parameters and buffers that were made under `inference_mode`."""
    tables: list[dict[str, Any]] = []
    for module in modules:
        tables += [module._parameters, module._buffers]
    held = [
        (table, name, value)
        for table in tables
        for name, value in table.items()
        if value is not None and not nn.parameter.is_lazy(value) and value.is_inference()
    ]
    try:
        for table, name, value in held:
            copy = value.clone()
            is_parameter = isinstance(value, nn.Parameter)
            table[name] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy
        yield
    finally:
        for table, name, value in held:
            table[name] = value


@contextlib.contextmanager
def on_device(model: Model, device: torch.device | None) -> Iterator[None]:
    """A module on a device meanwhile; None leaves it where it is, and a plain callable stays.

    Raises:
        InputError: weights that are not in memory, or on several devices where one is given.
    """
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    devices = sorted({str(parameter.device) for parameter in parameters})
    if isinstance(model, nn.Module) and (empty := _without_values(model)):
        remedy = "Run it on one batch first, or load its weights."
        reject("model", "weights in memory", f"`{empty}`, whose shape is not known yet", remedy)
    if "meta" in devices:
        reject(
            "model",
            "weights in memory",
            "parameters on the meta device",
            "Load them first: `to_empty`, then `load_state_dict`.",
        )
    if device is not None and len(devices) > 1:
        reject(
            "model",
            f"weights on one device, to be moved to {device}",
            f"some on {', '.join(devices)}",
            "Move it to one device.",
        )
    home = parameters[0].device if parameters else None
    try:
        if isinstance(model, nn.Module) and None not in (home, device) and home != device:
            model.to(device)
        yield
    finally:
        moved = home is not None and any(parameter.device != home for parameter in parameters)
        if moved and isinstance(model, nn.Module):
            model.to(home)


def _without_values(model: nn.Module) -> str:
    """Name of the first parameter or buffer of a lazy layer that saw no input; empty without."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((name for name, value in named if nn.parameter.is_lazy(value)), "")


@contextlib.contextmanager
def _hooks_restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    # The hooks of an exported program are empty lists that nothing can be added to.
    tables = [
        [table for key, table in vars(module).items() if key.endswith("_hooks")]
        for module in modules
    ]
    hooks = [(table, table.copy()) for row in tables for table in row if isinstance(table, dict)]
    try:
        yield
    finally:
        for table, entries in hooks:
            table.clear()
            table.update(entries)


@contextlib.contextmanager
def _buffers_restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Buffers with their names and values: some layers write or make them in a forward pass."""
    tables = [(module._buffers, dict(module._buffers)) for module in modules]
    held = [(n, b) for _, table in tables for n, b in table.items() if b is not None]
    values = {id(b): b.detach().clone() for _, b in held if b.nbytes <= _LARGEST_BUFFER}
    versions = {id(b): _version(b) for _, b in held}
    try:
        yield
    finally:
        for name, buffer in held:
            if id(buffer) not in values and _version(buffer) != versions[id(buffer)]:
                text = f"a forward pass wrote into the buffer `{name}`, which stays so: it is of"
                warnings.warn(f"{text} more than {_LARGEST_BUFFER >> 20} MiB", stacklevel=5)
        for table, before in tables:
            after = dict(table)
            for name in after.keys() - before.keys():
                del table[name]
            for name, value in before.items():
                table[name] = _as_before(value, after.get(name), values, versions)


def _as_before(
    buffer: Tensor | None,
    current: Tensor | None,
    values: Mapping[int, Tensor],
    versions: Mapping[int, int | None],
) -> Tensor | None:
    """A buffer with its value; where its module moved between devices, the one that is there."""
    if buffer is None:
        return None
    restored = buffer if current is None or current.device == buffer.device else current
    version = versions[id(buffer)]
    if id(buffer) in values and (version is None or _version(restored) != version):
        # torch lets nobody write into a tensor made under inference_mode elsewhere.
        with torch.no_grad(), torch.inference_mode(restored.is_inference()):
            restored.copy_(values[id(buffer)])
    return restored


def _version(tensor: Tensor) -> int | None:
    """Counter of writes into a tensor; None where torch keeps none."""
    return None if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    flags = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            # torch lets nobody set the flag of a tensor made under inference_mode back to True.
            if not parameter.is_inference():
                parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for parameter, (requires_grad, gradient) in zip(parameters, flags, strict=True):
            if not parameter.is_inference():
                parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


@contextlib.contextmanager
def _evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    # A frozen TorchScript module has no mode.
    modules = [module for module in modules if hasattr(module, "training")]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
