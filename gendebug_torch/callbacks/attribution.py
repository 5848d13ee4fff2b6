"""`AttributionMonitor`: the ranking of the features, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gendebug_torch.attribution.history import RankingHistory
from gendebug_torch.callbacks.hooks.monitor import Monitor
from gendebug_torch.callbacks.hooks.steps import first_inputs, in_fit
from gendebug_torch.checks.finding import Cause


class AttributionMonitor(Monitor):
    """Ranks the features after validations, on a sample of rows and in a share of the time.

    The first ranking, of 32 rows, measures the speed; later validations are skipped until the share
    allows for another ranking. Under several ranks all explain the rows of the first.

    Args:
        rows: largest number of rows to explain.
        share: largest share of the time since the start of the training.
        every: smallest number of epochs between rankings.
        unpack: function from a batch to inputs; default the first entry.
        log_name: prefix of the logged `rank_correlation` with the ranking before.
        **options: options of `attribute`, e.g. `method`, `steps`, `feature_names`.
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
        super().__init__("attribution.stability", Cause.UNRELIABLE_EXPLANATION, log_name)
        self.rows, self.share, self.every, self.unpack, self.options = (
            rows,
            share,
            every,
            unpack or first_inputs,
            options,
        )
        self._inputs: list[Tensor] = []
        self.reset()

    def reset(self) -> None:
        """Drop the rankings of an earlier training."""
        self.history = RankingHistory()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the share."""
        super().on_train_start(trainer, pl_module)
        self._start, self.history.seconds = perf_counter(), 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of the last validation."""
        self._inputs = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store the first rows."""
        if sum(map(len, self._inputs)) < self.rows:
            self._inputs.append(self.unpack(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank if the time allows, log, and drop the rows."""
        batches, self._inputs = self._inputs, []
        if not in_fit(trainer) or not batches or trainer.current_epoch % self.every:
            return
        allowed = self.share * (perf_counter() - self._start)
        inputs = trainer.strategy.broadcast(
            torch.cat(batches)[: self.history.affordable_rows(self.rows, allowed)]
        )
        if len(inputs):
            with self.shielded():
                self.history.explain(
                    trainer.current_epoch,
                    pl_module,
                    inputs,
                    perf_counter,
                    device=pl_module.device,
                    **self.options,
                )
                agreement = float(self.history.table()["rank_correlation"].iloc[-1])
                self.send_scalars(
                    trainer, {"rank_correlation": agreement} if agreement == agreement else {}
                )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the plot of all rankings to the loggers."""
        if self.history.sizes:
            self.send_figure(trainer, "attribution", self.history)

    def state_dict(self) -> dict[str, Any]:
        """The rankings so far."""
        return {"names": list(self.history.names), "sizes": self.history.sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        sizes = {int(epoch): size for epoch, size in state_dict["sizes"].items()}
        self.history = RankingHistory(tuple(state_dict["names"]), sizes)
