"""Labels of production from which outcomes are missing that have not arrived, or were lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import chdtrc
from torch import Tensor

from gendebug_torch.data.task import two_class_logits
from gendebug_torch.stats.logit_scaling import fit_affine

# Rows of either side, and rows of a bin, that are needed.
_MIN_ROWS, _BIN_ROWS = 200, 50
# Share of outcomes that must be missing, beyond doubt; log likelihood by which this must be a
# better reason than any change of the calibration; chance at which it does not fit by itself.
_MIN_SHARE, _MIN_GAIN, _MISFIT = 0.1, 5.0, 1e-3
_STEPS = 60


@dataclass(frozen=True)
class MissingOutcomes:
    """Rows of one class in production that carry the label of the other, at every score alike.

    Args:
        event: class id whose rows are missing.
        share: share of its rows that carry the other label.
        low: lower bound of `share`, 95 %.
        high: upper bound of `share`.
        gain: log likelihood, in nats, by which this is better than a new scale and offset of the
            scores.
    """

    event: int
    share: float
    low: float
    high: float
    gain: float


def missing_outcomes(
    logits: Tensor, targets: Tensor, live_logits: Tensor, live_targets: Tensor
) -> MissingOutcomes | None:
    """The share of one class that lacks its label in production, or None.

    Where outcomes have not arrived, the rate of the class is a constant part of what it was, also
    where the score was sure: `P(label | score) = c P(class | score)`. A drift of what the score
    means moves its logit instead, and leaves those that were sure. None too where few scores are
    sure, so that the two cannot be told apart, and with other than two classes.

    Source: Elkan and Noto (2008), KDD, section 2, for the constant factor.

    Args:
        logits: labeled reference, `[n]` or `[n, 2]`.
        targets: class ids of the reference, `[n]` int64.
        live_logits: labeled production, `[m]` or `[m, 2]`.
        live_targets: class ids of production, `[m]` int64.

    Cost: two affine fits, and sixty passes over production.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> z = 4 * torch.randn(4000, generator=draw)
        >>> y = torch.bernoulli(z.sigmoid(), generator=draw).long()
        >>> arrived = torch.bernoulli(torch.full((4000,), 0.4), generator=draw).long()
        >>> found = missing_outcomes(z[:2000], y[:2000], z[2000:], (y * arrived)[2000:])
        >>> found.event, 0.55 < found.share < 0.65
        (1, True)
        >>> missing_outcomes(z[:2000], y[:2000], z[2000:] + 1, y[2000:]) is None
        True
    """
    if min(len(targets), len(live_targets)) < _MIN_ROWS:
        return None
    sides = [two_class_logits(z.double().cpu()) for z in (logits, live_logits)]
    if any(z.ndim != 2 or z.shape[1] != 2 or not bool(z.isfinite().all()) for z in sides):
        return None
    before, after = (z[:, 1] - z[:, 0] for z in sides)
    y, live = targets.cpu(), live_targets.cpu()
    if min(len(torch.unique(part)) for part in (y, live)) < 2:
        return None
    usual, rival = fit_affine(before, y), fit_affine(after, live)
    if usual.unbounded:
        return None
    of_rival = _log_likelihood(rival(after).sigmoid(), live == 1)
    found = []
    for event in (1, 0):
        rate = usual(after).mul(1 if event else -1).sigmoid()
        part, error = _constant_part(rate, live == event)
        gain = _log_likelihood(part * rate, live == event) - of_rival
        share = 1 - part
        low = share - 1.96 * error
        if low >= _MIN_SHARE and gain >= _MIN_GAIN and _fits(part * rate, live == event):
            found.append(MissingOutcomes(event, share, low, min(share + 1.96 * error, 1.0), gain))
    return max(found, key=lambda one: one.gain, default=None)


def _constant_part(rate: Tensor, event: Tensor) -> tuple[float, float]:
    """The factor c in (0, 1] of `P(event) = c rate` with the most likelihood, and its error."""
    low, high = 1e-6, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        slope = torch.where(event, 1 / middle, -rate / (1 - middle * rate).clamp(min=1e-12)).sum()
        low, high = (middle, high) if float(slope) > 0 else (low, middle)
    part = (low + high) / 2
    information = (rate / (part * (1 - part * rate).clamp(min=1e-12))).sum()
    return part, 1 / math.sqrt(float(information))


def _log_likelihood(rate: Tensor, event: Tensor) -> float:
    rate = rate.clamp(1e-12, 1 - 1e-12)
    return float(torch.where(event, rate.log(), (1 - rate).log()).sum())


def _fits(rate: Tensor, event: Tensor) -> bool:
    """Whether rates are as expected in up to ten bins of them, by a chi-square test."""
    bins = max(1, min(10, len(rate) // _BIN_ROWS))
    own = torch.tensor_split(rate.argsort(), bins)
    sums = torch.stack([event[rows].double().sum() for rows in own])
    expected = torch.stack([rate[rows].sum() for rows in own])
    variance = torch.stack([(rate[rows] * (1 - rate[rows])).sum() for rows in own])
    judged = variance >= 2
    squared = ((sums - expected)[judged] ** 2 / variance[judged]).sum()
    return float(chdtrc(max(int(judged.sum()) - 1, 1), float(squared))) > _MISFIT
