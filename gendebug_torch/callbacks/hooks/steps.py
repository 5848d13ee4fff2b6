"""What a step shows: its loss, logits and targets; and sums over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.model.evaluation import evaluating
from gendebug_torch.model.runner import logits_of

Read = Callable[[LightningModule, Any, Any], Any]


def is_fitting(trainer: Trainer) -> bool:
    """Whether `trainer.fit` runs; by its name, as `pytorch_lightning` has states of its own."""
    return trainer.state.fn is not None and trainer.state.fn.value == "fit"


def in_fit(trainer: Trainer) -> bool:
    """Whether a validation belongs to the training: no sanity step, and not `trainer.validate`."""
    return not trainer.sanity_checking and is_fitting(trainer)


def first_inputs(batch: Any) -> Tensor:
    """The batch, or its first entry.

    Raises:
        InputError: it is not a Tensor.
    """
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        reject(
            "unpack",
            "a batch that is a Tensor or begins with one",
            type(inputs).__name__,
            "Pass `unpack=lambda batch: ...`.",
        )
    return inputs


def step_loss(
    read: Read | None, module: LightningModule, batch: Any, outputs: Any
) -> Tensor | None:
    """The loss of a step, `[]` or one value per row `[n]`; None where it shows none.

    Args:
        read: reader of the loss; by default it is what the step returned, bare or under `loss`.
        module: module of the step.
        batch: batch of the step.
        outputs: return value of the step.
    """
    if read is not None:
        outputs = read(module, batch, outputs)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.ndim <= 1 and loss.numel() else None


def train_step_loss(
    read: Read | None, trainer: Trainer, module: LightningModule, batch: Any, outputs: Any
) -> Tensor | None:
    """The loss of a training step before Lightning divided it by the accumulated batches."""
    loss = step_loss(read, module, batch, outputs)
    if loss is None or read is not None or trainer.accumulate_grad_batches == 1:
        return loss
    return loss * trainer.accumulate_grad_batches


def extra_forward(module: LightningModule, batch: Any, outputs: Any) -> tuple[Tensor, Tensor]:
    """Logits and targets of a batch `(inputs, targets, ...)` by one more forward per step.

    For a module that returns neither and is not to be changed: pass `read=extra_forward`. The
    forward runs in evaluation mode, without gradients, after the step (in training: after its
    update). Mode, gradients, BatchNorm statistics and random states are left as they were.

    Args:
        module: module of the step.
        batch: inputs and targets, and anything after them.
        outputs: return value of the step, which is not used.

    Raises:
        InputError: the batch does not begin with inputs and targets, e.g. as it is a mapping.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule
        >>> class Sum(LightningModule):
        ...     def forward(self, x):
        ...         return x.sum(1)
        >>> logits, targets = extra_forward(Sum(), (torch.ones(2, 3), torch.tensor([0, 1])), None)
        >>> logits.tolist(), targets.tolist()
        ([3.0, 3.0], [0, 1])
    """
    targets = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(targets, Tensor):
        got = (
            f"keys {sorted(map(str, batch))}"
            if isinstance(batch, Mapping)
            else type(batch).__name__
        )
        reject(
            "read",
            "a batch (inputs, targets, ...) with targets as a Tensor",
            got,
            "Write `read=lambda module, batch, outputs: extra_forward(module, (batch['x'], "
            "batch['y']), outputs)` with the entries of your batch.",
        )
    with evaluating(module), torch.no_grad():
        return logits_of(module, batch[0]), targets


def step_tensors(
    argument: str,
    keys: Sequence[str],
    read: Read | None,
    module: LightningModule,
    batch: Any,
    outputs: Any,
) -> tuple[Tensor, ...]:
    """Tensors that `read` returns for a step, or that the step returned under these keys.

    Args:
        argument: name of the monitor, for its error.
        keys: names of the tensors.
        read: reader of the tensors; None for the keys.
        module: module of the step.
        batch: batch of the step.
        outputs: return value of the step.

    Raises:
        InputError: there is no `read`, and a key is missing; the message shows the three ways.
    """
    if read is not None:
        return tuple(value.detach() for value in read(module, batch, outputs))
    values = [outputs.get(key) if isinstance(outputs, Mapping) else None for key in keys]
    tensors = tuple(value.detach() for value in values if isinstance(value, Tensor))
    if len(tensors) == len(keys):
        return tensors
    missing = " and ".join(
        repr(key) for key, value in zip(keys, values, strict=True) if not isinstance(value, Tensor)
    )
    got = type(outputs).__name__
    if isinstance(outputs, Mapping):
        got = f"keys {sorted(map(str, outputs))}"
    reject(argument, f"a Tensor under {missing} in what the step returns", got, _three_ways(keys))


def _three_ways(keys: Sequence[str]) -> str:
    """The remedy for a step that does not return these keys."""
    forward = "extra_forward"
    if "ids" in keys:
        forward = "lambda *step: (step[1][2], *extra_forward(*step))"
    return (
        f"Return {{'loss': loss, {', '.join(f'{key!r}: {key}' for key in keys)}}} from the "
        "step, which costs nothing; "
        f"or pass `read=lambda module, batch, outputs: ({', '.join(keys)})`; "
        f"or pass `read={forward}` (from gendebug_torch.callbacks), which costs one more "
        "forward per step."
    )


def over_ranks(trainer: Trainer, sums: Tensor) -> Tensor:
    """Sums over all ranks."""
    if trainer.world_size == 1:
        return sums
    total: Tensor = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
    return total


def summed(trainer: Trainer, sums: Tensor) -> list[list[float]]:
    """Sums `[s, f]` over all ranks as numbers: the one wait for the device."""
    total: list[list[float]] = over_ranks(trainer, sums).tolist()
    return total


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Logged scalars as floats, with one wait for each device they are on."""
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            by_device.setdefault(value.device, {})[name] = value.detach().reshape(())
    floats: dict[str, float] = {}
    for values in by_device.values():
        stacked = torch.stack([value.double() for value in values.values()]).tolist()
        floats |= dict(zip(values, stacked, strict=True))
    return {name: floats[name] for name in metrics if name in floats}
