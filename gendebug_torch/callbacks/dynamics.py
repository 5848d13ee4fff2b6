"""`TrainingDynamicsMonitor`: what each training row goes through, for the audit of its label."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from gendebug_torch.callbacks.glue import Read, step_tensors
from gendebug_torch.callbacks.monitor import Monitor
from gendebug_torch.finding import Cause
from gendebug_torch.labels.dynamics import TrainingDynamics
from gendebug_torch.labels.recorder import DynamicsRecorder


class TrainingDynamicsMonitor(Monitor):
    """Records margin, confidence and correctness of every training row in every epoch; no host sync per step.

    `training_step` returns `{"loss": ..., "logits": [b, k], "targets": [b], "ids": [b]}`, the ids being the rows'
    places in the training set; or `read` finds them. 77 MB per million rows. Under several ranks a checkpoint from
    the middle of an epoch holds only the rows that the first rank saw of that epoch; at its end it holds all.

    Args:
        samples: number of training rows.
        read: (module, batch, outputs) -> (ids, logits, targets), in place of the keys.
        log_name: prefix of the data map that loggers get at the end.
    """

    def __init__(self, samples: int, *, read: Read | None = None, log_name: str = "gendebug") -> None:
        super().__init__("labels.noise", Cause.LABEL_NOISE, log_name)
        self.samples, self.read = samples, read
        self.reset()

    def reset(self) -> None:
        """Forget an earlier training."""
        self._recorder = DynamicsRecorder(self.samples)

    @property
    def dynamics(self) -> TrainingDynamics:
        """Of the epochs finished so far; `dynamics.attach(records)` hands them to the label checks."""
        return self._recorder.dynamics

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the batch into the buffer; before the last validation of the epoch, share it among the ranks."""
        keys = ("ids", "logits", "targets")
        self._recorder.record(*step_tensors("TrainingDynamicsMonitor", keys, self.read, pl_module, batch, outputs))
        if trainer.is_last_batch and trainer.world_size > 1:
            self._recorder.merge(partial(trainer.strategy.reduce, reduce_op="sum"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fold the epoch into the sums."""
        self._recorder.end_epoch()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the data map to the loggers."""
        self.send_figure(trainer, "data_map", self.dynamics)

    def state_dict(self) -> dict[str, Any]:
        """The sums, and what the unfinished epoch has seen."""
        return self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._recorder.load_state_dict(state_dict)
