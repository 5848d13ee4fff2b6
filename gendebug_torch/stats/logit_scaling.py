"""Affine maps of logits, `scale * logits + bias`, fitted exactly to labels: temperature, class
bias, vector scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.errors import reject

Family = Literal["temperature", "bias_corrected", "vector"]

_CHUNK = 2**20
_MOST_STEPS = 40
# Standard deviations of the normal priors: nats of class bias, and each scale relative to the
# common one. Without them the bias of a class without rows runs off to minus infinity.
_BIAS_PRIOR = 1.0
_SCALE_PRIOR = 0.25
# Standard errors by which the common scale must differ from 0; random labels pass by chance once in
# 370 times.
_INFORMATIVE = 3.0


@dataclass(frozen=True, eq=False)
class AffineFit:
    """A map `scale * logits + bias` of logits, one scale and bias per class.

    Args:
        family: which parameters were free.
        scale: `[k]` float64 (`[]` for one binary logit); positive unless the logits point the wrong
            way.
        bias: `[k]` float64 (`[]`), in nats, comparable between classes only.
        scale_error: standard errors of `scale`, robust to misspecification (sandwich).
        bias_error: the same of `bias`.
        converged: whether the last Newton step promised less than 1e-10 nats per row.
        unbounded: whether no finite scale can be told: the map is right in every row, so that the
            loss falls for ever as the scale grows, or the scale is not above 0 beyond noise, so
            that the logits carry nothing.
        nll: mean log loss on the rows of the fit.
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
    """The affine map of logits that minimises the log loss, by Newton's method with the full
    curvature.

    `temperature` frees one scale, `bias_corrected` one scale and a bias per class, `vector` a scale
    and a bias per class. Biases have a normal prior of 1 nat, scales one of a quarter around the
    common scale.

    Source: Guo et al. (2017), arXiv:1706.04599, for vector scaling; Alexandari, Kundaje and
    Shrikumar (2020), ICML, arXiv:1901.06852, for bias-corrected temperature; Platt (1999) where
    there is one binary logit.

    Args:
        logits: `[n, k]` float, or `[n]` binary; a masked class may be -inf.
        targets: `[n]` int64 class ids.
        family: which parameters are free.
        weights: `[n]` non-negative; a weight of 2 counts as two rows.

    Raises:
        InputError: shapes do not fit, no rows, or a class id out of range.

    Cost: `n k^2` multiplications a step, about eight steps; memory `k^2`.
    """
    binary = logits.ndim == 1
    classes = 2 if binary else logits.shape[1] if logits.ndim == 2 else 0
    _validate(logits, targets, classes)
    rows = _Rows(logits, targets, weights, _spread(logits))
    design = _design(family, classes, binary)
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    ridge = torch.full_like(start, _BIAS_PRIOR**-2)
    ridge[0] = 0.0
    if family == "vector" and not binary:
        start[:1] = _newton(rows, _design("temperature", classes, binary), start[:1], ridge[:1])[0]
        ridge[1 : 1 + classes] = (_SCALE_PRIOR * float(start[0].abs().clamp(min=1e-12))) ** -2
    found, loss, converged = _newton(rows, design, start, ridge)
    _, curvature, meat = rows.derivatives(design @ found, meat=True)
    inverse = torch.linalg.pinv(design.T @ curvature @ design + ridge.diag(), hermitian=True)
    variance = design @ inverse @ (design.T @ meat @ design) @ inverse @ design.T
    error = variance.diagonal().clamp(min=0).sqrt()
    # Only the common scale is free of a prior: along it alone the loss can fall for ever.
    common = torch.cat([torch.full((classes,), 1 / classes), torch.zeros(classes)]).double()
    noise = float((common @ variance @ common).clamp(min=0).sqrt())
    separable = rows.separable()
    unbounded = separable or not abs(float(common @ design @ found)) >= _INFORMATIVE * noise
    scale, bias = (design @ found).view(2, classes)
    scale_error, bias_error = error.view(2, classes)
    parts = [scale / rows.unit, bias, scale_error / rows.unit, bias_error]
    scale, bias, scale_error, bias_error = (part[1] if binary else part for part in parts)
    return AffineFit(
        family,
        scale,
        bias,
        scale_error,
        bias_error,
        converged and not separable,
        unbounded,
        loss / rows.mass,
    )


def _design(family: Family, classes: int, binary: bool) -> Tensor:
    """`[2 k, parameters]`: how the scales and biases of all classes follow from the free
    parameters.
    """
    ones, eye = torch.ones(classes, 1), torch.eye(classes)
    blank = torch.zeros(classes, classes)
    if binary:
        # The logits are (0, z), so that only the bias of the second class counts.
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
            cut = slice(start, start + size)
            z = self.logits[cut].double() / self.unit
            z = torch.stack([torch.zeros_like(z), z], 1) if z.ndim == 1 else z
            masked = z == -math.inf
            z = z.masked_fill(masked, 0.0)
            weight = None if self.weights is None else self.weights[cut].double()
            yield (
                z,
                (z * scale + bias).masked_fill(masked, -math.inf).log_softmax(1),
                self.targets[cut],
                weight,
            )

    def separable(self) -> bool:
        """Whether the logits, as they are or negated, are right in every row that counts."""
        right = wrong = True
        ones = torch.ones(2 if self.logits.ndim == 1 else self.logits.shape[1], dtype=torch.float64)
        for z, log_probs, targets, weight in self.chunks(torch.cat([ones, torch.zeros_like(ones)])):
            counted = torch.ones_like(targets, dtype=torch.bool) if weight is None else weight > 0
            own, masked = z.gather(1, targets[:, None])[:, 0], log_probs.isneginf()
            right = right and bool((own >= z.masked_fill(masked, -math.inf).amax(1))[counted].all())
            wrong = wrong and bool((own <= z.masked_fill(masked, math.inf).amin(1))[counted].all())
        return right or wrong

    def loss(self, values: Tensor) -> float:
        """Summed log loss."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for _, log_probs, targets, weight in self.chunks(values):
            own = log_probs.gather(1, targets[:, None])[:, 0]
            total -= own.sum() if weight is None else own @ weight
        return float(total)

    def derivatives(self, values: Tensor, *, meat: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient `[2 k]` and curvature `[2 k, 2 k]` in all scales and biases, and the summed
        squares of row gradients.
        """
        classes = len(values) // 2
        gradient = torch.zeros(2 * classes, dtype=torch.float64, device=self.device)
        curvature = torch.zeros(2 * classes, 2 * classes, dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(curvature)
        for z, log_probs, targets, weight in self.chunks(values):
            probs = log_probs.exp()
            weighted = probs if weight is None else probs * weight[:, None]
            stacked = torch.cat([probs * z, probs], 1)
            row_gradient = stacked.clone()
            rows = torch.arange(len(z), device=z.device)
            row_gradient[rows, targets] -= z[rows, targets]
            row_gradient[rows, classes + targets] -= 1
            gradient += row_gradient.sum(0) if weight is None else weight @ row_gradient
            curvature -= stacked.T @ (stacked if weight is None else stacked * weight[:, None])
            first, second = (weighted * z).sum(0), (weighted * z.square()).sum(0)
            curvature += torch.cat(
                [
                    torch.cat([second.diag(), first.diag()], 1),
                    torch.cat([first.diag(), weighted.sum(0).diag()], 1),
                ]
            )
            if meat:
                squares += row_gradient.T @ (
                    row_gradient if weight is None else row_gradient * weight[:, None]
                )
        return gradient.cpu(), curvature.cpu(), squares.cpu()


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
            "Find the rows that break the model.",
        )
    for _ in range(_MOST_STEPS):
        raw_gradient, raw_curvature, _ = rows.derivatives(design @ at)
        gradient = design.T @ raw_gradient + ridge * at
        curvature = design.T @ raw_curvature @ design + ridge.diag()
        step = -torch.linalg.pinv(curvature, hermitian=True) @ gradient
        promised = -float(gradient @ step)
        if not promised > 1e-10 * rows.mass:
            # Newton's error is squared by each step: taking this last one leaves about 1e-10 of a
            # standard error.
            return (at + step, loss, True) if math.isfinite(promised) else (at, loss, False)
        length = 1.0
        penalty = float(ridge @ at.square()) / 2
        while length > 1e-6:
            moved = at + length * step
            following = rows.loss(design @ moved)
            if (
                following + float(ridge @ moved.square()) / 2
                <= loss + penalty - 1e-4 * length * promised
            ):
                break
            length /= 2
        at, loss = moved, following
    return at, loss, False


def _spread(logits: Tensor) -> float:
    """A unit of the logits, so that the fit does not depend on their scale."""
    z = torch.stack([torch.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    z = z[:: max(1, len(z) // 4096)].double()
    gap = (z.amax(1, keepdim=True) - z).clamp(max=1e30)
    kept = gap[gap < 1e30]
    return float(kept.mean()) or 1.0 if kept.numel() else 1.0


def _validate(logits: Tensor, targets: Tensor, classes: int) -> None:
    if not classes or not logits.is_floating_point() or not len(logits):
        reject(
            "logits",
            "float [n, k] or [n] with n > 0",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass raw model outputs before softmax.",
        )
    if targets.shape != logits.shape[:1] or targets.dtype.is_floating_point:
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
