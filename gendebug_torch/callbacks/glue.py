"""What the callbacks share: reading a step's output, real rows under DDP, sums over ranks, logging that cannot end a run."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler

from gendebug_torch._plotting import Plottable
from gendebug_torch.errors import reject
from gendebug_torch.finding import Cause, Finding, Severity

Read = Callable[[LightningModule, Any, Any], Any]


def step_loss(outputs: Any) -> Tensor | None:
    """The loss in what a step returned: a Tensor, or the entry `loss` of a mapping; a scalar, or one value per row `[n]`."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) and loss.ndim <= 1 and loss.numel() else None


def step_entry(outputs: Any, key: str, argument: str) -> Tensor:
    """The Tensor that a step returned under a key.

    Raises:
        InputError: there is none.
    """
    value = outputs.get(key) if isinstance(outputs, Mapping) else None
    if not isinstance(value, Tensor):
        came = f"keys {sorted(map(str, outputs))}" if isinstance(outputs, Mapping) else type(outputs).__name__
        remedy = (
            "Either return {'loss': loss, 'logits': logits, 'targets': targets} from the step, which costs nothing; "
            "or pass `read=lambda module, batch, outputs: (logits, targets)`; "
            "or compute them there by `module(batch[0])`, which costs one more forward per step."
        )
        reject(argument, f"a Tensor under {key!r} in what the step returns", came, remedy)
    return value.detach()


def step_logits(read: Read | None, module: LightningModule, batch: Any, outputs: Any, argument: str) -> tuple[Tensor, Tensor]:
    """Logits and targets of a step: what `read` finds, or the entries `logits` and `targets` of what it returned.

    Raises:
        InputError: the step returned neither and there is no `read`.
    """
    if read is not None:
        logits, targets = read(module, batch, outputs)
        return logits.detach(), targets.detach()
    return step_entry(outputs, "logits", argument), step_entry(outputs, "targets", argument)


def real_rows(trainer: Trainer, loader: Any, batch_idx: int, rows: int) -> int:
    """How many rows of a batch are its own: a DistributedSampler repeats rows at the end so that all ranks get equally many.

    Exact for a loader with batches of one size and a sampler that does not shuffle, which is what Lightning puts
    into validation; otherwise every row counts.
    """
    sampler = getattr(loader, "sampler", None)
    size = getattr(loader, "batch_size", None)
    if trainer.world_size == 1 or not isinstance(sampler, DistributedSampler) or sampler.shuffle or size is None:
        return rows
    total = len(sampler.dataset)  # type: ignore[arg-type]
    own = (total - sampler.rank + sampler.num_replicas - 1) // sampler.num_replicas
    return max(0, min(rows, own - batch_idx * int(size)))


def summed(trainer: Trainer, sums: Tensor) -> list[list[float]]:
    """`[s, f]` sums over all ranks as numbers: the one wait for the device."""
    if trainer.world_size > 1:
        sums = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
    found: list[list[float]] = sums.tolist()
    return found


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Logged scalars as floats, with one wait for the device."""
    single = {name: value for name, value in metrics.items() if isinstance(value, Tensor) and value.numel() == 1}
    if not single:
        return {}
    values = torch.stack([value.detach().double().reshape(()).cpu() for value in single.values()]).tolist()
    return dict(zip(single, values, strict=True))


def log(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Scalars to every logger of the run, at its step."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def log_figure(trainer: Trainer, name: str, evidence: Plottable) -> None:
    """A picture to every logger that takes one: TensorBoard, Weights & Biases, MLflow and Neptune by their own calls."""
    if not trainer.is_global_zero:
        return
    takers = [(logger, getattr(logger, "experiment", None)) for logger in trainer.loggers]
    takers = [(one, its) for one, its in takers if hasattr(its, "add_figure") or hasattr(its, "log_figure") or hasattr(one, "log_image")]
    # Drawing costs more than counting: nothing is drawn where nobody looks.
    figure: Any = evidence.plot().get_figure() if takers else None
    logger: Any
    experiment: Any
    for logger, experiment in takers:
        if hasattr(experiment, "add_figure"):
            experiment.add_figure(name, figure, global_step=trainer.global_step, close=False)
        elif hasattr(experiment, "log_figure"):
            experiment.log_figure(getattr(logger, "run_id", None), figure, f"{name}.png")
        elif hasattr(logger, "log_image"):
            # Weights & Biases takes pictures as arrays.
            figure.canvas.draw()
            logger.log_image(name, [memoryview(figure.canvas.buffer_rgba())], step=trainer.global_step)


@contextlib.contextmanager
def shielded(errors: list[Finding], check: str, cause: Cause) -> Iterator[None]:
    """Whatever breaks inside becomes one errored finding per kind of error, so that no picture or logger ends a training."""
    try:
        yield
    except Exception as error:
        summary = f"Broke with {type(error).__name__}: {error}"
        if all(earlier.summary != summary for earlier in errors):
            numbers = {"traceback": traceback.format_exc()}
            remedy = "The training went on; mend what the traceback names, e.g. the logger."
            errors.append(Finding(check, cause, Severity.ERRORED, summary, numbers=numbers, remedy=remedy))
