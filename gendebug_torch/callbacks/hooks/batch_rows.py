"""How many rows a batch has, and how many of them a distributed sampler repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler


def batch_rows(batch: object) -> int:
    """Rows of a batch: the length of its first tensor, however nested; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts: Any = batch.values() if isinstance(batch, Mapping) else batch
    for part in parts if isinstance(batch, (Mapping, tuple, list)) else ():
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
        if isinstance(part, (Mapping, tuple, list)):
            return batch_rows(part)
    return 1


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
