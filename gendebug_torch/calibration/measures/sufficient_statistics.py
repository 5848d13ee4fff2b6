"""Sufficient statistics of calibration from one pass: fine confidence cells and proper scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.calibration.measures.measure import Measure, binned_measures, score_measure
from gendebug_torch.calibration.measures.reliability_bins import (
    BinSums,
    ReliabilityBins,
    rounding,
    top_label,
)
from gendebug_torch.calibration.rows.model_outputs import Chunk, labeled_outputs
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Divided by every number of bins in use (1 to 10, 12, 14, 15, 18, 20, ...), so that coarser bins
# are exact.
CELLS = 2520


@dataclass(frozen=True, eq=False)
class CalibrationSums:
    """Sums over labeled rows from which every measure of calibration follows.

    The state is 60 KB whatever n, and adds over batches and ranks.

    Args:
        cells: rows by confidence in 2520 cells.
        scores: sums `[2, 4]` float64 for log loss and Brier score: sum, sum of squares, and mean
            and variance of the sum under calibration.
    """

    cells: ReliabilityBins
    scores: Tensor

    def __add__(self, other: CalibrationSums) -> CalibrationSums:
        return CalibrationSums(self.cells + other.cells, self.scores + other.scores)

    def bins(self, bins: int = 15) -> ReliabilityBins:
        """The same rows in coarser bins.

        Raises:
            InputError: `bins` does not divide 2520.
        """
        if bins < 1 or CELLS % bins:
            reject(
                "bins",
                f"a divisor of {CELLS}",
                str(bins),
                "Take 10, 12, 15, 18, 20 or 30, or use reliability_bins.",
            )
        parts = (self.cells.count, self.cells.confidence, self.cells.correct)
        return ReliabilityBins(*(part.view(bins, -1).sum(1) for part in parts))

    @property
    def nll(self) -> float:
        """Mean log loss in nats."""
        return float(self.scores[0, 0]) / max(float(self.cells.count.sum()), 1e-300)

    @property
    def brier(self) -> float:
        """Mean Brier score: squared distance of the probabilities from the label, in [0, 2]."""
        return float(self.scores[1, 0]) / max(float(self.cells.count.sum()), 1e-300)

    def measures(
        self, *, bins: int = 15, level: float = 0.95, replicates: int = 500, seed: int = 0
    ) -> tuple[Measure, ...]:
        """Each measure with its interval, its mean under calibration, and a p-value.

        `ece, mce, rms, adaptive_ece, smooth_ece, reliability, resolution` are of the predicted
        class; `nll` and `brier` of all classes. See `binned_measures` and `score_measure`.
        """
        binned = binned_measures(
            self.cells, bins=bins, level=level, replicates=replicates, seed=seed
        )
        return (*binned, *self.score_measures(level=level))

    def score_measures(self, *, level: float = 0.95) -> tuple[Measure, ...]:
        """`nll` and `brier` alone, which need no resampling."""
        mass = float(self.cells.count.sum())
        return tuple(
            score_measure(name, row, mass, level=level)
            for name, row in zip(("nll", "brier"), self.scores, strict=True)
        )

    def table(self, **options: int) -> pd.DataFrame:
        """One row per measure; `options` go to `measures`."""
        import pandas as pd

        return pd.DataFrame([measure.__dict__ for measure in self.measures(**options)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram in 15 bins."""
        return self.bins().plot(ax)


def calibration_sums(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> CalibrationSums:
    """Sums over labeled logits for every measure of calibration, in one pass.

    Args:
        logits: float `[n, k]`, `[n]` binary, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: class ids `[n]` (dense `[n, ...]`) int64.
        weights: weights shaped like the targets; a weight of 2 counts as two rows.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes or dtypes do not fit, NaN or +inf among the logits.

    Cost: `n k` exponentials; the state is 60 KB.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> halves = [calibration_sums(3 * logits[i::2], targets[i::2]) for i in (0, 1)]
        >>> sums = halves[0] + halves[1]
        >>> print(f"ECE {sums.bins().ece:.0%}, log loss {sums.nll:.1f}")
        ECE 16%, log loss 0.9
    """
    running = RunningSums(logits.device, rounding=rounding(logits))
    running.add(logits, targets, weights=weights, ignore_index=ignore_index)
    return running.sums(whole=weights is None)


class RunningSums:
    """Accumulates `CalibrationSums` on the device of the logits, without a copy to the host."""

    def __init__(self, device: torch.device, *, rounding: float) -> None:
        self._cells = BinSums(CELLS, device, rounding=rounding)
        self._scores = torch.zeros(2, 4, dtype=torch.float64, device=device)

    def add(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        """Count rows, as `calibration_sums` takes them."""
        for chunk in labeled_outputs(logits, targets, weights, ignore_index).chunks():
            log_probs = chunk.log_probs()
            self._cells.add(*top_label(chunk, log_probs), chunk.weights)
            self._scores += chunk.weighted(_row_scores(chunk, log_probs)).sum(-1)

    def sums(self, *, whole: bool = True) -> CalibrationSums:
        """The sums so far, on the host; `whole` if every row counted once."""
        return CalibrationSums(self._cells.bins(whole=whole), self._scores.cpu())


def _row_scores(chunk: Chunk, log_probs: Tensor) -> Tensor:
    """`[2, 4, m]` log loss and Brier score, squares, and mean and variance under calibration.

    With p the probabilities, the log loss has mean `H = -sum p log p` and variance
    `sum p log(p)^2 - H^2`; the Brier score `1 + sum p^2 - 2 p_y` has mean `1 - sum p^2` and
    variance `4 (sum p^3 - (sum p^2)^2)`.
    """
    probs = log_probs.exp()
    own = chunk.at_target(log_probs).double()
    bounded = log_probs.clamp_(min=-1e4)
    product = probs * bounded
    entropy, second = -product.sum(1).double(), (product.mul_(bounded)).sum(1).double()
    squares = probs.square()
    mass, cubes = squares.sum(1).double(), squares.mul_(probs).sum(1).double()
    brier = 1 + mass - 2 * own.exp()
    log_rows = [-own, own.square(), entropy, (second - entropy.square()).clamp(min=0)]
    brier_rows = [brier, brier.square(), 1 - mass, 4 * (cubes - mass.square()).clamp(min=0)]
    return torch.stack([torch.stack(log_rows), torch.stack(brier_rows)])
