"""Clusters of errors in feature space, against the correct rows in the same regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import NO_DEADLINE, Deadline, reject
from gendebug_torch.modality.pictures.drawing import draw_rows
from gendebug_torch.slices.clusters.k_means import fit_centers, nearest_center
from gendebug_torch.slices.clusters.telling_rows import telling_rows
from gendebug_torch.slices.search.result import caption, shortened
from gendebug_torch.slices.statistics.tails import log_upper_tail
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Errors on which the clusters are fitted; all rows are assigned.
_MAX_FIT_ERRORS = 5_000
# With fewer errors, half of them would form no cluster: all are fitted and counted.
_MIN_ERRORS_TO_SPLIT = 60
_MAX_FEATURES = 3


@dataclass(frozen=True, eq=False)
class ErrorClusters:
    """Clusters of errors and the correct rows in the same regions; most errors first.

    Args:
        errors: number of errors per cluster, `[k]` int64.
        correct: number of correct rows in the same region, `[k]` int64.
        expected: number of errors that the expected rates imply there, `[k]` float64.
        variance: variance of the number of errors, given the expected rates, `[k]` float64.
        descriptions: features that distinguish each cluster, e.g. `amount high (+2.1 sd)`, `k`.
        assignment: cluster of every row, `[n]` int64.
        is_held_out: whether the counts come from rows that the clusters were not fitted on.
        examples: images, series or texts of errors by their mistake, drawn instead of bars.
        telling: errors of each cluster, those amid the largest share of errors first, k times
            `[e_i]` int64, of large clusters a sample.
    """

    errors: Tensor
    correct: Tensor
    expected: Tensor
    variance: Tensor
    descriptions: tuple[str, ...]
    assignment: Tensor
    is_held_out: bool
    examples: Mapping[str, Tensor] = field(default_factory=dict)
    telling: tuple[Tensor, ...] = ()

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
        """`[k]` share of errors over share of correct rows, with one row added to each."""
        of_errors = (self.errors + 1).double() / (self.errors.sum() + 1)
        of_correct = (self.correct + 1).double() / (self.correct.sum() + 1)
        return of_errors / of_correct

    @property
    def lift(self) -> Tensor:
        """`[k]` errors over expected errors."""
        return self.errors / self.expected.clamp(min=1e-300)

    @property
    def log_p(self) -> Tensor:
        """`[k]` log of the one-sided p-value of the errors, given the expected rates."""
        return log_upper_tail(self.errors, self.errors + self.correct, self.expected, self.variance)

    def table(self) -> pd.DataFrame:
        """One row per cluster: counts, error rate with interval, expected rate, description."""
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
            | {"description": list(self.descriptions)}
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Examples of errors; else share of errors, with interval, and of correct rows."""
        if self.examples:
            ax = draw_rows(axes(ax, size=(7.5, 3.4)), self.examples)
            ax.set_title("Errors of the region: target and prediction")
            return ax
        ax = axes(ax, size=(8.0, 2.0 + 0.55 * len(self.descriptions)))
        position = np.arange(len(self.descriptions))[::-1]
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
                f"{shortened(name)} ({n:,} errors)"
                for name, n in zip(self.descriptions, self.errors.tolist(), strict=True)
            ],
        )
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("share of rows of each kind")
        caption(ax, "Clusters of errors, against correct rows")
        return ax


def error_clusters(
    features: Tensor,
    error: Tensor,
    *,
    expected: Tensor | None = None,
    names: Sequence[str] = (),
    described: Tensor | None = None,
    clusters: int = 8,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
) -> ErrorClusters:
    """Clusters of the errors, and the number of correct rows in each region.

    k-means on the errors of one random half, standardized by its correct rows, with missing values
    at the mean. Errors and correct rows of the other half are assigned to the nearest center and
    counted. The number of clusters, from 1 on, is that of the best penalized likelihood. The errors
    of a cluster are listed by the share of errors around each.

    Source: Arthur and Vassilvitskii (2007), SODA; Pelleg and Moore (2000), X-means. Cost: k-means
    on at most 5,000 errors for each number of clusters, one assignment of all rows.

    Args:
        features: features or an embedding, `[n, d]` float.
        error: whether each row is an error, `[n]` bool.
        expected: error rate that the model's confidence implies, `[n]` float in [0, 1]; default the
            rate of all rows.
        names: names of the features, or of the columns of `described`.
        described: columns by which clusters are described, `[n, p]` float; default the features.
        clusters: most clusters.
        seed: seed of the halves and the clustering.
        deadline: when to stop.

    Raises:
        InputError: lengths differ, or there is no error or no correct row.
        OutOfTime: the deadline passed.

    Example:
        >>> x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> error = torch.arange(2000) < 200
        >>> x[error] += 4.0
        >>> found = error_clusters(x, error, names=["height", "weight"])
        >>> found.descriptions[0].split(" (")[0] in ("height high", "weight high")
        True
    """
    wrong = _checked(features, error)
    halves = _halves(wrong, seed)
    fitting, counting = halves
    scaled = _standardized(features.double().cpu(), fitting & ~wrong)
    assignment, k = _assignment(scaled, wrong, halves, clusters, seed, deadline)
    errors, correct = (
        torch.bincount(assignment[rows & counting], minlength=k) for rows in (wrong, ~wrong)
    )
    mean, variance = _expected(expected, wrong, counting, assignment, k)
    words = scaled if described is None else _standardized(described.double().cpu(), ~wrong)
    labels = tuple(names) or tuple(f"feature_{i}" for i in range(words.shape[1]))
    descriptions = tuple(_description(words[wrong & (assignment == i)], labels) for i in range(k))
    is_held_out = not torch.equal(fitting, counting)
    return ErrorClusters(
        errors,
        correct,
        mean,
        variance,
        descriptions,
        assignment,
        is_held_out,
        telling=telling_rows(scaled, wrong, assignment, k, seed=seed),
    )


def _expected(
    expected: Tensor | None, wrong: Tensor, counting: Tensor, assignment: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Number of errors that the expected rates imply in each cluster, and its variance, `[k]`."""
    rate = wrong.double().mean().expand(len(wrong)) if expected is None else expected.double().cpu()
    moments = torch.stack([rate, rate * (1 - rate)])[:, counting]
    mean, spread = torch.zeros(2, k, dtype=torch.float64).index_add_(
        1, assignment[counting], moments
    )
    return mean, spread * (1 - spread / spread.sum().clamp(min=1e-300))


def _checked(features: Tensor, error: Tensor) -> Tensor:
    """The errors as `[n]` bool on the host."""
    wrong = error.bool().cpu()
    if features.ndim != 2 or len(features) != len(wrong):
        reject(
            "features",
            "[n, d] and one `error` per row",
            f"{list(features.shape)} and {list(wrong.shape)}",
            "Flatten features per row.",
        )
    if not bool(wrong.any()) or bool(wrong.all()):
        got = f"{int(wrong.sum())} errors of {len(wrong)}"
        reject("error", "errors and correct rows", got, "There is nothing to compare.")
    return wrong


def _halves(wrong: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """`[n]` bool rows to fit on and rows to count; both all where errors are few."""
    everyone = torch.ones_like(wrong)
    if int(wrong.sum()) < _MIN_ERRORS_TO_SPLIT:
        return everyone, everyone
    half = torch.zeros_like(wrong)
    for kind in (wrong, ~wrong):
        rows = kind.nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        half[rows[order[: len(rows) // 2]]] = True
    return half, ~half


def _assignment(
    scaled: Tensor,
    wrong: Tensor,
    halves: tuple[Tensor, Tensor],
    clusters: int,
    seed: int,
    deadline: Deadline,
) -> tuple[Tensor, int]:
    """`[n]` int64 cluster of each row, by number of errors, and the number of clusters."""
    fitting, counting = halves
    errors = scaled[wrong & fitting]
    generator = torch.Generator().manual_seed(seed)
    sample = errors[torch.randperm(len(errors), generator=generator)[:_MAX_FIT_ERRORS]]
    centers = fit_centers(sample, clusters, generator, deadline)
    k, nearest = len(centers), nearest_center(scaled, centers)
    counts = torch.bincount(nearest[wrong & counting], minlength=k)
    order = counts.argsort(descending=True, stable=True)
    return torch.empty_like(order).index_copy_(0, order, torch.arange(k))[nearest], k


def _standardized(features: Tensor, reference: Tensor) -> Tensor:
    """Mean 0 and sd 1 over the reference rows; missing values and constant columns are 0."""
    values = features[reference]
    mean = values.nanmean(0)
    spread = (values - mean).square().nanmean(0).sqrt()
    scaled = (features - mean) / torch.where(spread > 0, spread, torch.full_like(spread, math.inf))
    return scaled.nan_to_num(0.0, 0.0, 0.0).clamp(-10, 10)


def _description(rows: Tensor, names: Sequence[str]) -> str:
    """The features whose mean is farthest from that of correct rows, in standard deviations."""
    if not len(rows):
        return "no rows"
    mean = rows.mean(0)
    top = mean.abs().argsort(descending=True, stable=True)[:_MAX_FEATURES].tolist()
    parts = [
        f"{names[i]} {'high' if mean[i] > 0 else 'low'} ({float(mean[i]):+.1f} sd)"
        for i in top
        if abs(float(mean[i])) >= 0.5
    ]
    return ", ".join(parts) or "like the correct rows"
