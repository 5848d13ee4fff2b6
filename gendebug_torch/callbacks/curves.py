"""`LearningCurveMonitor`: learning curves of a Lightning run, and what they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from gendebug_torch.callbacks.hooks.monitor import TELL, Monitor
from gendebug_torch.callbacks.hooks.steps import (
    Read,
    in_fit,
    real_rows,
    repeated_rows,
    scalars,
    step_loss,
    summed,
    val_loader,
)
from gendebug_torch.callbacks.hooks.train_evaluation import evaluated_loss, sample_loader
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.curves import CurveDiagnosis, LearningCurves, diagnose_curves, sure_inflection
from gendebug_torch.curves.checks.gap import validation_loss_is_near_training_loss
from gendebug_torch.curves.checks.regime import training_ended_well
from gendebug_torch.curves.recorder import CurveRecorder, batch_rows


class LearningCurveMonitor(Monitor):
    """Records mean training and validation loss and every logged metric per epoch, and says what
    they show.

    The losses are what `training_step` and `validation_step` return, averaged over rows; where a
    step returns none, `read` finds it, or the logged `train_loss` and `val_loss` count. Several
    validation loaders give `val_loss` for the first and `val_loss_1` and so on as metrics. No step
    waits for the device; sanity steps are ignored; a resumed run goes on where it stopped, also
    within an epoch; NaN losses are recorded and named.

    Args:
        train_eval: training rows (a number, or a loader) evaluated by `validation_step` at the end
            of each epoch: only that loss is measured as the validation loss is.
        read: (module, batch, outputs) -> loss of a step: a scalar, or one value per row `[n]`, with
            which rows that DDP repeats are left out exactly.
        stop_on_inflection: stop once the validation loss rises beyond its noise, in place of a
            patience.
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
        super().__init__("curves.regime", Cause.OVERFITTING, log_name)
        self.train_eval, self.read, self.stop_on_inflection = train_eval, read, stop_on_inflection
        self._record = CurveRecorder()
        self._told = False

    @property
    def curves(self) -> LearningCurves:
        """What was recorded so far, one row per epoch."""
        return self._record.curves

    @property
    def check_curves(self) -> LearningCurves:
        """The same per validation check, counted in optimizer steps, for validation within
        epochs.
        """
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
        self._told = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a reference to the loss."""
        loss = step_loss(self.read, pl_module, batch, outputs)
        if loss is None:
            return
        if self.read is None and trainer.accumulate_grad_batches > 1:
            # Lightning divides the returned loss by the number of accumulated batches before
            # backward.
            loss = loss * trainer.accumulate_grad_batches
        rows = real_rows(trainer, trainer.train_dataloader, batch_idx, batch_rows(batch))
        self._record.add_train(loss, rows, epoch=trainer.current_epoch, index=batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the metrics of the validation from those that are there before."""
        self._record.begin_check(trainer.callback_metrics)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a reference to the loss of this loader."""
        loss = step_loss(self.read, pl_module, batch, outputs) if in_fit(trainer) else None
        if loss is None:
            return
        loader = val_loader(trainer, dataloader_idx)
        rows = real_rows(trainer, loader, batch_idx, batch_rows(batch))
        self._record.add_val(dataloader_idx, loss, rows, repeated=repeated_rows(trainer, loader))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of this check."""
        if in_fit(trainer):
            sums = summed(trainer, self._record.check_sums())
            self._record.close_check(
                trainer.current_epoch, trainer.global_step, sums, scalars(trainer.callback_metrics)
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of the epoch, log them, and look whether it still gets better."""
        sums = [self._record.epoch_sums()]
        if self.train_eval is not None:
            evaluated = evaluated_loss(
                trainer, pl_module, sample_loader(trainer, self.train_eval), self.read
            )
            sums.append(evaluated[None].to(sums[0].device))
        read = summed(trainer, torch.cat(sums))
        self.send_scalars(
            trainer,
            self._record.close_epoch(
                trainer.current_epoch, read, scalars(trainer.callback_metrics)
            ),
        )
        found = None
        with self.shielded():
            found = (
                sure_inflection(self.curves) if self.stop_on_inflection or not self._told else None
            )
        if found is not None and not self._told:
            self._told = True
            TELL.warning("epoch %d: %s", trainer.current_epoch, found.summary)
        if self.stop_on_inflection and trainer.strategy.reduce_boolean_decision(
            found is not None, all=False
        ):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the curves, tell the verdict in one line, and hand the picture to the loggers."""
        curves = self.curves
        if not len(curves):
            remedy = "Return a loss from `training_step`, log it as `train_loss`, or pass `read`."
            found = [
                Finding(
                    "curves.regime",
                    Cause.OVERFITTING,
                    Severity.SKIPPED,
                    "Skipped: no step showed a loss.",
                    remedy=remedy,
                )
            ]
        else:
            found = [
                *training_ended_well.run({"curves": curves}),
                *validation_loss_is_near_training_loss.run({"curves": curves}),
            ]
            self.send_figure(trainer, "curves", found[0].evidence or curves)
        self.findings = [*found, *self.findings]
        if trainer.is_global_zero:
            TELL.info("after %d epochs: %s", len(curves), found[0].summary)

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded so far, the unfinished epoch included."""
        return self._record.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._record.load_state_dict(state_dict)
