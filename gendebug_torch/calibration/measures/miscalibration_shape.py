"""How confidence strays from accuracy: too bold, too timid, or S-shaped, and in which bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins, bin_edges
from gendebug_torch.stats.multiple_testing import holm_adjusted

Kind = Literal[
    "calibrated within noise", "overconfident", "underconfident", "S-shaped", "too few rows"
]


@dataclass(frozen=True)
class BadBin:
    """A bin whose accuracy is further from its confidence than chance allows.

    Args:
        low: lower edge of confidence.
        high: upper edge.
        rows: in the bin.
        confidence: mean.
        accuracy: share of right rows.
        p_value: exact binomial, two-sided, adjusted by Holm over the bins.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float
    p_value: float


@dataclass(frozen=True)
class Shape:
    """The shape of miscalibration.

    Args:
        kind: in words.
        gap_low: mean confidence minus accuracy in the less confident half of the rows.
        gap_high: the same in the more confident half.
        errors: standard errors of both under calibration.
        worst: bins beyond chance, largest gap first.
    """

    kind: Kind
    gap_low: float
    gap_high: float
    errors: tuple[float, float]
    worst: tuple[BadBin, ...]


def shape(bins: ReliabilityBins, *, alpha: float = 0.05) -> Shape:
    """Whether the gap has one sign over all confidences, or changes it, beyond noise.

    The bins are split into a less and a more confident half of the rows; each half has a z-test of
    its summed gap under calibration, Bonferroni over both. A monotone map mends either shape, a
    temperature only the first two.

    Source: Niculescu-Mizil and Caruana (2005), ICML, for the shapes; Spiegelhalter (1986), Stat.
    Med. 5:421, for the test.
    """
    from scipy.special import ndtr

    count, mass = bins.count.double(), float(bins.count.sum())
    if mass < 2:
        return Shape("too few rows", 0.0, 0.0, (math.nan, math.nan), ())
    sure = (bins.confidence / count.clamp(min=1e-300)).clamp(0, 1)
    upper = (count.cumsum(0) - count / 2) >= mass / 2
    halves, kinds = [], []
    for half in (~upper, upper):
        n = float(count[half].sum())
        gap = float((bins.confidence - bins.correct)[half].sum())
        error = math.sqrt(float((count * sure * (1 - sure))[half].sum()))
        beyond = (error > 0 and 2 * float(ndtr(-abs(gap) / error)) < alpha / 2) or (
            error == 0 and abs(gap) > 0.5
        )
        halves.append((gap / n, error / n) if n else (0.0, math.nan))
        kinds.append(int(math.copysign(1, gap)) if beyond else 0)
    (gap_low, error_low), (gap_high, error_high) = halves
    kind: Kind = "calibrated within noise"
    if kinds[0] * kinds[1] < 0:
        kind = "S-shaped"
    elif any(kinds):
        kind = "overconfident" if sum(kinds) > 0 else "underconfident"
    return Shape(
        kind, gap_low, gap_high, (error_low, error_high), _beyond_chance(bins, sure, alpha)
    )


def _beyond_chance(bins: ReliabilityBins, sure: Tensor, alpha: float) -> tuple[BadBin, ...]:
    from scipy.stats import binom

    n, k = bins.count.round().long().numpy(), bins.correct.round().long().numpy()
    tails = (
        torch.from_numpy(2 * binom.cdf(k, n, sure.numpy())),
        torch.from_numpy(2 * binom.sf(k - 1, n, sure.numpy())),
    )
    p = torch.minimum(*tails).clamp(max=1).masked_fill(bins.count <= 0, math.nan)
    adjusted, edges = holm_adjusted(p), bin_edges(len(n))
    order = sorted(
        (adjusted < alpha).nonzero().flatten().tolist(), key=lambda b: -abs(float(bins.gap[b]))
    )
    accuracy = bins.correct.double() / bins.count.clamp(min=1)
    return tuple(
        BadBin(
            float(edges[b]),
            float(edges[b + 1]),
            int(n[b]),
            float(sure[b]),
            float(accuracy[b]),
            float(adjusted[b]),
        )
        for b in order
    )
