"""The one temperature that minimises the log loss, found exactly in a few reads of the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gendebug_torch.errors import UnsupportedError, reject

_CHUNK = {"cpu": 2**18, "cuda": 2**25}
_SAMPLE = 2048
_LAST_STEP = 1e-3
_FLATTEST = 1e-8
_MOST_READS = 60


@dataclass(frozen=True)
class Temperature:
    """A temperature T > 0 for logits: `logits / T`.

    Args:
        temperature: T; 0 or infinity where `unbounded`.
        standard_error: of T, robust to misspecification (sandwich).
        converged: whether the last step, of cubic convergence, was below 1e-3 of 1/T.
        unbounded: whether no finite optimum exists: every row is right (0), or the logits carry nothing (infinity).
        reads: how many times all logits were read.
        nll: mean log loss at T.
    """

    temperature: float
    standard_error: float
    converged: bool
    unbounded: bool
    reads: int
    nll: float

    def __call__(self, logits: Tensor) -> Tensor:
        """`logits / T`, same shape and dtype.

        Raises:
            UnsupportedError: there is no finite temperature.
        """
        if self.unbounded:
            raise UnsupportedError("no finite temperature minimises the log loss of these rows; fit it on rows that hold errors")
        return logits / self.temperature


def fit_temperature(logits: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Temperature:
    """The temperature that minimises the weighted log loss: `sum_i w_i [logsumexp(z_i / T) - z_iy / T]`.

    In b = 1/T the loss is convex with derivatives of the softmax moments of the logits: g = E[z] - z_y,
    h = Var[z], and the third cumulant. A sample of the rows gives the start; Halley steps on all rows, kept
    inside a bracket, then converge cubically: two or three reads in all.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 4.2, arXiv:1706.04599; White (1982),
    Econometrica 50:1, for the standard error.

    Args:
        logits: `[n, k]` float, or `[n]` binary; finite.
        targets: `[n]` int64 class ids.
        weights: `[n]` non-negative, default 1.

    Raises:
        InputError: shapes do not fit, a class id is out of range, no rows, or weights that are negative or all 0.

    Cost: `n k` exponentials per read, memory of one chunk.
    """
    z = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    _validate(z, targets, weights)
    sample = slice(None, None, max(1, len(z) // _SAMPLE))
    easy = _separable(z[sample], targets[sample])
    if easy and _separable(z, targets):
        return Temperature(0.0, math.nan, False, True, 1, 0.0)
    start, _ = (1.0, None) if easy else _newton(z[sample], targets[sample], None if weights is None else weights[sample], 1.0)
    b, last = _newton(z, targets, weights, start)
    if not b > 0:
        return Temperature(math.inf, math.nan, False, True, last.reads, last.loss)
    error = math.sqrt(last.squared) / last.curvature / b**2 if last.curvature > 0 else math.nan
    return Temperature(1 / b, error, last.converged, False, last.reads + easy, last.loss)


@dataclass(frozen=True)
class _Moments:
    """Sums over all rows at one b: mean loss, gradient, curvature, third derivative, squared gradients."""

    loss: float
    gradient: float
    curvature: float
    third: float
    squared: float
    reads: int = 0
    converged: bool = False


def _newton(z: Tensor, targets: Tensor, weights: Tensor | None, start: float) -> tuple[float, _Moments]:
    """The root of the gradient in b, and the moments of the last read; b <= 0 if the optimum is at infinite T."""
    low, high, b = 0.0, math.inf, start if start > 0 else 1.0
    for read in range(1, _MOST_READS + 1):
        at = _moments(z, targets, weights, b)
        low, high = (b, high) if at.gradient < 0 else (low, b)
        slope = at.curvature - 0.5 * at.gradient * at.third / at.curvature if at.curvature > 0 else 0.0
        step = -at.gradient / (slope if slope > 0 else at.curvature) if at.curvature > 0 else math.nan
        inside = low < b + step < high
        following = b + step if inside else (2 * b if math.isinf(high) else 0.5 * (low + high))
        # Halley's error is cubic in the step: after one this small the next would be below 1e-9.
        converged = inside and abs(step) <= _LAST_STEP * b
        if converged or following < _FLATTEST:
            return (following if converged else 0.0), replace(at, reads=read, converged=converged)
        b = following
    return b, replace(at, reads=read)


def _moments(z: Tensor, targets: Tensor, weights: Tensor | None, b: float) -> _Moments:
    """One read of the logits, float32 exponentials shifted by the row maximum, float64 sums over rows."""
    total = torch.zeros(6, dtype=torch.float64, device=z.device)
    rows = max(1, _CHUNK.get(z.device.type, 2**18) // z.shape[1])
    for start in range(0, len(z), rows):
        part, true = z[start : start + rows], targets[start : start + rows]
        part = part if part.dtype == torch.float64 else part.float()
        shifted = part - part.amax(1, keepdim=True)
        weight = (shifted * b).exp_()
        mass = weight.sum(1).double()
        own = shifted.gather(1, true[:, None])[:, 0].double()
        raw = []
        for _ in range(3):
            weight.mul_(shifted)
            raw.append(weight.sum(1).double() / mass)
        mean, second, third = raw
        variance = second - mean * mean
        skew = third - 3 * mean * second + 2 * mean**3
        gradient = mean - own
        w = torch.ones_like(mean) if weights is None else weights[start : start + rows].double()
        loss = mass.log() - b * own
        total += torch.stack([loss @ w, gradient @ w, variance @ w, skew @ w, (gradient * w).square().sum(), w.sum()])
    loss_sum, gradient_sum, curvature, third_sum, squared, mass_sum = total.tolist()
    return _Moments(loss_sum / mass_sum, gradient_sum, curvature, third_sum, squared)


def _separable(z: Tensor, targets: Tensor) -> bool:
    """Whether every row is right, so that the loss falls for ever as T goes to 0."""
    rows = max(1, _CHUNK.get(z.device.type, 2**18) // z.shape[1])
    for start in range(0, len(z), rows):
        part = z[start : start + rows]
        if bool((part.gather(1, targets[start : start + rows, None])[:, 0] < part.amax(1)).any()):
            return False
    return True


def _validate(z: Tensor, targets: Tensor, weights: Tensor | None) -> None:
    if z.ndim != 2 or not z.is_floating_point() or not len(z):
        reject("logits", "float [n, k] or [n] with n > 0", f"{z.dtype} {list(z.shape)}", "Pass raw model outputs before softmax.")
    if targets.shape != z.shape[:1] or targets.dtype.is_floating_point:
        reject("targets", f"[{len(z)}] class ids", f"{targets.dtype} {list(targets.shape)}", "Pass one class id per row of logits.")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= z.shape[1]:
        reject("targets", f"class ids in 0..{z.shape[1] - 1}", f"{low}..{high}", "Map labels to the columns of the logits.")
    if weights is not None and (weights.shape != targets.shape or bool((weights < 0).any()) or not bool((weights > 0).any())):
        got = f"shape {list(weights.shape)}, smallest {float(weights.min()) if weights.numel() else None}"
        reject("weights", f"[{len(z)}] non-negative, not all 0", got, "Pass one weight per row.")
