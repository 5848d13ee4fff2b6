"""`LearningCurveMonitor`: learning curves of a Lightning run, and what they say."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from gendebug_torch.callbacks.glue import Read, log, log_figure, real_rows, scalars, shielded, step_loss, summed
from gendebug_torch.callbacks.train_eval import evaluated_loss, sample_loader
from gendebug_torch.curves import CurveDiagnosis, LearningCurves, diagnose_curves, sure_inflection
from gendebug_torch.curves.checks import training_ended_well, validation_loss_is_near_training_loss
from gendebug_torch.curves.recorder import CurveRecorder, batch_rows
from gendebug_torch.finding import Cause, Finding

_TELL = logging.getLogger("gendebug_torch")


class LearningCurveMonitor(Callback):
    """Records mean training and validation loss and every logged metric per epoch, and says what they show.

    The losses are what `training_step` and `validation_step` return, averaged over rows; where a step returns
    none, `read` finds it, or the logged `train_loss` and `val_loss` count. Several validation loaders give
    `val_loss` for the first and `val_loss_1` and so on as metrics. No step waits for the device; sanity steps are
    ignored; a resumed run goes on where it stopped, also within an epoch; NaN losses are recorded and named.

    Args:
        train_eval: training rows (a number, or a loader) evaluated by `validation_step` at the end of each epoch:
            only that loss is measured as the validation loss is.
        read: (module, batch, outputs) -> loss of a step: a scalar, or one value per row `[n]`, with which rows
            that DDP repeats are left out exactly.
        stop_on_inflection: stop once the validation loss rises beyond its noise, in place of a patience.
        log_name: prefix of what is logged.
    """

    def __init__(
        self,
        *,
        train_eval: int | Iterable[Any] | None = None,
        read: Read | None = None,
        stop_on_inflection: bool = False,
        log_name: str = "gendebug",
    ) -> None:
        self.train_eval, self.read, self.stop_on_inflection, self.log_name = train_eval, read, stop_on_inflection, log_name
        self.findings: list[Finding] = []
        self._errors: list[Finding] = []
        self._record = CurveRecorder()
        self._told = False

    @property
    def curves(self) -> LearningCurves:
        """What was recorded so far, one row per epoch."""
        return self._record.curves

    @property
    def check_curves(self) -> LearningCurves:
        """The same per validation check, counted in optimizer steps, for validation within epochs."""
        return self._record.check_curves

    @property
    def diagnosis(self) -> CurveDiagnosis:
        """What the curves say so far."""
        return diagnose_curves(self.curves)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from a checkpoint, or begin anew."""
        self._record.begin(trainer.current_epoch, trainer.global_step)
        unfinished = self._record.epoch
        if unfinished is not None and unfinished < trainer.current_epoch:
            # Resumed from the last batch of an epoch, whose end Lightning then leaves out.
            self._record.close_epoch(unfinished, summed(trainer, self._record.epoch_sums()), {})
        self.findings, self._errors, self._told = [], [], False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep a reference to the loss."""
        loss = step_loss(outputs) if self.read is None else self.read(pl_module, batch, outputs)
        if loss is None:
            return
        # Lightning divides the returned loss by the number of accumulated batches before backward.
        scale = trainer.accumulate_grad_batches if self.read is None else 1
        loss = loss * scale if scale > 1 else loss
        self._record.add_train(loss, batch_rows(batch), epoch=trainer.current_epoch, index=batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the metrics of the validation from those that are there before."""
        self._record.begin_check(trainer.callback_metrics)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep a reference to the loss of this loader."""
        if trainer.sanity_checking or trainer.state.fn is not TrainerFn.FITTING:
            return
        loss = step_loss(outputs) if self.read is None else self.read(pl_module, batch, outputs)
        if loss is None:
            return
        loaders = trainer.val_dataloaders
        loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
        rows = real_rows(trainer, loader, batch_idx, batch_rows(batch))
        self._record.add_val(dataloader_idx, loss[:rows] if loss.ndim else loss, rows)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of this check."""
        if trainer.sanity_checking or trainer.state.fn is not TrainerFn.FITTING:
            return
        sums = summed(trainer, self._record.check_sums())
        self._record.close_check(trainer.current_epoch, trainer.global_step, sums, scalars(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of the epoch, log them, and look at the curves."""
        sums = [self._record.epoch_sums()]
        if self.train_eval is not None:
            evaluated = evaluated_loss(trainer, pl_module, sample_loader(trainer, self.train_eval), self.read)
            sums.append(evaluated[None].to(sums[0].device))
        self._record.close_epoch(trainer.current_epoch, summed(trainer, torch.cat(sums)), scalars(trainer.callback_metrics))
        last = self._record.rows[-1] if self._record.rows else {}
        losses = {f"{self.log_name}/{name}": value for name, value in last.items() if "loss" in name}
        with shielded(self._errors, "curves.regime", Cause.OVERFITTING):
            log(trainer, losses)
        found = sure_inflection(self.curves) if self.stop_on_inflection or not self._told else None
        if found is not None and not self._told:
            self._told = True
            _TELL.warning("epoch %d: %s", trainer.current_epoch, found.summary)
        if found is not None and self.stop_on_inflection:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the curves, tell the verdict in one line, and hand the picture to the loggers."""
        given = {"curves": self.curves}
        if not len(given["curves"]):
            return
        checks = (training_ended_well, validation_loss_is_near_training_loss)
        self.findings = [finding for check in checks for finding in check.run(given)]
        if trainer.is_global_zero:
            _TELL.info("after %d epochs: %s", len(given["curves"]), self.findings[0].summary)
        evidence = self.findings[0].evidence
        with shielded(self._errors, "curves.regime", Cause.OVERFITTING):
            log_figure(trainer, f"{self.log_name}/curves", given["curves"] if evidence is None else evidence)
        self.findings += self._errors

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded so far, the unfinished epoch included."""
        return self._record.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._record.load_state_dict(state_dict)
