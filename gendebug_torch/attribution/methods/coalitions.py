"""Which features are present in which sample, and the linear fit that is the same for all rows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gendebug_torch.data.batches import moved
from gendebug_torch.errors import reject

# A size with at most this many coalitions is listed, so that none is drawn twice.
_LISTED = 20_000


@dataclass(frozen=True, eq=False)
class Coalitions:
    """Pairs of a coalition and its complement, with the weights of the Shapley kernel.

    Args:
        masks: `[p, f]` bool, the one of each pair that is listed.
        weight: `[p]` float64; a size's weight is shared by its pairs.
        size: `[p]` int64 of the listed one, at most f / 2.
        possible: `[p]` float64 how many pairs of this size there are.
    """

    masks: Tensor
    weight: Tensor
    size: Tensor
    possible: Tensor

    @property
    def exact(self) -> bool:
        """Whether every coalition is in."""
        f = self.masks.shape[1]
        return bool(len(self.masks) == 2 ** (f - 1) - 1)


@dataclass(frozen=True, eq=False)
class Fit:
    """A weighted least-squares fit as a linear map of what is observed, for any number of rows at
    once.

    Args:
        design: `[m, q]` float64.
        solution: `[q, m]` float64, observations to coefficients.
        weight: `[m]` float64.
        leverage: `[m]` float64 diagonal of the hat matrix.
    """

    design: Tensor
    solution: Tensor
    weight: Tensor
    leverage: Tensor

    def to(self, device: torch.device) -> Fit:
        """The same fit on a device."""
        return Fit(
            *(
                moved(part, device)
                for part in (self.design, self.solution, self.weight, self.leverage)
            )
        )

    def fidelity(self, observed: Tensor, fitted: Tensor) -> tuple[Tensor, Tensor]:
        """`[n]` weighted R², and `[n]` weighted R² of leave-one-out predictions (Allen, 1974,
        Technometrics 16:125).
        """
        center = (observed * self.weight).sum(1, keepdim=True) / self.weight.sum()
        spread = ((observed - center).square() * self.weight).sum(1)
        residual = observed - fitted
        outside = residual / (1 - self.leverage).clamp(min=1e-6)
        known = spread > 1e-12 * self.weight.sum() * observed.abs().amax(1).clamp(min=1e-6).square()
        scores = [
            1 - (part.square() * self.weight).sum(1) / spread.clamp(min=1e-300)
            for part in (residual, outside)
        ]
        within, left_out = (torch.where(known, score, torch.ones_like(score)) for score in scores)
        return within, left_out


@lru_cache(maxsize=8)
def shapley_coalitions(features: int, samples: int, seed: int) -> Coalitions:
    """Coalitions of the Shapley kernel in pairs, the heaviest sizes in full, the rest drawn without
    repetition.

    A size is listed in full while its share of the samples that are left covers it; what is left is
    shared by the other sizes by weight. Within a size, coalitions are cut from shuffled decks, so
    that every feature comes up about equally often.

    Source: Lundberg and Lee (2017), arXiv:1705.07874; pairs: Covert and Lee (2021),
    arXiv:2012.01536.

    Args:
        features: f, at least 2.
        samples: coalitions, without the empty and the full one.
        seed: of the draws.

    Raises:
        InputError: fewer samples than determine f coefficients.
    """
    total = 2**features - 2
    if samples < min(total, 2 * features):
        remedy = (
            f"Pass samples={2 * features + 2048} or leave it out; fewer cannot tell "
            f"{features} features apart."
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
        _drawn(features, k, count, m, generator)
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
def shapley_fit(features: int, samples: int, seed: int) -> tuple[Fit, Tensor]:
    """The fit of half-differences within pairs, and `[f]` the share of the total that each
    coefficient gets for free.

    Coefficients `solution @ d + share * (f(x) - f(b))` minimise `sum w (d - s @ phi)^2`, s = mask -
    1/2, under `sum phi = f(x) - f(b)`; what a pair has in common cancels in its difference.
    """
    drawn = shapley_coalitions(features, samples, seed)
    sign = drawn.masks.double() - 0.5
    normal = (sign * drawn.weight[:, None]).T @ sign
    # Coefficients are the even share plus anything orthogonal to it, which is what is fitted.
    even = torch.full((features,), 1.0 / features, dtype=torch.float64)
    basis = torch.linalg.qr(torch.eye(features, dtype=torch.float64) - 1.0 / features)[0][
        :, : features - 1
    ]
    free = basis @ torch.linalg.pinv(basis.T @ normal @ basis, hermitian=True) @ basis.T
    share = even - free @ normal @ even
    solution = free @ (sign * drawn.weight[:, None]).T
    leverage = (sign * solution.T).sum(1)
    return Fit(sign, solution, drawn.weight, leverage), share


@lru_cache(maxsize=8)
def lime_fit(
    features: int, samples: int, seed: int, width: float, ridge: float
) -> tuple[Tensor, Fit]:
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
    return masks, Fit(design, solution, weight, (design * solution.T).sum(1))


def _shares(pairs: int, possible: list[int], weight: list[float]) -> list[int]:
    """How many pairs of each size, from the heaviest size on."""
    counts: list[int] = []
    for at, m in enumerate(possible):
        left = pairs - sum(counts)
        if left * weight[at] / sum(weight[at:]) < m:
            break
        counts.append(m)
    rest = len(counts)
    left, heavy = pairs - sum(counts), sum(weight[rest:])
    exact = [min(m, left * w / heavy) for m, w in zip(possible[rest:], weight[rest:], strict=True)]
    shared = [int(value) for value in exact]
    while sum(shared) < left:
        behind = [
            e - s if s < m else -math.inf
            for e, s, m in zip(exact, shared, possible[rest:], strict=True)
        ]
        at = behind.index(max(behind))
        if behind[at] == -math.inf:
            break
        shared[at] += 1
        exact[at] = max(exact[at], shared[at] - 1e-9)
    return counts + shared


def _drawn(
    features: int, size: int, count: int, possible: int, generator: torch.Generator
) -> Tensor:
    """`[count, f]` different masks of one size; of a half-and-half pair the one with the first
    feature.
    """
    halves = 2 * size == features
    if possible <= _LISTED and count > possible // 4:
        listed = torch.tensor(
            list(itertools.islice(itertools.combinations(range(features), size), possible))
        )
        chosen = (
            listed
            if count >= possible
            else listed[torch.randperm(possible, generator=generator)[:count]]
        )
        return torch.zeros(len(chosen), features, dtype=torch.bool).scatter_(1, chosen, True)
    per_deck = features // size
    found = torch.zeros(0, features, dtype=torch.bool)
    while len(found) < count:
        decks = torch.rand(-(-2 * count // per_deck), features, generator=generator).argsort(1)[
            :, : per_deck * size
        ]
        cards = decks.reshape(-1, size)
        masks = torch.zeros(len(cards), features, dtype=torch.bool).scatter_(1, cards, True)
        masks = torch.where(masks[:, :1], masks, ~masks) if halves else masks
        found = _without_repeats(torch.cat([found, masks]))
    return found[:count]


def _without_repeats(masks: Tensor) -> Tensor:
    """The rows in order, later repeats left out."""
    _, inverse = torch.unique(masks, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(masks)).scatter_reduce_(
        0, inverse, torch.arange(len(masks)), "amin"
    )
    return masks[first.sort().values]
