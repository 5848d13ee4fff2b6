"""Coalitions of present features, and the least-squares fits that all rows share."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved

# A size with at most this many coalitions is enumerated, so that none is drawn twice.
_ENUMERATED = 20_000


@dataclass(frozen=True, eq=False)
class Coalitions:
    """Pairs of a coalition and its complement, with the weights of the Shapley kernel.

    Args:
        masks: `[p, f]` bool members of the smaller coalition of each pair.
        weight: `[p]` float64 weight of each pair; the pairs of a size share its weight.
        size: `[p]` int64 members of the smaller coalition, at most f / 2.
        possible: `[p]` float64 number of all pairs of this size.
    """

    masks: Tensor
    weight: Tensor
    size: Tensor
    possible: Tensor


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A weighted least-squares fit as a linear map of the observations, for all rows at once.

    Args:
        design: `[m, q]` float64 design matrix.
        solution: `[q, m]` float64 map from observations to coefficients.
        weight: `[m]` float64 weight of each observation.
        leverage: `[m]` float64 diagonal of the hat matrix.
    """

    design: Tensor
    solution: Tensor
    weight: Tensor
    leverage: Tensor

    def to(self, device: torch.device) -> LinearFit:
        """The same fit on a device."""
        parts = (self.design, self.solution, self.weight, self.leverage)
        return LinearFit(*(moved(part, device) for part in parts))

    def fidelity(self, observed: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """`[n]` weighted R², and `[n]` weighted R² of leave-one-out predictions.

        Source: Allen (1974), Technometrics 16:125.

        Args:
            observed: `[n, m]` float64 observations.
            fitted: `[n, m]` float64 fitted values.
        """
        center = (observed * self.weight).sum(1, keepdim=True) / self.weight.sum()
        spread = ((observed - center).square() * self.weight).sum(1)
        residual = observed - fitted
        left_out = residual / (1 - self.leverage).clamp(min=1e-6)
        size = observed.abs().amax(1).clamp(min=1e-6)
        varies = spread > 1e-12 * self.weight.sum() * size.square()

        def score(error: Tensor) -> Tensor:
            r2 = 1 - (error.square() * self.weight).sum(1) / spread.clamp(min=1e-300)
            return torch.where(varies, r2, torch.ones_like(r2))

        return score(residual), score(left_out)


@lru_cache(maxsize=8)
def shapley_coalitions(features: int, samples: int, seed: int) -> Coalitions:
    """Coalitions of the Shapley kernel in pairs: the heaviest sizes in full, the others sampled.

    A size is enumerated while its share of the remaining samples covers it; the other sizes share
    the rest by weight. Within a size, coalitions are consecutive pieces of random permutations, so
    that every feature occurs about equally often, and none is repeated.

    Source: Lundberg and Lee (2017), arXiv:1705.07874; pairs: Covert and Lee (2021),
    arXiv:2012.01536.

    Args:
        features: number of features f, at least 2.
        samples: number of coalitions, without the empty and the full one.
        seed: seed of the sampling.

    Raises:
        InputError: too few samples to determine f coefficients.
    """
    total = 2**features - 2
    if samples < min(total, 2 * features):
        remedy = (
            f"Pass samples={2 * features + 2048} or leave it out; fewer cannot "
            f"determine {features} coefficients."
        )
        reject(
            "samples",
            f"at least {min(total, 2 * features)} for {features} features",
            str(samples),
            remedy,
        )
    sizes = range(1, features // 2 + 1)
    possible = [math.comb(features, k) // (2 if 2 * k == features else 1) for k in sizes]
    weight = [
        m * (features - 1) / (math.comb(features, k) * k * (features - k))
        for k, m in zip(sizes, possible, strict=True)
    ]
    counts = _shares(min(samples // 2, total // 2), possible, weight)
    generator = torch.Generator().manual_seed(seed)
    masks = [
        _distinct_masks(features, k, count, m, generator)
        for k, count, m in zip(sizes, counts, possible, strict=True)
    ]
    lengths = torch.tensor([len(part) for part in masks])
    each = torch.tensor(
        [w / max(1, len(part)) for w, part in zip(weight, masks, strict=True)], dtype=torch.float64
    )
    return Coalitions(
        torch.cat(masks),
        each.repeat_interleave(lengths),
        torch.tensor(list(sizes)).repeat_interleave(lengths),
        torch.tensor(possible, dtype=torch.float64).repeat_interleave(lengths),
    )


@lru_cache(maxsize=8)
def shapley_fit(features: int, samples: int, seed: int) -> tuple[LinearFit, Tensor]:
    """The fit of half-differences within pairs, and `[f]` fixed shares of the total change.

    Coefficients `solution @ d + share * (f(x) - f(b))` minimise `sum w (d - s @ phi)^2`, s = mask -
    1/2, under `sum phi = f(x) - f(b)`; what a pair has in common cancels in its difference.
    """
    coalitions = shapley_coalitions(features, samples, seed)
    sign = coalitions.masks.double() - 0.5
    normal = (sign * coalitions.weight[:, None]).T @ sign
    # Coefficients are the even share plus anything orthogonal to it, which is what is fitted.
    even = torch.full((features,), 1.0 / features, dtype=torch.float64)
    basis = torch.linalg.qr(torch.eye(features, dtype=torch.float64) - 1.0 / features)[0][
        :, : features - 1
    ]
    free = basis @ torch.linalg.pinv(basis.T @ normal @ basis, hermitian=True) @ basis.T
    share = even - free @ normal @ even
    solution = free @ (sign * coalitions.weight[:, None]).T
    leverage = (sign * solution.T).sum(1)
    return LinearFit(sign, solution, coalitions.weight, leverage), share


@lru_cache(maxsize=8)
def lime_fit(
    features: int, samples: int, seed: int, width: float, ridge: float
) -> tuple[Tensor, LinearFit]:
    """`[m, f]` bool masks, the first one full, and the fit of intercept and coefficients.

    Each feature is present with probability 1/2; a mask that lacks h features weighs
    `exp(-h / (2 width^2 f))`.
    """
    masks = torch.rand(samples, features, generator=torch.Generator().manual_seed(seed)) < 0.5
    masks[0] = True
    weight = (-(~masks).sum(1).double() / (2 * width * width * max(1, features))).exp()
    design = torch.cat([torch.ones(samples, 1, dtype=torch.float64), masks.double()], 1)
    penalty = torch.diag(torch.tensor([0.0] + [ridge] * features, dtype=torch.float64))
    normal = (design * weight[:, None]).T @ design + penalty
    solution = torch.linalg.pinv(normal, hermitian=True) @ (design * weight[:, None]).T
    return masks, LinearFit(design, solution, weight, (design * solution.T).sum(1))


def _shares(pairs: int, possible: list[int], weight: list[float]) -> list[int]:
    """Number of pairs of each size, from the heaviest size on."""
    counts: list[int] = []
    for i, m in enumerate(possible):
        left = pairs - sum(counts)
        if left * weight[i] / sum(weight[i:]) < m:
            break
        counts.append(m)
    first = len(counts)
    left, remaining = pairs - sum(counts), sum(weight[first:])
    exact = [
        min(m, left * w / remaining) for m, w in zip(possible[first:], weight[first:], strict=True)
    ]
    rounded = [int(value) for value in exact]
    while sum(rounded) < left:
        deficit = [
            e - r if r < m else -math.inf
            for e, r, m in zip(exact, rounded, possible[first:], strict=True)
        ]
        i = deficit.index(max(deficit))
        if deficit[i] == -math.inf:
            break
        rounded[i] += 1
        exact[i] = max(exact[i], rounded[i] - 1e-9)
    return counts + rounded


def _distinct_masks(
    features: int, size: int, count: int, possible: int, generator: torch.Generator
) -> Tensor:
    """`[count, f]` different masks of one size; of two equal halves the one with feature 0."""
    if possible <= _ENUMERATED and count > possible // 4:
        combinations = itertools.combinations(range(features), size)
        members = torch.tensor(list(itertools.islice(combinations, possible)))
        if count < possible:
            members = members[torch.randperm(possible, generator=generator)[:count]]
        return _masks(members, features)
    pieces = features // size
    masks = torch.zeros(0, features, dtype=torch.bool)
    while len(masks) < count:
        keys = torch.rand(-(-2 * count // pieces), features, generator=generator)
        members = keys.argsort(1)[:, : pieces * size].reshape(-1, size)
        more = _masks(members, features)
        if 2 * size == features:
            more = torch.where(more[:, :1], more, ~more)
        masks = _unique_rows(torch.cat([masks, more]))
    return masks[:count]


def _masks(members: Tensor, features: int) -> Tensor:
    """`[m, f]` bool masks of `[m, s]` members."""
    return torch.zeros(len(members), features, dtype=torch.bool).scatter_(1, members, True)


def _unique_rows(masks: Tensor) -> Tensor:
    """The rows in order, without later repeats."""
    _, inverse = torch.unique(masks, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(masks)).scatter_reduce_(
        0, inverse, torch.arange(len(masks)), "amin"
    )
    return masks[first.sort().values]
