"""`NetworkRecorder`: norms, shares and losses of a training, sampled on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gendebug_torch.network.evidence import MEASURES, SERIES
from gendebug_torch.network.measures.finite_outputs import FiniteOutputs, stacked
from gendebug_torch.network.measures.rows import SampledRows
from gendebug_torch.network.module_hooks import ModuleHooks, remove, watched_modules

# Samples from which on their distance doubles each time that the steps double.
_DENSE = 64
# Batches whose targets say what a constant prediction loses: of a target per row, and of more.
_TARGETS, _DENSE_TARGETS = 64, 8
# The first steps are all sampled: what is wrong from the start shows there.
_FIRST = 5
# Sampled steps in which backward passes are counted.
_PASSES = 16
# Losses that are held until they are added up.
_LOSSES = 64
NORMS = ("gradient_norm", "weight_norm", "update_norm")
SHARES = tuple(name for name in MEASURES if name not in NORMS)
_STATE = ("step", "every", "steps", "rates", "backwards", "rows_of_batch")
_HALF = (torch.float16, torch.bfloat16)
# Of matrices of so many rows and elements every eighth row is copied: reading memory takes time.
_TALL, _LARGE, _APART = 64, 2**15, 8


class NetworkRecorder:
    """Watches a network and its optimizer by hooks; no step waits for the device.

    Each sampled step adds one row: the norms of gradient, weights and update of every parameter,
    the measures of the modules and of the run. The parameters are copied at a sampled step, of
    large matrices every eighth row, by which the norms of weights and updates are estimated; on a
    CPU the copy stays, for large blocks of fresh memory cost ten times what copying does.

    Args:
        model: network.
        optimizers: optimizers; the first one counts the steps.
        every: steps between the first 64 samples; their distance doubles whenever the steps
            double after that. The first five steps are all sampled.

    Attributes:
        step: optimizer steps so far, those before the record as well.
        steps: sampled steps.
        rows: measures of the sampled steps.
        strides: distances of the rows of each parameter that are copied and read.
        with_gradient: positions of the parameters that ever had a gradient.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], *, every: int = 10
    ) -> None:
        self.model, self.optimizers, self.every = model, list(optimizers), every
        modules, blind = watched_modules(model)
        self.hooks = ModuleHooks(modules, blind)
        self.blind = blind
        self.parameters = dict(model.named_parameters())
        tables = (nn.Embedding, nn.EmbeddingBag)
        kept = {id(p) for m in model.modules() if isinstance(m, tables) for p in m.parameters()}
        # Of a table of embeddings some rows may be all that change.
        self.strides = [_stride(p) if id(p) not in kept else 1 for p in self.parameters.values()]
        self._columns = _columns(len(self.parameters), len(modules))
        self.rows = SampledRows(len(self._columns))
        # Modules and parameters of the weights of which half precision may lose updates.
        index = {id(p): at for at, p in enumerate(self.parameters.values())}
        self._matrices = [
            (position, index[id(p)])
            for position, (_, module) in enumerate(modules)
            for p in module._parameters.values()
            if p is not None and p.ndim >= 2 and id(p) in index
        ]
        self.step = 0
        self.steps: list[int] = []
        self.rates: list[float] = []
        self.with_gradient: set[int] = set()
        self.backwards = self.rows_of_batch = 0
        self.start_loss: Tensor | None = None
        self.targets: list[Tensor] = []
        self.finite = FiniteOutputs()
        self._losses: list[Tensor] = []
        self._held = 0
        self._before: list[Tensor] = []
        self._fleeting = False
        self._counts: dict[str, tuple[int, Any]] = {}
        self._handles: list[RemovableHandle] = []
        self._arrivals: list[RemovableHandle] = []

    def attach(self) -> None:
        """Register the hooks, and begin the next step."""
        self._handles.append(self.optimizers[0].register_step_post_hook(self._stepped))
        self._begin()

    def detach(self) -> None:
        """Remove every hook, and the copy of the parameters."""
        self.hooks.detach()
        # A loop often breaks on a NaN before it steps.
        self.finite.add(self.step + 1, self.hooks.positions, self.hooks.sums)
        remove(self._handles)
        remove(self._arrivals)
        self._before = []

    def add_loss(self, loss: Tensor, targets: Any = None) -> None:
        """Hold the loss of a batch; the targets count before the first update alone.

        Args:
            loss: loss, `[]` or one value per row.
            targets: targets of the batch.
        """
        loss = loss.detach()
        mean = (
            loss.mean(dtype=torch.promote_types(loss.dtype, torch.float32)) if loss.ndim else loss
        )
        if self.step <= 1 and self.start_loss is None:
            # The first batch; a caller may hand its loss before or after the step.
            self.start_loss = mean.clone()
        most = _TARGETS if isinstance(targets, Tensor) and targets.ndim == 1 else _DENSE_TARGETS
        if isinstance(targets, Tensor) and len(self.targets) < most:
            self.targets.append(targets.detach().clone())
        if len(self._losses) >= _LOSSES:
            self._losses = [stacked(self._losses).sum(dtype=torch.float64)]
        self._losses.append(mean)
        self._held += 1

    def _arrived(self, name: str, position: int, parameter: Tensor) -> None:
        """Count the gradients of a parameter in a sampled step; in float16 they may overflow."""
        largest, gradient = self.hooks.cells.get(("half_gradient", position)), parameter.grad
        number, known = self._counts.get(name, (0, None))
        # A closure that is called several times sets the gradient to None before each.
        number = number if known is not None and known() is gradient else 0
        self._counts[name] = number + 1, None if gradient is None else ref(gradient)
        if largest is not None and gradient is not None:
            # NaN where it did, and else as it was.
            overflow = 0 * _values(gradient.detach()).sum()
            self.hooks.cells["half_gradient", position] = largest.maximum(overflow)

    def _await_gradients(self, armed: bool) -> None:
        """Hooks of the parameters in sampled steps."""
        if armed == bool(self._arrivals):
            return
        remove(self._arrivals)
        owners = {
            id(parameter): position
            for position, (_, module) in enumerate(self.hooks.modules if armed else ())
            for parameter in module._parameters.values()
        }
        for name, parameter in self.parameters.items() if armed else ():
            if parameter.requires_grad and parameter.is_leaf:
                arrived = partial(self._arrived, name, owners.get(id(parameter), -1))
                register: Any = parameter.register_post_accumulate_grad_hook
                self._arrivals.append(register(arrived))

    def _begin(self) -> None:
        step = self.step + 1
        armed = sampled(step, self.every)
        self.hooks.begin_step(step, armed)
        # How many passes a step has shows soon; only an overflow is looked for later.
        self._await_gradients(armed and (len(self.steps) < _PASSES or self.hooks.halves))
        self._counts = {}
        if armed:
            self._copy()
        elif self._fleeting:
            self._before = []

    @torch.no_grad()
    def _copy(self) -> None:
        """Copy the parameters, of large matrices every eighth row."""
        now = _parts(self.parameters, self.strides)
        kept = self._before if len(self._before) == len(now) else []
        if not kept or any(
            part.shape != p.shape or part.dtype != p.dtype or part.device != p.device
            for part, p in zip(kept, now, strict=True)
        ):
            self._before = [p.clone(memory_format=torch.contiguous_format) for p in now]
            self._fleeting = any(part.device.type != "cpu" for part in now)
        else:
            torch._foreach_copy_(kept, now)

    def _stepped(self, *_: Any) -> None:
        self.step += 1
        hooks = self.hooks
        self.finite.add(self.step, hooks.positions, hooks.sums)
        if hooks.armed and self._before:
            self._sample()
        self._begin()

    @torch.no_grad()
    def _sample(self) -> None:
        """Add the row of this step."""
        parameters: list[Tensor] = list(self.parameters.values())
        gradients = {at: p.grad for at, p in enumerate(parameters) if p.grad is not None}
        self.with_gradient.update(gradients)
        pulled = _norms([_values(gradient) for gradient in gradients.values()])
        weights = _norms(self._before)
        torch._foreach_sub_(self._before, _parts(self.parameters, self.strides))
        moved = _norms(self._before)
        keys: list[tuple[str, int]] = [("gradient_norm", at) for at in gradients]
        keys += [(name, at) for name in NORMS[1:] for at in range(len(parameters))]
        seen = self.hooks.cells
        seen |= _lost_updates(self._matrices, self.strides, gradients, self._before)
        if self._losses:
            seen["loss", -1] = stacked(self._losses).sum(dtype=torch.float64) / self._held
        parts = [stacked(pulled + weights + moved)]
        if pulled:
            seen["gradient_norm", -1] = torch.linalg.vector_norm(parts[0][: len(pulled)])
        for more, values in self.hooks.close_step():
            keys += more
            parts.append(values)
        self.rows.add(tuple(self._columns[key] for key in keys), parts)
        self._close_sample()

    def _close_sample(self) -> None:
        """Note what the host knows of this step."""
        self.steps.append(self.step)
        rate = self.optimizers[0].param_groups[0].get("lr", 0.0)
        self.rates.append(rate if isinstance(rate, float) else float("nan"))
        passes = min((number for number, _ in self._counts.values()), default=1)
        self.backwards = max(self.backwards, passes)
        self.rows_of_batch, self._losses, self._held = self.hooks.rows, [], 0

    def state_dict(self) -> dict[str, Any]:
        """The record so far; it waits for the device once for each kind of value."""
        state = {name: getattr(self, name) for name in _STATE}
        hooks = self.hooks
        return state | {
            "rows": self.rows.dense(),
            "with_gradient": sorted(self.with_gradient),
            "start_loss": None if self.start_loss is None else self.start_loss.cpu(),
            "targets": [targets.cpu() for targets in self.targets],
            **self.finite.state_dict(),
            "last_active": hooks.activity.state_dict(),
            "order": dict(hooks.order),
            "calls": list(hooks.calls.values()),
            "inference": list(hooks.inference),
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
        self.rows.load(state["rows"])
        self.with_gradient = set(state["with_gradient"])
        self.targets = list(state["targets"])
        self.start_loss = None if state["start_loss"] is None else state["start_loss"].to(home)
        self.finite.load_state_dict(state)
        hooks, calls = self.hooks, iter(state["calls"])
        hooks.activity.load_state_dict(state["last_active"], home)
        hooks.order = {int(at): order for at, order in state["order"].items()}
        hooks.calls = {key: next(calls) for key in hooks.calls}
        hooks.single, hooks.outputs = list(state["single"]), state["outputs"]
        hooks.inference, hooks.step = list(state["inference"]), self.step + 1


def sampled(step: int, every: int) -> bool:
    """Whether a step is sampled: the first five, and then those at a distance that grows.

    It doubles each time that the steps double after 64 samples, so that a long training costs no
    more than its unsampled steps; it hangs on the step alone, so that a resumed run goes on alike.

    Args:
        step: optimizer step, from 1.
        every: distance of the first samples.
    """
    doublings = max((step // (_DENSE * every)).bit_length(), 0)
    return step <= _FIRST or step % (every << doublings) == 0


def _columns(parameters: int, modules: int) -> dict[tuple[str, int], int]:
    """Columns of a row by measure, and by position of parameter or module; -1 for the run."""
    keys = [(name, at) for name in NORMS for at in range(parameters)]
    keys += [(name, at) for name in SHARES for at in range(modules)]
    keys += [(name, -1) for name in SERIES[:-1]]
    return {key: column for column, key in enumerate(keys)}


def _parts(parameters: Mapping[str, Tensor], strides: list[int]) -> list[Tensor]:
    """What is read of each parameter at a step."""
    read = zip(parameters.values(), strides, strict=True)
    return [p if stride == 1 else p[::stride] for p, stride in read]


def _lost_updates(
    matrices: list[tuple[int, int]],
    strides: list[int],
    gradients: Mapping[int, Tensor],
    updates: list[Tensor],
) -> dict[tuple[str, int], Tensor]:
    """Shares of the weights in half precision with a gradient that stay as they were."""
    shares = {}
    for position, at in matrices:
        gradient = gradients.get(at)
        if gradient is not None and gradient.dtype in _HALF and not gradient.is_sparse:
            pulled = gradient[:: strides[at]] != 0
            share = (pulled & (updates[at] == 0)).sum() / pulled.sum()
            shares["lost_updates", position] = share
    return shares


def _stride(parameter: Tensor) -> int:
    """Distance of the rows of a parameter that are copied and read."""
    large = parameter.ndim > 1 and len(parameter) >= _TALL and parameter.numel() >= _LARGE
    return _APART if large else 1


def _values(gradient: Tensor) -> Tensor:
    """A gradient as a dense Tensor; of a sparse one its values."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(tensors)) if tensors else []
