"""Calibration of every class, or of every label of a multilabel head, by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendebug_torch._plotting import LIVE, NEUTRAL, axes
from gendebug_torch.calibration.binning import ReliabilityBins, bin_edges
from gendebug_torch.calibration.heads import refuse_broken
from gendebug_torch.errors import reject
from gendebug_torch.stats import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class ClasswiseBins:
    """Rows counted by the probability of each class, in b equal bins (lo, hi]; adds up over batches and ranks.

    Args:
        count: `[k, b]` int64 rows.
        probability: `[k, b]` float64 sum of the class's probability.
        positive: `[k, b]` int64 rows of the class.
        squares: `[k, b]` float64 sum of p (1 - p): the variance of `positive` under calibration.
    """

    count: Tensor
    probability: Tensor
    positive: Tensor
    squares: Tensor

    def __add__(self, other: ClasswiseBins) -> ClasswiseBins:
        if self.count.shape != other.count.shape:
            reject("other", f"shape {list(self.count.shape)}", f"{list(other.count.shape)}", "Bin both with the same classes and `bins`.")
        pairs = zip(self._parts, other._parts, strict=True)
        return ClasswiseBins(*(a + b for a, b in pairs))

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.count, self.probability, self.positive, self.squares

    @property
    def ece(self) -> Tensor:
        """`[k]` float64 calibration error of each class, in [0, 1]."""
        return (self.probability - self.positive).abs().sum(1) / self.count.sum(1).clamp(min=1)

    @property
    def macro(self) -> float:
        """Mean over the classes: the classwise ECE."""
        return float(self.ece.mean()) if len(self.count) else 0.0

    def noise(self, *, replicates: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Per class, what a calibrated model would show, and the p-value (normal draws per bin of 5 or more expected).

        Returns:
            `[k]` float64 mean null value and `[k]` p-value, one per class and not adjusted.
        """
        generator = torch.Generator().manual_seed(seed)
        total = self.count.sum(1).clamp(min=1).double()
        noise = torch.randn(replicates, *self.count.shape, generator=generator, dtype=torch.float64) * self.squares.sqrt()
        null = noise.abs().sum(2) / total
        # Where few rows are expected the count is skewed: a Poisson draw takes the place of the normal one.
        rare = (self.probability < 5) & (self.count > 0)
        if bool(rare.any()):
            few = torch.poisson((self.probability * rare).expand(replicates, -1, -1), generator=generator) - self.probability * rare
            null = torch.where(rare, few, noise).abs().sum(2) / total
        # The tail beyond the replicates follows a gamma with the mean and variance of the null: a sum of absolute values
        # is skewed, and a normal tail would be too thin.
        mean, variance = null.mean(0).clamp(min=1e-300), null.var(0).clamp(min=1e-300)
        share = (1 + (null >= self.ece).sum(0)) / (1 + replicates)
        tail = torch.special.gammaincc(mean.square() / variance, self.ece * mean / variance)
        return null.mean(0), torch.where(share <= 2 / (1 + replicates), torch.minimum(share, tail.clamp(min=1e-300)), share)

    def of_class(self, label: int) -> ReliabilityBins:
        """The bins of one class, with its interval and diagram."""
        return ReliabilityBins(self.count[label], self.probability[label], self.positive[label])

    def table(self) -> pd.DataFrame:
        """One row per class, worst first: rows, ECE, what chance would give, p-value adjusted by Holm."""
        import pandas as pd

        null, p = self.noise()
        columns = {"rows": self.positive.sum(1), "ece": self.ece, "null": null, "p_holm": holm_adjusted(p)}
        frame = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        frame.insert(0, "class", np.arange(len(frame)))
        return frame.sort_values("ece", ascending=False, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Calibration error of the worst 20 classes beside what chance would give."""
        ax = axes(ax, size=(6.0, 3.6))
        table = self.table().head(20)
        places = np.arange(len(table))
        ax.bar(places, table["ece"], 0.8, color=LIVE, alpha=0.7, label="calibration error")
        ax.plot(places, table["null"], "_", color=NEUTRAL, markersize=12, markeredgewidth=2, label="calibrated, by chance")
        ax.set_xticks(places, [str(label) for label in table["class"]])
        ax.set(xlabel="class", ylabel="ECE", title=f"Calibration by class: mean ECE {self.macro:.1%}")
        ax.legend(frameon=False, fontsize="small")
        return ax


def classwise_bins(logits: Tensor, targets: Tensor, *, bins: int = 15) -> ClasswiseBins:
    """Rows by the probability of each class in turn: one-against-rest, or label by label.

    Class ids `[n]` with logits `[n, k]` take the softmax; 0/1 targets `[n, k]` take the sigmoid of each label
    (multilabel); logits `[n]` take the sigmoid, so that P(y = 1) is binned, not the confidence of the prediction.

    Source: Kull et al. (2019), NeurIPS, arXiv:1910.12656, section 2, for classwise calibration.

    Args:
        logits: `[n, k]` or `[n]` float; a masked class may be -inf.
        targets: `[n]` int64 class ids, or `[n, k]` of 0 and 1.
        bins: equal bins (lo, hi] over [0, 1].

    Raises:
        InputError: shapes do not fit, targets out of range, NaN or +inf.

    Cost: `n k` exponentials and counts; the state is `[k, bins]`.
    """
    z = logits[:, None] if logits.ndim == 1 else logits
    many = logits.ndim == 1 or targets.ndim == 2
    true = targets[:, None] if targets.ndim == 1 and many else targets
    if z.ndim != 2 or not z.is_floating_point() or bins < 1:
        got = f"{logits.dtype} {list(logits.shape)} and bins={bins}"
        reject("logits", "float [n, k] or [n], and at least 1 bin", got, "Pass raw model outputs.")
    if true.shape != (z.shape if many else z.shape[:1]) or true.is_floating_point():
        reject("targets", "[n] class ids or [n, k] of 0 and 1", f"{targets.dtype} {list(targets.shape)}", "Pass one row per row of logits.")
    low, high = (int(bound) for bound in true.aminmax()) if true.numel() else (0, 0)
    if low < 0 or high > (1 if many else z.shape[1] - 1):
        reject("targets", f"values in 0..{1 if many else z.shape[1] - 1}", f"{low}..{high}", "Map labels to the columns of the logits.")
    return _counted(z, true, bins, many)


def _counted(z: Tensor, true: Tensor, bins: int, many: bool) -> ClasswiseBins:
    k = z.shape[1]
    inner = bin_edges(bins)[1:-1].to(z.device)
    sums = torch.zeros(4, k * bins, dtype=torch.float64, device=z.device)
    offsets = torch.arange(k, device=z.device) * bins
    broken = 0
    rows = max(1, _CHUNK // max(1, k))
    for start in range(0, len(z), rows):
        part = z[start : start + rows].double()
        probs = part.sigmoid() if many else part.softmax(1)
        here = true[start : start + rows]
        positive = here.double() if many else torch.zeros_like(probs).scatter_(1, here[:, None], 1.0)
        broken += int(probs.isnan().any(1).sum())
        slot = (torch.bucketize(probs, inner) + offsets).reshape(-1)
        for total, value in zip(sums, (torch.ones_like(probs), probs, positive, probs * (1 - probs)), strict=True):
            total += torch.bincount(slot, value.reshape(-1), minlength=k * bins)[: k * bins]
    refuse_broken(broken)
    count, probability, positive, squares = sums.view(4, k, bins).cpu()
    return ClasswiseBins(count.long(), probability, positive.long(), squares)
