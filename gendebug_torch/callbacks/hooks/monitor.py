"""What every monitor does with what it saw: scalars and pictures to the loggers, and nothing that
breaks there ends a training.
"""

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

TELL = logging.getLogger("gendebug_torch")


class Monitor(Callback):
    """A callback whose reports cannot end a run: what breaks in them is told at once and stands
    among `findings`.

    Args:
        check: id under which its findings stand.
        cause: what they are about.
        log_name: prefix of what is logged.
    """

    def __init__(self, check: str, cause: Cause, log_name: str) -> None:
        self.findings: list[Finding] = []
        self.log_name = log_name
        self._check, self._cause = check, cause

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the findings of an earlier run."""
        self.findings = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew where a new training begins; one that goes on, or is resumed, keeps what was
        seen.
        """
        if trainer.global_step == 0:
            self.reset()

    def reset(self) -> None:
        """Forget an earlier training."""

    def send_scalars(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Scalars to every logger of the run, at its step."""
        named = {f"{self.log_name}/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers if named else ():
            with self.shielded():
                logger.log_metrics(named, step=trainer.global_step)

    def send_figure(self, trainer: Trainer, name: str, evidence: Plottable) -> None:
        """A picture to every logger that takes one; it is drawn only where one does."""
        figure: Any = None
        for logger in trainer.loggers if trainer.is_global_zero else ():
            with self.shielded():
                send = _sender(logger)
                if send is not None:
                    figure = figure or evidence.plot().get_figure()
                    send(f"{self.log_name}/{name}", figure, trainer.global_step)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Whatever breaks inside becomes one errored finding per kind of error."""
        try:
            yield
        except Exception as error:
            summary = f"Broke with {type(error).__name__}: {error}"
            if all(earlier.summary != summary for earlier in self.findings):
                numbers = {"traceback": traceback.format_exc()}
                remedy = "The training went on; mend what the traceback names, e.g. the logger."
                self.findings.append(
                    Finding(
                        self._check,
                        self._cause,
                        Severity.ERRORED,
                        summary,
                        numbers=numbers,
                        remedy=remedy,
                    )
                )
                TELL.warning("%s: %s", type(self).__name__, summary)


def _sender(logger: Any) -> Callable[[str, Any, int], None] | None:
    """How a logger takes a picture: (name, figure, step) -> None; None where it takes none."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):  # TensorBoard
        return lambda name, figure, step: experiment.add_figure(
            name, figure, global_step=step, close=False
        )
    if hasattr(logger, "log_image"):  # Weights & Biases, which takes arrays
        return lambda name, figure, step: logger.log_image(name, [_pixels(figure)], step=step)
    if hasattr(experiment, "log_figure") and hasattr(
        logger, "run_id"
    ):  # MLflow, where a name is a file, so one per step
        return lambda name, figure, step: experiment.log_figure(
            logger.run_id, figure, f"{name}_{step:08d}.png"
        )
    if hasattr(experiment, "log_figure"):  # Comet
        return lambda name, figure, step: experiment.log_figure(name, figure, step=step)
    return None


def _pixels(figure: Any) -> np.ndarray[Any, Any]:
    """`[height, width, 4]` uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())
