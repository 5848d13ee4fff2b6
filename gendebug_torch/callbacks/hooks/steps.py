"""What the callbacks share: reading a step's output, real rows under DDP, sums over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DistributedSampler

from gendebug_torch.errors import reject
from gendebug_torch.model.runner import evaluating, logits_of

Read = Callable[[LightningModule, Any, Any], Any]


def in_fit(trainer: Trainer) -> bool:
    """Whether a validation is one of the training: neither its sanity steps nor
    `trainer.validate`.
    """
    return not trainer.sanity_checking and trainer.state.fn is TrainerFn.FITTING


def first_inputs(batch: Any) -> Tensor:
    """The batch, or its first entry.

    Raises:
        InputError: that is no Tensor.
    """
    found = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(found, Tensor):
        reject(
            "unpack",
            "a batch that is a Tensor or begins with one",
            type(found).__name__,
            "Pass `unpack=lambda batch: ...`.",
        )
    return found


def step_loss(
    read: Read | None, module: LightningModule, batch: Any, outputs: Any
) -> Tensor | None:
    """The loss that `read` finds of a step, or that it returned, bare or under `loss`: a scalar, or
    one value per row `[n]`.
    """
    if read is not None:
        outputs = read(module, batch, outputs)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.ndim <= 1 and loss.numel() else None


def extra_forward(module: LightningModule, batch: Any, outputs: Any) -> tuple[Tensor, Tensor]:
    """Logits and targets of a batch `(inputs, targets, ...)` by one more forward per step:
    `read=extra_forward`.

    For a module that returns neither and is not to be changed. The forward runs in evaluation mode,
    without gradients, after the step (in training: after its update); mode, gradients, BatchNorm
    statistics and random states are left as found.
    """
    with evaluating(module), torch.no_grad():
        return logits_of(module, batch[0]), batch[1]


def step_tensors(
    argument: str,
    keys: Sequence[str],
    read: Read | None,
    module: LightningModule,
    batch: Any,
    outputs: Any,
) -> tuple[Tensor, ...]:
    """What `read` finds of a step, or what the step returned under these keys, detached.

    Raises:
        InputError: there is no `read`, and a key is not there; the message shows the three ways.
    """
    if read is not None:
        return tuple(value.detach() for value in read(module, batch, outputs))
    found = [outputs.get(key) if isinstance(outputs, Mapping) else None for key in keys]
    tensors = tuple(value.detach() for value in found if isinstance(value, Tensor))
    if len(tensors) < len(keys):
        came = (
            f"keys {sorted(map(str, outputs))}"
            if isinstance(outputs, Mapping)
            else type(outputs).__name__
        )
        lacking = " and ".join(
            repr(key)
            for key, value in zip(keys, found, strict=True)
            if not isinstance(value, Tensor)
        )
        forward = (
            "lambda *step: (step[1][2], *extra_forward(*step))"
            if "ids" in keys
            else "extra_forward"
        )
        remedy = (
            f"Return {{'loss': loss, {', '.join(f'{key!r}: {key}' for key in keys)}}} from the "
            "step, which costs nothing; "
            f"or pass `read=lambda module, batch, outputs: ({', '.join(keys)})`; "
            f"or pass `read={forward}` (from gendebug_torch.callbacks), which costs one more "
            "forward per step."
        )
        reject(argument, f"a Tensor under {lacking} in what the step returns", came, remedy)
    return tensors


def val_loader(trainer: Trainer, index: int) -> Any:
    """The validation loader of this number."""
    loaders = trainer.val_dataloaders
    return loaders[index] if isinstance(loaders, (list, tuple)) else loaders


def real_rows(trainer: Trainer, loader: Any, batch_idx: int, rows: int) -> int:
    """How many rows of a batch are its own: a DistributedSampler repeats rows at the end so that
    all ranks get equally many.

    They are the last places of its order, shuffled or not. Exact for batches of one size; elsewhere
    every row counts.
    """
    size = getattr(loader, "batch_size", None)
    if size is None or not repeated_rows(trainer, loader):
        return rows
    sampler = loader.sampler
    own: int = (
        len(sampler.dataset) - sampler.rank + sampler.num_replicas - 1
    ) // sampler.num_replicas
    return max(0, min(rows, own - batch_idx * int(size)))


def repeated_rows(trainer: Trainer, loader: Any) -> int:
    """How many rows a DistributedSampler repeats, over all ranks."""
    sampler = getattr(loader, "sampler", None)
    if trainer.world_size == 1 or not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return 0
    return int(sampler.total_size) - len(sampler.dataset)  # type: ignore[arg-type]


def over_ranks(trainer: Trainer, sums: Tensor) -> Tensor:
    """Sums over all ranks."""
    if trainer.world_size == 1:
        return sums
    total: Tensor = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
    return total


def summed(trainer: Trainer, sums: Tensor) -> list[list[float]]:
    """`[s, f]` sums over all ranks as numbers: the one wait for the device."""
    found: list[list[float]] = over_ranks(trainer, sums).tolist()
    return found


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Logged scalars as floats, with one wait for the device."""
    single = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
    if not single:
        return {}
    values = torch.stack(
        [value.detach().double().reshape(()).cpu() for value in single.values()]
    ).tolist()
    return dict(zip(single, values, strict=True))
