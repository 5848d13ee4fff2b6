"""`LearningCurveMonitor`: learning curves of a Lightning run, and what they say."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gendebug_torch.callbacks.glue import log, reduced, step_loss
from gendebug_torch.curves import CurveDiagnosis, LearningCurves, diagnose_curves
from gendebug_torch.curves.recorder import MeanBuffer, batch_rows


class LearningCurveMonitor(Callback):
    """Records mean training and validation loss per epoch and diagnoses them; no host sync per step.

    The training loss is the one that `training_step` returns (averaged over rows), the validation loss what
    `validation_step` returns as a Tensor or under `loss`; or, with `val_metric`, a logged metric. Several
    validation loaders give `val_loss` for the first and `val_loss_1` and so on as metrics. Sanity steps are
    ignored; a resumed run goes on where it stopped.

    Args:
        val_metric: name of a logged metric to take as the validation loss.
        stop_on_overfit: stop the training once the curves are overfit.
        log_name: prefix of what is logged.
    """

    def __init__(self, *, val_metric: str | None = None, stop_on_overfit: bool = False, log_name: str = "gendebug") -> None:
        self.val_metric, self.stop_on_overfit, self.log_name = val_metric, stop_on_overfit, log_name
        self._train = MeanBuffer()
        self._val: dict[int, MeanBuffer] = {}
        self._rows: list[dict[str, float]] = []

    @property
    def curves(self) -> LearningCurves:
        """What was recorded so far."""
        names = dict.fromkeys(["train_loss", "val_loss", *(name for row in self._rows for name in row if name != "epoch")])
        columns = {name: torch.tensor([row.get(name, torch.nan) for row in self._rows], dtype=torch.float64) for name in names}
        epoch = torch.tensor([int(row["epoch"]) for row in self._rows], dtype=torch.int64)
        return LearningCurves(epoch, columns.pop("train_loss"), columns.pop("val_loss"), columns)

    @property
    def diagnosis(self) -> CurveDiagnosis:
        """What the curves say so far."""
        return diagnose_curves(self.curves)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep a reference to the loss."""
        loss = step_loss(outputs)
        if loss is not None:
            # Lightning divides the returned loss by the number of accumulated batches before backward.
            self._train.add(loss * trainer.accumulate_grad_batches if trainer.accumulate_grad_batches > 1 else loss, batch_rows(batch))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep a reference to the loss of this loader."""
        loss = step_loss(outputs)
        if loss is not None and not trainer.sanity_checking:
            self._val.setdefault(dataloader_idx, MeanBuffer()).add(loss, batch_rows(batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of the epoch: the one place that waits for the device."""
        row = {"epoch": float(trainer.current_epoch), "train_loss": reduced(trainer, self._train.total())}
        for index, buffer in sorted(self._val.items()):
            row["val_loss" if index == 0 else f"val_loss_{index}"] = reduced(trainer, buffer.total())
        if self.val_metric is not None and self.val_metric in trainer.callback_metrics:
            row["val_loss"] = float(trainer.callback_metrics[self.val_metric])
        self._val.clear()
        self._rows = [earlier for earlier in self._rows if earlier["epoch"] != row["epoch"]] + [row]
        log(trainer, {f"{self.log_name}/{name}": value for name, value in row.items() if name != "epoch"})
        if self.stop_on_overfit and len(self._rows) >= 8 and self.diagnosis.regime == "overfit":
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The epochs recorded so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._rows = [dict(row) for row in state_dict["rows"]]


