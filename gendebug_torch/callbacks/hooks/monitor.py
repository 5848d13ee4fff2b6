"""`Monitor`: the base of the callbacks; it logs, and its errors never end a training."""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from gendebug_torch.callbacks.hooks.steps import is_fitting
from gendebug_torch.checks.evidence import Plottable
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.errors import InputError

LOGGER = logging.getLogger("gendebug_torch")
Result = TypeVar("Result")
# Hooks that come before the training: what they refuse has cost nothing yet.
_EARLY_HOOKS = ("on_fit_start", "on_train_start")


class Monitor(Callback):
    """A callback whose own errors never end a training.

    An error in a hook becomes one warning and one errored finding, and the training goes on. Only
    wrong input is raised, and only before the first training step is over, e.g. in the sanity
    check.

    Args:
        check: id of the check in whose name it reports.
        cause: cause that its findings point at.
        log_name: prefix of logged names.
    """

    # What a checkpoint holds, for monitors that do not say it themselves.
    _record: Any

    def __init__(self, check: str, cause: Cause, log_name: str) -> None:
        self.findings: list[Finding] = []
        self.log_name = log_name
        self._check, self._cause = check, cause
        self._failures: set[tuple[str, type[Exception]]] = set()
        self._trained = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and name not in _EARLY_HOOKS:
                setattr(cls, name, _guarded_hook(hook))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the findings of an earlier run."""
        self.findings = []
        self._failures = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the record where a new training begins; a continued or resumed one keeps it."""
        self._trained = True
        if trainer.global_step == 0:
            self.reset()

    def reset(self) -> None:
        """Drop the record of an earlier training."""

    def state_dict(self) -> dict[str, Any]:
        """The record so far."""
        state: dict[str, Any] = self._record.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of a checkpoint."""
        self._record.load_state_dict(state_dict)

    def skips_validation(self, trainer: Trainer) -> bool:
        """Whether a validation is a sanity check, or comes beside the training on record.

        `trainer.validate` counts for a monitor that has seen no training; after one it is about
        other rows or another network, and adds no epoch.
        """
        beside = self._trained and not is_fitting(trainer)
        return trainer.sanity_checking or beside

    def finding(self, severity: Severity, summary: str, remedy: str, **numbers: Any) -> Finding:
        """A finding in the name of this monitor's check."""
        return Finding(self._check, self._cause, severity, summary, numbers=numbers, remedy=remedy)

    def log_scalars(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Scalars to every logger of the run, at its step."""
        named = {f"{self.log_name}/{name}": value for name, value in metrics.items()}
        for logger in trainer.loggers if named else ():
            with self.guarded("log_scalars"):
                logger.log_metrics(named, step=trainer.global_step)

    def log_figure(self, trainer: Trainer, name: str, evidence: Plottable) -> None:
        """A figure to every logger that takes one; it is drawn only where one does."""
        figure: Any = None
        for logger in trainer.loggers if trainer.is_global_zero else ():
            with self.guarded("log_figure"):
                send = _figure_method(logger)
                if send is not None:
                    figure = figure or evidence.plot().get_figure()
                    send(f"{self.log_name}/{name}", figure, trainer.global_step)

    @contextlib.contextmanager
    def guarded(self, action: str) -> Iterator[None]:
        """Turn an error into a warning and an errored finding, once per action and kind of error.

        Args:
            action: name of what is done inside.
        """
        try:
            yield
        except Exception as error:
            self._report(action, error)

    def on_every_rank(
        self, trainer: Trainer, action: str, compute: Callable[[], Result]
    ) -> Result | None:
        """The result of a local computation; None on every rank where it failed on any.

        What follows may talk to the other ranks: without this, a rank that failed would leave them
        waiting.

        Args:
            trainer: trainer of the run.
            action: name of what is computed.
            compute: computation of this rank.
        """
        result = None
        with self.guarded(action):
            result = compute()
        everywhere = trainer.strategy.reduce_boolean_decision(result is not None, all=True)
        return result if everywhere else None

    def _report(self, action: str, error: Exception) -> None:
        failure = action, type(error)
        if failure in self._failures:
            return
        self._failures.add(failure)
        summary = f"The monitor failed in `{action}` with {type(error).__name__}: {error}"
        remedy = "The training went on. Fix what the message or the traceback names."
        text = "".join(traceback.format_exception(error))
        self.findings.append(self.finding(Severity.ERRORED, summary, remedy, traceback=text))
        LOGGER.warning("%s: %s", type(self).__name__, summary)


def _guarded_hook(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook with its errors reported; wrong input is raised while nothing was trained yet."""

    @functools.wraps(hook)
    def call(self: Monitor, trainer: Trainer, *arguments: Any, **options: Any) -> None:
        try:
            hook(self, trainer, *arguments, **options)
        except Exception as error:
            if isinstance(error, InputError) and _nothing_trained(trainer):
                raise
            self._report(hook.__name__, error)

    return call


def _nothing_trained(trainer: Trainer) -> bool:
    """Whether the run has trained at most one batch, or does not train at all."""
    if trainer.sanity_checking or not is_fitting(trainer):
        return True
    return trainer.fit_loop.epoch_loop.total_batch_idx <= 0


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
