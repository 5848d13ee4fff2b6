"""What the callbacks share: reading a step's output, summing over ranks, logging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from gendebug_torch.errors import reject


def step_loss(outputs: Any) -> Tensor | None:
    """The loss in what a step returned: a scalar Tensor, or the entry `loss` of a mapping."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def step_entry(outputs: Any, key: str, argument: str) -> Tensor:
    """The Tensor that a step returned under a key.

    Raises:
        InputError: there is none.
    """
    value = outputs.get(key) if isinstance(outputs, Mapping) else None
    if not isinstance(value, Tensor):
        came = f"keys {sorted(outputs)}" if isinstance(outputs, Mapping) else type(outputs).__name__
        remedy = f"Return {{'loss': loss, '{key}': ...}} from it, or pass `unpack` to the callback."
        reject(argument, f"a Tensor under {key!r} in what validation_step returns", came, remedy)
    return value.detach()


def reduced(trainer: Trainer, sums: Tensor) -> float:
    """Mean over all ranks from `[2]` local sum and weight; NaN where there was nothing."""
    if trainer.world_size > 1:
        sums = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
    total, weight = sums.tolist()
    return total / weight if weight else float("nan")


def log(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Scalars to every logger of the run, at its step."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
