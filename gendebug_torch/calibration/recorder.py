"""The calibration of a network while it trains: rows kept by reference, counted many at a time, one
entry per epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from gendebug_torch.calibration.model_outputs import validated
from gendebug_torch.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Logits kept on their device before they are counted: one pass per this many bytes, so that its
# fixed cost vanishes.
_BYTES = 2**25
# Of each such pass, the rows that tell the temperature (to about a hundredth), and the logits that
# they may have.
_TEMPERATURE_ROWS, _TEMPERATURE_LOGITS = 4096, 2**19
# The vector of an epoch: cells, scores, temperature, rows left out.
_PARTS = [3 * CELLS, 2 * 4, 3 * len(GRID), 1]


class CalibrationRecorder:
    """Counts labeled logits, epoch by epoch; nothing waits for the device between passes.

    The owner adds what `epoch_sums` returns up over its ranks and hands it back. Rows without a
    loss (NaN or infinite logits, a masked class as the target) are left out, counted and named in
    `notes`.

    Cost: about 10 us for a batch of [64, 10] on one CPU core and 30 us for [256, 10] or [64, 100].
    Many classes are bound by their exponentials: [64, 1000] takes some 5 times the 40 us of one
    exponential per logit.

    Args:
        bins: of the reliability diagram; a divisor of 2520.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: `bins` does not divide 2520.
    """

    def __init__(self, *, bins: int = 15, ignore_index: int | None = None) -> None:
        self.bins, self.ignore_index = bins, ignore_index
        self.history: dict[int, CalibrationSums] = {}
        self.temperatures: dict[int, TemperatureSums] = {}
        self.notes: list[str] = []
        self.begin()
        # An unfit number of bins is refused here, not when the first epoch is over.
        _unpacked(*torch.split(self._sums, _PARTS)[:2]).bins(bins)

    def begin(self) -> None:
        """An epoch of validation starts; what an interrupted one left is forgotten."""
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._bytes = 0
        self._sums = torch.zeros(sum(_PARTS), dtype=torch.float64)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Keep references to `[n, k]`, `[n]`, `[n, 1]` or dense logits with one class id per row or
        position.
        """
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

    def close_epoch(self, epoch: int, sums: Tensor) -> dict[str, float]:
        """Enter an epoch; its error, mean confidence and the temperature it would need, as far as
        there are such.
        """
        *counted, left_out = torch.split(sums, _PARTS)
        if left := int(left_out):
            self.notes.append(
                f"epoch {epoch}: {left} rows had NaN or infinite logits, or a masked target, and "
                "were left out"
            )
        self._enter(epoch, *counted)
        if not self.history[epoch].cells.total:
            del self.history[epoch], self.temperatures[epoch]
            return {}
        bins, needed = self.diagram(epoch), self.temperatures[epoch].temperature()[0]
        scalars = {
            "val_ece": bins.ece,
            "val_confidence": bins.mean_confidence,
            "val_temperature": needed,
        }
        return {name: value for name, value in scalars.items() if value == value}

    def diagram(self, epoch: int) -> ReliabilityBins:
        """The reliability bins of an epoch, which draw themselves."""
        return self.history[epoch].bins(self.bins)

    def table(self) -> pd.DataFrame:
        """One row per epoch: ECE with interval, accuracy, confidence, log loss, temperature
        needed.
        """
        import pandas as pd

        rows = []
        for epoch, sums in self.history.items():
            bins, (temperature, error) = self.diagram(epoch), self.temperatures[epoch].temperature()
            low, high = bins.interval()
            rows.append(
                [
                    epoch,
                    bins.ece,
                    low,
                    high,
                    bins.accuracy,
                    bins.mean_confidence,
                    sums.nll,
                    temperature,
                    error,
                ]
            )
        names = [
            "epoch",
            "ece",
            "low",
            "high",
            "accuracy",
            "mean_confidence",
            "nll",
            "temperature",
            "temperature_error",
        ]
        return pd.DataFrame(rows, columns=names)

    def state_dict(self) -> dict[str, Any]:
        """The epochs counted so far."""
        packed = {
            epoch: _flat(sums, self.temperatures[epoch]) for epoch, sums in self.history.items()
        }
        return {"history": packed, "notes": list(self.notes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.history, self.temperatures, self.notes = {}, {}, list(state["notes"])
        for epoch, flat in state["history"].items():
            self._enter(int(epoch), *torch.split(flat, _PARTS[:-1]))

    def _enter(self, epoch: int, cells: Tensor, scores: Tensor, temperature: Tensor) -> None:
        self.history[epoch] = _unpacked(cells, scores)
        self.temperatures[epoch] = TemperatureSums(temperature.view(len(GRID), 3))

    def _count(self) -> None:
        if not self._waiting:
            return
        logits, targets = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._bytes = [], 0
        if logits.ndim == 2 and logits.shape[1] == 1:
            logits = logits[:, 0]
        if logits.ndim <= 2:
            targets = targets.reshape(-1)
        self._sums += self._counted(logits, targets.long())

    def _counted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The vector of some rows; where some have no loss, of the others."""
        validated(logits, targets, None, self.ignore_index)
        try:
            return self._vector(logits, targets)
        except InputError:
            sound = _have_loss(logits, targets, self.ignore_index)
        return self._vector(logits, targets, sound)

    def _vector(self, logits: Tensor, targets: Tensor, sound: Tensor | None = None) -> Tensor:
        how: dict[str, Any] = {
            "weights": None if sound is None else sound.double(),
            "ignore_index": self.ignore_index,
        }
        classes = 2 if logits.ndim == 1 else logits.shape[1]
        most = max(1, min(_TEMPERATURE_ROWS, _TEMPERATURE_LOGITS // classes))
        flat = _flat(
            calibration_sums(logits, targets, **how),
            temperature_sums(logits, targets, most_rows=most, **how),
        )
        left_out = 0 if sound is None else int((~sound).sum())
        return torch.cat([flat, torch.tensor([left_out], dtype=torch.float64)])


def _flat(sums: CalibrationSums, temperature: TemperatureSums) -> Tensor:
    cells = sums.cells
    parts = (cells.count, cells.confidence, cells.correct, sums.scores, temperature.sums)
    return torch.cat([part.double().reshape(-1) for part in parts])


def _unpacked(cells: Tensor, scores: Tensor) -> CalibrationSums:
    count, confidence, correct = cells.view(3, CELLS)
    return CalibrationSums(
        ReliabilityBins(count.long(), confidence, correct.long()), scores.view(2, 4)
    )


def _have_loss(logits: Tensor, targets: Tensor, ignore_index: int | None) -> Tensor:
    """Shaped like targets, bool: rows and positions with finite log loss, and those that do not
    count anyway.
    """
    z = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    ignored = (
        torch.zeros_like(targets, dtype=torch.bool)
        if ignore_index is None
        else targets == ignore_index
    )
    own = z.log_softmax(1).gather(1, targets.masked_fill(ignored, 0)[:, None])[:, 0]
    return own.isfinite() | ignored
