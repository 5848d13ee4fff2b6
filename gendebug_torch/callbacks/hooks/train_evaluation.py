"""The loss of a fixed sample of training rows, measured as the validation loss is."""

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

from gendebug_torch.callbacks.hooks.batch_rows import loss_rows
from gendebug_torch.callbacks.hooks.steps import Read, step_loss
from gendebug_torch.curves.files.column_names import VAL_LOSS, usual_column
from gendebug_torch.curves.loss_sums import LossSums
from gendebug_torch.errors import reject
from gendebug_torch.model.evaluation import evaluating


def sample_loader(trainer: Trainer, rows: int | Iterable[Any]) -> Iterable[Any]:
    """A loader of this rank's part of a fixed random sample of the training rows.

    Args:
        trainer: trainer of the run.
        rows: number of rows, or a loader that is used as it is.

    Raises:
        InputError: a number of rows, and a training data set without access by index.
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
        reject(
            "train_eval",
            "a training DataLoader over a data set with access by index",
            type(dataset or loader).__name__,
            "Pass a loader of training rows instead: train_eval=DataLoader(...).",
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    sample = sorted(order[:rows].tolist())
    part = Subset(dataset, sample[trainer.global_rank :: trainer.world_size])
    return DataLoader(part, batch_size=loader.batch_size or 256, collate_fn=loader.collate_fn)


def evaluated_loss(
    trainer: Trainer, module: LightningModule, loader: Iterable[Any], read: Read | None
) -> Tensor:
    """Loss sums `[4]` of `validation_step` over a loader; module, metrics and logs are unchanged.

    Args:
        trainer: trainer of the run.
        module: module to evaluate.
        loader: loader of training rows.
        read: reader of the loss; None for what the step returns or logs as `val_loss`.
    """
    sums = LossSums()
    with evaluating(module), torch.no_grad(), _isolated(module) as logged:
        for index, batch in enumerate(loader):
            moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            logged.clear()
            loss = step_loss(read, module, moved, module.validation_step(moved, index))
            if loss is None:
                loss = logged.get(usual_column(logged, VAL_LOSS) or "")
            if isinstance(loss, Tensor):
                sums.add(loss.detach(), loss_rows(loss, loader, index, moved))
    return sums.total()


@contextlib.contextmanager
def _isolated(module: LightningModule) -> Iterator[dict[str, Any]]:
    """Yield a mapping that gets what the module logs; its metrics count in copies meanwhile."""
    logged: dict[str, Any] = {}
    metrics = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, Metric)
    ]
    for parent, name, child in metrics:
        setattr(parent, name, copy.deepcopy(child))

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        logged[name] = value

    def log_dict(values: Any, *_: Any, **__: Any) -> None:
        logged.update(values)

    module.__dict__["log"], module.__dict__["log_dict"] = log, log_dict
    try:
        yield logged
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]
        for parent, name, child in metrics:
            setattr(parent, name, child)
