"""The temperature that minimises the log loss, exact in a few reads of the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.calibration.rows.model_outputs import (
    Chunk,
    LabeledOutputs,
    labeled_outputs,
    reject_nonfinite,
)
from gendebug_torch.errors import UnsupportedError, reject

# Rows of the sample that gives the start. Of many more, every 16th row is read next, so that the
# series around that optimum reaches the one of all rows.
_SAMPLE, _STRIDE = 2048, 16
# Relative error of 1 / T that the series may leave: below what the rounding of the logits leaves.
_TOLERANCE, _TOLERANCE_DOUBLE = 1e-9, 1e-13
# In units of 1 / spread of the logits: beyond these the loss is flat to double precision.
_FLATTEST, _SHARPEST = 1e-9, 1e9
_MAX_READS = 60
# Relative steps beyond which more terms of the series do not help.
_NEAR = 0.1
# Scaled logit of a masked class, whose exponential is 0.
_LEAST = -1e9
# Rows of the table of a chunk: logarithm of the summed exponentials, five cumulants, logit of the
# target, 1. It is multiplied in blocks of so many columns.
_OWN, _ONE, _ROWS, _BLOCK = 6, 7, 8, 2048
# Standard errors by which 1 / T must differ from 0; random labels pass by chance once in 740 times.
_INFORMATIVE = 3.0


@dataclass(frozen=True)
class Temperature:
    """A temperature T > 0 for logits: `logits / T`.

    Args:
        temperature: T; 0 or infinity where `unbounded`.
        standard_error: standard error of T, robust to misspecification (sandwich estimator).
        converged: whether the steps ended, within the rounding of the logits, at the optimum.
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

    In b = 1/T the loss is convex; its derivatives are E[z] - z_y and the cumulants of the logits
    under the softmax. One read of the logits gives the first five, whose series has its root within
    1e-9 of the optimum if that is about a hundredth of b away. A sample of the rows gives the
    start; steps on all rows are kept inside a bracket: one or two reads in all, until the series is
    exact to 1e-9 (for float64 logits 1e-13). Fit it to the plain
    labels, whatever criterion (label smoothing, class weights) the network was trained with.

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

    Cost: `n k` exponentials per read, memory of one chunk of 2^18 logits (2^25 on CUDA).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> fitted = fit_temperature(3 * logits, targets)  # three times too sharp
        >>> print(f"{fitted.temperature:.0f} ± {fitted.standard_error:.1f}")
        3 ± 0.1
    """
    rows = labeled_outputs(logits, targets, weights, ignore_index)
    strides = _strides(rows)
    sample = rows.every(strides[0])
    unit, separable, counted = _scanned(sample)
    if not counted and not any(bool(chunk.has_weight.any()) for chunk in rows.chunks()):
        reject(
            "targets",
            "at least one row that counts",
            "none",
            "Pass rows with positive weight, not all ignored.",
        )
    if separable and _separable(rows):
        return Temperature(0.0, math.nan, False, True, 1, 0.0)
    last = _Fit(1.0 / unit)
    for stride in strides[-1:] if separable else strides:
        start = last.b if last.b > 0 else 1.0 / unit
        last = _fit(rows.every(stride) if stride > 1 else rows, start, unit, last.masked)
    reads = last.reads + separable
    if last.b > 0 and last.error < math.inf and last.b >= _INFORMATIVE * last.error:
        error = last.error / last.b**2
        return Temperature(1 / last.b, error, last.converged, False, reads, last.loss)
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
class _Fit:
    """The optimum of some rows.

    Args:
        b: 1 / T; 0 if the optimum is at infinite T.
        error: standard error of `b`; infinite without curvature.
        loss: mean loss at `b`.
        reads: number of passes over the rows.
        converged: whether `b` is exact.
        masked: whether some classes are masked.
    """

    b: float
    error: float = math.inf
    loss: float = math.nan
    reads: int = 0
    converged: bool = False
    masked: bool = False


@dataclass(frozen=True)
class _Series:
    """The loss of all rows around b as a series in the relative step r, b becoming b (1 + r).

    Args:
        products: `[8][8]` sums over the rows, by their weight, of products of two of these numbers
            of each row: logarithm of the summed exponentials, first five cumulants of the logits
            times b, logit of the target times b, 1.
    """

    products: list[list[float]]

    @property
    def mass(self) -> float:
        """Number of rows, or their weight."""
        return self.products[_ONE][_ONE]

    def derivative(self, order: int, step: float = 0.0) -> float:
        """That derivative in r of the summed loss, after a step; the loss itself is of order 0."""
        log_mass, *cumulants, own, _ = self.products[_ONE]
        terms = (log_mass - own, cumulants[0] - own, *cumulants[1:])[order:]
        return sum(term * step**power / math.factorial(power) for power, term in enumerate(terms))

    def root(self) -> float:
        """The step to the root of the first derivative; NaN without curvature."""
        gradient, curvature, third = (self.derivative(order) for order in (1, 2, 3))
        if not curvature > 0:
            return math.nan
        slope = curvature - 0.5 * gradient * third / curvature
        # Halley's step, Newton's where that would go uphill.
        step = -gradient / (slope if slope > 0 else curvature)
        if abs(step) <= _NEAR:
            for _ in range(4):
                step -= self.derivative(1, step) / self.derivative(2, step)
        return step

    def remainder(self, step: float) -> float:
        """What the series leaves out of a step, from its last two terms."""
        fourth, fifth = (abs(self.derivative(order)) for order in (4, 5))
        return abs(step) ** 5 * max(fifth / 24, fourth / 6) / self.derivative(2)

    def relative_error(self, step: float) -> float:
        """Standard error of b after a step, as a part of the b before: White's sandwich."""
        curvature = self.derivative(2, step)
        if not curvature > 0:
            return math.inf
        # The derivative of a row after the step, in its cumulants and the logit of its target.
        row = [0.0, *(step**power / math.factorial(power) for power in range(5)), -1.0, 0.0]
        squared = sum(
            one * other * self.products[i][j]
            for i, one in enumerate(row)
            for j, other in enumerate(row)
        )
        return math.sqrt(max(squared, 0.0)) / curvature


def _strides(rows: LabeledOutputs) -> tuple[int, ...]:
    """Every how many rows are read, one after the other; each is a multiple of the next.

    Rows of one chunk are read by as many operations as a part of them: no part is read in between.
    """
    first = 2 ** max(0, (rows.targets.numel() // _SAMPLE).bit_length() - 1)
    between = first > _STRIDE and len(rows.logits) > rows.chunk_rows()
    return (first, _STRIDE, 1) if between else (first, 1) if first > 1 else (1,)


def _scanned(rows: LabeledOutputs) -> tuple[float, bool, bool]:
    """A unit of the logits, whether every row that counts is right, and whether any counts.

    The unit is the mean distance of the logits from the largest of their row.
    """
    totals = torch.zeros(4, dtype=torch.float64, device=rows.logits.device)
    for chunk in rows.chunks():
        top, counts = chunk.logits.amax(1, keepdim=True), chunk.has_weight
        gap = top.double() - chunk.logits.double()
        finite = gap.isfinite()
        wrong = counts & (chunk.at_target(chunk.logits) < top[:, 0])
        parts = [torch.where(finite, gap, 0.0).sum(), finite.sum(), wrong.sum(), counts.sum()]
        totals += torch.stack([part.double() for part in parts])
    gaps, finite_gaps, wrong_rows, counted = totals.tolist()
    unit = gaps / finite_gaps if gaps > 0 and math.isfinite(gaps) else 1.0
    return unit, not wrong_rows, counted > 0


def _separable(rows: LabeledOutputs) -> bool:
    """Whether every row that counts is right, so that the loss falls without end as T goes to 0."""
    return not any(
        bool((chunk.has_weight & (chunk.at_target(chunk.logits) < chunk.logits.amax(1))).any())
        for chunk in rows.chunks()
    )


def _fit(rows: LabeledOutputs, start: float, unit: float, masked: bool) -> _Fit:
    """The optimum of these rows by steps to the roots of series, inside a bracket."""
    low, high, b = 0.0, math.inf, start
    tolerance = _TOLERANCE_DOUBLE if rows.logits.dtype == torch.float64 else _TOLERANCE
    for read in range(1, _MAX_READS + 1):
        at = _series(rows, b, masked=masked)
        if not masked and not math.isfinite(at.derivative(1)):
            masked = True
            at = _series(rows, b, masked=True)
        low, high = (b, high) if at.derivative(1) < 0 else (low, b)
        step = at.root()
        # At the root a step may be too small to change b, which is one end of the bracket then.
        following = b * (1 + step)
        inside = following > 0.0 and low <= following <= high
        if inside and at.remainder(step) <= tolerance:
            error, loss = b * at.relative_error(step), at.derivative(0, step) / at.mass
            return _Fit(following, error, loss, read, True, masked)
        if not inside:
            following = 2 * b if math.isinf(high) else 0.5 * (low + high)
        if not _FLATTEST < following * unit < _SHARPEST:
            loss = at.derivative(0) / at.mass if at.mass else 0.0
            return _Fit(0.0, math.inf, loss, read, False, masked)
        b = following
    return _Fit(b, b * at.relative_error(0.0), at.derivative(0) / at.mass, read, False, masked)


def _series(rows: LabeledOutputs, b: float, *, masked: bool) -> _Series:
    """One read of the logits at b; `masked` where some classes are -inf."""
    products = torch.zeros(_ROWS, _ROWS, dtype=torch.float64, device=rows.logits.device)
    for chunk in rows.chunks():
        products += _products(chunk, b, masked=masked)
    # The logit of the target was not yet multiplied.
    products[_OWN] *= b
    products[:, _OWN] *= b
    series = _Series(products.tolist())
    if not math.isfinite(series.derivative(0)):
        validate_loss(rows)
    return series


def _products(chunk: Chunk, b: float, *, masked: bool) -> Tensor:
    """The products of `_Series`, `[8, 8]`, but for the factor b of the logit of the target.

    Exponentials are float32, shifted by the row maximum; what is summed over rows is float64.
    Cumulants follow from moments: Kendall and Stuart (1977), volume 1, section 3.14.
    """
    shifted, axis = chunk.shifted()
    own = shifted.gather(axis, chunk.targets.unsqueeze(axis)).squeeze(axis)
    shifted.mul_(b)
    if masked:
        # A masked class has probability 0; the clamp keeps 0 * inf out of the moments.
        shifted.clamp_(min=_LEAST)
    weight = shifted.exp()
    sums = shifted.new_empty(_ONE, len(own))
    sums[_OWN] = own
    torch.sum(weight, axis, out=sums[0])
    for power in range(1, _OWN):
        torch.sum(weight.mul_(shifted), axis, out=sums[power])
    moments = sums.double()
    moments[1:_OWN] /= moments[0]
    # In blocks of rows, which keep a GPU busy; what is beyond the last row is 0.
    blocks = math.ceil(len(own) / _BLOCK)
    padded = torch.zeros(_ROWS, blocks * _BLOCK, dtype=torch.float64, device=own.device)
    table = padded[:, : len(own)]
    table[:_ONE], table[_ONE] = moments, 1.0
    table[0].log_()
    for order in range(2, _OWN):
        for lower in range(1, order):
            factor = -math.comb(order - 1, lower - 1)
            table[order].addcmul_(table[lower], moments[order - lower], value=factor)
    left = right = padded.view(_ROWS, blocks, _BLOCK).transpose(0, 1)
    if chunk.weights is not None:
        table.masked_fill_(chunk.weights <= 0, 0.0)
        left = left.clone()
        table *= chunk.weights
    return (left @ right.mT).sum(0)
