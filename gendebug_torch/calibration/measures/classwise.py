"""Classwise calibration: of every class, or of every label of a multilabel head."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins, bin_edges
from gendebug_torch.calibration.rows.label_forms import are_one_hot, binary_labels
from gendebug_torch.calibration.rows.model_outputs import (
    LabeledOutputs,
    is_binary,
    labeled_outputs,
    reject_nonfinite,
    summed_by_slot,
    validate_weights,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import reject
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class ClasswiseBins:
    """Rows counted by the probability of each class, in b equal bins (lo, hi]; adds up.

    Args:
        count: rows `[k, b]`, int64, or float64 where rows have weights.
        probability: sums of the class's probability `[k, b]` float64.
        positive: rows of the class `[k, b]` int64.
        squares: sums of p (1 - p) `[k, b]` float64: the variance of `positive` under calibration.
    """

    count: Tensor
    probability: Tensor
    positive: Tensor
    squares: Tensor

    def __add__(self, other: ClasswiseBins) -> ClasswiseBins:
        if self.count.shape != other.count.shape:
            reject(
                "other",
                f"shape {list(self.count.shape)}",
                f"{list(other.count.shape)}",
                "Bin both with the same classes and `bins`.",
            )
        pairs = zip(self._parts, other._parts, strict=True)
        return ClasswiseBins(*(a + b for a, b in pairs))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.count, self.probability, self.positive, self.squares

    @property
    def ece(self) -> Tensor:
        """`[k]` float64 calibration error of each class, in [0, 1]."""
        rows = self.count.sum(1).double().clamp(min=1e-300)
        return (self.probability - self.positive).abs().sum(1) / rows

    @property
    def macro(self) -> float:
        """Mean over the classes: the classwise ECE."""
        return float(self.ece.mean()) if len(self.count) else 0.0

    def noise(self, *, replicates: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
        """ECE of each class under calibration, and its p-value.

        Returns:
            Mean null value `[k]` float64 and p-value `[k]`, one per class and not adjusted.
        """
        null = self._null_errors(replicates, torch.Generator().manual_seed(seed))
        # The tail beyond the replicates follows a gamma with the mean and variance of the null: a
        # sum of absolute values is skewed, and a normal tail would be too thin.
        mean, variance = null.mean(0).clamp(min=1e-300), null.var(0).clamp(min=1e-300)
        share = (1 + (null >= self.ece).sum(0)) / (1 + replicates)
        tail = torch.special.gammaincc(mean.square() / variance, self.ece * mean / variance)
        return null.mean(0), torch.where(
            share <= 2 / (1 + replicates), torch.minimum(share, tail.clamp(min=1e-300)), share
        )

    def _null_errors(self, replicates: int, generator: torch.Generator) -> Tensor:
        """`[replicates, k]` errors of a calibrated model: normal draws of the rows of each class.

        Where fewer than 5 rows are expected in a bin the count is skewed, and the draw is Poisson.
        """
        shape = (replicates, *self.count.shape)
        draws = torch.randn(shape, generator=generator, dtype=torch.float64) * self.squares.sqrt()
        rare = (self.probability < 5) & (self.count > 0)
        if bool(rare.any()):
            expected = self.probability * rare
            counts = torch.poisson(expected.expand(shape), generator=generator)
            draws = torch.where(rare, counts - expected, draws)
        return draws.abs().sum(2) / self.count.sum(1).double().clamp(min=1e-300)

    def of_class(self, label: int) -> ReliabilityBins:
        """The reliability bins of one class."""
        return ReliabilityBins(self.count[label], self.probability[label], self.positive[label])

    def table(self) -> pd.DataFrame:
        """One row per class, worst first: rows, ECE, ECE by chance, p-value adjusted by Holm."""
        import pandas as pd

        null, p = self.noise()
        columns = {
            "rows": self.positive.sum(1),
            "ece": self.ece,
            "null": null,
            "p_holm": holm_adjusted(p),
        }
        frame = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        frame.insert(0, "class", np.arange(len(frame)))
        return frame.sort_values("ece", ascending=False, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Calibration error of the worst 20 classes beside that of a calibrated model."""
        ax = axes(ax, size=(6.0, 3.6))
        table = self.table().head(20)
        positions = np.arange(len(table))
        ax.bar(positions, table["ece"], 0.8, color=LIVE, alpha=0.7, label="calibration error")
        ax.plot(
            positions,
            table["null"],
            "_",
            color=NEUTRAL,
            markersize=12,
            markeredgewidth=2,
            label="calibrated, by chance",
        )
        ax.set_xticks(positions, [str(label) for label in table["class"]])
        ax.set(
            xlabel="class", ylabel="ECE", title=f"Calibration by class: mean ECE {self.macro:.1%}"
        )
        ax.legend(frameon=False, fontsize="small")
        return ax


def classwise_bins(
    logits: Tensor,
    targets: Tensor,
    *,
    bins: int = 15,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> ClasswiseBins:
    """Rows counted by the probability of each class: one-against-rest, or label by label.

    Class ids `[n]` with logits `[n, k]` take the softmax; 0/1 targets `[n, k]` take the sigmoid of
    each label (multilabel); logits `[n]` take the sigmoid, so that P(y = 1) is binned, not the
    confidence of the prediction.

    Source: Kull et al. (2019), NeurIPS, arXiv:1910.12656, section 2, for classwise calibration.

    Args:
        logits: float `[n, k]` or `[n]`, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: class ids `[n]` (dense `[n, ...]`) int64, or `[n, k]` of 0 and 1.
        bins: number of equal bins (lo, hi] over [0, 1].
        weights: row weights `[n]` (dense `[n, ...]`); a weight of 2 counts as two rows. The counts
            are float64 then.
        ignore_index: target of rows, positions or labels that do not count.

    Raises:
        InputError: shapes do not fit, targets out of range, NaN or +inf.

    Cost: `n k` exponentials and counts; the state is `[k, bins]`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> labels = torch.bernoulli(logits.sigmoid(), generator=generator).long()
        >>> logits[:, 2] *= 3  # the last label is three times too sharp
        >>> [f"{ece:.2f}" for ece in classwise_bins(logits, labels).ece.tolist()]
        ['0.03', '0.04', '0.13']
    """
    if bins < 1:
        reject("bins", "at least 1", str(bins), "15 is the usual number.")
    if targets.shape == logits.shape and logits.ndim == 2 and not is_binary(logits):
        labels = _labels(targets, ignore_index)
        return label_bins(logits, labels, bins=bins, weights=weights)
    outputs = labeled_outputs(logits, targets, weights, ignore_index)
    if is_binary(logits):
        flat_weights = None if outputs.weights is None else outputs.weights.reshape(-1)
        columns = (part.reshape(-1, 1) for part in (outputs.logits, outputs.targets))
        return label_bins(*columns, bins=bins, weights=flat_weights)
    whole = weights is None
    return _binned(_class_parts(outputs), logits.shape[1], bins, logits.device, whole=whole)


def label_bins(
    logits: Tensor, labels: Tensor, *, bins: int = 15, weights: Tensor | None = None
) -> ClasswiseBins:
    """Rows counted by the probability of each label, every label being a binary head by itself.

    Args:
        logits: float `[n, k]`.
        labels: 0 and 1 `[n, k]` int64, -100 where a label is missing.
        bins: number of equal bins (lo, hi] over [0, 1].
        weights: row weights `[n]`.
    """
    if weights is not None:
        validate_weights(weights, labels.shape[:1])
    parts = _label_parts(logits, labels, weights)
    return _binned(parts, logits.shape[1], bins, logits.device, whole=weights is None)


# Probabilities `[m, k]`, where each class or label was true, and weights that fit both.
Part = tuple[Tensor, Tensor, Tensor | None]


def _class_parts(rows: LabeledOutputs) -> Iterator[Part]:
    for chunk in rows.chunks():
        probs = chunk.logits.double().softmax(1)
        positive = torch.zeros_like(probs).scatter_(1, chunk.targets[:, None], 1.0)
        weights = chunk.weights
        yield probs, positive, None if weights is None else weights[:, None].expand_as(probs)


def _labels(targets: Tensor, ignore_index: int | None) -> Tensor:
    """Validated labels `[n, k]` of 0 and 1; a warning where they may be one-hot rows."""
    labels = binary_labels(targets, ignore_index)
    if are_one_hot(labels):
        warnings.warn(
            f"Every row of the targets has exactly one of {labels.shape[1]} labels. They are read "
            "as separate labels; if they are one-hot classes, pass `targets.argmax(1)`.",
            stacklevel=3,
        )
    return labels


def _label_parts(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Iterator[Part]:
    step = max(1, _CHUNK // max(1, logits.shape[1]))
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        labeled = targets[rows] != IGNORED
        mass = None if weights is None else weights[rows].double()[:, None].expand(labeled.shape)
        if not bool(labeled.all()):
            mass = labeled.double() if mass is None else mass * labeled
        yield logits[rows].double().sigmoid(), targets[rows].double(), mass


def _binned(
    parts: Iterator[Part], k: int, bins: int, device: torch.device, *, whole: bool
) -> ClasswiseBins:
    inner = bin_edges(bins)[1:-1].to(device)
    sums = torch.zeros(4, k * bins, dtype=torch.float64, device=device)
    offsets = torch.arange(k, device=device) * bins
    broken = 0
    for probs, positive, mass in parts:
        weight = torch.ones_like(probs) if mass is None else mass
        broken += int((probs.isnan() & (weight > 0)).any(1).sum())
        slot = (torch.bucketize(probs, inner) + offsets).reshape(-1)
        values = (torch.ones_like(probs), probs, positive, probs * (1 - probs))
        for total, value in zip(sums, values, strict=True):
            weighted = torch.where(weight > 0, value * weight, 0.0).reshape(-1)
            total += summed_by_slot(slot, weighted, k * bins + 1)[: k * bins]
    reject_nonfinite(broken)
    count, probability, positives, squares = sums.view(4, k, bins).cpu()
    kind = torch.int64 if whole else torch.float64
    return ClasswiseBins(count.to(kind), probability, positives.to(kind), squares)
