"""`NetworkMonitor`: what happens inside a network during a Lightning run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gendebug_torch.callbacks.hooks.monitor import LOGGER, Monitor
from gendebug_torch.callbacks.hooks.steps import Read, train_step_loss
from gendebug_torch.checks.finding import Cause, Severity
from gendebug_torch.errors import reject
from gendebug_torch.network.assembly import network_evidence
from gendebug_torch.network.checks._findings import network_findings
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.recorder import NetworkRecorder
from gendebug_torch.network.watch import recorder_of


class NetworkMonitor(Monitor):
    """Watches layers, gradients, updates and losses of a training, and says what is wrong.

    Hooks see each step, and every k-th is sampled; no step waits for the device. Gradients are
    those that the optimizer got: unscaled, accumulated and clipped. A resumed run continues its
    record. Under several ranks the weights are compared at the end, and the first rank's record
    stands for the others. The inside of compiled modules is not seen.

    Args:
        every: steps between the first 64 samples; their distance doubles whenever the steps
            double after that. The first five steps are all sampled.
        read: reader of a step, (module, batch, outputs) -> (loss, targets); by default the loss
            that the step returned, and the second entry of the batch.
        log_name: prefix of logged names.

    Example:
        >>> monitor = NetworkMonitor(every=20)
        >>> # Trainer(callbacks=[monitor]).fit(module, train); diagnose(network=monitor.network)
        >>> len(monitor.table())
        0
    """

    def __init__(
        self, *, every: int = 10, read: Read | None = None, log_name: str = "gendebug"
    ) -> None:
        super().__init__("network.nonfinite", Cause.TRAINING_FAULT, log_name)
        if every < 1:
            reject("every", "at least 1", str(every), "Pass the number of steps between samples.")
        self.every, self.read = every, read
        self.network: NetworkEvidence | None = None
        self._recorder: NetworkRecorder | None = None
        self._restored: dict[str, Any] = {}

    def table(self) -> pd.DataFrame:
        """One row per layer; none before the end of a training."""
        return pd.DataFrame() if self.network is None else self.network.table()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register the hooks; a resumed run continues its record."""
        super().on_train_start(trainer, pl_module)
        with self.guarded("on_train_start"):
            recorder = recorder_of(pl_module, trainer.optimizers, self.every)
            # Lightning counts the steps of all optimizers.
            recorder.step = trainer.global_step // len(trainer.optimizers)
            if self._restored and trainer.global_step:
                recorder.load_state_dict(self._restored)
            recorder.attach()
            self._recorder = recorder

    def reset(self) -> None:
        """Drop the record of an earlier training."""
        self.network, self._restored = None, {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold the loss."""
        if self._recorder is None:
            return
        targets = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
        if self.read is not None:
            loss, targets = self.read(pl_module, batch, outputs)
        else:
            loss = train_step_loss(None, trainer, pl_module, batch, outputs)
        if loss is not None:
            self._recorder.add_loss(loss, targets)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks; what was seen is judged."""
        self._close(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks, compare the ranks, run the checks and log the figure."""
        recorder = self._recorder
        if recorder is None:
            return
        spread = rank_spread(trainer, list(recorder.parameters.values()))
        self._close(trainer, spread)
        if self.network is not None:
            self.log_figure(trainer, "network", self.network)
            self._log_norms(trainer, self.network)

    def _close(self, trainer: Trainer, spread: float | None = None) -> None:
        """Remove the hooks, and turn the record into evidence and findings."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        recorder.detach()
        self._restored = recorder.state_dict()
        batches = trainer.num_training_batches
        known = int(batches) if math.isfinite(batches) else None
        evidence = network_evidence(recorder, batches=known)
        facts = replace(evidence.facts, rank_spread=spread)
        self.network = replace(evidence, facts=facts)
        found = network_findings(self.network)
        self.findings = [f for f in found if f.severity is not Severity.SKIPPED] + self.findings
        if trainer.is_global_zero:
            LOGGER.info("after %d steps: %s", self.network.steps, self.findings[0].summary)

    def _log_norms(self, trainer: Trainer, network: NetworkEvidence) -> None:
        """Medians per layer to the loggers."""
        ratios = network.median(network.update_ratio).tolist()
        named = zip(network.layers, ratios, strict=True)
        self.log_scalars(
            trainer,
            {f"update_ratio/{layer.name}": ratio for layer, ratio in named if math.isfinite(ratio)},
        )

    def state_dict(self) -> dict[str, Any]:
        """The record so far."""
        return self._restored if self._recorder is None else self._recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record of a checkpoint; the hooks follow when the training starts."""
        self._restored = dict(state_dict)


def rank_spread(trainer: Trainer, parameters: list[torch.nn.Parameter]) -> float | None:
    """Largest relative difference of the norm of a parameter between ranks; None for one rank.

    Args:
        trainer: trainer of the run.
        parameters: parameters of this rank.
    """
    if trainer.world_size == 1:
        return None
    norms = torch.stack([p.detach().double().norm() for p in parameters])
    every: Tensor = trainer.strategy.all_gather(norms)
    lowest, highest = every.amin(0), every.amax(0)
    return float(((highest - lowest) / highest.clamp(min=1e-30)).max())
