"""`TrainingDynamicsMonitor`: training dynamics of each row, for the audit of its label."""

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

    `training_step` returns `{"loss": ..., "logits": [b, k], "targets": [b], "ids": [b]}`, the ids
    being the positions in the training set; or `read` finds them. No host wait per step. A million
    rows take 77 MB and, at 10 classes, about a second of one CPU core per epoch. Under several
    ranks each checkpoint holds the rows of all.

    Args:
        samples: number of training rows.
        read: function of (module, batch, outputs) that returns (ids, logits, targets), instead of
            the keys.
        log_name: prefix of the data map that loggers get at the end.
    """

    def __init__(
        self, samples: int, *, read: Read | None = None, log_name: str = "gendebug"
    ) -> None:
        super().__init__("labels.noise", Cause.LABEL_NOISE, log_name)
        self.samples, self.read = samples, read
        self._over_ranks: Callable[[Tensor], Tensor] | None = None
        self.reset()

    def reset(self) -> None:
        """Clear the records of an earlier training."""
        self._recorder = DynamicsRecorder(self.samples)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the sum over the ranks."""
        super().on_fit_start(trainer, pl_module)
        self._over_ranks = partial(over_ranks, trainer) if trainer.world_size > 1 else None

    @property
    def dynamics(self) -> TrainingDynamics:
        """Dynamics over the epochs so far; `dynamics.attach(records)` gives them to the checks."""
        return self._recorder.dynamics

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the batch; after the last one of the epoch, merge the ranks."""
        keys = ("ids", "logits", "targets")
        self._recorder.record(
            *step_tensors("TrainingDynamicsMonitor", keys, self.read, pl_module, batch, outputs)
        )
        if trainer.is_last_batch and self._over_ranks is not None:
            self._recorder.merge(self._over_ranks)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the sums."""
        self._recorder.end_epoch()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the data map to the loggers."""
        self.send_figure(trainer, "data_map", self.dynamics)

    def state_dict(self) -> dict[str, Any]:
        """The sums and the unfinished epoch; all ranks take part, as in Lightning checkpoints."""
        if self._over_ranks is not None:
            self._recorder.merge(self._over_ranks)
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums from a checkpoint."""
        self._recorder.load_state_dict(state_dict)
