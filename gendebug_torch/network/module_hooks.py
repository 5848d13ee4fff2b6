"""Hooks of modules: outputs that are not finite, back-propagated gradients, units without any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

# Where an output of these lies, its derivative is below a twentieth of the largest: lowest and
# highest value beyond which they are flat.
_FLAT: Mapping[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-0.975, 0.975),
    nn.Softsign: (-0.8, 0.8),
    nn.Sigmoid: (0.013, 0.987),
    nn.Hardtanh: (-0.999999, 0.999999),
    nn.Hardsigmoid: (1e-6, 0.999999),
}
_FORM = ("loss_scale", "cross_entropy", "label_smoothing")
# Squared correlation from which a gradient is that of a cross-entropy.
FITS = 0.999
# Rows by which the form of the loss is read, and passes in which it is.
_FORM_ROWS, _FORMS = 1024, 16
# These give finite outputs of finite inputs; a NaN on their way in shows in the layer behind.
_FINITE = (
    *(nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softmax),
    *(nn.Identity, nn.Flatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool2d, _DropoutNd),
    *(_BatchNorm, nn.LayerNorm, nn.GroupNorm),
)
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


def owns_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters of its own."""
    return any(parameter is not None for parameter in module._parameters.values())


class ModuleHooks:
    """What the forward and the backward pass of a step show, kept on the device.

    A sum over the outputs is taken at every step, so that the first module with a NaN is known; the
    rest only while `armed`.

    Args:
        modules: watched modules by name.
        blind: names of those that run no hooks.

    Attributes:
        armed: whether the current step is sampled.
        cells: measures of the sampled step, by measure and position of the module.
        last_active: last step at which each unit of a module had a gradient, `[u]`.
        order: positions of the modules in the order of their first call.
        calls: calls of Dropout and BatchNorm by (with gradients, in training mode).
        silent: whether these are the hooks of a copy of the network.
        single: calls of BatchNorm in training with one row, and all.
        rows: rows of the first input of a step.
        outputs: units of the output of the last layer.
    """

    def __init__(self, modules: list[tuple[str, nn.Module]], blind: list[str]) -> None:
        self.modules, self._blind = modules, set(blind)
        self.armed, self.step, self.silent = True, 1, False
        self.cells: Cells = {}
        self.last_active: dict[int, Tensor] = {}
        self.order: dict[int, int] = {}
        self.calls = {(grad, mode): 0 for grad in (True, False) for mode in (True, False)}
        self.single = [0, 0]
        self.rows = self.outputs = 0
        self.sums: list[Tensor] = []
        self.positions: list[int] = []
        self._last_layer: tuple[int, Tensor] | None = None
        self._forms = 0
        # Running mean and variance of each BatchNorm before its next call.
        self._statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self._handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleHooks:
        """What a copy of the network gets: its hooks record nothing."""
        copy = ModuleHooks([], [])
        copy.silent = True
        return copy

    def attach(self) -> None:
        """Register the hooks."""
        for position, (name, module) in enumerate(self.modules):
            if name not in self._blind:
                hook = partial(self._forward, position)
                self._handles.append(module.register_forward_hook(hook))
                if any(True for _ in module.children()):
                    entered = partial(self._entered, position)
                    self._handles.append(module.register_forward_pre_hook(entered))

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def begin_step(self, step: int, armed: bool) -> None:
        """Forget the step before.

        Args:
            step: optimizer step that begins.
            armed: whether it is sampled.
        """
        self.step, self.armed = step, armed
        self.cells, self.sums, self.positions, self._last_layer = {}, [], [], None
        norms = enumerate(self.modules) if armed else ()
        self._statistics = {
            position: _running(module)
            for position, (_, module) in norms
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }

    def _entered(self, position: int, *_: Any) -> None:
        """Place a module with parts before them in the order of the calls."""
        if self.silent:
            return
        self.order.setdefault(position, len(self.order))

    def _forward(self, position: int, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.silent:
            return
        self.order.setdefault(position, len(self.order))
        grad = torch.is_grad_enabled()
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            self.calls[grad, module.training] += 1
        tensor = output if isinstance(output, Tensor) else first_tensor(output)
        if not grad or tensor is None or not tensor.is_floating_point():
            if position in self._statistics:
                self._statistics[position] = _running(module)
            return
        norm = isinstance(module, _BatchNorm)
        entry = first_tensor(inputs) if norm or not self.sums else None
        if not self.sums and entry is not None:
            self._first_input(entry)
        if not isinstance(module, _FINITE):
            self.sums.append(tensor.detach().sum(dtype=torch.float32))
            self.positions.append(position)
        if norm and module.training and entry is not None:
            self.single[0] += len(entry) == 1
            self.single[1] += 1
        if self.armed:
            self._measure(position, module, entry, tensor)

    def _first_input(self, entry: Tensor) -> None:
        self.rows = len(entry) if entry.ndim else 1
        values = entry.detach()
        self.sums.append(values.sum(dtype=torch.float32))
        self.positions.append(-1)
        if self.armed:
            self.cells["input_sum", -1] = self.sums[-1]
            self.cells["input_squares", -1] = values.float().square().sum()

    def _measure(
        self, position: int, module: nn.Module, entry: Tensor | None, output: Tensor
    ) -> None:
        for kind, (low, high) in _FLAT.items():
            if isinstance(module, kind):
                flat = (output.detach() < low) | (output.detach() > high)
                self.cells["saturated_share", position] = flat.float().mean()
        known = position in self._statistics
        if known and isinstance(module, _BatchNorm) and module.training and entry is not None:
            gap = statistics_gap(module, entry.detach(), self._statistics[position])
            if gap is not None:
                self.cells["statistics_gap", position] = gap
            self._statistics[position] = _running(module)
        if output.requires_grad and owns_parameters(module):
            if isinstance(module, (nn.Linear, _ConvNd)):
                self._last_layer = position, output.detach()
                self.outputs = output.shape[_unit_axis(module, output)]
            hook = partial(self._backward, position, module)
            output.register_hook(hook)  # type: ignore[no-untyped-call]

    def _backward(self, position: int, module: nn.Module, gradient: Tensor) -> None:
        gradient = gradient.detach()
        if not gradient.numel():
            return
        wide = torch.promote_types(gradient.dtype, torch.float32)
        self.cells["signal_norm", position] = torch.linalg.vector_norm(gradient, dtype=wide)
        if gradient.dtype is torch.float16:
            largest, cell = gradient.abs().amax().float(), ("half_gradient", position)
            self.cells[cell] = largest.maximum(self.cells.get(cell, largest))
        if not isinstance(module, (nn.Linear, _ConvNd)):
            return
        axis = _unit_axis(module, gradient)
        others = [at for at in range(gradient.ndim) if at != axis]
        active = (gradient.abs().amax(others) if others else gradient) != 0
        if position not in self.last_active:
            self.last_active[position] = torch.zeros_like(active, dtype=torch.int64)
        self.last_active[position].masked_fill_(active, self.step)
        self.cells["inactive_share", position] = 1 - active.float().mean()
        self._read_form(position, gradient, axis)

    def _read_form(self, position: int, gradient: Tensor, axis: int) -> None:
        """Read the form of the loss from the gradient of the last layer, in the first passes."""
        if self._last_layer is None or self._last_layer[0] != position or self._forms >= _FORMS:
            return
        self._forms += 1
        form = cross_entropy_form(self._last_layer[1], gradient, axis)
        for name, value in zip(_FORM, form, strict=True):
            self.cells[name, -1] = value


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


def statistics_gap(
    module: _BatchNorm, entry: Tensor, before: tuple[Tensor, Tensor]
) -> Tensor | None:
    """How far the running statistics of a BatchNorm are from those of a batch.

    It is the mean over the channels of `|m - M| / S + |log(s / S)|` with the mean and standard
    deviation of the batch (m, s) and the running ones (M, S); None where it keeps none. Those of
    the batch follow from the running ones before and after it.

    Args:
        module: BatchNorm after its forward.
        entry: its input, channels on axis 1.
        before: running mean and variance before.
    """
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None or entry.numel() == entry.shape[1]:
        return None
    if module.momentum:
        own, spread = (
            old + (new - old) / module.momentum
            for old, new in zip(before, (mean, variance), strict=True)
        )
    else:
        spread, own = torch.var_mean(entry.float(), [0, *range(2, entry.ndim)])
    deviation = (variance + module.eps).sqrt()
    shift = (own - mean).abs() / deviation
    width = spread.clamp(min=0).sqrt() + module.eps**0.5
    gap: Tensor = (shift + (width / deviation).log().abs()).mean()
    return gap


def _running(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Copies of the running mean and variance of a BatchNorm."""
    mean, variance = module._buffers["running_mean"], module._buffers["running_var"]
    return mean.clone(), variance.clone()  # type: ignore[union-attr]


def by_units(values: Tensor, axis: int) -> Tensor:
    """Values with the units of a layer as columns, `[n, u]`.

    Args:
        values: outputs of a layer or their gradient.
        axis: axis of the units.
    """
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])


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
        if owns_parameters(module) or isinstance(module, tuple(_FLAT)):
            yield position, name, module
