"""A fixed sample of the training rows, evaluated as the validation is: the training loss that a
validation loss may be compared with.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset
from torchmetrics import Metric

from gendebug_torch.callbacks.hooks.steps import Read, step_loss
from gendebug_torch.curves.recorder import LossSums, batch_rows
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import evaluating


def sample_loader(trainer: Trainer, rows: int | Iterable[Any]) -> Iterable[Any]:
    """A loader of this rank's part of a fixed random sample of the training rows; an iterable is
    taken as it is.

    Raises:
        InputError: a number of rows, and a training loader whose data set has no rows by number.
    """
    if not isinstance(rows, int):
        return rows
    loader = trainer.train_dataloader
    dataset = getattr(loader, "dataset", None)
    if (
        not isinstance(loader, DataLoader)
        or dataset is None
        or isinstance(dataset, IterableDataset)
        or not hasattr(dataset, "__len__")
    ):
        remedy = "Pass a loader of training rows instead: train_eval=DataLoader(...)."
        reject(
            "train_eval",
            "a training DataLoader over rows that can be picked by number",
            type(dataset or loader).__name__,
            remedy,
        )
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[
        :rows
    ].tolist()
    mine = Subset(dataset, sorted(chosen)[trainer.global_rank :: trainer.world_size])
    return DataLoader(mine, batch_size=loader.batch_size or 256, collate_fn=loader.collate_fn)


def evaluated_loss(
    trainer: Trainer, module: LightningModule, loader: Iterable[Any], read: Read | None
) -> Tensor:
    """`[4]` loss sums of `validation_step` over a loader, without a trace in the module, its
    metrics or the logs.
    """
    sums = LossSums()
    with evaluating(module), torch.no_grad(), _isolated(module) as logged:
        for index, batch in enumerate(loader):
            moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            logged.clear()
            loss = step_loss(read, module, moved, module.validation_step(moved, index))
            loss = logged.get("val_loss") if loss is None else loss
            if isinstance(loss, Tensor):
                sums.add(loss.detach(), batch_rows(moved))
    return sums.total()


@contextlib.contextmanager
def _isolated(module: LightningModule) -> Iterator[dict[str, Any]]:
    """What the module logs goes into the mapping yielded, and its metrics count in copies that are
    thrown away.
    """
    logged: dict[str, Any] = {}
    metrics = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, Metric)
    ]
    for parent, name, child in metrics:
        setattr(parent, name, copy.deepcopy(child))

    def keep(name: str, value: Any, *_: Any, **__: Any) -> None:
        logged[name] = value

    def keep_all(values: Any, *_: Any, **__: Any) -> None:
        logged.update(values)

    module.__dict__["log"], module.__dict__["log_dict"] = keep, keep_all
    try:
        yield logged
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]
        for parent, name, child in metrics:
            setattr(parent, name, child)
