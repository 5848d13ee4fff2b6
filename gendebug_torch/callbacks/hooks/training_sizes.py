"""Learning curves over the number of training rows, with Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Subset

from gendebug_torch.callbacks.curves import LearningCurveMonitor
from gendebug_torch.curves import SizeCurves
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.errors import reject

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}


def learning_curve_over_sizes(
    module_factory: Callable[[], LightningModule],
    datamodule: LightningDataModule,
    sizes: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2),
    **trainer_options: Any,
) -> SizeCurves:
    """Losses of networks trained on random subsets of the rows: bias, variance, gain by more rows.

    Each training is judged at the epoch of its lowest smoothed validation loss, the training rows
    of its subset in evaluation mode, so that neither a late epoch nor dropout separates the
    regimes. More rows are also more steps per epoch: give enough epochs for the smallest size to
    converge.

    Source: Cortes et al. (1993), Learning Curves: Asymptotic Values and Rate of Convergence;
    Hestness et al. (2017, arXiv 1712.00409), for the power law.

    Args:
        module_factory: function that makes a fresh module; called once per size and seed.
        datamodule: data module whose training DataLoader has a data set with access by index.
        sizes: numbers of training rows.
        seeds: seeds of the subset, the weights and the shuffling.
        **trainer_options: options of `Trainer`, at least `max_epochs`.

    Raises:
        InputError: no sizes or seeds, or a size beyond the rows.

    Cost: one training per size and seed.

    Example:
        >>> import lightning.pytorch as pl
        >>> import torch
        >>> class Line(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(1, 1)
        ...     def training_step(self, batch, index):
        ...         return (self.layer(batch[0]) - batch[1]).square().mean()
        ...     def validation_step(self, batch, index):
        ...         return self.training_step(batch, index)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), 0.1)
        >>> x = torch.linspace(-1, 1, 32)[:, None]
        >>> class Data(pl.LightningDataModule):
        ...     def train_dataloader(self):
        ...         rows = torch.utils.data.TensorDataset(x, 2 * x)
        ...         return torch.utils.data.DataLoader(rows, batch_size=8)
        ...     val_dataloader = train_dataloader
        >>> quiet = {"logger": False, "enable_progress_bar": False, "max_epochs": 5}
        >>> found = learning_curve_over_sizes(Line, Data(), [16, 32], [0], **quiet)
        >>> found.table()["rows"].tolist()
        [16, 32]
    """
    if not sizes or not seeds:
        reject(
            "sizes",
            "at least one size and one seed",
            f"{len(sizes)} and {len(seeds)}",
            "Five sizes, each half of the next, are a good choice.",
        )
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    rows = len(getattr(loader, "dataset", ()))
    if max(sizes) > rows or min(sizes) < 1:
        reject(
            "sizes",
            f"numbers from 1 to the {rows} training rows",
            str(list(sizes)),
            "Leave the others out.",
        )
    sizes = sorted(set(sizes))
    losses = [
        [
            _trained(module_factory, datamodule, loader, size, seed, trainer_options)
            for seed in seeds
        ]
        for size in sizes
    ]
    train, val = torch.tensor(losses, dtype=torch.float64).unbind(2)
    return SizeCurves(torch.tensor(sizes), train, val)


def _trained(
    factory: Callable[[], LightningModule],
    data: LightningDataModule,
    loader: Any,
    size: int,
    seed: int,
    options: dict[str, Any],
) -> tuple[float, float]:
    """Training and validation loss at the best epoch of one training."""
    order = torch.randperm(len(loader.dataset), generator=torch.Generator().manual_seed(seed))
    part = DataLoader(
        Subset(loader.dataset, order[:size].tolist()),
        batch_size=loader.batch_size,
        shuffle=True,
        collate_fn=loader.collate_fn,
    )
    monitor = LearningCurveMonitor(train_eval=size)
    callbacks = [*(options.get("callbacks") or []), monitor]
    with isolate_rng():
        torch.manual_seed(seed)
        module = factory()
        trainer = _trainer_class(module)(**_QUIET | options | {"callbacks": callbacks})
        trainer.fit(module, part, data.val_dataloader())
    curves = monitor.curves
    finite = curves.val_loss.isfinite()
    if not bool(finite.any()) or curves.train_eval_loss is None:
        return float("nan"), float("nan")
    best = int(moving_average(curves.val_loss[finite]).argmin())
    return float(curves.train_eval_loss[finite][best]), float(curves.val_loss[finite][best])


def _trainer_class(module: LightningModule) -> Any:
    """The `Trainer` of the package that the module is from; either refuses modules of the other."""
    classes = type(module).__mro__
    older = any(base.__module__.startswith("pytorch_lightning.") for base in classes)
    return import_module("pytorch_lightning" if older else "lightning.pytorch").Trainer
