"""How many rows a batch has, and how many of them a distributed sampler repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler


def loss_rows(loss: Tensor, loader: Any, batch_idx: int, batch: object) -> int:
    """How many rows a loss stands for: its own length where it has one value per row.

    Args:
        loss: loss of a step, `[]` or `[n]`.
        loader: loader of the batch.
        batch_idx: number of the batch.
        batch: batch of the step.
    """
    return len(loss) if loss.numel() > 1 else batch_rows(batch, _requested_rows(loader, batch_idx))


def counted_rows(trainer: Trainer, loader: Any, loss: Tensor, batch_idx: int, batch: object) -> int:
    """How many rows a loss stands for, without those that a sampler repeats to even the ranks.

    Args:
        trainer: trainer of the run.
        loader: loader of the batch.
        loss: loss of the step, `[]` or `[n]`.
        batch_idx: number of the batch.
        batch: batch of the step.
    """
    rows = loss_rows(loss, loader, batch_idx, batch)
    return unrepeated_rows(trainer, loader, batch_idx, rows)


def batch_rows(batch: object, requested: int | None = None) -> int:
    """Rows of a batch.

    That is the number that the loader requested, where a part of the batch is so long, or all its
    tensors have such an axis. Otherwise it is the length of a list of rows (texts, numbers, dicts,
    tensors of unequal length), else the size that all tensors share (so that a time axis may come
    first), else the first tensor's length, and 1 where there is none.

    Args:
        batch: batch as the loader gave it, however nested.
        requested: number of rows that the loader asked its data set for; None where unknown.
    """
    tensors, lists = _parts(batch)
    if requested is not None:
        lengths = {*map(len, tensors), *map(len, lists)}
        if requested in lengths or (tensors and all(requested in part.shape for part in tensors)):
            return requested
    for rows in lists:
        if _is_list_of_rows(rows):
            return len(rows)
    if not tensors:
        return 1
    shared = (size for size in tensors[0].shape if all(size in tensor.shape for tensor in tensors))
    return next(shared, len(tensors[0]))


def _requested_rows(loader: Any, batch_idx: int) -> int | None:
    """Number of rows that a loader asks its data set for in a batch; None where unknown."""
    sampler = getattr(loader, "batch_sampler", None)
    if type(sampler) is not BatchSampler:
        return None
    try:
        left = len(sampler.sampler) - batch_idx * sampler.batch_size  # type: ignore[arg-type]
    except TypeError:
        return None
    return min(sampler.batch_size, left) if left > 0 else None


def _parts(batch: object) -> tuple[list[Tensor], list[Sequence[object]]]:
    """All tensors with an axis, and all lists, of a nested batch."""
    if isinstance(batch, Tensor):
        return ([batch] if batch.ndim else []), []
    if not isinstance(batch, (Mapping, tuple, list)):
        return [], []
    tensors: list[Tensor] = []
    lists: list[Sequence[object]] = [] if isinstance(batch, Mapping) else [batch]
    for part in batch.values() if isinstance(batch, Mapping) else batch:
        inner_tensors, inner_lists = _parts(part)
        tensors += inner_tensors
        lists += inner_lists
    return tensors, lists


def _is_list_of_rows(parts: Sequence[object]) -> bool:
    """Whether a list has one entry per row: scalars, dicts, or tensors of unequal length."""
    if len(parts) < 2:
        return False
    if all(isinstance(part, (str, int, float)) or _rank(part) == 0 for part in parts):
        return True
    if all(isinstance(part, Mapping) for part in parts):
        return True
    ranks = {_rank(part) for part in parts}
    lengths = {len(part) for part in parts if isinstance(part, Tensor) and part.ndim}
    return len(ranks) == 1 and None not in ranks and len(lengths) > 1


def _rank(part: object) -> int | None:
    return part.ndim if isinstance(part, Tensor) else None


def val_loader(trainer: Trainer, index: int) -> Any:
    """The validation loader of this number."""
    loaders = trainer.val_dataloaders
    return loaders[index] if isinstance(loaders, (list, tuple)) else loaders


def unrepeated_rows(trainer: Trainer, loader: Any, batch_idx: int, rows: int) -> int:
    """How many rows of a batch are not repetitions that even the ranks.

    A DistributedSampler repeats rows at the end of its order, shuffled or not. Exact for batches of
    one size; elsewhere every row counts.

    Args:
        trainer: trainer of the run.
        loader: loader of the batch.
        batch_idx: number of the batch.
        rows: number of rows in the batch.
    """
    size = getattr(loader, "batch_size", None)
    if size is None or not repeated_rows(trainer, loader):
        return rows
    sampler = loader.sampler
    ranks = sampler.num_replicas
    own: int = (len(sampler.dataset) - sampler.rank + ranks - 1) // ranks
    return max(0, min(rows, own - batch_idx * int(size)))


def repeated_rows(trainer: Trainer, loader: Any) -> int:
    """How many rows a DistributedSampler repeats, over all ranks."""
    sampler = getattr(loader, "sampler", None)
    if trainer.world_size == 1 or not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return 0
    return int(sampler.total_size) - len(sampler.dataset)  # type: ignore[arg-type]


def notable_repetitions(trainer: Trainer, loader: Any) -> int:
    """How many rows a DistributedSampler repeats, if that is at least one in a thousand, else 0."""
    repeated = repeated_rows(trainer, loader)
    return repeated if repeated and 1000 * repeated >= len(loader.sampler.dataset) else 0
