"""Where errors crowd in feature space when no column names the place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from gendebug_torch._plotting import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rows that the clustering is fitted on; all rows are assigned.
_FITTED = 20_000
_WORDS = 3


@dataclass(frozen=True, eq=False)
class ErrorClusters:
    """Clusters of errors, against the share of correct rows in the same region; the largest first.

    Args:
        errors: `[k]` int64 errors per cluster.
        correct: `[k]` int64 correct rows in the same region.
        words: per cluster, the features that set it apart, e.g. `amount high (+2.1 sd)`.
        assignment: `[n]` int64 cluster of every row, numbered like the rows above.
    """

    errors: Tensor
    correct: Tensor
    words: tuple[str, ...]
    assignment: Tensor

    @property
    def largest_share(self) -> tuple[float, float, float]:
        """Share of all errors in the largest cluster, with its 95 % Wilson interval."""
        total = self.errors.sum()
        low, high = wilson_interval(self.errors[:1], total[None])
        return float(self.errors[0] / total.clamp(min=1)), float(low), float(high)

    @property
    def concentration(self) -> Tensor:
        """`[k]` share of errors over share of correct rows in the cluster, with one row added to each."""
        of_errors = (self.errors + 1).double() / (self.errors.sum() + 1)
        of_correct = (self.correct + 1).double() / (self.correct.sum() + 1)
        return of_errors / of_correct

    def table(self) -> pd.DataFrame:
        """One row per cluster: errors, correct rows, error rate with interval, concentration, words."""
        support = self.errors + self.correct
        low, high = wilson_interval(self.errors, support)
        columns = {"errors": self.errors, "correct": self.correct, "error_rate": self.errors / support.clamp(min=1)}
        columns |= {"low": low, "high": high, "concentration": self.concentration}
        return pd.DataFrame({key: value.numpy() for key, value in columns.items()} | {"set_apart_by": list(self.words)})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of errors and of correct rows per cluster, side by side."""
        ax = axes(ax, size=(7.0, 1.4 + 0.5 * len(self.words)))
        position = np.arange(len(self.words))[::-1]
        shares = [(side / side.sum().clamp(min=1)).numpy() for side in (self.errors, self.correct)]
        ax.barh(position + 0.2, shares[0], 0.4, color=LIVE, label="errors")
        ax.barh(position - 0.2, shares[1], 0.4, color=REFERENCE, label="correct rows")
        ax.set_yticks(position, [word if len(word) < 60 else f"{word[:57]}..." for word in self.words])
        ax.set(xlabel="share of rows", title="Where errors crowd")
        ax.legend(frameon=False, fontsize="small")
        return ax


def error_clusters(features: Tensor, error: Tensor, *, names: Sequence[str] = (), clusters: int = 5, seed: int = 0) -> ErrorClusters:
    """Cluster the errors and ask how many correct rows share each region.

    k-means (k-means++ seeds, Arthur and Vassilvitskii, 2007) on the errors, standardised by the correct rows,
    missing values at the mean; correct rows are assigned to the nearest center. A cluster that holds many
    errors and few correct rows is a place where the model fails as a rule.

    Args:
        features: `[n, d]` float; features or an embedding.
        error: `[n]` bool.
        names: of the features.
        clusters: k, at most the number of errors.
        seed: of the clustering.

    Raises:
        InputError: lengths differ, or there is no error or no correct row.

    Cost: k-means on at most 20,000 errors, then one assignment of all rows.
    """
    wrong = error.bool()
    if features.ndim != 2 or len(features) != len(wrong):
        reject("features", "[n, d] and one `error` per row", f"{list(features.shape)} and {list(wrong.shape)}", "Flatten features per row.")
    if not bool(wrong.any()) or bool(wrong.all()):
        reject("error", "errors and correct rows", f"{int(wrong.sum())} errors of {len(wrong)}", "There is nothing to tell apart.")
    labels = tuple(names) or tuple(f"feature_{i}" for i in range(features.shape[1]))
    scaled = _standardised(features.double(), ~wrong)
    errors = scaled[wrong].numpy()
    rng = np.random.default_rng(seed)
    sample = errors[rng.choice(len(errors), min(_FITTED, len(errors)), replace=False)]
    k = min(clusters, len(np.unique(sample, axis=0)))
    centers, _ = kmeans2(sample, k, minit="++", rng=rng, missing="warn") if k > 1 else (sample.mean(0, keepdims=True), None)
    assignment = torch.from_numpy(vq(scaled.numpy(), centers)[0].astype(np.int64))
    counts = torch.bincount(assignment[wrong], minlength=k)
    order = counts.argsort(descending=True, stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(k)
    assignment = number[assignment]
    correct = torch.bincount(assignment[~wrong], minlength=k)
    words = tuple(_words(scaled[wrong & (assignment == cluster)], labels) for cluster in range(k))
    return ErrorClusters(counts[order], correct, words, assignment)


def _standardised(features: Tensor, reference: Tensor) -> Tensor:
    """Mean 0 and sd 1 over the reference rows; missing values at 0, constant columns at 0."""
    known = features[reference]
    mean = known.nanmean(0)
    spread = (known - mean).square().nanmean(0).sqrt()
    scaled = (features - mean) / torch.where(spread > 0, spread, torch.full_like(spread, math.inf))
    return scaled.nan_to_num(0.0, 0.0, 0.0).clamp(-10, 10)


def _words(rows: Tensor, names: Sequence[str]) -> str:
    """The features whose mean lies farthest from that of correct rows, in their standard deviations."""
    if not len(rows):
        return "no rows"
    mean = rows.mean(0)
    top = mean.abs().argsort(descending=True, stable=True)[:_WORDS].tolist()
    said = [f"{names[i]} {'high' if mean[i] > 0 else 'low'} ({float(mean[i]):+.1f} sd)" for i in top if abs(float(mean[i])) >= 0.5]
    return ", ".join(said) or "like the correct rows"
