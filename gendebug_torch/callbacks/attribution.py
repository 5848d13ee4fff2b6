"""`AttributionMonitor`: what the network leans on, epoch by epoch."""

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
    """Ranks the features after a validation by a sample of its rows, in a bounded share of the time
    of the training.

    The first ranking, of 32 rows, tells the speed; from then on a validation is passed over until
    the share allows for another. Under several ranks all explain the rows of the first.

    Args:
        rows: most rows to explain.
        share: largest share of the time since the start of the training that rankings may take.
        every: rank at most after every so many epochs.
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
        super().__init__("attribution.stability", Cause.UNRELIABLE_EXPLANATION, log_name)
        self.rows, self.share, self.every, self.unpack, self.options = (
            rows,
            share,
            every,
            unpack or first_inputs,
            options,
        )
        self._kept: list[Tensor] = []
        self.reset()

    def reset(self) -> None:
        """Forget an earlier training."""
        self.history = RankingHistory()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time of which a share may be taken begins."""
        super().on_train_start(trainer, pl_module)
        self._started, self.history.spent = perf_counter(), 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of the last validation."""
        self._kept = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first rows."""
        if sum(map(len, self._kept)) < self.rows:
            self._kept.append(self.unpack(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank if the time allows, log, and let the rows go."""
        kept, self._kept = self._kept, []
        if not in_fit(trainer) or not kept or trainer.current_epoch % self.every:
            return
        allowed = self.share * (perf_counter() - self._started)
        inputs = trainer.strategy.broadcast(
            torch.cat(kept)[: self.history.affordable_rows(self.rows, allowed)]
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
        """Hand the picture of all rankings to the loggers."""
        if self.history.sizes:
            self.send_figure(trainer, "attribution", self.history)

    def state_dict(self) -> dict[str, Any]:
        """The rankings so far."""
        return {"names": list(self.history.names), "sizes": self.history.sizes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        sizes = {int(epoch): size for epoch, size in state_dict["sizes"].items()}
        self.history = RankingHistory(tuple(state_dict["names"]), sizes)
