"""`CalibrationMonitor`: reliability of the validation rows, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gendebug_torch.calibration import ReliabilityBins, reliability_bins
from gendebug_torch.callbacks.glue import log, step_entry

# Logits kept on their device before they are counted: one pass per this many bytes.
_BYTES = 2**25


class CalibrationMonitor(Callback):
    """Counts confidence against correctness over each validation epoch; no host sync per step.

    `validation_step` returns `{"loss": ..., "logits": [n, k], "targets": [n]}`, or `unpack` finds them.

    Args:
        logits: key of the logits.
        targets: key of the class ids.
        bins: of the reliability diagram.
        unpack: (outputs, batch) -> (logits, targets), in place of the keys.
        log_name: prefix of what is logged.
    """

    def __init__(
        self,
        *,
        logits: str = "logits",
        targets: str = "targets",
        bins: int = 15,
        unpack: Callable[[Any, Any], tuple[Tensor, Tensor]] | None = None,
        log_name: str = "gendebug",
    ) -> None:
        self.keys, self.bins, self.unpack, self.log_name = (logits, targets), bins, unpack, log_name
        self.history: dict[int, ReliabilityBins] = {}
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._bytes = 0
        self._counted: ReliabilityBins | None = None

    def table(self) -> pd.DataFrame:
        """One row per validated epoch: ECE with interval, accuracy, mean confidence."""
        rows = []
        for epoch, found in self.history.items():
            low, high = found.interval()
            rows.append([epoch, found.ece, low, high, found.accuracy, found.mean_confidence])
        return pd.DataFrame(rows, columns=["epoch", "ece", "low", "high", "accuracy", "mean_confidence"])

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation left."""
        self._waiting, self._bytes, self._counted = [], 0, None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep references; count them when enough are together."""
        if trainer.sanity_checking:
            return
        if self.unpack is not None:
            logits, targets = self.unpack(outputs, batch)
        else:
            logits, targets = (step_entry(outputs, key, "CalibrationMonitor") for key in self.keys)
        self._waiting.append((logits.detach(), targets.detach()))
        self._bytes += logits.numel() * logits.element_size()
        if self._bytes >= _BYTES:
            self._count()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the rest, add the ranks up, log."""
        if trainer.sanity_checking:
            return
        self._count()
        if self._counted is None:
            return
        self.history[trainer.current_epoch] = found = _over_ranks(trainer, self._counted)
        log(trainer, {f"{self.log_name}/val_ece": found.ece, f"{self.log_name}/val_confidence": found.mean_confidence})

    def state_dict(self) -> dict[str, Any]:
        """The epochs counted so far."""
        return {"history": {epoch: [found.count, found.confidence, found.correct] for epoch, found in self.history.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.history = {int(epoch): ReliabilityBins(*sums) for epoch, sums in state_dict["history"].items()}

    def _count(self) -> None:
        if not self._waiting:
            return
        logits, targets = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        logits = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
        found = reliability_bins(logits.float(), targets.long().reshape(-1), bins=self.bins)
        self._counted = found if self._counted is None else self._counted + found
        self._waiting, self._bytes = [], 0


def _over_ranks(trainer: Trainer, found: ReliabilityBins) -> ReliabilityBins:
    if trainer.world_size == 1:
        return found
    sums = torch.stack([found.count.double(), found.confidence, found.correct.double()])
    count, confidence, correct = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum").cpu()
    return ReliabilityBins(count.long(), confidence, correct.long())
