"""`AttributionMonitor`: what the network leans on, epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gendebug_torch.attribution.history import RankingHistory
from gendebug_torch.callbacks.glue import log


class AttributionMonitor(Callback):
    """Ranks the features after each validation by a sample of its rows, in a bounded share of the time of the epoch.

    Args:
        rows: most rows to explain.
        share: largest share of the time since the last ranking that one may take, once its speed is known.
        every: rank after every so many validated epochs.
        unpack: batch -> inputs; default the first entry.
        log_name: prefix of what is logged: `rank_correlation` with the ranking before.
        **options: of `attribute`, e.g. `method`, `steps`, `feature_names`.
    """

    def __init__(
        self,
        *,
        rows: int = 256,
        share: float = 0.05,
        every: int = 1,
        unpack: Callable[[Any], Tensor] | None = None,
        log_name: str = "gendebug",
        **options: Any,
    ) -> None:
        self.rows, self.share, self.every, self.unpack, self.log_name, self.options = rows, share, every, unpack, log_name, options
        self.history = RankingHistory()
        self._kept: list[Tensor] = []
        self._since = time.perf_counter()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of the last validation."""
        self._kept = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first rows."""
        if not trainer.sanity_checking and sum(map(len, self._kept)) < self.rows:
            self._kept.append(self.unpack(batch) if self.unpack else batch if isinstance(batch, Tensor) else batch[0])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank, log, and let the rows go."""
        if trainer.sanity_checking or not self._kept or trainer.current_epoch % self.every:
            return
        count = self.history.affordable_rows(self.rows, self.share * (time.perf_counter() - self._since))
        inputs, self._kept = torch.cat(self._kept)[:count], []
        self.history.explain(trainer.current_epoch, pl_module, inputs, time.perf_counter, device=pl_module.device, **self.options)
        agreement = self.history.table()["rank_correlation"].iloc[-1]
        log(trainer, {f"{self.log_name}/rank_correlation": float(agreement)} if agreement == agreement else {})
        self._since = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The rankings so far."""
        return {"names": list(self.history.names), "sizes": self.history.sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        sizes = {int(epoch): size for epoch, size in state_dict["sizes"].items()}
        self.history = RankingHistory(tuple(state_dict["names"]), sizes)
