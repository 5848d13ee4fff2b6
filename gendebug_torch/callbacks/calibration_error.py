"""`CalibrationError`: the expected calibration error as a torchmetrics `Metric`, for `self.log`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from gendebug_torch.calibration import ReliabilityBins, calibration_sums
from gendebug_torch.calibration.measures.sufficient_statistics import CELLS, CalibrationSums


class CalibrationError(Metric):
    """Expected calibration error in constant memory: 60 KB of float64 sums, added over ranks.

    Args:
        bins: number of bins, a divisor of 2520.
        ignore_index: target of rows that do not count.
        **options: options of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = CalibrationError(bins=10)
        >>> metric.update(torch.tensor([2.0, -2.0]), torch.tensor([1, 0]))
        >>> round(float(metric.compute()), 3)
        0.119
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
        """Count rows.

        Args:
            logits: logits, `[n, k]` or `[n]`, as `calibration_sums` takes them.
            targets: class ids, `[n]` int64.
        """
        sums = calibration_sums(logits, targets, ignore_index=self.ignore_index)
        cells = sums.cells
        self.cells += torch.stack(
            [cells.count.double(), cells.confidence, cells.correct.double()]
        ).to(self.cells.device)
        self.scores += sums.scores.to(self.scores.device)

    def compute(self) -> Tensor:
        """The expected calibration error, `[]` float64 in [0, 1]."""
        return torch.tensor(self.sums().bins(self.bins).ece, dtype=torch.float64)

    def sums(self) -> CalibrationSums:
        """The counts, from which every other measure and its interval follow."""
        count, confidence, correct = self.cells.cpu()
        return CalibrationSums(
            ReliabilityBins(count.long(), confidence, correct.long()), self.scores.cpu()
        )
