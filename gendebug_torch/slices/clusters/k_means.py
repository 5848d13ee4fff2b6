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
        starts = [_seeds(sample, k, generator) for _ in range(_STARTS if k > 1 else 1)]
        ends = _lloyd(sample, torch.stack(starts))
        closest = ends[int(_distances(sample, ends).amin(2).sum(1).argmin())]
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


def _seeds(sample: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """`[k, d]` points of the sample, drawn by k-means++."""
    centers = sample[torch.randint(len(sample), (1,), generator=generator)]
    distance = _distances(sample, centers)[:, 0]
    for _ in range(k - 1):
        # If all points coincide with centers, any one will do.
        weights = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        seed = sample[torch.multinomial(weights, 1, generator=generator)]
        centers = torch.cat([centers, seed])
        distance = torch.minimum(distance, _distances(sample, seed)[:, 0])
    return centers


def _lloyd(sample: Tensor, centers: Tensor) -> Tensor:
    """`[s, k, d]` centers by Lloyd's iterations from s starts; empty clusters stay in place.

    A start that has converged stays where it is while others go on.
    """
    s, k, d = centers.shape
    first = k * torch.arange(s)[:, None]
    columns, points = sample.T.contiguous(), sample.expand(s, -1, -1).reshape(-1, d)
    members = torch.full((s, len(sample)), -1)
    for _ in range(_ITERATIONS):
        # The square of a point is the same for all centers.
        products = (centers.reshape(-1, d) @ columns).reshape(s, k, -1)
        half_squares = centers.square().sum(2, keepdim=True) / 2
        before, members = members, (half_squares - products).min(1).indices
        if torch.equal(before, members):
            break
        cell = (members + first).flatten()
        count = torch.bincount(cell, minlength=s * k)[:, None]
        sums = torch.zeros(s * k, d, dtype=sample.dtype).index_add_(0, cell, points)
        centers = torch.where(count > 0, sums / count, centers.reshape(-1, d)).reshape(s, k, d)
    return centers


def _distances(points: Tensor, centers: Tensor) -> Tensor:
    """`[..., n, k]` squared Euclidean distances of `[n, d]` points to `[..., k, d]` centers."""
    squares = centers.square().sum(-1)[..., None, :]
    return (
        points.square().sum(1, keepdim=True) - 2 * points @ centers.transpose(-1, -2) + squares
    ).clamp(min=0.0)
