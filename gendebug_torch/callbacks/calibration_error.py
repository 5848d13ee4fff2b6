"""`CalibrationError`: the expected calibration error as a torchmetrics `Metric`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gendebug_torch.calibration import ReliabilityBins, calibration_sums
from gendebug_torch.calibration.measures.sufficient_statistics import CELLS, CalibrationSums


class CalibrationError(Metric):
    """Expected calibration error with a constant state of 60 KB, summed over ranks.

    Args:
        bins: number of bins; a divisor of 2520.
        ignore_index: target of rows that do not count.
        options: options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    cells: Tensor
    scores: Tensor

    def __init__(self, *, bins: int = 15, ignore_index: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.bins, self.ignore_index = bins, ignore_index
        self.add_state("cells", torch.zeros(3, CELLS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scores", torch.zeros(2, 4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count rows, as `calibration_sums` takes them."""
        sums = calibration_sums(logits, targets, ignore_index=self.ignore_index)
        parts = [sums.cells.count.double(), sums.cells.confidence, sums.cells.correct.double()]
        self.cells += torch.stack(parts).to(self.cells.device)
        self.scores += sums.scores.to(self.scores.device)

    def compute(self) -> Tensor:
        """The error, `[]` float64 in [0, 1]."""
        return torch.tensor(self.sums().bins(self.bins).ece, dtype=torch.float64)

    def sums(self) -> CalibrationSums:
        """The sums so far, for every other measure with its interval."""
        count, confidence, correct = self.cells.cpu()
        return CalibrationSums(
            ReliabilityBins(count.long(), confidence, correct.long()), self.scores.cpu()
        )
