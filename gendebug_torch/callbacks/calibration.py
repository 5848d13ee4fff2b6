"""`CalibrationMonitor`: calibration of the validation rows, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from lightning.pytorch import LightningModule, Trainer

from gendebug_torch.calibration.maps.temperature_sums import TemperatureSums
from gendebug_torch.calibration.measures.sufficient_statistics import CalibrationSums
from gendebug_torch.calibration.recorder import CalibrationRecorder
from gendebug_torch.callbacks.hooks.monitor import Monitor
from gendebug_torch.callbacks.hooks.steps import (
    Read,
    in_fit,
    over_ranks,
    real_rows,
    step_tensors,
    val_loader,
)
from gendebug_torch.checks.finding import Cause, Finding, Severity


class CalibrationMonitor(Monitor):
    """Calibration of the validation rows in every epoch, without a host sync per step.

    `validation_step` returns `{"loss": ..., "logits": [n, k], "targets": [n]}`, or `read` returns
    them. Rows that a distributed sampler repeats to even the ranks are not counted. All validation
    loaders are taken together. After a fit, `trainer.validate` adds no epoch.

    Args:
        read: function from (module, batch, outputs) to (logits, targets), in place of the keys;
            `extra_forward` computes them.
        bins: number of bins of the reliability diagram; a divisor of 2520.
        ignore_index: target of rows or positions that do not count.
        log_name: prefix of the logged names.
        diagrams: whether to pass the reliability diagram of each epoch to the loggers.
    """

    def __init__(
        self,
        *,
        read: Read | None = None,
        bins: int = 15,
        ignore_index: int | None = None,
        log_name: str = "gendebug",
        diagrams: bool = True,
    ) -> None:
        super().__init__("calibration.ece", Cause.MISCALIBRATION, log_name)
        self.read, self.bins, self.ignore_index, self.diagrams = read, bins, ignore_index, diagrams
        self.reset()

    def reset(self) -> None:
        """Forget an earlier training."""
        self._fitted = False
        self._record = CalibrationRecorder(bins=self.bins, ignore_index=self.ignore_index)

    @property
    def history(self) -> Mapping[int, CalibrationSums]:
        """The sums of each epoch."""
        return self._record.history

    @property
    def temperatures(self) -> Mapping[int, TemperatureSums]:
        """The sums of each epoch that its temperature follows from."""
        return self._record.temperatures

    def table(self) -> pd.DataFrame:
        """One row per epoch: ECE with interval, accuracy, confidence, log loss, temperature."""
        return self._record.table()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of an interrupted validation."""
        self._record.begin()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep references to the outputs; they are counted when there are enough."""
        keys = ("logits", "targets")
        logits, targets = step_tensors(
            "CalibrationMonitor", keys, self.read, pl_module, batch, outputs
        )
        own = real_rows(trainer, val_loader(trainer, dataloader_idx), batch_idx, len(targets))
        self._record.add(logits[:own], targets[:own])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the remaining rows and log; wrong shapes are rejected in the sanity steps."""
        sums = self._record.epoch_sums()
        if trainer.sanity_checking:
            return
        if not in_fit(trainer) and self._fitted:
            # Rows of another data set would overwrite or extend the epochs of the training.
            return
        epoch = trainer.current_epoch
        scalars = self._record.close_epoch(epoch, over_ranks(trainer, sums).cpu())
        self.send_scalars(trainer, scalars)
        if self.diagrams and epoch in self.history:
            self.send_figure(trainer, "reliability", self._record.diagram(epoch))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the rows that could not be counted."""
        self._fitted = True
        for note in self._record.notes:
            remedy = "Check whether training diverged, or whether the inputs contain NaN."
            self.findings.append(
                Finding(
                    "calibration.ece",
                    Cause.MISCALIBRATION,
                    Severity.WARN,
                    f"In {note}.",
                    remedy=remedy,
                )
            )

    def state_dict(self) -> dict[str, Any]:
        """The epochs counted so far."""
        return self._record.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._record.load_state_dict(state_dict)
