"""`BehaviorMonitor`: a suite of cases, run on the network at the end of each validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from gendebug_torch.behavior import BehaviorRun, Suite, load_suite, network_predict, run_suite
from gendebug_torch.behavior.running.model_adapter import Predict
from gendebug_torch.behavior.running.results import model_error
from gendebug_torch.behavior.running.scores import last_line
from gendebug_torch.callbacks.hooks.monitor import Monitor
from gendebug_torch.checks.finding import Cause
from gendebug_torch.errors import reject


class BehaviorMonitor(Monitor):
    """Runs a suite at the end of each validation and logs how many cases fail.

    Args:
        suite: Suite, or the path of one.
        predict: module -> predict(list of dicts), where the network does not take the suite's
            `features` as columns.
        every_n_epochs: epochs from one run to the next.
        log_name: prefix of logged names.

    Raises:
        InputError: the suite names no `features`, and there is no `predict`.

    Example:
        >>> from gendebug_torch.behavior import Case, Suite
        >>> suite = Suite((Case("up", {"a": 0}, "higher", {"a": 1}),), features=("a",))
        >>> monitor = BehaviorMonitor(suite)
        >>> # Trainer(callbacks=[monitor]).fit(module, train, val); monitor.history[0].failures
        >>> monitor.history
        {}
    """

    def __init__(
        self,
        suite: Suite | str | Path,
        *,
        predict: Callable[[LightningModule], Predict] | None = None,
        every_n_epochs: int = 1,
        log_name: str = "gendebug",
    ) -> None:
        super().__init__("behavior.cases", Cause.BEHAVIOR_REGRESSION, log_name)
        self.suite = suite if isinstance(suite, Suite) else load_suite(suite)
        self.predict, self.every_n_epochs = predict, every_n_epochs
        self.reset()
        if predict is None and not self.suite.features:
            reject(
                "suite",
                "`features`, the columns that the network takes",
                "none",
                "Add them to the suite, or pass `predict`.",
            )

    def reset(self) -> None:
        """Drop the record of an earlier training."""
        self.history: dict[int, BehaviorRun] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the suite on the network; its mode and gradients are left as they were."""
        if self.skips_validation(trainer) or trainer.current_epoch % self.every_n_epochs:
            return
        build = self.predict or partial(
            network_predict, features=self.suite.features, device=pl_module.device
        )
        with self.guarded("run_suite"):
            run = run_suite(self.suite, build(pl_module), name=f"epoch {trainer.current_epoch}")
            self.history[trainer.current_epoch] = run
            if error := model_error(run):
                got = last_line(error)
                remedy = "Correct `predict`, or the columns of the suite."
                reject("predict", "a probability for each input", f"an error: {got}", remedy)
            self.log_scalars(trainer, {"behavior_failed": float(len(run.failures))})

    def state_dict(self) -> dict[str, Any]:
        """The runs so far."""
        return {"history": {epoch: run.to_dict() for epoch, run in self.history.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of a checkpoint."""
        self.history = {
            int(epoch): BehaviorRun.from_dict(run) for epoch, run in state_dict["history"].items()
        }
