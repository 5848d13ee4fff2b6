"""`TrainingDynamicsMonitor`: the training dynamics of each row, for the audit of its label."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gendebug_torch.callbacks.hooks.monitor import Monitor
from gendebug_torch.callbacks.hooks.steps import Read, over_ranks, step_tensors
from gendebug_torch.checks.finding import Cause
from gendebug_torch.labels.dynamics.recorder import DynamicsRecorder
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics


class TrainingDynamicsMonitor(Monitor):
    """Records margin, confidence and correctness of every training row in every epoch.

    `training_step` returns `{"loss": ..., "logits": [b, k], "targets": [b], "ids": [b]}`, where the
    ids are positions in the training set; or `read` reads them. No step waits for the device. A
    million rows take 77 MB and, at 10 classes, about a second of one CPU core per epoch. Under
    several ranks each checkpoint holds the rows of all.

    Args:
        samples: number of training rows.
        read: reader of a step, (module, batch, outputs) -> (ids, logits, targets), in place of the
            keys.
        log_name: prefix of the data map that is logged at the end.

    Example:
        >>> monitor = TrainingDynamicsMonitor(samples=3)
        >>> # Trainer(callbacks=[monitor]).fit(module, train); monitor.dynamics.table()
        >>> monitor.dynamics.epochs.tolist()
        [0, 0, 0]
    """

    def __init__(
        self, samples: int, *, read: Read | None = None, log_name: str = "gendebug"
    ) -> None:
        super().__init__("labels.noise", Cause.LABEL_NOISE, log_name)
        self.samples, self.read = samples, read
        self._over_ranks: Callable[[Tensor], Tensor] | None = None
        self.reset()

    def reset(self) -> None:
        """Drop the record of an earlier training."""
        self._recorder = DynamicsRecorder(self.samples)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the sum over ranks."""
        super().on_fit_start(trainer, pl_module)
        self._over_ranks = partial(over_ranks, trainer) if trainer.world_size > 1 else None

    @property
    def dynamics(self) -> TrainingDynamics:
        """The finished epochs; `dynamics.attach(records)` gives them to the label checks."""
        return self._recorder.dynamics

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch; after the last one of an epoch, add over the ranks."""
        keys = ("ids", "logits", "targets")
        try:
            self._recorder.record(
                *step_tensors("TrainingDynamicsMonitor", keys, self.read, pl_module, batch, outputs)
            )
        finally:
            # Also after an error: the other ranks wait for this one.
            if trainer.is_last_batch and self._over_ranks is not None:
                self._recorder.merge(self._over_ranks)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the sums."""
        self._recorder.end_epoch()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the data map."""
        self.log_figure(trainer, "data_map", self.dynamics)

    def state_dict(self) -> dict[str, Any]:
        """The sums and the unfinished epoch; all ranks take part, as Lightning's checkpoints do."""
        if self._over_ranks is not None:
            self._recorder.merge(self._over_ranks)
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of a checkpoint."""
        self._recorder.load_state_dict(state_dict)
