"""Maps of the confidence of the predicted class; the prediction itself does not change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.rows.model_outputs import LabeledOutputs, labeled_outputs
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.binary import positive_logit

TopLabelFamily = Literal["platt", "beta"]

# The predicted class stays ahead of the runner-up by this many nats, far above the rounding of
# float32.
_LEAD = 1e-5
_MAX_STEPS = 50
# Log probabilities below this are as good as zero; it keeps the features of hard zeros finite.
_MIN_LOG_PROB = -700.0
# Which of the two slopes are free, in the order of trial: both (or one for the two), then either.
_DESIGNS = {
    "platt": ([[1.0], [1.0]],),
    "beta": ([[1.0, 0.0], [0.0, 1.0]], [[0.0], [1.0]], [[1.0], [0.0]]),
}


@dataclass(frozen=True)
class TopLabelMap:
    """A map of the confidence c of the predicted class after a temperature.

    `logit c' = a log c - b log(1 - c) + m`. The other classes share `1 - c'` as they shared
    `1 - c`, and c' never falls so low that another class would lead.

    Args:
        family: `platt` (a = b) or `beta`.
        temperature: temperature that is applied first.
        coefficients: a, b, m, shrunken towards 1, 1, 0.
        standard_errors: errors of a, b, m before shrinkage, by the curvature at this temperature.
        converged: whether the last Newton step promised less than 1e-10 nats per row.
        unbounded: whether the predictions are all right or all wrong, so that no fit exists.
    """

    family: TopLabelFamily
    temperature: float
    coefficients: tuple[float, float, float]
    standard_errors: tuple[float, float, float]
    converged: bool
    unbounded: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """Mapped logits `[n, k]`, `[n]` or dense, in the dtype of the input.

        Raises:
            UnsupportedError: no fit exists.
        """
        if self.unbounded:
            raise UnsupportedError(
                "every prediction of these rows is right, or every one is wrong; fit the map on "
                "rows that contain both"
            )
        return top_label_mapped(logits, self.temperature, *self.coefficients)


def top_label_mapped(
    logits: Tensor,
    temperature: float | Tensor,
    a: float | Tensor,
    b: float | Tensor,
    m: float | Tensor,
) -> Tensor:
    """Logits `[n, k, ...]` or `[n]` after a temperature and the map that `TopLabelMap` defines."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        pair = top_label_mapped(two_class_logits(logits.reshape(-1)), temperature, a, b, m)
        return positive_logit(pair).view(logits.shape)
    log_probs = (logits / temperature).log_softmax(1)
    top, predicted = log_probs.max(1, keepdim=True)
    others = log_probs.scatter(1, predicted, -math.inf)
    rest = others.logsumexp(1, keepdim=True).clamp(min=_MIN_LOG_PROB)
    # Relative to the other classes, whose probabilities now sum to 1, the odds of the predicted
    # class are its logit.
    relative = others - rest
    odds = torch.maximum(a * top - b * rest + m, relative.amax(1, keepdim=True) + _LEAD)
    return relative.scatter(1, predicted, odds)


def fit_top_label_map(
    logits: Tensor,
    targets: Tensor,
    *,
    family: TopLabelFamily = "platt",
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    temperature: Temperature | None = None,
) -> TopLabelMap:
    """The map of the top-label confidence with the least log loss, after the best temperature.

    A logistic regression of "the prediction is right" on log c and -log(1 - c), by Newton's method.
    The change is shrunken by the part that noise alone gives, so that where the temperature
    suffices the map is that temperature.

    Source: Platt (1999), Advances in Large Margin Classifiers; Kull, Silva Filho and Flach (2017),
    AISTATS, for the beta map; James and Stein (1961), positive part, for the shrinkage. That the
    map acts on the top class alone and may not change it is a deviation from all.

    Args:
        logits: float `[n, k]`, `[n]` binary, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: class ids `[n]` (dense `[n, ...]`) int64.
        family: `platt` has one slope, `beta` two.
        weights: weights shaped like the targets; a weight of 2 counts as two rows.
        ignore_index: target of rows that do not count.
        temperature: temperature fitted to the same rows; None fits it here.

    Raises:
        InputError: as `fit_temperature`.

    Cost: the temperature, one more read of the logits, and `16 n` bytes.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(2000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> fitted = fit_top_label_map(3 * logits, targets)
        >>> mapped = fitted(3 * logits)
        >>> bool((mapped.argmax(1) == logits.argmax(1)).all())
        True
        >>> bool((mapped.softmax(1).amax(1) - logits.softmax(1).amax(1)).abs().mean() < 0.02)
        True
    """
    first = temperature or fit_temperature(
        logits, targets, weights=weights, ignore_index=ignore_index
    )
    x, correct, mass = _top_label_rows(
        labeled_outputs(logits, targets, weights, ignore_index), first.bounded
    )
    accuracy = float(correct @ mass) / float(mass.sum())
    if first.unbounded or not 0 < accuracy < 1:
        return TopLabelMap(family, first.bounded, (1.0, 1.0, 0.0), (math.nan,) * 3, False, True)
    for columns in _DESIGNS[family]:
        design = torch.tensor(columns, dtype=torch.float64)
        coefficients, errors, converged = _shrunken_fit(x @ design, correct, mass)
        slopes, slope_errors = design @ coefficients[:-1], design @ errors[:-1]
        # A negative slope would make the model less confident where it was more so: the other one
        # is fitted alone then.
        if bool((slopes >= 0).all()):
            break
    a, b = slopes.clamp(min=0).tolist()
    a_error, b_error = slope_errors.tolist()
    parameters = (a, b, float(coefficients[-1])), (a_error, b_error, float(errors[-1]))
    return TopLabelMap(family, first.bounded, *parameters, converged, False)


def _top_label_rows(rows: LabeledOutputs, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[n, 2]` log c and -log(1 - c), correctness `[n]` and weights `[n]`, float64."""
    features, correct, mass = [], [], []
    for chunk in rows.chunks():
        log_probs = (chunk.logits.double() / temperature).log_softmax(1)
        top, predicted = log_probs.max(1, keepdim=True)
        rest = log_probs.scatter(1, predicted, -math.inf).logsumexp(1).clamp(min=_MIN_LOG_PROB)
        features.append(torch.stack([top[:, 0], -rest], 1))
        correct.append((predicted[:, 0] == chunk.targets).double())
        mass.append(torch.ones_like(rest) if chunk.weights is None else chunk.weights)
    columns = [torch.cat(features), torch.cat(correct)[:, None], torch.cat(mass).double()[:, None]]
    host = torch.cat(columns, 1).cpu()
    return host[:, :2], host[:, 2], host[:, 3]


def _shrunken_fit(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Coefficients of `_logistic_fit` shrunken towards the identity, their errors, convergence.

    The shrinkage is by a share (p - 1) / W of the way, W being the distance in units of noise.
    """
    fitted, covariance, converged = _logistic_fit(x, y, w)
    # The identity has slopes of 1 and no intercept.
    change = fitted - torch.tensor([1.0] * x.shape[1] + [0.0], dtype=torch.float64)
    distance = float(change @ torch.linalg.pinv(covariance, hermitian=True) @ change)
    noise = min(1.0, (len(fitted) - 1) / distance) if distance > 0 else 1.0
    return fitted - noise * change, covariance.diagonal().clamp(min=0).sqrt(), converged


def _logistic_fit(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Logistic regression on `[n, p]` features and an intercept, by Newton's method.

    Returns:
        Coefficients, their covariance, and whether the fit converged.
    """
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    unit = x.abs().amax(0).clamp(min=1e-12)
    x = x / unit
    at = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = 1e-9 * float(w.sum()) * torch.eye(len(at), dtype=torch.float64)

    def loss(coefficients: Tensor) -> float:
        z = x @ coefficients
        penalty = coefficients @ ridge @ coefficients / 2
        return float((torch.nn.functional.softplus(z) - y * z) @ w + penalty)

    value, converged = loss(at), False
    for _ in range(_MAX_STEPS):
        p = (x @ at).sigmoid()
        gradient = x.T @ (w * (p - y)) + ridge @ at
        curvature = x.T @ (x * (w * p * (1 - p))[:, None]) + ridge
        step = -torch.linalg.solve(curvature, gradient)
        decrease, length = -float(gradient @ step), 1.0
        if decrease <= 1e-10 * float(w.sum()):
            at, converged = at + step, True
            break
        while length > 1e-6 and loss(at + length * step) > value - 1e-4 * length * decrease:
            length /= 2
        at = at + length * step
        value = loss(at)
    return at / unit, torch.linalg.inv(curvature) / torch.outer(unit, unit), converged
