"""`Monitor`: the base of the callbacks; it logs scalars and figures, and survives errors there."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from gendebug_torch.checks.evidence import Plottable
from gendebug_torch.checks.finding import Cause, Finding, Severity

LOGGER = logging.getLogger("gendebug_torch")


class Monitor(Callback):
    """A callback whose own errors cannot end a run: each is logged once and kept as a finding.

    Args:
        check: id of the check in whose name it reports.
        cause: cause that its findings point at.
        log_name: prefix of logged names.
    """

    def __init__(self, check: str, cause: Cause, log_name: str) -> None:
        self.findings: list[Finding] = []
        self.log_name = log_name
        self._check, self._cause = check, cause

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the findings of an earlier run."""
        self.findings = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the record where a new training begins; a continued or resumed one keeps it."""
        if trainer.global_step == 0:
            self.reset()

    def reset(self) -> None:
        """Drop the record of an earlier training."""

    def finding(self, severity: Severity, summary: str, remedy: str, **numbers: Any) -> Finding:
        """A finding in the name of this monitor's check."""
        return Finding(self._check, self._cause, severity, summary, numbers=numbers, remedy=remedy)

    def log_scalars(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Scalars to every logger of the run, at its step."""
        named = {f"{self.log_name}/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers if named else ():
            with self.guarded():
                logger.log_metrics(named, step=trainer.global_step)

    def log_figure(self, trainer: Trainer, name: str, evidence: Plottable) -> None:
        """A figure to every logger that takes one; it is drawn only where one does."""
        figure: Any = None
        for logger in trainer.loggers if trainer.is_global_zero else ():
            with self.guarded():
                send = _figure_method(logger)
                if send is not None:
                    figure = figure or evidence.plot().get_figure()
                    send(f"{self.log_name}/{name}", figure, trainer.global_step)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn an error inside into one errored finding and one warning per kind of error."""
        try:
            yield
        except Exception as error:
            summary = f"The monitor failed with {type(error).__name__}: {error}"
            if all(earlier.summary != summary for earlier in self.findings):
                remedy = "The training went on. Fix what the traceback names, e.g. the logger."
                self.findings.append(
                    self.finding(
                        Severity.ERRORED, summary, remedy, traceback=traceback.format_exc()
                    )
                )
                LOGGER.warning("%s: %s", type(self).__name__, summary)


def _figure_method(logger: Any) -> Callable[[str, Any, int], None] | None:
    """How a logger takes a figure, (name, figure, step) -> None; None where it takes none."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):  # TensorBoard
        return lambda name, figure, step: experiment.add_figure(
            name, figure, global_step=step, close=False
        )
    if hasattr(logger, "log_image"):  # Weights & Biases, which takes arrays
        return lambda name, figure, step: logger.log_image(name, [_pixels(figure)], step=step)
    # MLflow, where a name is a file, so one per step
    if hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):
        return lambda name, figure, step: experiment.log_figure(
            logger.run_id, figure, f"{name}_{step:08d}.png"
        )
    if hasattr(experiment, "log_figure"):  # Comet
        return lambda name, figure, step: experiment.log_figure(name, figure, step=step)
    return None


def _pixels(figure: Any) -> np.ndarray[Any, Any]:
    """The pixels of a figure, `[height, width, 4]` uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())
