"""Affine maps of logits: temperature, bias-corrected temperature, vector and Platt scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reject

Family = Literal["temperature", "bias_corrected", "vector"]

_CHUNK = 2**20
# Classes up to which each gets a bias where nobody asked for one.
_MOST_BIASED = 100
_MIN_ROWS_PER_BIAS = 20
_MAX_STEPS = 40
# Standard deviations of the normal priors: nats of class bias, and each scale relative to the
# common one. Without them the bias of a class without rows diverges to minus infinity.
_BIAS_PRIOR = 1.0
_SCALE_PRIOR = 0.25
# A logit below this may be a mask, if it lies below the largest by so many usual gaps.
_MASK, _MASK_GAPS = -5e3, 1e3
# Standard errors by which the common scale must differ from 0; random labels pass by chance once in
# 370 times.
_INFORMATIVE = 3.0


@dataclass(frozen=True, eq=False)
class AffineFit:
    """A map `scale * logits + bias` of logits, one scale and bias per class.

    Args:
        family: name of the free parameters.
        scale: scales `[k]` float64 (`[]` for one binary logit); positive unless the logits rank the
            classes in reverse.
        bias: biases `[k]` float64 (`[]`), in nats, comparable between classes only.
        scale_error: standard errors of `scale`, robust to misspecification (sandwich).
        bias_error: standard errors of `bias`.
        converged: whether the last Newton step promised less than 1e-10 nats per row.
        unbounded: whether there is no finite optimum: the map is right in every row, so that the
            loss falls without end as the scale grows, or the scale does not exceed 0 beyond noise,
            so that the logits are uninformative.
        nll: mean log loss on the rows of the fit, in nats.
    """

    family: Family
    scale: Tensor
    bias: Tensor
    scale_error: Tensor
    bias_error: Tensor
    converged: bool
    unbounded: bool
    nll: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Mapped logits, `[n]`, `[n, k]` or dense `[n, k, ...]`, in the dtype of the input."""
        shape = [-1, *([1] * (logits.ndim - 2))] if self.scale.ndim else []
        return logits * self.scale.to(logits).view(shape) + self.bias.to(logits).view(shape)


def fit_affine(
    logits: Tensor,
    targets: Tensor,
    *,
    family: Family = "bias_corrected",
    weights: Tensor | None = None,
) -> AffineFit:
    """The affine map of logits with the least log loss, by Newton's method.

    `temperature` frees one scale, `bias_corrected` one scale and a bias per class, `vector` a scale
    and a bias per class. Biases have a normal prior of 1 nat, scales one of a quarter around the
    common scale.

    Source: Guo et al. (2017), arXiv:1706.04599, for vector scaling; Alexandari, Kundaje and
    Shrikumar (2020), ICML, arXiv:1901.06852, for bias-corrected temperature; Platt (1999) where
    there is one binary logit.

    Args:
        logits: float `[n, k]`, or `[n]` binary; a masked class may be -inf.
        targets: class ids `[n]` int64.
        family: name of the free parameters.
        weights: non-negative row weights `[n]`; a weight of 2 counts as two rows.

    Raises:
        InputError: shapes do not fit, no rows, or a class id out of range.

    Cost: `n k p` multiplications a step for p free parameters, about eight steps; memory `k p`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(8000, generator=generator)
        >>> targets = torch.bernoulli((logits / 2 + 1).sigmoid(), generator=generator).long()
        >>> fit = fit_affine(logits, targets)  # of one binary logit: Platt scaling
        >>> print(f"{float(fit.scale):.1f} {float(fit.bias):.1f}")
        0.5 0.9
    """
    binary = logits.ndim == 1
    classes = 2 if binary else logits.shape[1] if logits.ndim == 2 else 0
    targets = _validated_targets(logits, targets, classes)
    if not binary:
        logits = with_infinite_masks(logits)
    rows = _Rows(logits, targets, weights, _spread(logits))
    design = _design(family, classes, binary)
    start, ridge = _start(rows, design, family, binary)
    parameters, loss, converged = _newton(rows, design, start, ridge)
    variance = _sandwich(rows, design, parameters, ridge)
    values, errors = design @ parameters, variance.diagonal().clamp(min=0).sqrt()
    # Only the common scale is free of a prior: along it alone the loss can fall without end.
    common = torch.cat([torch.full((classes,), 1 / classes), torch.zeros(classes)]).double()
    noise = float((common @ variance @ common).clamp(min=0).sqrt())
    separable = rows.separable()
    unbounded = separable or not abs(float(common @ values)) >= _INFORMATIVE * noise
    (scale, bias), (scale_error, bias_error) = values.view(2, classes), errors.view(2, classes)
    parts = [scale / rows.unit, bias, scale_error / rows.unit, bias_error]
    scale, bias, scale_error, bias_error = (part[1] if binary else part for part in parts)
    converged, nll = converged and not separable, loss / rows.mass
    return AffineFit(family, scale, bias, scale_error, bias_error, converged, unbounded, nll)


def affordable_family(logits: Tensor) -> Family:
    """`bias_corrected`, or one temperature where biases would be noise.

    That is, of over 100 classes, or with fewer than 20 rows per class of several.

    Args:
        logits: float `[n, k]`, or `[n]` binary.
    """
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    few = classes > 2 and len(logits) < _MIN_ROWS_PER_BIAS * classes
    return "temperature" if classes > _MOST_BIASED or few else "bias_corrected"


def _start(rows: _Rows, design: Tensor, family: Family, binary: bool) -> tuple[Tensor, Tensor]:
    """Start and prior precision `[p]` of the parameters; vector scaling starts from T."""
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    ridge = torch.full_like(start, _BIAS_PRIOR**-2)
    ridge[0] = 0.0
    if family == "vector" and not binary:
        classes = len(design) // 2
        start[:1] = _newton(rows, _design("temperature", classes, binary), start[:1], ridge[:1])[0]
        ridge[1 : 1 + classes] = (_SCALE_PRIOR * float(start[0].abs().clamp(min=1e-12))) ** -2
    return start, ridge


def _sandwich(rows: _Rows, design: Tensor, parameters: Tensor, ridge: Tensor) -> Tensor:
    """`[2 k, 2 k]` covariance of the scales and biases, robust to misspecification."""
    _, curvature, squares = rows.derivatives(design @ parameters, design, squares=True)
    inverse = torch.linalg.pinv(curvature + ridge.diag(), hermitian=True)
    variance: Tensor = design @ inverse @ squares @ inverse @ design.T
    return variance


def _design(family: Family, classes: int, binary: bool) -> Tensor:
    """`[2 k, p]` matrix from the p free parameters to the scales and biases of all classes."""
    ones, eye = torch.ones(classes, 1), torch.eye(classes)
    blank = torch.zeros(classes, classes)
    if binary:
        # The logits are (0, z): only the bias of the second class matters.
        eye, blank = eye[:, 1:], blank[:, 1:]
    columns = [torch.cat([ones, torch.zeros(classes, 1)])]
    if family == "vector" and not binary:
        columns.append(torch.cat([eye, blank]))
    if family != "temperature":
        columns.append(torch.cat([blank, eye]))
    return torch.cat(columns, 1).double()


class _Rows:
    """The rows of one fit, read in chunks: loss and its derivatives at given scales and biases."""

    def __init__(
        self, logits: Tensor, targets: Tensor, weights: Tensor | None, unit: float
    ) -> None:
        self.logits, self.targets, self.weights, self.unit = logits, targets, weights, unit
        self.device = logits.device
        self.mass = float(len(logits) if weights is None else weights.double().sum())

    def chunks(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Scaled logits, log probabilities, class ids and weights of each chunk, float64."""
        classes = len(values) // 2
        scale, bias = values.to(self.device).view(2, classes)
        size = max(1, _CHUNK // classes)
        for start in range(0, len(self.logits), size):
            part = slice(start, start + size)
            z = two_class_logits(self.logits[part].double() / self.unit)
            masked = z == -math.inf
            z = z.masked_fill(masked, 0.0)
            log_probs = (z * scale + bias).masked_fill(masked, -math.inf).log_softmax(1)
            weight = None if self.weights is None else self.weights[part].double()
            yield z, log_probs, self.targets[part], weight

    def separable(self) -> bool:
        """Whether the logits, as they are or negated, are right in every row that counts."""
        right = wrong = True
        ones = torch.ones(2 if self.logits.ndim == 1 else self.logits.shape[1], dtype=torch.float64)
        for z, log_probs, targets, weight in self.chunks(torch.cat([ones, torch.zeros_like(ones)])):
            own, masked = z.gather(1, targets[:, None])[:, 0], log_probs.isneginf()
            highest = own >= z.masked_fill(masked, -math.inf).amax(1)
            lowest = own <= z.masked_fill(masked, math.inf).amin(1)
            if weight is not None:
                highest, lowest = highest[weight > 0], lowest[weight > 0]
            right, wrong = right and bool(highest.all()), wrong and bool(lowest.all())
        return right or wrong

    def loss(self, values: Tensor) -> float:
        """Summed log loss."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for _, log_probs, targets, weight in self.chunks(values):
            own = log_probs.gather(1, targets[:, None])[:, 0]
            total -= own.sum() if weight is None else own @ weight
        return float(total)

    def derivatives(
        self, values: Tensor, design: Tensor, *, squares: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient `[p]`, curvature and summed squares of row gradients `[p, p]`.

        Args:
            values: scales and biases `[2 k]`.
            design: map from the p free parameters to them, `[2 k, p]`.
            squares: whether the squares are needed; else they are 0.
        """
        classes, design = len(values) // 2, design.to(self.device)
        gradient = torch.zeros(design.shape[1], dtype=torch.float64, device=self.device)
        curvature = gradient.new_zeros(len(gradient), len(gradient))
        outer, moments = torch.zeros_like(curvature), gradient.new_zeros(3, classes)
        for z, log_probs, targets, weight in self.chunks(values):
            probs = log_probs.exp()
            weighted = probs if weight is None else probs * weight[:, None]
            stacked = torch.cat([probs * z, probs], 1)
            # Of the p free parameters alone, so that one temperature of k classes costs k.
            expected, row_gradient = stacked @ design, _row_gradients(stacked, z, targets) @ design
            gradient += row_gradient.sum(0) if weight is None else weight @ row_gradient
            curvature -= expected.T @ (expected if weight is None else expected * weight[:, None])
            moments += torch.stack([(weighted * z**power).sum(0) for power in range(3)])
            if squares:
                weighted_rows = row_gradient if weight is None else row_gradient * weight[:, None]
                outer += row_gradient.T @ weighted_rows
        return gradient.cpu(), (curvature + _expected_squares(design, moments)).cpu(), outer.cpu()


def _expected_squares(design: Tensor, moments: Tensor) -> Tensor:
    """`[p, p]` sums over rows and classes of the squared derivatives of the scaled logits.

    Args:
        design: map from the free parameters to scales and biases, `[2 k, p]`.
        moments: sums of the probabilities times the logits to the power 0, 1 and 2, `[3, k]`.
    """
    scales, biases = design.chunk(2)
    zeroth, first, second = moments[:, :, None]
    own: Tensor = scales.T @ (second * scales + first * biases)
    cross: Tensor = biases.T @ (first * scales + zeroth * biases)
    return own + cross


def _row_gradients(stacked: Tensor, z: Tensor, targets: Tensor) -> Tensor:
    """`[m, 2 k]` gradients in all scales and biases, from the `stacked` expectations."""
    gradients, rows = stacked.clone(), torch.arange(len(z), device=z.device)
    gradients[rows, targets] -= z[rows, targets]
    gradients[rows, z.shape[1] + targets] -= 1
    return gradients


def _newton(
    rows: _Rows, design: Tensor, start: Tensor, ridge: Tensor
) -> tuple[Tensor, float, bool]:
    """Minimum over the free parameters of the loss plus `ridge @ parameters^2 / 2`."""
    at = start
    loss = rows.loss(design @ at)
    if not math.isfinite(loss):
        reject(
            "logits",
            "finite values, or -inf for a class that is not the target",
            "others",
            "Find the rows on which the model fails.",
        )
    for _ in range(_MAX_STEPS):
        slope, curvature, _ = rows.derivatives(design @ at, design)
        gradient, curvature = slope + ridge * at, curvature + ridge.diag()
        step = -torch.linalg.pinv(curvature, hermitian=True) @ gradient
        decrease = -float(gradient @ step)
        if not decrease > 1e-10 * rows.mass:
            # Newton's error is squared by each step: taking this last one leaves about 1e-10 of a
            # standard error.
            return (at + step, loss, True) if math.isfinite(decrease) else (at, loss, False)
        length = 1.0
        objective = loss + float(ridge @ at.square()) / 2
        while length > 1e-6:
            trial = at + length * step
            following = rows.loss(design @ trial)
            penalty = float(ridge @ trial.square()) / 2
            if following + penalty <= objective - 1e-4 * length * decrease:
                break
            length /= 2
        at, loss = trial, following
    return at, loss, False


def _spread(logits: Tensor) -> float:
    """A unit of the logits, so that the fit does not depend on their scale."""
    z = two_class_logits(logits[:: max(1, len(logits) // 4096)].double())
    gap = (z.amax(1, keepdim=True) - z).clamp(max=1e30)
    finite = gap[gap < 1e30]
    return float(finite.mean()) or 1.0 if finite.numel() else 1.0


def with_infinite_masks(logits: Tensor) -> Tensor:
    """Logits `[n, k, ...]`, -inf where a large negative number masks a class (see `mask_gap`)."""
    gap = mask_gap(logits)
    return logits if gap is None else masked_below(logits, gap)


def mask_gap(logits: Tensor) -> float | None:
    """How far below the largest logit of its row a mask lies; None if no class is masked.

    Masks such as -1e4, -1e30 or the least float lie below -5000, and below the largest logit of
    their row by a thousand times the usual distance of its two largest logits.

    Args:
        logits: logits `[n, k, ...]`; they are read once and not copied.
    """
    if logits.ndim < 2 or logits.shape[1] < 3 or not logits.numel():
        return None
    if not float(logits.amin()) < _MASK:
        return None
    flat = logits.flatten(2) if logits.ndim > 2 else logits[..., None]
    rows, positions = len(flat) * flat.shape[2], flat.shape[2]
    some = torch.arange(0, rows, max(1, rows // 4096), device=logits.device)
    top = flat[some // positions, :, some % positions].double().topk(2, dim=1).values
    gap = top[:, 0] - top[:, 1]
    gap = gap[(gap > 0) & gap.isfinite() & (top[:, 1] > _MASK)]
    return _MASK_GAPS * float(gap.median()) if len(gap) else None


def masked_below(logits: Tensor, gap: float) -> Tensor:
    """Logits `[n, k, ...]`, -inf where they are masks, which lie a `gap` below the largest."""
    bound = logits.amax(1, keepdim=True).double() - gap
    return logits.masked_fill(logits < bound.clamp(max=_MASK).to(logits.dtype), -math.inf)


def _validated_targets(logits: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Class ids `[n]` int64; one binary logit may have float targets 0 and 1."""
    if not classes or not logits.is_floating_point() or not len(logits):
        reject(
            "logits",
            "float [n, k] or [n] with n > 0",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass raw model outputs before softmax.",
        )
    if targets.shape == (len(logits), 1):
        targets = targets[:, 0]
    is_label = (targets == 0) | (targets == 1)
    floats = targets.is_floating_point() and not (logits.ndim == 1 and bool(is_label.all()))
    if targets.shape != logits.shape[:1] or floats:
        reject(
            "targets",
            f"[{len(logits)}] class ids",
            f"{targets.dtype} {list(targets.shape)}",
            "Pass one class id per row of logits.",
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        reject(
            "targets",
            f"class ids in 0..{classes - 1}",
            f"{low}..{high}",
            "Map labels to the columns of the logits.",
        )
    return targets.long()
