"""Reliability bins: confidence against accuracy, and the calibration errors that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.calibration.measures.measure import Measure, ece_measure
from gendebug_torch.calibration.measures.reliability_diagram import reliability_diagram
from gendebug_torch.calibration.rows.model_outputs import (
    COMPILED_PASS,
    SINGLE_PASS,
    Chunk,
    counted_by_slot,
    labeled_outputs,
    reject_nonfinite,
    summed_by_slot,
)
from gendebug_torch.checks.evidence import notebook_html
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved
from gendebug_torch.stats.intervals import clopper_pearson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# What the softmax of logits in float32 and in float64 rounds off a probability, relatively, at
# most.
_SINGLE, _DOUBLE = 1e-6, 1e-14


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Rows counted by confidence in b equal bins (lo, hi]; adds up over batches, chunks and ranks.

    Args:
        count: rows `[b]` int64.
        confidence: sums of confidence `[b]` float64.
        correct: rows predicted correctly `[b]` int64.

    Example:
        >>> bins = reliability_bins(torch.tensor([3.0, 3.0, -3.0, 3.0]), torch.tensor([1, 0, 0, 1]))
        >>> print(f"confidence {bins.mean_confidence:.2f}, accuracy {bins.accuracy:.2f}")
        confidence 0.95, accuracy 0.75
    """

    count: Tensor
    confidence: Tensor
    correct: Tensor

    _repr_html_ = notebook_html

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        if len(self.count) != len(other.count):
            reject(
                "other",
                f"{len(self.count)} bins",
                f"{len(other.count)}",
                "Bin both with the same `bins`.",
            )
        return ReliabilityBins(
            self.count + other.count,
            self.confidence + other.confidence,
            self.correct + other.correct,
        )

    @property
    def total(self) -> int:
        """Number of rows."""
        return int(self.count.sum())

    @property
    def gap(self) -> Tensor:
        """`[b]` float64 mean confidence minus accuracy; 0 in empty bins."""
        return torch.where(self.count > 0, (self.confidence - self.correct) / self.count, 0.0)

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]; see `expected_calibration_error`."""
        return float((self.confidence - self.correct).abs().sum()) / max(
            float(self.count.sum()), 1e-300
        )

    @property
    def mce(self) -> float:
        """Largest gap among the bins that hold rows (Naeini, Cooper and Hauskrecht, 2015)."""
        return float(self.gap.abs().max()) if self.total else 0.0

    @property
    def accuracy(self) -> float:
        """Share of rows predicted correctly."""
        return float(self.correct.sum()) / max(float(self.count.sum()), 1e-300)

    @property
    def mean_confidence(self) -> float:
        """Mean confidence over all rows."""
        return float(self.confidence.sum()) / max(float(self.count.sum()), 1e-300)

    def measure(self, level: float = 0.95, *, replicates: int = 1000, seed: int = 0) -> Measure:
        """The ECE with its interval, its mean under calibration, and a p-value."""
        return ece_measure(self, level=level, replicates=replicates, seed=seed)

    def interval(self, level: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
        """Interval of the ECE; it contains 0 where a calibrated model may show as much."""
        ece = self.measure(level, seed=seed)
        return ece.low, ece.high

    def noise(self, *, seed: int = 0) -> tuple[float, float]:
        """Mean ECE of a perfectly calibrated model with these confidences, and the p-value."""
        ece = self.measure(seed=seed)
        return ece.null, ece.p_value

    def table(self) -> pd.DataFrame:
        """One row per bin: edges, rows, mean confidence, accuracy with exact 95 % interval, gap."""
        import pandas as pd

        edges = bin_edges(len(self.count))
        low, high = clopper_pearson_interval(self.correct, self.count)
        empty = self.count == 0
        columns = {"from": edges[:-1], "to": edges[1:], "rows": self.count}
        rates = {
            "confidence": self.confidence / self.count,
            "accuracy": self.correct.double() / self.count,
        }
        columns |= {
            name: rate.double().masked_fill(empty, float("nan")) for name, rate in rates.items()
        }
        columns |= {"low": low, "high": high, "gap": self.gap}
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram: accuracy against confidence with exact intervals, row counts."""
        return reliability_diagram(self, ax)


def reliability_bins(
    logits: Tensor,
    targets: Tensor,
    *,
    bins: int = 15,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    compiled: bool = False,
) -> ReliabilityBins:
    """Rows counted by the confidence of their prediction, in one pass.

    The confidence is the largest softmax probability, for one binary logit `max(p, 1 - p)`; P(y =
    1) is binned by `classwise_bins` instead. Of equal logits the first class is predicted.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 2, arXiv:1706.04599.

    Args:
        logits: float `[n, k]`, `[n]` for a binary model, or dense `[n, k, ...]`; a masked class may
            be -inf.
        targets: class ids `[n]` (dense `[n, ...]`) int64.
        bins: number of equal bins (lo, hi] over [0, 1]; a confidence of 0 falls into the first.
        weights: weights shaped like the targets; a weight of 2 counts as two rows. The counts are
            float64 then.
        ignore_index: target of rows that do not count.
        compiled: whether to use a kernel of `torch.compile`, which needs a C++ compiler and some
            seconds once; with 1000 classes it then takes two thirds of the time; confidences differ
            by the rounding of float32.

    Returns:
        Sums on the CPU; the state is `[bins]` whatever n.

    Raises:
        InputError: shapes or dtypes do not fit, NaN or +inf among the logits, or `bins` is below 1.

    Cost: `n k` exponentials, one read of the logits; float32 inside a row, float64 over rows.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> ece = reliability_bins(3 * logits, targets).measure()  # three times too sharp
        >>> print(f"ECE {ece.value:.0%}, by chance {ece.null:.0%}, p = {ece.p_value:.3f}")
        ECE 16%, by chance 1%, p = 0.001
    """
    rows = labeled_outputs(logits, targets, weights, ignore_index, find_masks=False)
    state = BinSums(bins, logits.device, rounding=rounding(logits))
    if compiled:
        # torch.compile keeps the kernel with the function: it is built once per process.
        kernel = torch.compile(_largest_log_prob, dynamic=True)
        for chunk in rows.chunks(size_factor=COMPILED_PASS):
            top = _without_ties(chunk, *kernel(chunk.logits, chunk.targets))
            state.add(*top, chunk.weights)
        return state.bins(whole=weights is None)
    for chunk in rows.chunks(size_factor=SINGLE_PASS):
        state.add(*top_label(chunk, chunk.log_probs()), chunk.weights)
    return state.bins(whole=weights is None)


def reliability_bins_of_confidence(
    confidence: Tensor, correct: Tensor, *, bins: int = 15
) -> ReliabilityBins:
    """Rows counted by a confidence that is given, e.g. of a model that returns no logits.

    Args:
        confidence: confidence `[n]` of each prediction, in [0, 1].
        correct: whether each prediction is right, `[n]` bool.
        bins: number of equal bins (lo, hi] over [0, 1].

    Raises:
        InputError: shapes differ, or a confidence lies outside [0, 1].

    Example:
        >>> confidence = torch.tensor([0.9, 0.9, 0.9, 0.9])
        >>> correct = torch.tensor([True, True, False, False])
        >>> print(f"{reliability_bins_of_confidence(confidence, correct).ece:.2f}")
        0.40
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        got = f"{list(confidence.shape)} and {list(correct.shape)}"
        reject("confidence", "[n], and `correct` [n]", got, "Pass one value of each per row.")
    if bool((~((confidence >= 0) & (confidence <= 1))).any()):
        got = f"{float(confidence.min()):.3g} to {float(confidence.max()):.3g}"
        reject(
            "confidence",
            "values in [0, 1]",
            got,
            "Pass probabilities, or use reliability_bins on logits.",
        )
    state = BinSums(bins, confidence.device)
    state.add(confidence.double(), correct.bool())
    return state.bins()


def expected_calibration_error(
    bins_or_logits: ReliabilityBins | Tensor, targets: Tensor | None = None, *, bins: int = 15
) -> Tensor:
    """`sum_b n_b / n |accuracy_b - mean confidence_b|`.

    It is biased upwards on few rows and never 0: compare it with `ReliabilityBins.noise`.

    Source: Naeini, Cooper and Hauskrecht (2015), AAAI; bins as in Guo et al. (2017),
    arXiv:1706.04599.

    Args:
        bins_or_logits: result of `reliability_bins`, or logits as it takes them.
        targets: class ids `[n]` int64, with logits.
        bins: number of bins, with logits.

    Returns:
        `[]` float64 in [0, 1].

    Raises:
        InputError: logits without targets.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> print(f"{float(expected_calibration_error(logits, torch.tensor([0, 1]))):.3f}")
        0.381
    """
    if isinstance(bins_or_logits, Tensor):
        if targets is None:
            reject(
                "targets",
                "class ids with logits",
                "None",
                "Pass targets, or ReliabilityBins alone.",
            )
        bins_or_logits = reliability_bins(bins_or_logits, targets, bins=bins)
    return torch.tensor(bins_or_logits.ece, dtype=torch.float64)


def bin_edges(bins: int) -> Tensor:
    """`[bins + 1]` float64 edges of equal bins over [0, 1], each the double nearest to i / bins."""
    return torch.arange(bins + 1, dtype=torch.float64) / bins


def top_label(chunk: Chunk, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence `[m]` float64 (NaN in broken rows) and correctness `[m]` of each prediction."""
    top = log_probs.amax(1)
    return _without_ties(chunk, top, chunk.at_target(log_probs) == top)


def _without_ties(chunk: Chunk, top: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and correctness, given the largest log probability and whether the target has it.

    Of equal classes the first is predicted.
    """
    confidence = top.double().exp_()
    # Another, earlier class can be as likely, to rounding, only where no class has more than half.
    tied = correct & (confidence < 0.5 + _SINGLE)
    if top.is_cuda:
        # One more pass over the logits, where the rows in question would have to be waited for.
        first = chunk.logits.argmax(1) == chunk.targets
        return confidence, torch.where(tied, first, correct)
    where = tied.nonzero()[:, 0]
    correct[where] = chunk.logits[where].argmax(1) == chunk.targets[where]
    return confidence, correct


def _largest_log_prob(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Largest log probability `[m]` of each row, and whether the target has the largest logit."""
    top = logits.amax(1)
    mass = (logits - top[:, None]).exp().sum(1)
    return -mass.log(), logits.gather(1, targets[:, None])[:, 0] == top


def rounding(logits: Tensor) -> float:
    """Relative error of the confidences of `top_label`."""
    return _DOUBLE if logits.dtype == torch.float64 else _SINGLE


class BinSums:
    """Running sums of rows, confidence and correctness per bin, on the device of the rows.

    Args:
        bins: number of equal bins (lo, hi] over [0, 1].
        device: device of the rows.
        rounding: relative error of the confidences; those within it of an edge count as on it.
    """

    def __init__(self, bins: int, device: torch.device, *, rounding: float = 0.0) -> None:
        if bins < 1:
            reject("bins", "at least 1", str(bins), "15 is the usual number.")
        # Open below, and with room for the bin of NaN.
        edges = torch.cat([bin_edges(bins), torch.tensor([math.inf])]) * (1.0 + rounding)
        edges[0] = -math.inf
        self._edges = moved(edges, device)
        # float64 counts are exact below 2^53. The last row collects NaN, which lies beyond every
        # edge.
        self._sums = torch.zeros(bins + 1, 3, dtype=torch.float64, device=device)

    def add(self, confidence: Tensor, correct: Tensor, weights: Tensor | None = None) -> None:
        """Count rows `[m]`."""
        size = len(self._sums)
        slot = self._slots(confidence)
        if weights is None:
            mass = counted_by_slot(2 * slot + correct, 2 * size).view(size, 2).double()
        else:
            mass = summed_by_slot(2 * slot + correct, weights, 2 * size).view(size, 2)
        weighted = confidence if weights is None else confidence * weights
        confidence_sums = summed_by_slot(slot, weighted, size)
        self._sums += torch.stack([mass.sum(1), confidence_sums, mass[:, 1]], 1)

    def _slots(self, confidence: Tensor) -> Tensor:
        """`[m]` int64 bin of each confidence, and the number of bins for NaN.

        By arithmetic, in a tenth of the time of a binary search.
        """
        bins = len(self._edges) - 2
        near = (confidence * bins).ceil_().sub_(1).clamp_(0, bins - 1).nan_to_num_(nan=bins).long()
        # Rounding may have put it one bin off.
        return (
            near
            + (confidence > self._edges[near + 1]).long()
            - (confidence <= self._edges[near]).long()
        )

    def bins(self, *, whole: bool = True) -> ReliabilityBins:
        """The bins so far, on the host; int64 counts if every row counted once (`whole`)."""
        count, confidence, correct = self._sums.T.cpu()
        reject_nonfinite(math.ceil(float(count[-1])))
        kind = torch.int64 if whole else torch.float64
        return ReliabilityBins(
            count[:-1].to(kind), confidence[:-1].contiguous(), correct[:-1].to(kind)
        )
