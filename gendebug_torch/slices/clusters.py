"""Where errors crowd in feature space when no column names the place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.slices.search.expected_errors import log_upper_tail
from gendebug_torch.slices.search.result import caption, shortened
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Errors that the clustering is fitted on; all rows are assigned.
_FITTED = 20_000
# With fewer errors, a half of them would form no cluster: all are fitted and counted.
_ERRORS_TO_SPLIT = 60
_WORDS = 3
_STARTS = 4
_ITERATIONS = 50
_CHUNK = 2**16
# Variance below which a feature makes no cluster tighter, in that of the correct rows: a column of
# two values, split in two, then gains no more than the split costs.
_NARROWEST = 0.25


@dataclass(frozen=True, eq=False)
class ErrorClusters:
    """Clusters of errors, against the correct rows in the same region; the one with most errors
    first.

    Args:
        errors: `[k]` int64 errors per cluster.
        correct: `[k]` int64 correct rows in the same region.
        expected: `[k]` float64 errors that the model's confidence promised there, or by the rate of
            all rows.
        variance: `[k]` float64 of the errors, given what was expected.
        words: per cluster, the features that set it apart, e.g. `amount high (+2.1 sd)`.
        assignment: `[n]` int64 cluster of every row, numbered like the rows above.
        confirmed: whether the counts come from rows that the clustering was not fitted on.
    """

    errors: Tensor
    correct: Tensor
    expected: Tensor
    variance: Tensor
    words: tuple[str, ...]
    assignment: Tensor
    confirmed: bool

    @property
    def share(self) -> Tensor:
        """`[k]` share of all errors."""
        return self.errors.double() / self.errors.sum().clamp(min=1)

    @property
    def largest_share(self) -> tuple[float, float, float]:
        """Share of all errors in the largest cluster, with its 95 % Wilson interval."""
        low, high = wilson_interval(self.errors[:1], self.errors.sum()[None])
        return float(self.share[0]), float(low), float(high)

    @property
    def concentration(self) -> Tensor:
        """`[k]` share of errors over share of correct rows in the cluster, with one row added to
        each.
        """
        of_errors = (self.errors + 1).double() / (self.errors.sum() + 1)
        of_correct = (self.correct + 1).double() / (self.correct.sum() + 1)
        return of_errors / of_correct

    @property
    def lift(self) -> Tensor:
        """`[k]` errors over what was expected."""
        return self.errors / self.expected.clamp(min=1e-300)

    @property
    def log_p(self) -> Tensor:
        """`[k]` log of the one-sided p-value that so many errors lie there, given what was
        expected.
        """
        return log_upper_tail(self.errors, self.errors + self.correct, self.expected, self.variance)

    def table(self) -> pd.DataFrame:
        """One row per cluster: errors, correct rows, error rate with interval, expected rate,
        concentration, words.
        """
        support = self.errors + self.correct
        low, high = wilson_interval(self.errors, support)
        columns = {"errors": self.errors, "correct": self.correct, "share_of_errors": self.share}
        columns |= {"error_rate": self.errors / support.clamp(min=1), "low": low, "high": high}
        columns |= {
            "expected_rate": self.expected / support.clamp(min=1),
            "concentration": self.concentration,
        }
        return pd.DataFrame(
            {key: value.numpy() for key, value in columns.items()}
            | {"set_apart_by": list(self.words)}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of errors, with its interval, and of correct rows per cluster, side by side."""
        ax = axes(ax, size=(8.0, 2.0 + 0.55 * len(self.words)))
        position = np.arange(len(self.words))[::-1]
        low, high = wilson_interval(self.errors, self.errors.sum().expand_as(self.errors))
        spread = torch.stack([self.share - low, high - self.share]).clamp(min=0).numpy()
        correct = (self.correct / self.correct.sum().clamp(min=1)).numpy()
        ax.barh(
            position + 0.2,
            self.share.numpy(),
            0.4,
            color=LIVE,
            xerr=spread,
            error_kw={"elinewidth": 0.8},
            label="errors",
        )
        ax.barh(position - 0.2, correct, 0.4, color=REFERENCE, label="correct rows")
        ax.set_yticks(
            position,
            [
                f"{shortened(said)} ({n:,} errors)"
                for said, n in zip(self.words, self.errors.tolist(), strict=True)
            ],
        )
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("share of rows of each kind")
        caption(ax, "Where errors crowd, against correct rows")
        return ax


def error_clusters(
    features: Tensor,
    error: Tensor,
    *,
    expected: Tensor | None = None,
    names: Sequence[str] = (),
    clusters: int = 8,
    seed: int = 0,
) -> ErrorClusters:
    """Clusters of the errors, and how many correct rows share each region.

    k-means (k-means++ seeds, Arthur and Vassilvitskii, 2007) on the errors of one random half,
    standardised by its correct rows, missing values at the mean; errors and correct rows of the
    other half are assigned to the nearest center and counted. The number of clusters, from 1 on, is
    that of the best penalised likelihood (Pelleg and Moore, 2000, X-means, here with a width for
    each cluster and feature).

    Args:
        features: `[n, d]` float; features or an embedding.
        error: `[n]` bool.
        expected: `[n]` float in [0, 1], error rate that the model promises; default: that of all
            rows.
        names: of the features.
        clusters: most clusters.
        seed: of the halves and the clustering.

    Raises:
        InputError: lengths differ, or there is no error or no correct row.

    Cost: k-means on at most 20,000 errors for each number of clusters, one assignment of all rows.
    """
    wrong = error.bool().cpu()
    if features.ndim != 2 or len(features) != len(wrong):
        reject(
            "features",
            "[n, d] and one `error` per row",
            f"{list(features.shape)} and {list(wrong.shape)}",
            "Flatten features per row.",
        )
    if not bool(wrong.any()) or bool(wrong.all()):
        reject(
            "error",
            "errors and correct rows",
            f"{int(wrong.sum())} errors of {len(wrong)}",
            "There is nothing to tell apart.",
        )
    labels = tuple(names) or tuple(f"feature_{i}" for i in range(features.shape[1]))
    fitted, counted = _halves(wrong, seed)
    scaled = _standardised(features.double().cpu(), fitted & ~wrong)
    assignment, k = _regions(scaled, wrong, fitted, clusters, seed)
    order = torch.bincount(assignment[wrong & counted], minlength=k).argsort(
        descending=True, stable=True
    )
    assignment = torch.empty_like(order).index_copy_(0, order, torch.arange(k))[assignment]
    errors, correct = (
        torch.bincount(assignment[rows & counted], minlength=k) for rows in (wrong, ~wrong)
    )
    p = (
        torch.full((len(wrong),), float(wrong.double().mean()), dtype=torch.float64)
        if expected is None
        else expected.double().cpu()
    )
    sums = torch.zeros(2, k, dtype=torch.float64).index_add_(
        1, assignment[counted], torch.stack([p, p * (1 - p)])[:, counted]
    )
    variance = sums[1] * (1 - sums[1] / sums[1].sum().clamp(min=1e-300))
    words = tuple(_words(scaled[wrong & (assignment == cluster)], labels) for cluster in range(k))
    return ErrorClusters(
        errors, correct, sums[0], variance, words, assignment, not torch.equal(fitted, counted)
    )


def _halves(wrong: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """`[n]` bool rows to fit on and rows to count; both all where errors are few."""
    everyone = torch.ones_like(wrong)
    if int(wrong.sum()) < _ERRORS_TO_SPLIT:
        return everyone, everyone
    half = torch.zeros_like(wrong)
    for kind in (wrong, ~wrong):
        rows = kind.nonzero()[:, 0]
        half[
            rows[
                torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[
                    : len(rows) // 2
                ]
            ]
        ] = True
    return half, ~half


def _regions(
    scaled: Tensor, wrong: Tensor, fitted: Tensor, clusters: int, seed: int
) -> tuple[Tensor, int]:
    """`[n]` int64 region of each row, and how many there are."""
    errors = scaled[wrong & fitted]
    generator = torch.Generator().manual_seed(seed)
    sample = errors[torch.randperm(len(errors), generator=generator)[:_FITTED]]
    best, chosen, kept = -math.inf, torch.zeros(len(scaled), dtype=torch.int64), 1
    for k in range(1, min(clusters, len(sample)) + 1):
        tries = [_centers(sample, k, generator) for _ in range(_STARTS if k > 1 else 1)]
        centers = min(tries, key=lambda centers: float(_distances(sample, centers).amin(1).sum()))
        worth = _worth(sample, centers)
        if worth > best:
            best, chosen, kept = worth, _nearest(scaled, centers), k
    return chosen, kept


def _worth(sample: Tensor, centers: Tensor) -> float:
    """Log-likelihood of normal clusters, each with its own width per feature, less half of log n
    for each parameter.
    """
    (n, d), k = sample.shape, len(centers)
    members = _distances(sample, centers).argmin(1)
    count = torch.bincount(members, minlength=k).double()
    away = (sample - centers[members]).square()
    width = (
        torch.zeros(k, d, dtype=torch.float64).index_add_(0, members, away)
        / count.clamp(min=1)[:, None]
    )
    fit = count * (
        (count / n).clamp(min=1e-300).log() - (width.clamp(min=_NARROWEST).log().sum(1) + d) / 2
    )
    return float(fit.sum()) - (k * (2 * d + 1) - 1) / 2 * math.log(n)


def _centers(sample: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """`[k, d]` centers by Lloyd's iterations from k-means++ seeds; a center that loses all points
    stays where it was.
    """
    centers = sample[torch.randint(len(sample), (1,), generator=generator)]
    for _ in range(k - 1):
        far = _distances(sample, centers).amin(1)
        # Where all points coincide with centers any one will do.
        drawn = torch.multinomial(
            far if float(far.sum()) > 0 else torch.ones_like(far), 1, generator=generator
        )
        centers = torch.cat([centers, sample[drawn]])
    members = torch.full((len(sample),), -1)
    for _ in range(_ITERATIONS):
        before, members = members, _distances(sample, centers).argmin(1)
        if torch.equal(before, members):
            break
        count = torch.bincount(members, minlength=k)
        mean = (
            torch.zeros_like(centers).index_add_(0, members, sample) / count.clamp(min=1)[:, None]
        )
        centers = torch.where(count[:, None] > 0, mean, centers)
    return centers


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """`[n]` int64 nearest center, in chunks."""
    return torch.cat([_distances(part, centers).argmin(1) for part in torch.split(points, _CHUNK)])


def _distances(points: Tensor, centers: Tensor) -> Tensor:
    """`[n, k]` squared Euclidean distances."""
    return (
        points.square().sum(1, keepdim=True) - 2 * points @ centers.T + centers.square().sum(1)
    ).clamp(min=0.0)


def _standardised(features: Tensor, reference: Tensor) -> Tensor:
    """Mean 0 and sd 1 over the reference rows; missing values at 0, constant columns at 0."""
    known = features[reference]
    mean = known.nanmean(0)
    spread = (known - mean).square().nanmean(0).sqrt()
    scaled = (features - mean) / torch.where(spread > 0, spread, torch.full_like(spread, math.inf))
    return scaled.nan_to_num(0.0, 0.0, 0.0).clamp(-10, 10)


def _words(rows: Tensor, names: Sequence[str]) -> str:
    """The features whose mean lies farthest from that of correct rows, in their standard
    deviations.
    """
    if not len(rows):
        return "no rows"
    mean = rows.mean(0)
    top = mean.abs().argsort(descending=True, stable=True)[:_WORDS].tolist()
    said = [
        f"{names[i]} {'high' if mean[i] > 0 else 'low'} ({float(mean[i]):+.1f} sd)"
        for i in top
        if abs(float(mean[i])) >= 0.5
    ]
    return ", ".join(said) or "like the correct rows"
