"""`transformers_monitor`: the inside of a network that `transformers.Trainer` trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gendebug_torch.callbacks.hooks.monitor import LOGGER
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.curves.learning_curves import LearningCurves
from gendebug_torch.errors import MissingExtraError, reject
from gendebug_torch.network.checks._findings import network_findings
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.watch import Watch, recorder_of


class TransformersMonitor:
    """What `NetworkMonitor` does in a Lightning Trainer, by the events of `transformers.Trainer`.

    Made by `transformers_monitor`, which adds the base class that the Trainer asks for. The loss is
    that of the model's output, and the targets are its `labels`; both are read where the model is
    called, and nothing waits for the device. Where the model gives none, as under label smoothing,
    the logged loss is held. Under accumulation no loss is held where the Trainer hands the model
    the items of all its batches: some models divide by them, others do not. Steps are counted as
    the Trainer counts them, from those of the checkpoint in a resumed run.

    A Trainer tells no callback that a training failed: `with transformers_monitor() as monitor:`
    around it, or `close()`, removes the hooks then too and judges what was seen.

    Args:
        every: steps between the first 64 samples; their distance doubles whenever the steps
            double after that. The first five steps are all sampled.

    Attributes:
        findings: what the checks of `network` say after the training, worst first.
        network: evidence for `diagnose(network=...)`; None before the end of a training.
    """

    def __init__(self, *, every: int = 10) -> None:
        if every < 1:
            reject("every", "at least 1", str(every), "Pass the number of steps between samples.")
        self.every = every
        self.findings: list[Finding] = []
        self.network: NetworkEvidence | None = None
        self._watch: Watch | None = None
        self._handle: RemovableHandle | None = None
        self._accumulates = self._held = False
        self._state: Any = None

    def __enter__(self) -> TransformersMonitor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def table(self) -> pd.DataFrame:
        """One row per layer; none before the end of a training."""
        return pd.DataFrame() if self.network is None else self.network.table()

    @property
    def curves(self) -> LearningCurves:
        """Losses and metrics of the Trainer's log, for `diagnose(curves=...)`.

        Raises:
            InputError: nothing was logged.
        """
        return LearningCurves.from_log(getattr(self._state, "log_history", ()))

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **given: Any
    ) -> None:
        """Register the hooks; what cannot be watched ends no training."""
        self._close()
        self.findings, self.network = [], None
        self._state, self._held = state, False
        # Accelerate wraps the optimizer; the one inside makes the steps.
        optimizer: Any = given.get("optimizer")
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self._accumulates = getattr(args, "gradient_accumulation_steps", 1) > 1
        with self._guarded("on_train_begin"):
            recorder = recorder_of(model, [optimizer], self.every)
            recorder.step = getattr(state, "global_step", 0)
            self._watch = Watch(recorder).__enter__()
            self._handle = model.register_forward_hook(self._called, with_kwargs=True)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Hold the logged loss where the model gives none."""
        loss = (given.get("logs") or {}).get("loss")
        if self._watch is not None and not self._held and loss is not None:
            self._watch.loss(torch.tensor(float(loss)))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remove the hooks and run the checks."""
        self.close()

    def close(self) -> None:
        """Remove the hooks and run the checks; nothing where no training is watched."""
        record = self._watch
        self._close()
        if record is None:
            return
        with self._guarded("close"):
            self.network = record.evidence()
            self.findings = network_findings(self.network)
            LOGGER.info("after %d steps: %s", self.network.steps, self.findings[0].summary)

    def _called(
        self, module: nn.Module, inputs: Any, named: Mapping[str, Any], output: Any
    ) -> None:
        """Hold the loss of a training batch."""
        if self._watch is None or not module.training:
            return
        labels = named.get("labels")
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(output, tuple) and labels is not None:
            loss = output[0]
        unclear = self._accumulates and named.get("num_items_in_batch") is not None
        if isinstance(loss, Tensor) and not unclear:
            self._held = True
            self._watch.loss(loss.detach(), labels if isinstance(labels, Tensor) else None)

    def _close(self) -> None:
        """Remove the hooks."""
        if self._handle is not None:
            self._handle.remove()
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
        self._watch = self._handle = None

    @contextlib.contextmanager
    def _guarded(self, event: str) -> Iterator[None]:
        """A monitor never ends a training: its own failure is logged, and it stops watching."""
        try:
            yield
        except Exception as error:
            self._close()
            summary = f"The monitor failed in `{event}` with {type(error).__name__}: {error}"
            cause, check = Cause.TRAINING_FAULT, "network.nonfinite"
            remedy = "The training went on. Fix what the message names."
            broken = Finding(check, cause, Severity.ERRORED, summary)
            self.findings = [replace(broken, remedy=remedy)]
            LOGGER.warning("%s", summary)


def transformers_monitor(*, every: int = 10) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])` that watches the network inside.

    Args:
        every: steps between the first 64 samples; their distance doubles whenever the steps
            double after that. The first five steps are all sampled.

    Returns:
        A `transformers.TrainerCallback` with `findings`, `network` and `table()`, as
        `NetworkMonitor` has them.

    Raises:
        MissingExtraError: transformers is not installed.

    Example:
        >>> monitor = TransformersMonitor(every=20)  # doctest runs without transformers
        >>> # Trainer(model, args, train_dataset=rows, callbacks=[transformers_monitor()]).train()
        >>> len(monitor.table())
        0
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        text = "`transformers_monitor` needs the library transformers: pip install transformers"
        raise MissingExtraError(text) from error
    return type("TransformersCallback", (TransformersMonitor, TrainerCallback), {})(every=every)
