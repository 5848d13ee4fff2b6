"""The shape of miscalibration: overconfident, underconfident or S-shaped, and in which bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins, bin_edges
from gendebug_torch.stats.multiple_testing import holm_adjusted

ShapeKind = Literal[
    "calibrated within noise", "overconfident", "underconfident", "S-shaped", "too few rows"
]


@dataclass(frozen=True)
class BadBin:
    """A bin whose accuracy is further from its confidence than chance allows.

    Args:
        low: lower edge of confidence.
        high: upper edge.
        rows: number of rows in the bin.
        confidence: mean confidence.
        accuracy: share of correct rows.
        p_value: exact binomial p-value, two-sided, adjusted by Holm over the bins.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float
    p_value: float


@dataclass(frozen=True)
class MiscalibrationShape:
    """The shape of miscalibration.

    Args:
        kind: name of the shape.
        gap_low: mean confidence minus accuracy in the less confident half of the rows.
        gap_high: the same in the more confident half.
        errors: standard errors of both under calibration.
        worst: bins beyond chance, largest gap first.
    """

    kind: ShapeKind
    gap_low: float
    gap_high: float
    errors: tuple[float, float]
    worst: tuple[BadBin, ...]


def miscalibration_shape(bins: ReliabilityBins, *, alpha: float = 0.05) -> MiscalibrationShape:
    """Whether confidence exceeds accuracy everywhere, nowhere, or on one side only, beyond noise.

    The bins are split into a less and a more confident half of the rows; each half has a z-test of
    its summed gap under calibration, Bonferroni over both. A monotone map corrects each shape, a
    temperature only overconfidence and underconfidence.

    Source: Niculescu-Mizil and Caruana (2005), ICML, for the shapes; Spiegelhalter (1986), Stat.
    Med. 5:421, for the test.

    Args:
        bins: reliability bins of the rows.
        alpha: significance level, over both halves, and over all bins.

    Example:
        >>> from gendebug_torch.calibration import reliability_bins
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> miscalibration_shape(reliability_bins(logits / 3, targets)).kind
        'underconfident'
    """
    count, mass = bins.count.double(), float(bins.count.sum())
    if mass < 2:
        return MiscalibrationShape("too few rows", 0.0, 0.0, (math.nan, math.nan), ())
    mean = (bins.confidence / count.clamp(min=1e-300)).clamp(0, 1)
    upper = (count.cumsum(0) - count / 2) >= mass / 2
    (gap_low, error_low, sign_low), (gap_high, error_high, sign_high) = (
        _half_gap(bins, mean, half, alpha / 2) for half in (~upper, upper)
    )
    kind: ShapeKind = "calibrated within noise"
    if sign_low * sign_high < 0:
        kind = "S-shaped"
    elif sign_low or sign_high:
        kind = "overconfident" if sign_low + sign_high > 0 else "underconfident"
    worst = _bins_beyond_chance(bins, mean, alpha)
    return MiscalibrationShape(kind, gap_low, gap_high, (error_low, error_high), worst)


def _half_gap(
    bins: ReliabilityBins, mean: Tensor, half: Tensor, alpha: float
) -> tuple[float, float, int]:
    """Mean gap of the bins in `half`, its error under calibration, and its sign; 0 within noise."""
    from scipy.special import ndtr

    count = bins.count.double()
    n = float(count[half].sum())
    gap = float((bins.confidence - bins.correct)[half].sum())
    error = math.sqrt(float((count * mean * (1 - mean))[half].sum()))
    significant = 2 * float(ndtr(-abs(gap) / error)) < alpha if error > 0 else abs(gap) > 0.5
    sign = int(math.copysign(1, gap)) if significant else 0
    return (gap / n, error / n, sign) if n else (0.0, math.nan, sign)


def _bins_beyond_chance(bins: ReliabilityBins, mean: Tensor, alpha: float) -> tuple[BadBin, ...]:
    from scipy.special import bdtr, bdtrc

    n, k = bins.count.round().long().cpu().numpy(), bins.correct.round().long().cpu().numpy()
    rate = mean.cpu().numpy()
    tails = (torch.from_numpy(2 * tail) for tail in (bdtr(k, n, rate), bdtrc(k - 1, n, rate)))
    p = torch.minimum(*tails).clamp(max=1).masked_fill(bins.count.cpu() <= 0, math.nan)
    adjusted, edges = holm_adjusted(p), bin_edges(len(n))
    significant = (adjusted < alpha).nonzero()[:, 0].tolist()
    accuracy = bins.correct.double() / bins.count.clamp(min=1)
    return tuple(
        BadBin(
            float(edges[b]),
            float(edges[b + 1]),
            int(n[b]),
            float(mean[b]),
            float(accuracy[b]),
            float(adjusted[b]),
        )
        for b in sorted(significant, key=lambda b: -abs(float(bins.gap[b])))
    )
