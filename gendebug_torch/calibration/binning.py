"""Reliability bins: what a model was sure of against how often it was right, and the errors read off them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch._plotting import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats import wilson_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Elements of logits handled at once: they stay in the cache of a CPU core, and memory does not grow with n.
_CHUNK = {"cpu": 2**18, "cuda": 2**25}
_REPLICATES = 1000


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Rows counted by confidence in b equal bins (lo, hi]; adds up over batches, chunks and ranks.

    Args:
        count: `[b]` int64 rows.
        confidence: `[b]` float64 sum of confidences.
        correct: `[b]` int64 rows that were right.
    """

    count: Tensor
    confidence: Tensor
    correct: Tensor

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        if len(self.count) != len(other.count):
            reject("other", f"{len(self.count)} bins", f"{len(other.count)}", "Bin both with the same `bins`.")
        return ReliabilityBins(self.count + other.count, self.confidence + other.confidence, self.correct + other.correct)

    @property
    def total(self) -> int:
        """Number of rows."""
        return int(self.count.sum())

    @property
    def gap(self) -> Tensor:
        """`[b]` float64 mean confidence minus accuracy; 0 in empty bins."""
        return (self.confidence - self.correct) / self.count.clamp(min=1)

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]; see `expected_calibration_error`."""
        return float((self.confidence - self.correct).abs().sum() / max(self.total, 1))

    @property
    def mce(self) -> float:
        """Largest gap among the bins that hold rows (Naeini, Cooper and Hauskrecht, 2015)."""
        return float(self.gap.abs().max()) if self.total else 0.0

    @property
    def accuracy(self) -> float:
        """Share of rows that were right."""
        return float(self.correct.sum() / max(self.total, 1))

    @property
    def mean_confidence(self) -> float:
        """Mean confidence over all rows."""
        return float(self.confidence.sum() / max(self.total, 1))

    def interval(self, level: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
        """Interval of the calibration error without its upward bias: parametric bootstrap, reflected.

        Correct rows per bin are drawn from Binomial(n_b, accuracy_b); the interval is
        `2 ece - (upper, lower) quantile` (Efron and Tibshirani, 1993, section 13; Bröcker and Smith, 2007,
        for resampling within bins), so that the error of a calibrated model covers 0.
        """
        if not self.total:
            return 0.0, 1.0
        draws = self._drawn(self.correct / self.count.clamp(min=1), seed)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return max(0.0, 2 * self.ece - float(high)), min(1.0, max(0.0, 2 * self.ece - float(low)))

    def noise(self, *, seed: int = 0) -> tuple[float, float]:
        """Mean calibration error that a perfectly calibrated model would show here, and the p-value of ours.

        Correct rows per bin are drawn from Binomial(n_b, mean confidence_b): the consistency resampling of
        Bröcker and Smith (2007), Weather and Forecasting 22:651.
        """
        if not self.total:
            return 0.0, 1.0
        draws = self._drawn((self.confidence / self.count.clamp(min=1)).clamp(0, 1), seed)
        return float(draws.mean()), float((1 + (draws >= self.ece).sum()) / (1 + len(draws)))

    def table(self) -> pd.DataFrame:
        """One row per bin: edges, rows, mean confidence, accuracy with 95 % Wilson interval, gap."""
        import pandas as pd

        edges = bin_edges(len(self.count))
        low, high = wilson_interval(self.correct, self.count)
        empty = self.count == 0
        columns = {"from": edges[:-1], "to": edges[1:], "rows": self.count}
        rates = {"confidence": self.confidence / self.count.clamp(min=1), "accuracy": self.correct / self.count.clamp(min=1)}
        columns |= {name: rate.double().masked_fill(empty, float("nan")) for name, rate in rates.items()}
        columns |= {"low": low, "high": high, "gap": self.gap}
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram: accuracy against confidence with intervals, and the share of rows per bin."""
        ax = axes(ax, size=(5.0, 4.6))
        table = self.table()
        full = table[table["rows"] > 0]
        middle, width = (table["from"] + table["to"]) / 2, 1 / len(table)
        ax.bar(middle, table["rows"] / max(self.total, 1), width * 0.9, color=NEUTRAL, alpha=0.35, label="share of rows")
        ax.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1, label="calibrated")
        x, y = full["confidence"], full["accuracy"]
        ax.vlines(x, x.combine(y, min), x.combine(y, max), color=LIVE, label="gap")
        spread = [(y - full["low"]).clip(lower=0), (full["high"] - y).clip(lower=0)]
        ax.errorbar(x, y, yerr=spread, fmt="o", color=REFERENCE, markersize=4, label="accuracy (95 % interval)")
        title = f"Reliability: ECE {self.ece:.1%}, {self.total:,} rows"
        ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
        ax.legend(frameon=False, fontsize="small", loc="upper left")
        return ax

    def _drawn(self, rate: Tensor, seed: int) -> NDArray[np.float64]:
        generator = np.random.default_rng(seed)
        correct = generator.binomial(self.count.numpy(), rate.double().numpy(), size=(_REPLICATES, len(self.count)))
        drawn: NDArray[np.float64] = np.abs(self.confidence.numpy() - correct).sum(1) / max(self.total, 1)
        return drawn


def reliability_bins(logits: Tensor, targets: Tensor, *, bins: int = 15) -> ReliabilityBins:
    """Rows by the confidence of their prediction, in one pass.

    The confidence is the largest softmax probability, for one binary logit `max(p, 1 - p)`.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 2, arXiv:1706.04599.

    Args:
        logits: `[n, k]` float, or `[n]` for a binary model; finite.
        targets: `[n]` int64 class ids.
        bins: equal bins (lo, hi] over [0, 1]; a confidence of 0 falls into the first.

    Returns:
        Sums on the CPU; the state is `[bins]` whatever n.

    Raises:
        InputError: shapes or dtypes do not fit, or `bins` is below 1.

    Cost: `n k` exponentials, one read of the logits; float64 inside chunks that fit the cache.
    """
    if logits.ndim not in (1, 2) or not logits.is_floating_point():
        reject("logits", "float [n, k] or [n]", f"{logits.dtype} {list(logits.shape)}", "Pass raw model outputs before softmax.")
    if targets.shape != logits.shape[:1] or targets.dtype.is_floating_point:
        got = f"{targets.dtype} {list(targets.shape)}"
        reject("targets", f"[{len(logits)}] class ids", got, "Pass one class id per row of logits.")
    state = _empty(bins, logits.device)
    width = 1 if logits.ndim == 1 else max(1, logits.shape[1])
    rows = max(1, _CHUNK.get(logits.device.type, 2**18) // width)
    for start in range(0, len(logits), rows):
        part, true = logits[start : start + rows].double(), targets[start : start + rows]
        if part.ndim == 1:
            confidence, said = part.abs().sigmoid(), (part > 0).to(true.dtype)
        else:
            top, said = part.max(1)
            confidence = (part - top[:, None]).exp_().sum(1).reciprocal_()
        _count(state, confidence, said == true)
    return _finished(state)


def reliability_bins_of_confidence(confidence: Tensor, correct: Tensor, *, bins: int = 15) -> ReliabilityBins:
    """The same from confidences `[n]` in [0, 1] and whether each prediction was right, `[n]` bool.

    Raises:
        InputError: shapes differ, or a confidence lies outside [0, 1].
    """
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        got = f"{list(confidence.shape)} and {list(correct.shape)}"
        reject("confidence", "[n], and `correct` [n]", got, "Pass one value of each per row.")
    if bool(((confidence < 0) | (confidence > 1) | confidence.isnan()).any()):
        got = f"{float(confidence.min()):.3g} to {float(confidence.max()):.3g}"
        reject("confidence", "values in [0, 1]", got, "Pass probabilities, or use reliability_bins on logits.")
    state = _empty(bins, confidence.device)
    _count(state, confidence.double(), correct.bool())
    return _finished(state)


def expected_calibration_error(bins_or_logits: ReliabilityBins | Tensor, targets: Tensor | None = None, *, bins: int = 15) -> Tensor:
    """`sum_b n_b / n |accuracy_b - mean confidence_b|`.

    It is biased upwards on few rows and never 0; read it with `ReliabilityBins.interval` and `.noise`.

    Source: Naeini, Cooper and Hauskrecht (2015), AAAI; bins as in Guo et al. (2017), arXiv:1706.04599.

    Args:
        bins_or_logits: what `reliability_bins` gave, or logits as it takes them.
        targets: `[n]` int64, with logits.
        bins: number of bins, with logits.

    Returns:
        `[]` float64 in [0, 1].

    Raises:
        InputError: logits without targets.
    """
    if isinstance(bins_or_logits, Tensor):
        if targets is None:
            reject("targets", "class ids with logits", "None", "Pass targets, or ReliabilityBins alone.")
        bins_or_logits = reliability_bins(bins_or_logits, targets, bins=bins)
    return torch.tensor(bins_or_logits.ece, dtype=torch.float64)


def bin_edges(bins: int) -> Tensor:
    """`[bins + 1]` float64 edges of equal bins over [0, 1]."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64)


def _empty(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if bins < 1:
        reject("bins", "at least 1", str(bins), "15 is the usual number.")
    return torch.zeros(3, bins, dtype=torch.float64, device=device), bin_edges(bins)[1:-1].to(device)


def _count(state: tuple[Tensor, Tensor], confidence: Tensor, correct: Tensor) -> None:
    """Add rows to `[3, b]` sums: rows, confidence, correct. float64 counts are exact below 2^53."""
    sums, inner = state
    slot = torch.bucketize(confidence, inner)
    rows = torch.stack([torch.ones_like(confidence), confidence, correct.double()])
    sums.scatter_add_(1, slot.expand(3, -1), rows)


def _finished(state: tuple[Tensor, Tensor]) -> ReliabilityBins:
    count, confidence, correct = state[0].cpu()
    return ReliabilityBins(count.long(), confidence, correct.long())
