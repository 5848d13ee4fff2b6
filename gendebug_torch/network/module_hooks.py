"""Hooks of modules: outputs that are not finite, back-propagated gradients, units without any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from gendebug_torch.network.measures.finite_outputs import stacked
from gendebug_torch.network.measures.loss_form import cross_entropy_form
from gendebug_torch.network.measures.module_kinds import FLAT, module_kind, owns_parameters
from gendebug_torch.network.measures.statistics_gap import RunningStatistics
from gendebug_torch.network.measures.unit_activity import UnitActivity

_FORM = ("loss_scale", "cross_entropy", "label_smoothing")
# Passes in which the form of the loss is read.
_FORMS = 16
# Modules whose outputs are looked at in steps that are not sampled: those that may make NaN of
# finite inputs, the others, and Dropout and BatchNorm. On a CPU a hook takes some 25 us.
_MOST, _MOST_STANDARD, _MOST_MODAL = 8, 2, 1
_HALF = (torch.float16, torch.bfloat16)
Cells = dict[tuple[str, int], Tensor]


def watched_modules(model: nn.Module) -> tuple[list[tuple[str, nn.Module]], list[str]]:
    """Modules that own parameters, saturate or are leaves, by dotted name; and those left out.

    The inside of a compiled module runs no hooks: it is left out.

    Args:
        model: network.
    """
    named = list(model.named_modules())
    compiled = [
        name
        for name, module in named
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
    ]
    # What a metric computes is no part of the network.
    metrics = [name for name, module in named if _is_metric(module)]
    watched = [
        (name or type(module).__name__, module)
        for name, module in named
        if (owns_parameters(module) or not any(True for _ in module.children()))
        and not _inside(name, metrics)
    ]
    return watched, [name for name, _ in watched if _inside(name, compiled)]


def _inside(name: str, roots: list[str]) -> bool:
    return any(not root or name == root or name.startswith(f"{root}.") for root in roots)


def _is_metric(module: nn.Module) -> bool:
    return any(kind.__module__.startswith("torchmetrics.") for kind in type(module).__mro__)


class ModuleHooks:
    """What the forward and the backward pass of a step show, kept on the device.

    In sampled steps every watched module has its hooks. In the others a few have, whatever the
    size of the network: a sum over their outputs finds the first NaN, and calls of Dropout and
    BatchNorm without gradients are counted.

    Args:
        modules: watched modules by name.
        blind: names of those that run no hooks.

    Attributes:
        armed: whether the current step is sampled.
        cells: measures of the sampled step, by measure and position of the module.
        activity: when each unit of a layer last had a gradient.
        order: positions of the modules in the order of their first call.
        calls: calls of Dropout and BatchNorm by (with gradients, in training mode).
        inference: steps with such calls in training mode without gradients, and all steps.
        silent: whether these are the hooks of a copy of the network.
        halves: whether a gradient in float16 was seen.
        single: calls of BatchNorm in training with one row, and all.
        rows: rows of the first input of a step.
        outputs: units of the output of the last layer.
    """

    def __init__(self, modules: list[tuple[str, nn.Module]], blind: list[str]) -> None:
        self.modules, self._blind = modules, set(blind)
        self.armed, self.step, self.silent = False, 1, False
        self.cells: Cells = {}
        self.activity = UnitActivity()
        self.order: dict[int, int] = {}
        self.calls = {(grad, mode): 0 for grad in (True, False) for mode in (True, False)}
        self.inference, self._inferred = [0, 0], False
        self.single, self.halves = [0, 0], False
        self.rows = self.outputs = 0
        self.sums: list[Tensor] = []
        self.positions: list[int] = []
        # Positions of the modules whose outputs are summed in this step.
        self._summed: set[int] = set()
        self._first_leaf = -1
        self._last_layer: tuple[int, Tensor] | None = None
        self._forms = 0
        self.kinds = [module_kind(module) for _, module in modules]
        norms = [(at, norm) for at, (_, norm) in enumerate(modules) if isinstance(norm, _BatchNorm)]
        self._statistics = RunningStatistics(norms)
        self._handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleHooks:
        """What a copy of the network gets: its hooks record nothing."""
        copy = ModuleHooks([], [])
        copy.silent = True
        return copy

    def _attach(self) -> None:
        """Register the hooks of the step that begins."""
        few, self._summed, self._first_leaf = _few(self)
        if self.armed:
            kinds = enumerate(self.kinds)
            few = [at for at, kind in kinds if kind.measured or at not in self.order]
            self._summed = {at for at in few if not self.kinds[at].finite}
        for position in few:
            name, module = self.modules[position]
            if name in self._blind:
                continue
            hook = partial(ModuleHooks._forward if self.armed else _forward_between, self, position)
            self._handles.append(module.register_forward_hook(hook))
            if self.armed and not self.kinds[position].leaf:
                entered = partial(self._entered, position)
                self._handles.append(module.register_forward_pre_hook(entered))

    def detach(self) -> None:
        """Remove the hooks."""
        remove(self._handles)
        self.armed = False

    def begin_step(self, step: int, armed: bool) -> None:
        """Forget the step before.

        Args:
            step: optimizer step that begins.
            armed: whether it is sampled.
        """
        if self.armed:
            # Where the optimizer steps between a forward pass and its backward pass, as that of a
            # discriminator does, gradients come behind the sampled step: the next one has them.
            self.cells = {}
        if step > self.step:
            self.inference[0] += self._inferred
            self.inference[1] += 1
        self._inferred = False
        self.step, self.sums, self.positions, self._last_layer = step, [], [], None
        if armed != self.armed or not self._handles:
            self.armed = armed
            remove(self._handles)
            self._attach()
        if armed:
            self._statistics.begin()

    def close_step(self) -> list[tuple[list[tuple[str, int]], Tensor]]:
        """Measures of a sampled step: names and positions, and a Tensor of their values."""
        found = []
        for name, (positions, values) in (
            ("inactive_share", self.activity.close(self.step)),
            ("statistics_gap", self._statistics.close()),
        ):
            if values is not None:
                found.append(([(name, position) for position in positions], values))
        if self.cells:
            found.append((list(self.cells), stacked(list(self.cells.values()))))
        return found

    def _entered(self, position: int, *_: Any) -> None:
        """Place a module with parts before them in the order of the calls."""
        if not self.silent:
            self.order.setdefault(position, len(self.order))

    def _forward(self, position: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.silent:
            return
        if position not in self.order:
            self.order[position] = len(self.order)
        grad, modal = torch.is_grad_enabled(), self.kinds[position].modal
        tensor = output if type(output) is Tensor else first_tensor(output)
        if modal and tensor is not None:
            self._count(position, module, grad, tensor.requires_grad)
        if not grad or tensor is None or not tensor.is_floating_point():
            return
        entry = first_tensor(inputs) if modal or self.armed or not self.sums else None
        if entry is not None and not self.sums:
            self._first_input(entry)
        if entry is not None and self.armed and not entry.requires_grad:
            self._add_input(entry.detach())
        if position in self._summed:
            self.sums.append(tensor.detach().sum(dtype=torch.float32))
            self.positions.append(position)
        elif modal and module.training and entry is not None and isinstance(module, _BatchNorm):
            self.single[0] += len(entry) == 1
            self.single[1] += 1
        if self.armed:
            self._measure(position, module, tensor)

    def _count(self, position: int, module: nn.Module, grad: bool, trains: bool) -> None:
        """Count a call of Dropout or BatchNorm; in a frozen part of a training no mode is wrong."""
        norm = isinstance(module, _BatchNorm)
        weight = module._parameters.get("weight") if norm else None
        if not grad or (trains and (weight is None or weight.requires_grad)):
            self.calls[grad, module.training] += 1
            self._inferred |= module.training and not grad
        if norm and self.armed and module.training:
            calls = self._statistics.calls
            calls[position] = calls.get(position, 0) + 1

    def _first_input(self, entry: Tensor) -> None:
        self.rows = len(entry) if entry.ndim else 1
        if entry.is_floating_point():
            self.sums.append(entry.detach().sum(dtype=torch.float32))
            self.positions.append(-1)

    def _add_input(self, entry: Tensor) -> None:
        """Add what comes from the data; a module may read positions or a mask before the rows."""
        values = entry if entry.is_floating_point() else entry.float()
        for name, value in (
            ("input_sum", values.sum(dtype=torch.float32)),
            ("input_norm", _norm(values)),
        ):
            known = self.cells.get((name, -1))
            self.cells[name, -1] = value if known is None else known + value

    def _measure(self, position: int, module: nn.Module, output: Tensor) -> None:
        flat = self.kinds[position].flat
        if flat is not None:
            # Comparisons of large Tensors are several times slower than these on a CPU.
            distance = output.detach() - flat[0] if flat[0] else output.detach()
            sign = distance.abs().sub_(flat[1]).sign_()
            self.cells["saturated_share", position] = 0.5 + 0.5 * sign.mean(dtype=torch.float32)
        if output.requires_grad and self.kinds[position].signal:
            if isinstance(module, (nn.Linear, _ConvNd)):
                self._last_layer = position, output.detach()
                self.outputs = output.shape[_unit_axis(module, output)]
            hook = partial(self._backward, position, module)
            output.register_hook(hook)  # type: ignore[no-untyped-call]

    def _backward(self, position: int, module: nn.Module, gradient: Tensor) -> None:
        gradient = gradient.detach() if gradient.requires_grad else gradient
        if not gradient.numel():
            return
        self.cells["signal_norm", position] = _norm(gradient)
        if gradient.dtype is torch.float16:
            self.halves = True
            largest, cell = gradient.abs().amax().float(), ("half_gradient", position)
            self.cells[cell] = largest.maximum(self.cells.get(cell, largest))
        if isinstance(module, (nn.Linear, _ConvNd)):
            axis = _unit_axis(module, gradient)
            self.activity.add(position, gradient, axis)
            self._read_form(position, gradient, axis)

    def _read_form(self, position: int, gradient: Tensor, axis: int) -> None:
        """Read the form of the loss from the gradient of the last layer, in the first passes."""
        if self._last_layer is None or self._last_layer[0] != position or self._forms >= _FORMS:
            return
        self._forms += 1
        form = cross_entropy_form(self._last_layer[1], gradient, axis)
        for name, value in zip(_FORM, form, strict=True):
            self.cells[name, -1] = value


def _forward_between(
    hooks: ModuleHooks, position: int, module: nn.Module, inputs: Any, output: Any
) -> None:
    """What a step needs that is not sampled, in as few operations as it takes."""
    if hooks.silent:
        return
    if not torch.is_grad_enabled():
        hooks._forward(position, module, inputs, output)
        return
    # Of token ids the outputs of the first module are looked at.
    first = position == hooks._first_leaf and not hooks.sums
    if first and (entry := first_tensor(inputs)) is not None:
        hooks._first_input(entry)
    if position in hooks._summed or (first and not hooks.sums):
        tensor = first_tensor(output)
        if tensor is not None and tensor.is_floating_point():
            hooks.sums.append(tensor.detach().sum(dtype=torch.float32))
            hooks.positions.append(position)


def remove(handles: list[RemovableHandle]) -> None:
    """Remove hooks, and empty the list.

    Args:
        handles: handles of the hooks.
    """
    for handle in handles:
        handle.remove()
    handles.clear()


def _few(hooks: ModuleHooks) -> tuple[list[int], set[int], int]:
    """Modules with a hook in steps that are not sampled, of those that were called.

    And those of them whose outputs are summed, and the first one, which shows the inputs.
    """
    called = sorted(hooks.order, key=hooks.order.__getitem__)
    kinds = {at: hooks.kinds[at] for at in called}
    checked = [at for at in called if not kinds[at].finite]
    summed = {
        *_spread([at for at in checked if not kinds[at].standard], _MOST),
        *_spread([at for at in checked if kinds[at].standard], _MOST_STANDARD),
        *checked[-1:],
    }
    modal = _spread([at for at in called if kinds[at].modal], _MOST_MODAL)
    first = next((at for at in called if kinds[at].leaf), -1)
    return sorted({first, *summed, *modal} - {-1}), summed, first


def _spread(positions: list[int], most: int) -> list[int]:
    """At most so many of these, the last one among them, at even distances."""
    count = max(min(most, len(positions)), 0)
    return [positions[(at + 1) * len(positions) // count - 1] for at in range(count)]


def _norm(values: Tensor) -> Tensor:
    """Norm of a Tensor, of half precision in float32."""
    dtype = torch.float32 if values.dtype in _HALF else None
    norm: Tensor = torch.linalg.vector_norm(values, dtype=dtype)
    return norm


def first_tensor(value: Any) -> Tensor | None:
    """The first Tensor of a nested value; None where there is none."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return value[0]
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(parts, (tuple, list)) and not isinstance(value, Mapping):
        return None
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    batched = isinstance(module, _ConvNd) and output.ndim == len(module.kernel_size) + 2
    if batched:
        return 1
    return 0 if isinstance(module, _ConvNd) else output.ndim - 1


def named_layers(hooks: ModuleHooks) -> Iterator[tuple[int, str, nn.Module]]:
    """Positions, names and modules that own parameters or saturate, in the order of calls.

    Modules that were not called come behind the one before them.
    """
    key: dict[int, tuple[float, int]] = {}
    before = -1.0
    for position in range(len(hooks.modules)):
        before = float(hooks.order.get(position, before))
        key[position] = before, position
    for position in sorted(key, key=lambda at: key[at]):
        name, module = hooks.modules[position]
        if owns_parameters(module) or isinstance(module, tuple(FLAT)):
            yield position, name, module
