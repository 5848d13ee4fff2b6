"""The calibration of a network while it trains, one entry per validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature_sums import GRID, TemperatureSums, temperature_sums
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.calibration.measures.sufficient_statistics import (
    CELLS,
    CalibrationSums,
    calibration_sums,
)
from gendebug_torch.calibration.rows.label_forms import are_one_hot
from gendebug_torch.calibration.rows.model_outputs import (
    LabeledOutputs,
    is_binary,
    labeled_outputs,
)
from gendebug_torch.data.task import IGNORED, are_probabilities
from gendebug_torch.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Logits wait on their device until there are this many bytes, so that the fixed cost of a pass
# vanishes.
_BYTES = 2**25
# Of each such pass, the rows that the temperature is computed from (to about a hundredth), and the
# logits that they may have.
_TEMPERATURE_ROWS, _TEMPERATURE_LOGITS = 4096, 2**19
# Validations on record; beyond, every second one is dropped.
_MOST_VALIDATIONS = 512
# The vector of an epoch: cells, scores, temperature, rows left out.
_PARTS = [3 * CELLS, 2 * 4, 3 * len(GRID), 1]


@dataclass(frozen=True)
class Validation:
    """The sums of one validation.

    Args:
        epoch: number of the epoch.
        sums: counts of confidence and correctness, and scores.
        temperature: sufficient statistics of the temperature.
    """

    epoch: int
    sums: CalibrationSums
    temperature: TemperatureSums


class CalibrationRecorder:
    """Counts labeled logits, validation by validation; the device is not waited for between passes.

    The owner adds the result of `epoch_sums` over its ranks and passes it to `close_epoch`. Rows
    without a loss (NaN or infinite logits, a masked class as the target) are left out, and `notes`
    says how many.

    Cost: about 10 us for a batch of [64, 10] on one CPU core and 30 us for [256, 10] or [64, 100].
    Many classes are bound by their exponentials: [64, 1000] takes some 5 times the 40 us of one
    exponential per logit.

    Args:
        bins: number of bins of the reliability diagram; a divisor of 2520.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: `bins` does not divide 2520.
    """

    def __init__(self, *, bins: int = 15, ignore_index: int | None = None) -> None:
        self.bins, self.ignore_index = bins, ignore_index
        self.validations: dict[int, Validation] = {}
        self.notes: list[str] = []
        self.probabilities = self._dense = False
        self.begin()
        # A wrong number of bins is rejected here, not when the first epoch is over.
        _unpacked(*torch.split(self._sums, _PARTS)[:2]).bins(bins)

    @property
    def history(self) -> dict[int, CalibrationSums]:
        """The last validation of each epoch."""
        return {one.epoch: one.sums for one in self.validations.values()}

    @property
    def temperatures(self) -> dict[int, TemperatureSums]:
        """Sufficient statistics of the temperature in the last validation of each epoch."""
        return {one.epoch: one.temperature for one in self.validations.values()}

    def begin(self) -> None:
        """Start an epoch of validation; rows of an interrupted one are dropped."""
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._bytes = 0
        self._sums = torch.zeros(sum(_PARTS), dtype=torch.float64)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add the logits `[n, k]`, `[n]`, `[n, 1]` or dense of a batch, with their labels.

        Labels are one class id per row or position, or `[n, k]` of 0 and 1 of a multilabel head,
        each of which counts as a binary row. Batches may have different shapes.
        """
        if not targets.ndim:
            # A batch of one row whose axis was squeezed away.
            logits, targets = logits[None], targets[None]
        self._waiting.append((logits, targets))
        self._bytes += logits.numel() * logits.element_size()
        if self._bytes >= _BYTES:
            self._count()

    def epoch_sums(self) -> Tensor:
        """`[7590]` float64 sums of the epoch on the CPU.

        Raises:
            InputError: logits and targets do not fit.
        """
        self._count()
        return self._sums

    def close_epoch(self, epoch: int, sums: Tensor, step: int | None = None) -> dict[str, float]:
        """Store a validation and return its ECE, mean confidence and best temperature, if finite.

        Args:
            epoch: number of the epoch.
            sums: what `epoch_sums` returned, added over the ranks.
            step: number of the training step; the epoch where it is None.
        """
        *parts, left_out = torch.split(sums, _PARTS)
        if left := int(left_out):
            self.notes.append(
                f"epoch {epoch}: {left} rows had NaN or infinite logits, or a masked target, and "
                "were left out"
            )
        key = epoch if step is None else step
        self.validations.pop(key, None)
        stored = _validation(epoch, *parts)
        if not stored.sums.cells.total:
            return {}
        self.validations[key] = stored
        if len(self.validations) > _MOST_VALIDATIONS:
            self.validations = dict(list(self.validations.items())[1::2])
        bins, temperature = stored.sums.bins(self.bins), stored.temperature.temperature()[0]
        scalars = {
            "val_ece": bins.ece,
            "val_confidence": bins.mean_confidence,
            "val_temperature": temperature,
        }
        return {name: value for name, value in scalars.items() if value == value}

    def diagram(self, epoch: int) -> ReliabilityBins:
        """The reliability bins of an epoch."""
        return self.history[epoch].bins(self.bins)

    def table(self) -> pd.DataFrame:
        """One row per validation: ECE with interval, accuracy, confidence, log loss, temperature.

        Dense outputs have no interval, since the positions of a row depend on each other.
        """
        import pandas as pd

        names = "epoch step ece low high accuracy mean_confidence nll temperature temperature_error"
        rows = []
        for step, one in self.validations.items():
            bins = one.sums.bins(self.bins)
            interval = (math.nan, math.nan) if self._dense else bins.interval()
            scores = (bins.accuracy, bins.mean_confidence, one.sums.nll)
            temperature = one.temperature.temperature()
            rows.append((one.epoch, step, bins.ece, *interval, *scores, *temperature))
        return pd.DataFrame(rows, columns=names.split())

    def state_dict(self) -> dict[str, Any]:
        """The validations counted so far."""
        packed = {
            step: (one.epoch, _flat(one.sums, one.temperature))
            for step, one in self.validations.items()
        }
        return {"validations": packed, "notes": list(self.notes), "dense": self._dense}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.notes, self._dense = list(state["notes"]), bool(state.get("dense", False))
        # Version 0.1 kept one entry per epoch.
        packed = state.get("validations") or {
            epoch: (epoch, flat) for epoch, flat in state.get("history", {}).items()
        }
        self.validations = {
            int(step): _validation(int(epoch), *torch.split(flat, _PARTS[:-1]))
            for step, (epoch, flat) in packed.items()
        }

    def _count(self) -> None:
        """Count the waiting batches, those of one shape together."""
        groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for logits, targets in self._waiting:
            key = (logits.shape[1:], targets.shape[1:], logits.dtype, targets.dtype)
            groups.setdefault(key, []).append((logits, targets))
        self._waiting, self._bytes = [], 0
        for batches in groups.values():
            logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
            self.probabilities = self.probabilities or are_probabilities(logits)
            self._dense = self._dense or logits.ndim > 2
            self._sums += _summed(*_as_rows(logits, targets), self.ignore_index)


def _summed(logits: Tensor, targets: Tensor, ignore_index: int | None) -> Tensor:
    """The vector of some rows; where some have no loss, of the others."""
    declared = IGNORED if ignore_index is None else ignore_index
    rows = labeled_outputs(logits, targets, None, declared)
    try:
        return _vector(rows)
    except InputError:
        finite = _finite_loss(rows)
    return _vector(rows, finite)


def _vector(rows: LabeledOutputs, finite: Tensor | None = None) -> Tensor:
    how: dict[str, Any] = {
        "weights": None if finite is None else finite.double(),
        "ignore_index": IGNORED,
    }
    classes = 2 if is_binary(rows.logits) else rows.logits.shape[1]
    max_rows = max(1, min(_TEMPERATURE_ROWS, _TEMPERATURE_LOGITS // classes))
    flat = _flat(
        calibration_sums(rows.logits, rows.targets, **how),
        temperature_sums(rows.logits, rows.targets, max_rows=max_rows, **how),
    )
    left_out = 0 if finite is None else int((~finite).sum())
    return torch.cat([flat, torch.tensor([left_out], dtype=torch.float64)])


def _validation(epoch: int, cells: Tensor, scores: Tensor, temperature: Tensor) -> Validation:
    sums = TemperatureSums(temperature.view(len(GRID), 3))
    return Validation(epoch, _unpacked(cells, scores), sums)


def _flat(sums: CalibrationSums, temperature: TemperatureSums) -> Tensor:
    cells = sums.cells
    parts = (cells.count, cells.confidence, cells.correct, sums.scores, temperature.sums)
    return torch.cat([part.double().reshape(-1) for part in parts])


def _unpacked(cells: Tensor, scores: Tensor) -> CalibrationSums:
    count, confidence, correct = cells.view(3, CELLS)
    return CalibrationSums(
        ReliabilityBins(count.long(), confidence, correct.long()), scores.view(2, 4)
    )


def _as_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Multilabel outputs as binary rows, one-hot rows as class ids; others as they are."""
    if logits.ndim != 2 or targets.shape != logits.shape or is_binary(logits):
        return logits, targets
    if are_one_hot(targets):
        return logits, targets.argmax(1)
    return logits.reshape(-1), targets.reshape(-1)


def _finite_loss(rows: LabeledOutputs) -> Tensor:
    """Bool shaped like the targets: rows with a finite log loss, and those that do not count."""
    own = [chunk.at_target(chunk.logits.log_softmax(1)) for chunk in rows.chunks()]
    return torch.cat(own).view(rows.targets.shape).isfinite() | ~rows.labeled
