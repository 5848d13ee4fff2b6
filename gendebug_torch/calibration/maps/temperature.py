"""The temperature that minimises the log loss, exact in a few reads of the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gendebug_torch.calibration.rows.model_outputs import (
    Chunk,
    LabeledOutputs,
    labeled_outputs,
    reject_nonfinite,
)
from gendebug_torch.errors import UnsupportedError, reject

_SAMPLE = 2048
_LAST_STEP = 1e-3
# In units of 1 / spread of the logits: beyond these the loss is flat to double precision.
_FLATTEST, _SHARPEST = 1e-9, 1e9
_MAX_READS = 60
# Standard errors by which 1 / T must differ from 0; random labels pass by chance once in 740 times.
_INFORMATIVE = 3.0


@dataclass(frozen=True)
class Temperature:
    """A temperature T > 0 for logits: `logits / T`.

    Args:
        temperature: T; 0 or infinity where `unbounded`.
        standard_error: standard error of T, robust to misspecification (sandwich estimator).
        converged: whether the last step, of cubic convergence, was below 1e-3 of 1/T.
        unbounded: whether there is no finite optimum: every row is right (T = 0), or 1 / T does
            not exceed 0 beyond noise, so that the logits are uninformative (T infinite).
        reads: number of passes over all logits.
        nll: mean log loss at T, in nats.
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
            raise UnsupportedError(
                "no finite temperature minimises the log loss of these rows; fit it on rows that "
                "contain errors"
            )
        return logits / self.temperature

    @property
    def bounded(self) -> float:
        """T where it is finite, else 1."""
        return 1.0 if self.unbounded else self.temperature


def fit_temperature(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Temperature:
    """The temperature T that minimises `sum_i w_i [logsumexp(z_i / T) - z_iy / T]`.

    In b = 1/T the loss is convex with derivatives of the softmax moments of the logits: g = E[z] -
    z_y, h = Var[z], and the third cumulant. A sample of the rows gives the start; Halley steps on
    all rows, kept inside a bracket, then converge cubically: two or three reads in all. Fit it to
    the plain labels, whatever criterion (label smoothing, class weights) the network was trained
    with.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 4.2, arXiv:1706.04599; White (1982),
    Econometrica 50:1, for the standard error.

    Args:
        logits: float `[n, k]`, `[n]` binary, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: class ids `[n]` (dense `[n, ...]`) int64.
        weights: weights shaped like the targets, default 1; a weight of 2 counts as two rows.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes do not fit, a class id is out of range or masked, NaN or +inf, or no row
            counts.

    Cost: `n k` exponentials per read, memory of one chunk.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> fitted = fit_temperature(3 * logits, targets)  # three times too sharp
        >>> print(f"{fitted.temperature:.0f} ± {fitted.standard_error:.1f}")
        3 ± 0.1
    """
    rows = labeled_outputs(logits, targets, weights, ignore_index)
    sample = rows.every(max(1, targets.numel() // _SAMPLE))
    if not any(bool(chunk.has_weight.any()) for chunk in rows.chunks()):
        reject(
            "targets",
            "at least one row that counts",
            "none",
            "Pass rows with positive weight, not all ignored.",
        )
    unit = _logit_spread(sample)
    sample_separable = _separable(sample)
    if sample_separable and _separable(rows):
        return Temperature(0.0, math.nan, False, True, 1, 0.0)
    start = 1.0 / unit if sample_separable else _newton(sample, 1.0 / unit, unit)[0]
    b, last = _newton(rows, start if start > 0 else 1.0 / unit, unit)
    reads = last.reads + sample_separable
    if b > 0 and last.curvature > 0:
        error_of_b = math.sqrt(last.squared) / last.curvature
        if b >= _INFORMATIVE * error_of_b:
            return Temperature(1 / b, error_of_b / b**2, last.converged, False, reads, last.loss)
    return Temperature(math.inf, math.nan, last.converged, True, reads, last.loss)


def validate_loss(rows: LabeledOutputs) -> None:
    """Reject rows whose log loss is not finite, with their number.

    Raises:
        InputError: there are such rows.
    """
    broken = masked = 0
    for chunk in rows.chunks():
        top, bottom = chunk.logits.amax(1), chunk.logits.amin(1)
        nonfinite = ~(top - bottom).ge(0) | top.isinf()
        broken += int((nonfinite & chunk.has_weight).sum())
        masked_target = chunk.at_target(chunk.logits).isneginf() & ~nonfinite
        masked += int((masked_target & chunk.has_weight).sum())
    reject_nonfinite(broken)
    if masked:
        reject(
            "targets",
            "classes that are not masked",
            f"{masked} rows whose class has logit -inf, or a mask such as -1e30",
            "Unmask the class or drop the rows.",
        )


@dataclass(frozen=True)
class _Moments:
    """Mean loss and sums of its derivatives over all rows at one b, after `reads` passes."""

    loss: float
    gradient: float
    curvature: float
    third: float
    squared: float
    reads: int = 0
    converged: bool = False


def _logit_spread(rows: LabeledOutputs) -> float:
    """Mean distance of the logits from the largest of their row: the unit of the fit."""
    total = count = 0.0
    for chunk in rows.chunks():
        gap = chunk.logits.amax(1, keepdim=True).double() - chunk.logits.double()
        finite = gap.isfinite()
        part = torch.stack([torch.where(finite, gap, 0.0).sum(), finite.sum().double()])
        total, count = (one + more for one, more in zip((total, count), part.tolist(), strict=True))
    return total / count if total > 0 and math.isfinite(total) else 1.0


def _separable(rows: LabeledOutputs) -> bool:
    """Whether every row that counts is right, so that the loss falls without end as T goes to 0."""
    return not any(
        bool((chunk.has_weight & (chunk.at_target(chunk.logits) < chunk.logits.amax(1))).any())
        for chunk in rows.chunks()
    )


def _moments(rows: LabeledOutputs, b: float, *, masked: bool = False) -> _Moments:
    """One read of the logits at b; `masked` where some classes are -inf."""
    total = torch.zeros(6, dtype=torch.float64, device=rows.logits.device)
    for chunk in rows.chunks():
        total += _row_moments(chunk, b, masked=masked).sum(1)
    loss, gradient, curvature, third, squared, mass = total.tolist()
    if not math.isfinite(loss):
        validate_loss(rows)
    if not math.isfinite(gradient) and not masked:
        return _moments(rows, b, masked=True)
    return _Moments(loss / mass if mass else 0.0, gradient, curvature, third, squared)


def _row_moments(chunk: Chunk, b: float, *, masked: bool) -> Tensor:
    """`[6, m]` loss, its three derivatives, squared gradient and weight of each row.

    Exponentials are float32, shifted by the row maximum; what is summed over rows is float64.
    """
    shifted = chunk.logits - chunk.logits.amax(1, keepdim=True)
    own = chunk.at_target(shifted).double()
    if masked:
        # A masked class has probability 0; the clamp keeps 0 * inf out of the moments.
        shifted.clamp_(min=-1e9 / b)
    weight = (shifted * b).exp_()
    mass = weight.sum(1).double()
    raw = []
    for _ in range(3):
        weight.mul_(shifted)
        raw.append(weight.sum(1).double() / mass)
    mean, second, third = raw
    gradient = mean - own
    parts = [
        mass.log() - b * own,
        gradient,
        second - mean * mean,
        third - 3 * mean * second + 2 * mean**3,
        gradient.square(),
        torch.ones_like(own),
    ]
    return chunk.weighted(torch.stack(parts))


def _newton(rows: LabeledOutputs, start: float, unit: float) -> tuple[float, _Moments]:
    """Root of the gradient in b and the last moments; b <= 0 if the optimum is at infinite T."""
    low, high, b = 0.0, math.inf, start
    for read in range(1, _MAX_READS + 1):
        at = _moments(rows, b)
        low, high = (b, high) if at.gradient < 0 else (low, b)
        step = _halley_step(at)
        # At the root a step may be too small to change b, which is one end of the bracket then.
        inside = b + step > 0.0 and low <= b + step <= high
        following = b + step if inside else (2 * b if math.isinf(high) else 0.5 * (low + high))
        # Halley's error is cubic in the step: after one this small the next would be below 1e-9.
        converged = inside and abs(step) <= _LAST_STEP * b
        if converged or not _FLATTEST < following * unit < _SHARPEST:
            return (following if converged else 0.0), replace(at, reads=read, converged=converged)
        b = following
    return b, replace(at, reads=read)


def _halley_step(at: _Moments) -> float:
    """Halley's step in b, Newton's where Halley's would go uphill; NaN without curvature."""
    if not at.curvature > 0:
        return math.nan
    slope = at.curvature - 0.5 * at.gradient * at.third / at.curvature
    return -at.gradient / (slope if slope > 0 else at.curvature)
