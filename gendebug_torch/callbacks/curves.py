"""`LearningCurveMonitor`: learning curves of a Lightning run, and what they show."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from gendebug_torch.callbacks.hooks.batch_rows import (
    counted_rows,
    notable_repetitions,
    val_loader,
)
from gendebug_torch.callbacks.hooks.monitor import LOGGER, Monitor
from gendebug_torch.callbacks.hooks.steps import (
    Read,
    in_fit,
    scalars,
    step_loss,
    summed,
    train_step_loss,
)
from gendebug_torch.callbacks.hooks.train_evaluation import evaluated_loss, sample_loader
from gendebug_torch.checks.finding import Severity
from gendebug_torch.curves import (
    CurveDiagnosis,
    LearningCurves,
    diagnose_curves,
    early_stopping_diagnosis,
)
from gendebug_torch.curves.checks.gap import validation_loss_is_near_training_loss
from gendebug_torch.curves.checks.regime import training_converged_without_overfitting
from gendebug_torch.curves.diagnosis.early_stopping import MIN_EPOCHS
from gendebug_torch.curves.fit.curve_statistics import MIN_VALUES
from gendebug_torch.curves.recorder import CurveRecorder, finest_curves


class LearningCurveMonitor(Monitor):
    """Records training loss, validation loss and logged metrics per epoch, and diagnoses them.

    The losses are what `training_step` and `validation_step` return, averaged over rows; where a
    step returns none, `read` reads it, or the logged `train_loss` and `val_loss` count. Several
    validation loaders give `val_loss` for the first and `val_loss_1` and so on as metrics. No step
    waits for the device; sanity steps are ignored; a resumed run continues its record, also within
    an epoch; NaN losses are recorded and named. Where fewer epochs were validated than a verdict
    needs, as with `max_steps` and `val_check_interval`, the validation checks are diagnosed.

    Args:
        train_eval: training rows (a number, or a loader) evaluated by `validation_step` at the end
            of each epoch: only that loss is measured as the validation loss is.
        read: reader of the loss of a step, (module, batch, outputs) -> `[]`, or one value per row
            `[n]`, with which rows that DDP repeats are left out exactly.
        stop_on_inflection: stop once the validation loss rises beyond its noise, in place of a
            patience.
        log_name: prefix of logged names.

    Example:
        >>> monitor = LearningCurveMonitor(stop_on_inflection=True)
        >>> # Trainer(callbacks=[monitor]).fit(module, train, val); print(monitor.diagnosis)
        >>> len(monitor.curves)
        0
    """

    _record: CurveRecorder

    def __init__(
        self,
        *,
        train_eval: int | Iterable[Any] | None = None,
        read: Read | None = None,
        stop_on_inflection: bool = False,
        log_name: str = "gendebug",
    ) -> None:
        check = training_converged_without_overfitting
        super().__init__(check.name, check.cause, log_name)
        self.train_eval, self.read, self.stop_on_inflection = train_eval, read, stop_on_inflection
        self._record = CurveRecorder()
        self._warned = False

    @property
    def curves(self) -> LearningCurves:
        """The curves so far, one row per epoch."""
        return self._record.curves

    @property
    def check_curves(self) -> LearningCurves:
        """The curves so far, one row per validation check, counted in optimizer steps."""
        return self._record.check_curves

    @property
    def diagnosis(self) -> CurveDiagnosis:
        """The diagnosis of the epochs so far, or of the validation checks where epochs are few."""
        return diagnose_curves(finest_curves(self._record, MIN_VALUES))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the record of a checkpoint, or start a new one."""
        if self.train_eval is not None:
            sample_loader(trainer, self.train_eval)
        self._record.begin(trainer.current_epoch, trainer.global_step)
        unfinished = self._record.epoch
        if unfinished is not None and unfinished < trainer.current_epoch:
            # Resumed from the last batch of an epoch, whose end Lightning then leaves out.
            self._record.close_epoch(unfinished, summed(trainer, self._record.epoch_sums()), {})
        self._warned = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold the loss."""
        loss = train_step_loss(self.read, trainer, pl_module, batch, outputs)
        if loss is not None:
            loader = trainer.train_dataloader
            rows = counted_rows(trainer, loader, loss, batch_idx, batch)
            repeated = notable_repetitions(trainer, loader)
            at = {"epoch": trainer.current_epoch, "index": batch_idx}
            self._record.add_train(loss, rows, repeated=repeated, **at)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which metrics are not those of this validation."""
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
        """Hold the loss of this loader."""
        loss = step_loss(self.read, pl_module, batch, outputs) if in_fit(trainer) else None
        if loss is not None:
            loader = val_loader(trainer, dataloader_idx)
            rows = counted_rows(trainer, loader, loss, batch_idx, batch)
            repeated = notable_repetitions(trainer, loader)
            self._record.add_val(dataloader_idx, loss, rows, repeated=repeated)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of this check."""
        if not in_fit(trainer):
            return
        sums = self.on_every_rank(trainer, "check_sums", self._record.check_sums)
        if sums is not None:
            totals, metrics = summed(trainer, sums), scalars(trainer.callback_metrics)
            self._record.close_check(trainer.current_epoch, trainer.global_step, totals, metrics)
        self._stop_if_overfit(trainer, "step")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the means of the epoch, log them, and test whether the network overfits."""
        sums = self.on_every_rank(trainer, "epoch_sums", self._record.epoch_sums)
        evaluated = None
        if self.train_eval is not None:
            loader = sample_loader(trainer, self.train_eval)
            compute = partial(evaluated_loss, trainer, pl_module, loader, self.read)
            evaluated = self.on_every_rank(trainer, "train_eval", compute)
        if sums is not None:
            if evaluated is not None:
                sums = torch.cat([sums, evaluated[None].to(sums.device)])
            totals, metrics = summed(trainer, sums), scalars(trainer.callback_metrics)
            losses = self._record.close_epoch(trainer.current_epoch, totals, metrics)
            self.log_scalars(trainer, losses)
        self._stop_if_overfit(trainer, "epoch")

    def _stop_if_overfit(self, trainer: Trainer, unit: str) -> None:
        """Warn of the first inflection, and stop if that is wanted, by epochs or by checks."""
        curves = finest_curves(self._record, MIN_EPOCHS)
        if curves.unit != unit or (self._warned and not self.stop_on_inflection):
            return
        overfit: CurveDiagnosis | None = None
        with self.guarded("early_stopping"):
            overfit = early_stopping_diagnosis(curves)
        if overfit is not None and not self._warned:
            self._warned = True
            LOGGER.warning("%s %d: %s", unit, int(curves.epoch[-1]), overfit.summary)
        if self.stop_on_inflection and trainer.strategy.reduce_boolean_decision(
            overfit is not None, all=False
        ):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the checks of the curves, log the verdict in one line, and log the figure."""
        curves = finest_curves(self._record, MIN_VALUES)
        if len(curves):
            given = {"curves": curves}
            findings = [
                *training_converged_without_overfitting.run(given),
                *validation_loss_is_near_training_loss.run(given),
            ]
            self.log_figure(trainer, "curves", findings[0].evidence or curves)
        else:
            remedy = "Return a loss from `training_step`, log it as `train_loss`, or pass `read`."
            summary = "Skipped: no step returned a loss."
            findings = [self.finding(Severity.SKIPPED, summary, remedy)]
        self.findings = [*findings, *self.findings]
        if trainer.is_global_zero:
            LOGGER.info("after %d epochs: %s", len(self.curves), findings[0].summary)
