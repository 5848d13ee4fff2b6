"""The one temperature that minimises the log loss, found exactly in a few reads of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gendebug_torch.calibration.model_outputs import Chunk, chunks, refuse_broken, validated
from gendebug_torch.errors import UnsupportedError, reject

_SAMPLE = 2048
_LAST_STEP = 1e-3
# In units of 1 / spread of the logits: beyond these the loss is flat to double precision.
_FLATTEST, _SHARPEST = 1e-9, 1e9
_MOST_READS = 60
# Standard errors by which 1 / T must differ from 0; random labels pass by chance once in 740 times.
_INFORMATIVE = 3.0


@dataclass(frozen=True)
class Temperature:
    """A temperature T > 0 for logits: `logits / T`.

    Args:
        temperature: T; 0 or infinity where `unbounded`.
        standard_error: of T, robust to misspecification (sandwich).
        converged: whether the last step, of cubic convergence, was below 1e-3 of 1/T.
        unbounded: whether no finite T can be told: every row is right (0), or 1 / T is not above 0
            beyond noise, so that the logits carry nothing (infinity).
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
            raise UnsupportedError(
                "no finite temperature minimises the log loss of these rows; fit it on rows that "
                "hold errors"
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
    """The temperature that minimises the weighted log loss:
    `sum_i w_i [logsumexp(z_i / T) - z_iy / T]`.

    In b = 1/T the loss is convex with derivatives of the softmax moments of the logits: g = E[z] -
    z_y, h = Var[z], and the third cumulant. A sample of the rows gives the start; Halley steps on
    all rows, kept inside a bracket, then converge cubically: two or three reads in all. Fit it to
    the plain labels, whatever criterion (label smoothing, class weights) the network was trained
    with.

    Source: Guo, Pleiss, Sun and Weinberger (2017), section 4.2, arXiv:1706.04599; White (1982),
    Econometrica 50:1, for the standard error.

    Args:
        logits: `[n, k]` float, `[n]` binary, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: `[n]` (dense `[n, ...]`) int64 class ids.
        weights: shaped like targets, default 1; a weight of 2 counts as two rows.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes do not fit, a class id is out of range or masked, NaN or +inf, or no row
            counts.

    Cost: `n k` exponentials per read, memory of one chunk.
    """
    validated(logits, targets, weights, ignore_index)
    rows = LabeledRows(logits, targets, weights, ignore_index)
    sample = rows.every(max(1, targets.numel() // _SAMPLE))
    if not any(bool(chunk.counted.any()) for chunk in rows.chunks()):
        reject(
            "targets",
            "at least one row that counts",
            "none",
            "Pass rows with positive weight, not all ignored.",
        )
    unit = sample.spread()
    easy = sample.separable()
    if easy and rows.separable():
        return Temperature(0.0, math.nan, False, True, 1, 0.0)
    start = 1.0 / unit if easy else _newton(sample, 1.0 / unit, unit)[0]
    b, last = _newton(rows, start if start > 0 else 1.0 / unit, unit)
    if b > 0 and last.curvature > 0:
        error_of_b = math.sqrt(last.squared) / last.curvature
        if b >= _INFORMATIVE * error_of_b:
            return Temperature(
                1 / b, error_of_b / b**2, last.converged, False, last.reads + easy, last.loss
            )
    return Temperature(math.inf, math.nan, last.converged, True, last.reads + easy, last.loss)


@dataclass(frozen=True)
class Moments:
    """Sums over all rows at one b: mean loss, gradient, curvature, third derivative, squared
    gradients.
    """

    loss: float
    gradient: float
    curvature: float
    third: float
    squared: float
    reads: int = 0
    converged: bool = False


@dataclass(frozen=True, eq=False)
class LabeledRows:
    """The labeled rows of one fit, each read in chunks."""

    logits: Tensor
    targets: Tensor
    weights: Tensor | None
    ignore_index: int | None

    def chunks(self) -> Iterator[Chunk]:
        """All of them, in order."""
        return chunks(self.logits, self.targets, self.weights, self.ignore_index)

    def every(self, step: int) -> LabeledRows:
        """A sample of the rows; dense outputs are thinned along their samples and positions."""
        if self.logits.ndim <= 2:
            weights = None if self.weights is None else self.weights[::step]
            return LabeledRows(
                self.logits[::step], self.targets[::step], weights, self.ignore_index
            )
        flat, true = self.logits.flatten(2)[:, :, ::step], self.targets.flatten(1)[:, ::step]
        return LabeledRows(
            flat,
            true,
            None if self.weights is None else self.weights.flatten(1)[:, ::step],
            self.ignore_index,
        )

    def spread(self) -> float:
        """Mean distance of the logits from the largest of their row: a unit that makes the fit free
        of scale.
        """
        total, count = 0.0, 0
        for chunk in self.chunks():
            gap = chunk.logits.amax(1, keepdim=True).double() - chunk.logits.double()
            kept = gap[gap.isfinite()]
            total, count = total + float(kept.sum()), count + kept.numel()
        return total / count if total > 0 and math.isfinite(total) else 1.0

    def separable(self) -> bool:
        """Whether every row that counts is right, so that the loss falls for ever as T goes to
        0.
        """
        return not any(
            bool((chunk.counted & (_own(chunk) < chunk.logits.amax(1))).any())
            for chunk in self.chunks()
        )

    def moments(self, b: float, *, masked: bool = False) -> Moments:
        """One read of the logits, float32 exponentials shifted by the row maximum, float64 sums
        over rows.
        """
        total = torch.zeros(6, dtype=torch.float64, device=self.logits.device)
        for chunk in self.chunks():
            z = chunk.logits
            shifted = z - z.amax(1, keepdim=True)
            own = shifted.gather(1, chunk.targets[:, None])[:, 0].double()
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
            ]
            stacked = torch.stack([*parts, torch.ones_like(own)])
            if chunk.weights is not None:
                stacked = torch.where(chunk.weights > 0, stacked * chunk.weights, 0.0)
            total += stacked.sum(1)
        loss, gradient_sum, curvature, third_sum, squared, mass_sum = total.tolist()
        if not math.isfinite(loss):
            self.refuse()
        if not math.isfinite(gradient_sum) and not masked:
            return self.moments(b, masked=True)
        return Moments(
            loss / mass_sum if mass_sum else 0.0, gradient_sum, curvature, third_sum, squared
        )

    def refuse(self) -> None:
        """Say which rows have no loss.

        Raises:
            InputError: always.
        """
        broken = masked = 0
        for chunk in self.chunks():
            bad = (
                ~(chunk.logits.amax(1) - chunk.logits.amin(1)).ge(0) | chunk.logits.amax(1).isinf()
            )
            broken += int((bad & chunk.counted).sum())
            masked += int((_own(chunk).isneginf() & ~bad & chunk.counted).sum())
        refuse_broken(broken)
        reject(
            "targets",
            "classes that are not masked",
            f"{masked} rows whose class has logit -inf",
            "Unmask the class or drop the rows.",
        )


def _own(chunk: Chunk) -> Tensor:
    return chunk.logits.gather(1, chunk.targets[:, None])[:, 0]


def _newton(rows: LabeledRows, start: float, unit: float) -> tuple[float, Moments]:
    """The root of the gradient in b, and the moments of the last read; b <= 0 if the optimum is at
    infinite T.
    """
    low, high, b = 0.0, math.inf, start
    for read in range(1, _MOST_READS + 1):
        at = rows.moments(b)
        low, high = (b, high) if at.gradient < 0 else (low, b)
        slope = (
            at.curvature - 0.5 * at.gradient * at.third / at.curvature if at.curvature > 0 else 0.0
        )
        step = (
            -at.gradient / (slope if slope > 0 else at.curvature) if at.curvature > 0 else math.nan
        )
        inside = low < b + step < high
        following = b + step if inside else (2 * b if math.isinf(high) else 0.5 * (low + high))
        # Halley's error is cubic in the step: after one this small the next would be below 1e-9.
        converged = inside and abs(step) <= _LAST_STEP * b
        if converged or not _FLATTEST < following * unit < _SHARPEST:
            return (following if converged else 0.0), replace(at, reads=read, converged=converged)
        b = following
    return b, replace(at, reads=read)
