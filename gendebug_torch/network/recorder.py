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
# Batches whose targets say what a constant prediction loses.
_TARGETS = 8
# The first steps are all sampled: what is wrong from the start shows there.
_FIRST = 5
# Different orders of calls that are kept, and the distance of their codes.
_MOST_PATTERNS, STRIDE = 64, 2**16
NORMS = ("gradient_norm", "weight_norm", "update_norm")
SHARES = tuple(name for name in MEASURES if name not in NORMS)
_STATE = ("step", "every", "steps", "rates", "with_gradient", "backwards", "rows_of_batch")


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
        step: optimizer steps so far.
        steps: sampled steps.
        rows: one Tensor per sampled step, `[3 p + 4 m + 6]`.
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
        # Step and code of the first output that was not finite, on the device.
        self.first_bad: Tensor | None = None
        self.patterns: list[list[int]] = []
        self._loss: list[Tensor] = []
        self._before: list[Tensor] = []
        self._counts: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Register the hooks, and begin the next step."""
        self.hooks.attach()
        self._handles.append(self.optimizers[0].register_step_post_hook(self._stepped))
        for name, parameter in self.parameters.items():
            if parameter.requires_grad and parameter.is_leaf:
                count = partial(self._count, name)
                register: Any = parameter.register_post_accumulate_grad_hook
                self._handles.append(register(count))
        self._begin()

    def detach(self) -> None:
        """Remove every hook, and the copy of the parameters."""
        self.hooks.detach()
        for handle in self._handles:
            handle.remove()
        self._handles, self._before = [], []

    def add_loss(self, loss: Tensor, targets: Any = None) -> None:
        """Hold the loss of a batch; the targets count before the first update alone.

        Args:
            loss: loss, `[]` or one value per row.
            targets: targets of the batch.
        """
        mean = loss.detach().mean()
        if self.step <= 1 and self.start_loss is None:
            # The first batch; a caller may hand its loss before or after the step.
            self.start_loss = mean.clone()
        if isinstance(targets, Tensor) and len(self.targets) < _TARGETS:
            self.targets.append(targets.detach().clone())
        total = self._loss[0] + mean if self._loss else mean.clone()
        count = self._loss[1] + 1 if self._loss else torch.ones_like(mean)
        self._loss = [total, count]

    def _count(self, name: str, parameter: Tensor) -> None:
        if self.hooks.armed:
            self._counts[name] = self._counts.get(name, 0) + 1

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
        self._note_finite()
        if self.hooks.armed and self._before:
            self._sample()
        self._begin()

    def _note_finite(self) -> None:
        """Keep the step and module of the first output that is not finite."""
        if not self.hooks.sums:
            return
        if self.hooks.positions not in self.patterns:
            if len(self.patterns) >= _MOST_PATTERNS:
                return
            self.patterns.append(self.hooks.positions)
        base = self.patterns.index(self.hooks.positions) * STRIDE
        bad = ~_stacked(self.hooks.sums).isfinite()
        code = torch.where(bad.any(), bad.int().argmax() + base, -1)
        now = torch.stack([torch.where(code >= 0, self.step, -1), code])
        if self.first_bad is None:
            self.first_bad = now
        else:
            known = self.first_bad.to(now.device)
            self.first_bad = torch.where(known[0] >= 0, known, now)

    def _sample(self) -> None:
        """Add the row of this step."""
        home = next(iter(self.parameters.values())).device
        missing = torch.full((), torch.nan, device=home)
        norms = self._gradient_norms()
        cells = [norms.get(name, missing) for name in self.parameters]
        cells += _norms(self._before)
        moved = zip(self.parameters.values(), self._before, strict=True)
        cells += _norms([parameter.detach() - before for parameter, before in moved])
        seen = self.hooks.cells
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
        self.rows_of_batch, self._loss = self.hooks.rows, []
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
            "first_bad": None if self.first_bad is None else self.first_bad.cpu(),
            "patterns": [list(pattern) for pattern in self.patterns],
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
        for name in ("start_loss", "first_bad"):
            setattr(self, name, None if state[name] is None else state[name].to(home))
        self.patterns = [list(pattern) for pattern in state["patterns"]]
        hooks, calls = self.hooks, iter(state["calls"])
        hooks.last_active = {int(at): part.to(home) for at, part in state["last_active"].items()}
        hooks.order = {int(at): order for at, order in state["order"].items()}
        hooks.calls = {key: next(calls) for key in hooks.calls}
        hooks.single, hooks.outputs = list(state["single"]), state["outputs"]


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
