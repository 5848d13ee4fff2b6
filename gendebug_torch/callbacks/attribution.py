"""`AttributionMonitor`: the ranking of the features, epoch by epoch."""

from __future__ import annotations

import math
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
    """Ranks the features after a validation, in a bounded share of the training time.

    A sample of the validation rows is explained. The first ranking, of 32 rows, measures the speed;
    from then on a validation is left out until the share allows for another. Under several ranks
    all explain the rows of the first.

    Args:
        rows: largest number of rows to explain.
        max_time_share: largest share of the time since the start of the training that rankings may
            take.
        every_n_epochs: epochs from one ranking to the next, at least.
        unpack: batch -> inputs; by default the first entry.
        log_name: prefix of logged names: `rank_correlation` with the ranking before.
        **options: options of `attribute`, e.g. `method`, `steps`, `feature_names`.

    Example:
        >>> monitor = AttributionMonitor(rows=64, method="integrated_gradients")
        >>> # Trainer(callbacks=[monitor]).fit(module, train, val); monitor.history.plot()
        >>> monitor.history.sizes
        {}
    """

    def __init__(
        self,
        *,
        rows: int = 256,
        max_time_share: float = 0.05,
        every_n_epochs: int = 1,
        unpack: Callable[[Any], Tensor] | None = None,
        log_name: str = "gendebug",
        **options: Any,
    ) -> None:
        super().__init__("attribution.stability", Cause.UNRELIABLE_EXPLANATION, log_name)
        self.rows, self.max_time_share, self.every_n_epochs = rows, max_time_share, every_n_epochs
        self.unpack, self.options = unpack or first_inputs, options
        self._batches: list[Tensor] = []
        self.reset()

    def reset(self) -> None:
        """Drop the record of an earlier training."""
        self.history = RankingHistory()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of which rankings may take a share."""
        super().on_train_start(trainer, pl_module)
        self._started, self.history.seconds = perf_counter(), 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of the last validation."""
        self._batches = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hold the first rows."""
        if sum(map(len, self._batches)) < self.rows:
            self._batches.append(self.unpack(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank if the time allows, log, and drop the rows."""
        batches, self._batches = self._batches, []
        if not in_fit(trainer) or not batches or trainer.current_epoch % self.every_n_epochs:
            return
        sample = self.on_every_rank(trainer, "sample", lambda: self._sample(batches))
        if sample is None:
            return
        inputs = trainer.strategy.broadcast(sample)
        if not len(inputs):
            return
        with self.guarded("rank"):
            self.history.explain(
                trainer.current_epoch,
                pl_module,
                inputs,
                perf_counter,
                device=pl_module.device,
                **self.options,
            )
            correlation = float(self.history.table()["rank_correlation"].iloc[-1])
            if not math.isnan(correlation):
                self.log_scalars(trainer, {"rank_correlation": correlation})

    def _sample(self, batches: list[Tensor]) -> Tensor:
        """As many of the held rows as the time allows."""
        allowed = self.max_time_share * (perf_counter() - self._started)
        return torch.cat(batches)[: self.history.affordable_rows(self.rows, allowed)]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figure of all rankings."""
        if self.history.sizes:
            self.log_figure(trainer, "attribution", self.history)

    def state_dict(self) -> dict[str, Any]:
        """The rankings so far."""
        return {"names": list(self.history.names), "sizes": self.history.sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of a checkpoint."""
        sizes = {int(epoch): size for epoch, size in state_dict["sizes"].items()}
        self.history = RankingHistory(tuple(state_dict["names"]), sizes)
