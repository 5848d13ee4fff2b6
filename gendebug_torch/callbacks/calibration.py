"""`CalibrationMonitor`: reliability of the validation rows, epoch by epoch."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gendebug_torch.calibration import CalibrationSums, ReliabilityBins, calibration_sums
from gendebug_torch.calibration.sums import CELLS
from gendebug_torch.calibration.temperature_sums import GRID, TemperatureSums, temperature_sums
from gendebug_torch.callbacks.glue import Read, log, log_figure, real_rows, step_logits
from gendebug_torch.errors import InputError

# Logits kept on their device before they are counted: one pass per this many bytes.
_BYTES = 2**25
# Rows of each such pass that tell the temperature: known to about a hundredth, at a fraction of the cost of all rows.
_TEMPERATURE_ROWS = 4096


class CalibrationMonitor(Callback):
    """Counts confidence against correctness over each validation epoch; no host sync per step.

    `validation_step` returns `{"loss": ..., "logits": [n, k], "targets": [n]}`, or `read` finds them. Rows that a
    distributed sampler repeats to fill the last batch are not counted. All validation loaders are taken together.

    Args:
        read: (module, batch, outputs) -> (logits, targets), in place of the keys.
        bins: of the reliability diagram.
        log_name: prefix of what is logged.
        diagrams: hand the reliability diagram of each epoch to every logger that takes pictures.
    """

    def __init__(self, *, read: Read | None = None, bins: int = 15, log_name: str = "gendebug", diagrams: bool = True) -> None:
        self.read, self.bins, self.log_name, self.diagrams = read, bins, log_name, diagrams
        self.history: dict[int, CalibrationSums] = {}
        self.temperatures: dict[int, TemperatureSums] = {}
        self._forget()

    def table(self) -> pd.DataFrame:
        """One row per validated epoch: ECE with interval, accuracy, confidence, log loss, temperature needed."""
        rows = []
        for epoch, sums in self.history.items():
            bins, (temperature, error) = sums.bins(self.bins), self.temperatures[epoch].temperature()
            low, high = bins.interval()
            rows.append([epoch, bins.ece, low, high, bins.accuracy, bins.mean_confidence, sums.nll, temperature, error])
        names = ["epoch", "ece", "low", "high", "accuracy", "mean_confidence", "nll", "temperature", "temperature_error"]
        return pd.DataFrame(rows, columns=names)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation left."""
        self._forget()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep references; count them when enough are together."""
        if trainer.sanity_checking:
            return
        logits, targets = step_logits(self.read, pl_module, batch, outputs, "CalibrationMonitor")
        loaders = trainer.val_dataloaders
        loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
        own = real_rows(trainer, loader, batch_idx, len(targets))
        self._waiting.append((logits[:own], targets[:own]))
        self._bytes += logits.numel() * logits.element_size()
        if self._bytes >= _BYTES:
            self._count()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the rest, add the ranks up, log."""
        if trainer.sanity_checking:
            return
        self._count()
        sums, temperature = _over_ranks(trainer, self._sums, self._temperature)
        if not sums.cells.total:
            return
        self.history[trainer.current_epoch], self.temperatures[trainer.current_epoch] = sums, temperature
        bins, needed = sums.bins(self.bins), temperature.temperature()[0]
        scalars = {"val_ece": bins.ece, "val_confidence": bins.mean_confidence, "val_temperature": needed}
        log(trainer, {f"{self.log_name}/{name}": value for name, value in scalars.items() if value == value})
        if self.diagrams:
            log_figure(trainer, f"{self.log_name}/reliability", bins)

    def state_dict(self) -> dict[str, Any]:
        """The epochs counted so far."""
        packed = {epoch: [*_flat(sums, self.temperatures[epoch])] for epoch, sums in self.history.items()}
        return {"history": packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        unpacked = {int(epoch): _unflat(*parts) for epoch, parts in state_dict["history"].items()}
        self.history = {epoch: sums for epoch, (sums, _) in unpacked.items()}
        self.temperatures = {epoch: temperature for epoch, (_, temperature) in unpacked.items()}

    def _forget(self) -> None:
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._bytes = 0
        empty = torch.zeros(3, CELLS, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
        self._sums, self._temperature = _unflat(*empty, torch.zeros(len(GRID), 3, dtype=torch.float64))

    def _count(self) -> None:
        if not self._waiting:
            return
        logits, targets = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._bytes = [], 0
        logits = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
        targets = targets.long() if logits.ndim > 2 else targets.long().reshape(-1)
        try:
            self._sums += calibration_sums(logits.float(), targets)
            self._temperature += temperature_sums(logits.float(), targets, most_rows=_TEMPERATURE_ROWS)
        except InputError as error:
            # A run that diverges is not to be ended by who watches it.
            warnings.warn(f"CalibrationMonitor counts nothing of these rows: {error}", stacklevel=2)


def _flat(sums: CalibrationSums, temperature: TemperatureSums) -> tuple[Tensor, Tensor, Tensor]:
    cells = sums.cells
    return torch.stack([cells.count.double(), cells.confidence, cells.correct.double()]), sums.scores, temperature.sums


def _unflat(cells: Tensor, scores: Tensor, temperature: Tensor) -> tuple[CalibrationSums, TemperatureSums]:
    count, confidence, correct = cells
    return CalibrationSums(ReliabilityBins(count.long(), confidence, correct.long()), scores), TemperatureSums(temperature)


def _over_ranks(trainer: Trainer, sums: CalibrationSums, temperature: TemperatureSums) -> tuple[CalibrationSums, TemperatureSums]:
    if trainer.world_size == 1:
        return sums, temperature
    parts = _flat(sums, temperature)
    flat = torch.cat([part.reshape(-1) for part in parts]).to(trainer.strategy.root_device)
    total = trainer.strategy.reduce(flat, reduce_op="sum").cpu().split([part.numel() for part in parts])
    return _unflat(*(whole.view_as(part) for whole, part in zip(total, parts, strict=True)))
