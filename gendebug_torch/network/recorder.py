"""`NetworkRecorder`: norms, shares and losses of a training, sampled on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gendebug_torch.network.evidence import MEASURES, SERIES
from gendebug_torch.network.module_hooks import ModuleHooks, watched_modules

# Sampled steps that are kept; beyond, every second one goes and the distance doubles.
_MOST_ROWS = 1024
# Batches whose targets say what a constant prediction loses: of a target per row, and of more.
_TARGETS, _DENSE_TARGETS = 64, 8
# The first steps are all sampled: what is wrong from the start shows there.
_FIRST = 5
# Different orders of calls that are kept, and the distance of their codes.
_MOST_PATTERNS, STRIDE = 64, 2**16
# Steps whose outputs are judged together.
_HELD = 16
NORMS = ("gradient_norm", "weight_norm", "update_norm")
SHARES = tuple(name for name in MEASURES if name not in NORMS)
_STATE = ("step", "every", "steps", "rates", "with_gradient", "backwards", "rows_of_batch")
_HALF = (torch.float16, torch.bfloat16)


class FiniteOutputs:
    """The first output of a module that was not finite, kept on the device.

    Sums of outputs are held until several steps are judged together.

    Attributes:
        first: step and code of the first one, `[2]`, -1 where there was none; None before a step.
        patterns: positions of modules in the order of their calls; a code is the number of its
            pattern times `STRIDE` and the index in it.
    """

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.patterns: list[list[int]] = []
        self._sums: list[Tensor] = []
        # Step of the first held sums, and their pattern.
        self._since = 0, 0

    def add(self, step: int, positions: list[int], sums: list[Tensor]) -> None:
        """Hold the sums of a step.

        Args:
            step: optimizer step.
            positions: positions of the modules that were called; -1 for the inputs.
            sums: sum over the output of each.
        """
        if not sums:
            return
        if positions not in self.patterns:
            if len(self.patterns) >= _MOST_PATTERNS:
                return
            self.patterns.append(positions)
        pattern = self.patterns.index(positions)
        if self._since != (step - len(self._sums), pattern) or len(self._sums) >= _HELD:
            self.judge()
            self._since = step, pattern
        self._sums.append(_stacked(sums))

    def judge(self) -> None:
        """Look for the first sum that is not finite among those held."""
        if not self._sums:
            return
        (since, pattern), modules = self._since, len(self._sums[0])
        bad = ~torch.cat(self._sums).isfinite()
        at, self._sums = bad.int().argmax(), []
        now = torch.stack([since + at // modules, pattern * STRIDE + at % modules])
        now = torch.where(bad.any(), now, -1)
        first = now if self.first is None else self.first.to(now.device)
        self.first = torch.where(first[0] >= 0, first, now)

    def state_dict(self) -> dict[str, Any]:
        """What was found so far; one wait for the device."""
        self.judge()
        first = None if self.first is None else self.first.cpu()
        return {"first_bad": first, "patterns": [list(pattern) for pattern in self.patterns]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what was found.

        Args:
            state: result of `state_dict`.
        """
        self.first = state["first_bad"]
        self.patterns = [list(pattern) for pattern in state["patterns"]]


class NetworkRecorder:
    """Watches a network and its optimizer by hooks; no step waits for the device.

    Each sampled step adds one row: the norms of gradient, weights and update of every parameter,
    the measures of the modules and of the run. A copy of the parameters is kept during a sampled
    step.

    Args:
        model: network.
        optimizers: optimizers; the first one counts the steps.
        every: steps from one sample to the next; the first five are all sampled.

    Attributes:
        step: optimizer steps so far, those before the record as well.
        steps: sampled steps.
        rows: one Tensor per sampled step, `[3 p + 6 m + 7]`.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], *, every: int = 10
    ) -> None:
        self.model, self.optimizers, self.every = model, list(optimizers), every
        modules, blind = watched_modules(model)
        self.hooks = ModuleHooks(modules, blind)
        self.blind = blind
        self.parameters = dict(model.named_parameters())
        self.step = 0
        self.steps: list[int] = []
        self.rates: list[float] = []
        self.rows: list[Tensor] = []
        self.with_gradient: list[str] = []
        self.backwards = self.rows_of_batch = 0
        self.start_loss: Tensor | None = None
        self.targets: list[Tensor] = []
        self.finite = FiniteOutputs()
        self._loss: tuple[Tensor, int] | None = None
        self._before: list[Tensor] = []
        self._counts: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Register the hooks, and begin the next step."""
        self.hooks.attach()
        self._handles.append(self.optimizers[0].register_step_post_hook(self._stepped))
        owners = {
            id(parameter): position
            for position, (_, module) in enumerate(self.hooks.modules)
            for parameter in module._parameters.values()
        }
        for name, parameter in self.parameters.items():
            if parameter.requires_grad and parameter.is_leaf:
                arrived = partial(self._arrived, name, owners.get(id(parameter), -1))
                register: Any = parameter.register_post_accumulate_grad_hook
                self._handles.append(register(arrived))
        self._begin()

    def detach(self) -> None:
        """Remove every hook, and the copy of the parameters."""
        self.hooks.detach()
        # A loop often breaks on a NaN before it steps.
        self.finite.add(self.step + 1, self.hooks.positions, self.hooks.sums)
        for handle in self._handles:
            handle.remove()
        self._handles, self._before = [], []

    def add_loss(self, loss: Tensor, targets: Any = None) -> None:
        """Hold the loss of a batch; the targets count before the first update alone.

        Args:
            loss: loss, `[]` or one value per row.
            targets: targets of the batch.
        """
        mean = loss.detach().mean(dtype=torch.promote_types(loss.dtype, torch.float32))
        if self.step <= 1 and self.start_loss is None:
            # The first batch; a caller may hand its loss before or after the step.
            self.start_loss = mean
        most = _TARGETS if isinstance(targets, Tensor) and targets.ndim == 1 else _DENSE_TARGETS
        if isinstance(targets, Tensor) and len(self.targets) < most:
            self.targets.append(targets.detach().clone())
        total, count = self._loss or (0.0, 0)
        self._loss = mean + total, count + 1

    def _arrived(self, name: str, position: int, parameter: Tensor) -> None:
        """Count the gradients of a parameter in a sampled step; in float16 they may overflow."""
        if not self.hooks.armed:
            return
        self._counts[name] = self._counts.get(name, 0) + 1
        largest, gradient = self.hooks.cells.get(("half_gradient", position)), parameter.grad
        if largest is not None and gradient is not None:
            # NaN where it did, and else as it was.
            overflow = 0 * _values(gradient.detach()).sum()
            self.hooks.cells["half_gradient", position] = largest.maximum(overflow)

    @torch.no_grad()
    def _begin(self) -> None:
        step = self.step + 1
        armed = step <= _FIRST or step % self.every == 0
        self.hooks.begin_step(step, armed)
        self._counts = {}
        self._before = [p.detach().clone() for p in self.parameters.values()] if armed else []

    @torch.no_grad()
    def _stepped(self, *_: Any) -> None:
        self.step += 1
        self.finite.add(self.step, self.hooks.positions, self.hooks.sums)
        if self.hooks.armed and self._before:
            self._sample()
        self._begin()

    def _sample(self) -> None:
        """Add the row of this step."""
        home = next(iter(self.parameters.values())).device
        missing = torch.full((), torch.nan, device=home)
        norms = self._gradient_norms()
        cells = [norms.get(name, missing) for name in self.parameters]
        cells += _norms(self._before)
        torch._foreach_sub_(self._before, [p.detach() for p in self.parameters.values()])
        cells += _norms(self._before)
        seen = self.hooks.cells
        updates = dict(zip(self.parameters.values(), self._before, strict=True))
        seen |= _lost_updates(self.hooks.modules, updates)
        modules = range(len(self.hooks.modules))
        cells += [seen.get((name, at), missing) for name in SHARES for at in modules]
        seen["loss", -1] = self._loss[0] / self._loss[1] if self._loss else missing
        if norms:
            seen["gradient_norm", -1] = torch.linalg.vector_norm(_stacked(list(norms.values())))
        cells += [seen.get((name, -1), missing) for name in SERIES[:-1]]
        self.rows.append(_stacked(cells))
        self._close_sample()

    def _gradient_norms(self) -> dict[str, Tensor]:
        """Norms of the gradients that there are, by parameter."""
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        self.with_gradient += [name for name in gradients if name not in self.with_gradient]
        values = [_values(gradient) for gradient in gradients.values()]
        return dict(zip(gradients, _norms(values), strict=True))

    def _close_sample(self) -> None:
        """Note what the host knows of this step, and thin the rows where there are many."""
        self.steps.append(self.step)
        rate = self.optimizers[0].param_groups[0].get("lr", 0.0)
        self.rates.append(rate if isinstance(rate, float) else float("nan"))
        self.backwards = max(self.backwards, min(self._counts.values(), default=1))
        self.rows_of_batch, self._loss = self.hooks.rows, None
        if len(self.rows) > _MOST_ROWS:
            self.rows, self.steps, self.rates = self.rows[::2], self.steps[::2], self.rates[::2]
            self.every *= 2

    def state_dict(self) -> dict[str, Any]:
        """The record so far; one wait for the device."""
        state = {name: getattr(self, name) for name in _STATE}
        hooks = self.hooks
        return state | {
            "rows": torch.stack(self.rows).cpu() if self.rows else None,
            "start_loss": None if self.start_loss is None else self.start_loss.cpu(),
            "targets": [targets.cpu() for targets in self.targets],
            **self.finite.state_dict(),
            "last_active": {at: active.cpu() for at, active in hooks.last_active.items()},
            "order": dict(hooks.order),
            "calls": list(hooks.calls.values()),
            "single": list(hooks.single),
            "outputs": hooks.outputs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the record of a checkpoint of the same network.

        Args:
            state: result of `state_dict`.
        """
        home = next(iter(self.parameters.values())).device
        for name in _STATE:
            value = state[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)
        self.rows = [] if state["rows"] is None else list(state["rows"].to(home))
        self.targets = list(state["targets"])
        self.start_loss = None if state["start_loss"] is None else state["start_loss"].to(home)
        self.finite.load_state_dict(state)
        hooks, calls = self.hooks, iter(state["calls"])
        hooks.last_active = {int(at): part.to(home) for at, part in state["last_active"].items()}
        hooks.order = {int(at): order for at, order in state["order"].items()}
        hooks.calls = {key: next(calls) for key in hooks.calls}
        hooks.single, hooks.outputs = list(state["single"]), state["outputs"]


def _lost_updates(
    modules: list[tuple[str, nn.Module]], updates: Mapping[nn.Parameter, Tensor]
) -> dict[tuple[str, int], Tensor]:
    """Shares of the weights in half precision with a gradient that stay as they were."""
    shares = {}
    for position, (_, module) in enumerate(modules):
        for parameter in module._parameters.values():
            if parameter is None or parameter.dtype not in _HALF or parameter.ndim < 2:
                continue
            gradient = parameter.grad
            if gradient is not None and not gradient.is_sparse:
                pulled = gradient != 0
                share = (pulled & (updates[parameter] == 0)).sum() / pulled.sum()
                shares["lost_updates", position] = share
    return shares


def _values(gradient: Tensor) -> Tensor:
    """A gradient as a dense Tensor; of a sparse one its values."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(tensors)) if tensors else []


def _stacked(scalars: Sequence[Tensor]) -> Tensor:
    """Scalars as one Tensor `[s]`, whatever their types and devices."""
    first = scalars[0]
    if all(s.dtype == first.dtype and s.device == first.device for s in scalars):
        return torch.stack(list(scalars))
    return torch.stack([s.to(device=first.device, dtype=torch.float64) for s in scalars])
