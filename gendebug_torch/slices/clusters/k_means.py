"""k-means with the number of clusters by a penalized likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.errors import NO_DEADLINE, Deadline

_STARTS = 4
_ITERATIONS = 50
_CHUNK = 2**16
# Least variance of a feature within a cluster, relative to the reference: splitting a column of two
# values then gains no more than the split costs.
_MIN_VARIANCE = 0.25


def fit_centers(
    sample: Tensor,
    max_clusters: int,
    generator: torch.Generator,
    deadline: Deadline = NO_DEADLINE,
) -> Tensor:
    """`[k, d]` centers, with k from 1 to `max_clusters` of the best penalized likelihood.

    Source: k-means++ seeds (Arthur and Vassilvitskii, 2007, SODA); X-means (Pelleg and Moore,
    2000), here with a variance for each cluster and feature.

    Args:
        sample: points, `[n, d]` float64, at least one.
        max_clusters: most clusters.
        generator: source of the starts.
        deadline: when to stop.

    Raises:
        OutOfTime: the deadline passed.
    """
    best, centers = -math.inf, sample[:1]
    for k in range(1, min(max_clusters, len(sample)) + 1):
        deadline.check()
        starts = [_lloyd(sample, k, generator) for _ in range(_STARTS if k > 1 else 1)]
        closest = min(starts, key=lambda start: float(_distances(sample, start).amin(1).sum()))
        likelihood = _penalized_likelihood(sample, closest)
        if likelihood > best:
            best, centers = likelihood, closest
    return centers


def nearest_center(points: Tensor, centers: Tensor) -> Tensor:
    """`[n]` int64 index of the nearest center.

    Args:
        points: `[n, d]` float64.
        centers: `[k, d]` float64.
    """
    return torch.cat([_distances(part, centers).argmin(1) for part in torch.split(points, _CHUNK)])


def _penalized_likelihood(sample: Tensor, centers: Tensor) -> float:
    """Log-likelihood of normal clusters less half of log n for each parameter (BIC)."""
    (n, d), k = sample.shape, len(centers)
    members = _distances(sample, centers).argmin(1)
    count = torch.bincount(members, minlength=k).double()
    squares = torch.zeros(k, d, dtype=torch.float64)
    squares.index_add_(0, members, (sample - centers[members]).square())
    variance = squares / count.clamp(min=1)[:, None]
    log_share = (count / n).clamp(min=1e-300).log()
    fit = count * (log_share - (variance.clamp(min=_MIN_VARIANCE).log().sum(1) + d) / 2)
    return float(fit.sum()) - (k * (2 * d + 1) - 1) / 2 * math.log(n)


def _lloyd(sample: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """`[k, d]` centers by Lloyd's iterations from k-means++ seeds; empty clusters stay in place."""
    centers = sample[torch.randint(len(sample), (1,), generator=generator)]
    for _ in range(k - 1):
        distance = _distances(sample, centers).amin(1)
        # If all points coincide with centers, any one will do.
        weights = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        seed = torch.multinomial(weights, 1, generator=generator)
        centers = torch.cat([centers, sample[seed]])
    members = torch.full((len(sample),), -1)
    for _ in range(_ITERATIONS):
        before, members = members, _distances(sample, centers).argmin(1)
        if torch.equal(before, members):
            break
        count = torch.bincount(members, minlength=k)
        sums = torch.zeros_like(centers).index_add_(0, members, sample)
        mean = sums / count.clamp(min=1)[:, None]
        centers = torch.where(count[:, None] > 0, mean, centers)
    return centers


def _distances(points: Tensor, centers: Tensor) -> Tensor:
    """`[n, k]` squared Euclidean distances."""
    return (
        points.square().sum(1, keepdim=True) - 2 * points @ centers.T + centers.square().sum(1)
    ).clamp(min=0.0)
