"""A small network for tables, and its training with Lightning and the two monitors."""

import itertools
import logging
import warnings
from dataclasses import dataclass

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gendebug_torch import Records, Schema
from gendebug_torch.callbacks import CalibrationMonitor, LearningCurveMonitor

BATCH = 2048
# Cards and merchants are numbered, but their numbers are names.
SCHEMA = Schema(time="time", categorical=("card", "merchant"))


class FraudNet(nn.Module):
    """Features to one logit; the scaling is part of the network, as it must be in serving."""

    def __init__(self, features: Tensor, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", features.std(0).clamp(min=1e-6))
        sizes = [features.shape[1], width, width]
        hidden = [
            layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())
        ]
        self.body = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """One logit per row."""
        return self.body((x - self.mean) / self.scale)[:, 0]


class FraudModule(pl.LightningModule):
    """Binary cross-entropy with Adam; the rate falls along a cosine.

    So the last epochs settle.
    """

    def __init__(self, network: nn.Module, rate: float = 3e-3) -> None:
        super().__init__()
        self.network, self.rate = network, rate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss alone: the monitors need no more of a training step."""
        x, y = batch
        return binary_cross_entropy_with_logits(self.network(x), y.float())

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        """Loss, logits and targets, so that the monitors need no second pass."""
        x, y = batch
        logits = self.network(x)
        return {
            "loss": binary_cross_entropy_with_logits(logits, y.float()),
            "logits": logits,
            "targets": y,
        }

    def configure_optimizers(self) -> dict[str, object]:
        """Adam with a cosine schedule over all epochs."""
        optimizer = torch.optim.Adam(self.parameters(), self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Batches:
    """Rows of two tensors in batches, without touching single rows; shuffled anew if asked."""

    def __init__(self, x: Tensor, y: Tensor, shuffle: bool, seed: int) -> None:
        self.x, self.y, self.shuffle = x, y, shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __iter__(self):
        order = (
            torch.randperm(len(self.x), generator=self.generator)
            if self.shuffle
            else torch.arange(len(self.x))
        )
        for rows in order.split(BATCH):
            yield self.x[rows], self.y[rows]


@dataclass(frozen=True)
class Trained:
    """A network with what its monitors recorded."""

    network: nn.Module
    curves: LearningCurveMonitor
    calibration: CalibrationMonitor


def train(
    fit: Records, judge: Records, *, epochs: int, seed: int, progress: bool = False
) -> Trained:
    """Train on one table and validate on another, with both monitors in the Trainer."""
    pl.seed_everything(seed, verbose=False)
    x, judged = (torch.tensor(side.features.to_numpy(dtype="float32")) for side in (fit, judge))
    network = FraudNet(x)
    monitors = LearningCurveMonitor(), CalibrationMonitor()
    loaders = Batches(x, fit.targets, True, seed), Batches(judged, judge.targets, False, seed)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning advises more workers; these batches are cut from tensors in memory and need
        # none.
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=list(monitors),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        trainer.fit(FraudModule(network), *loaders)
    return Trained(network.eval(), *monitors)


def records(features: pd.DataFrame, table: pd.DataFrame, rows, name: str) -> Records:
    """Records of the chosen rows; who, where and when are metadata that no model is fed."""
    known = table.loc[rows, ["time", "card", "merchant", "history"]].reset_index(drop=True)
    targets = torch.tensor(table["fraud"].to_numpy()[rows], dtype=torch.int64)
    return Records(
        features[rows].reset_index(drop=True), targets, metadata=known, schema=SCHEMA, name=name
    )
