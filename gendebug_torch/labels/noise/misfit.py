"""Noise that predictions themselves bring in: what they show where every label is right."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendebug_torch.labels.noise.noise_fit import NoiseFit, calibrated, log_likelihood

# Strengths of the noise that are tried, in multiples of the estimate.
_STRENGTHS = (0.0, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5)
# Labels drawn for each row of the other set, and logits of the judged rows that are looked at.
_DRAWS, _MAX_CELLS = 8, 4_000_000


def right_labels(probs: Tensor, *, seed: int = 0) -> Tensor:
    """`[8 n]` int64 labels drawn from the probabilities of n rows, one set after the other.

    Args:
        probs: probabilities of the true class, `[n, k]`.
        seed: seed of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(probs.cpu().float(), _DRAWS, replacement=True, generator=generator)
    return draws.T.flatten().to(probs.device)


def excess_p_value(
    transition: Tensor, z: Tensor, targets: Tensor, other: Tensor, right: Tensor
) -> tuple[float, float]:
    """P-value of no more noise than predictions show on right labels, and their share of it.

    Predictions that lack data, an input or the right form disagree with right labels too, and that
    may not fade with confidence. The same networks are therefore compared with labels that are
    right by construction: drawn for other rows from a better model. Noise of the fitted kind has a
    strength of its own in either set, or one in both: half of a chi-square with one degree of
    freedom, as the strength of the given labels can only be larger (Chernoff, 1954).

    Args:
        transition: noise fitted to the given labels, `[k, k]`.
        z: logits of the rows with these labels, `[n, k]` float64.
        targets: the labels, `[n]` int64.
        other: logits of other rows by the same networks, `[m, k]` float64.
        right: labels of these rows from `right_labels`, `[8 m]` int64.
    """
    every = 1 + z.numel() // _MAX_CELLS
    own = _profile(transition, z[::every], targets[::every])
    others = _profile(transition, other.repeat(_DRAWS, 1), right) / _DRAWS
    strength, baseline = (_STRENGTHS[int(part.argmax())] for part in (own, others))
    if strength <= baseline:
        return 1.0, baseline
    gain = float(own.max() + others.max() - (own + others).max())
    return 0.5 * math.erfc(math.sqrt(max(gain, 0.0))), baseline


def _profile(transition: Tensor, z: Tensor, targets: Tensor) -> Tensor:
    """`[s]` log likelihood at each strength of the noise, with the best calibration."""
    eye = torch.eye(len(transition), dtype=z.dtype, device=z.device)
    found: list[float] = []
    fit = NoiseFit(1.0, z.new_zeros(len(transition)), eye)
    for strength in _STRENGTHS:
        noisy = (eye + strength * (transition - eye)).clamp(min=0.0)
        fit = calibrated(z, targets, noisy / noisy.sum(1, keepdim=True), fit)
        found.append(log_likelihood(z, targets, fit))
    return torch.tensor(found, dtype=torch.float64)
