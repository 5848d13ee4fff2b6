"""`CalibrationMonitor` over validation epochs, and `CalibrationError` for `self.log`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from gendebug_torch.calibration import ReliabilityBins, calibration_sums
from gendebug_torch.calibration.maps.temperature_sums import TemperatureSums
from gendebug_torch.calibration.measures.sufficient_statistics import CELLS, CalibrationSums
from gendebug_torch.calibration.recorder import CalibrationRecorder
from gendebug_torch.callbacks.hooks.batch_rows import unrepeated_rows, val_loader
from gendebug_torch.callbacks.hooks.monitor import LOGGER, Monitor
from gendebug_torch.callbacks.hooks.steps import Read, over_ranks, step_tensors
from gendebug_torch.checks.finding import Cause, Severity


class CalibrationMonitor(Monitor):
    """Measures calibration and accuracy over each validation epoch; no step waits for the device.

    `validation_step` returns `{"loss": ..., "logits": [n, k], "targets": [n]}`, or `read` reads
    them. Rows that a distributed sampler repeats to even the ranks are not counted. All validation
    loaders are taken together. Several validations in an epoch, or by steps, are one row of `table`
    each. After a fit, `trainer.validate` adds none.

    Args:
        read: reader of a step, (module, batch, outputs) -> (logits, targets), in place of the keys;
            `extra_forward` computes them.
        bins: number of bins of the reliability diagram.
        ignore_index: target of rows or positions that do not count.
        log_name: prefix of logged names.
        diagrams: log the reliability diagram of each epoch to every logger that takes figures.

    Example:
        >>> monitor = CalibrationMonitor(bins=10)
        >>> # Trainer(callbacks=[monitor]).fit(module, train, val); monitor.table()
        >>> len(monitor.table())
        0
    """

    _record: CalibrationRecorder

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
        """Drop the record of an earlier training."""
        self._record = CalibrationRecorder(bins=self.bins, ignore_index=self.ignore_index)

    @property
    def history(self) -> Mapping[int, CalibrationSums]:
        """Counts of confidence and correctness, by epoch; the last validation of each."""
        return self._record.history

    @property
    def temperatures(self) -> Mapping[int, TemperatureSums]:
        """Sufficient statistics of the temperature, by epoch."""
        return self._record.temperatures

    def table(self) -> pd.DataFrame:
        """One row per validation: ECE, interval, accuracy, confidence, log loss, temperature."""
        return self._record.table()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the counts of an interrupted validation."""
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
        """Hold logits and targets; they are counted when enough are together."""
        keys = ("logits", "targets")
        logits, targets = step_tensors(
            "CalibrationMonitor", keys, self.read, pl_module, batch, outputs
        )
        own = unrepeated_rows(trainer, val_loader(trainer, dataloader_idx), batch_idx, len(targets))
        self._record.add(logits[:own], targets[:own])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the rest and log; sanity steps only refuse bad input before the training."""
        if self.skips_validation(trainer):
            self._record.epoch_sums()
            self._warn_probabilities()
            return
        sums = self.on_every_rank(trainer, "epoch_sums", self._record.epoch_sums)
        self._warn_probabilities()
        if sums is None:
            return
        epoch = trainer.current_epoch
        total = over_ranks(trainer, sums).cpu()
        scalars = self._record.close_epoch(epoch, total, trainer.global_step)
        self.log_scalars(trainer, scalars)
        if self.diagrams and epoch in self.history:
            self.log_figure(trainer, "reliability", self._record.diagram(epoch))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the rows that could not be counted."""
        for note in self._record.notes:
            remedy = "Find the cause in the network: a diverged training, or NaN among its inputs."
            self.findings.append(self.finding(Severity.WARN, f"In {note}.", remedy))

    def _warn_probabilities(self) -> None:
        """Say once that what is given as logits looks like probabilities."""
        summary = (
            "The logits look like probabilities, since every row lies in [0, 1], but they are read "
            "as logits."
        )
        if not self._record.probabilities or summary in {f.summary for f in self.findings}:
            return
        remedy = "Return the values before the softmax or sigmoid under `logits`."
        self.findings.append(self.finding(Severity.WARN, summary, remedy))
        LOGGER.warning("CalibrationMonitor: %s %s", summary, remedy)


class CalibrationError(Metric):
    """Expected calibration error in constant memory: 60 KB of float64 sums, added over ranks.

    Args:
        bins: number of bins, a divisor of 2520.
        ignore_index: target of rows that do not count.
        **options: options of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = CalibrationError(bins=10)
        >>> metric.update(torch.tensor([2.0, -2.0]), torch.tensor([1, 0]))
        >>> round(float(metric.compute()), 3)
        0.119
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    cells: Tensor
    scores: Tensor

    def __init__(self, *, bins: int = 15, ignore_index: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.bins, self.ignore_index = bins, ignore_index
        self.add_state("cells", torch.zeros(3, CELLS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scores", torch.zeros(2, 4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count rows.

        Args:
            logits: logits, `[n, k]` or `[n]`, as `calibration_sums` takes them.
            targets: class ids, `[n]` int64.
        """
        sums = calibration_sums(logits, targets, ignore_index=self.ignore_index)
        cells = sums.cells
        self.cells += torch.stack(
            [cells.count.double(), cells.confidence, cells.correct.double()]
        ).to(self.cells.device)
        self.scores += sums.scores.to(self.scores.device)

    def compute(self) -> Tensor:
        """The expected calibration error, `[]` float64 in [0, 1]."""
        return torch.tensor(self.sums().bins(self.bins).ece, dtype=torch.float64)

    def sums(self) -> CalibrationSums:
        """The counts, from which every other measure and its interval follow."""
        count, confidence, correct = self.cells.cpu()
        return CalibrationSums(
            ReliabilityBins(count.long(), confidence, correct.long()), self.scores.cpu()
        )
