"""Maps of the confidence alone: the predicted class keeps its place, only how sure the model is
changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature import Temperature, fit_temperature
from gendebug_torch.calibration.model_outputs import chunks, validated
from gendebug_torch.errors import UnsupportedError

TopFamily = Literal["platt", "beta"]

# The predicted class stays ahead of the runner-up by this many nats, far above the rounding of
# float32.
_LEAD = 1e-5
_MOST_STEPS = 50
# Log probabilities below this are as good as never; it keeps the features of hard zeros finite.
_NEVER = -700.0


@dataclass(frozen=True)
class TopMap:
    """A map of the confidence c of the predicted class after a temperature:
    `logit c' = a log c - b log(1 - c) + m`.

    The other classes share `1 - c'` as they shared `1 - c`, and c' never falls so low that another
    class would lead.

    Args:
        family: `platt` (a = b) or `beta`.
        temperature: applied first.
        coefficients: a, b, m, shrunken towards 1, 1, 0.
        standard_errors: of a, b, m before that, by the curvature, the temperature taken as given.
        converged: whether the last Newton step promised less than 1e-10 nats per row.
        unbounded: whether the predictions are all right or all wrong, so that there is nothing to
            fit.
    """

    family: TopFamily
    temperature: float
    coefficients: tuple[float, float, float]
    standard_errors: tuple[float, float, float]
    converged: bool
    unbounded: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """Mapped logits, `[n, k]`, `[n]` or dense, in the dtype of the input; no prediction
        changes.

        Raises:
            UnsupportedError: there was nothing to fit.
        """
        if self.unbounded:
            raise UnsupportedError(
                "every prediction of these rows is right, or wrong; fit the map on rows that hold "
                "both"
            )
        return top_mapped(logits, self.temperature, *self.coefficients)


def top_mapped(
    logits: Tensor,
    temperature: float | Tensor,
    a: float | Tensor,
    b: float | Tensor,
    m: float | Tensor,
) -> Tensor:
    """Logits `[n, k, ...]` or `[n]` after a temperature and a map of the top confidence (see
    `TopMap`).
    """
    if logits.ndim == 1:
        pair = top_mapped(torch.stack([torch.zeros_like(logits), logits], 1), temperature, a, b, m)
        return pair[:, 1] - pair[:, 0]
    log_probs = (logits / temperature).log_softmax(1)
    top, said = log_probs.max(1, keepdim=True)
    others = log_probs.scatter(1, said, -math.inf)
    rest = others.logsumexp(1, keepdim=True).clamp(min=_NEVER)
    # Relative to the other classes, whose probabilities now sum to 1, the odds of the predicted
    # class are its logit.
    relative = others - rest
    odds = torch.maximum(a * top - b * rest + m, relative.amax(1, keepdim=True) + _LEAD)
    return relative.scatter(1, said, odds)


def fit_top_map(
    logits: Tensor,
    targets: Tensor,
    *,
    family: TopFamily = "platt",
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    temperature: Temperature | None = None,
) -> TopMap:
    """The map of the top confidence that makes being right likeliest, after the best temperature.

    A logistic regression of "the prediction is right" on log c and -log(1 - c), by Newton's method.
    What it changes is shrunken by the part that noise alone gives, so that where the temperature
    says it all the map is that temperature.

    Source: Platt (1999), Advances in Large Margin Classifiers; Kull, Silva Filho and Flach (2017),
    AISTATS, for the beta map; James and Stein (1961), positive part, for the shrinkage. That the
    map acts on the top class alone and may not change it is a deviation from all.

    Args:
        logits: `[n, k]` float, `[n]` binary, or dense `[n, k, ...]`; a masked class may be -inf.
        targets: `[n]` (dense `[n, ...]`) int64 class ids.
        family: `platt` has one slope, `beta` two.
        weights: shaped like targets; a weight of 2 counts as two rows.
        ignore_index: target of rows that do not count.
        temperature: as fitted before to the same rows; else it is fitted here.

    Raises:
        InputError: as `fit_temperature`.

    Cost: the temperature, one more read of the logits, and `16 n` bytes.
    """
    before = temperature or fit_temperature(
        logits, targets, weights=weights, ignore_index=ignore_index
    )
    validated(logits, targets, weights, ignore_index)
    features, right, mass = [], [], []
    for chunk in chunks(logits, targets, weights, ignore_index):
        log_probs = (chunk.logits.double() / before.bounded).log_softmax(1)
        top, said = log_probs.max(1, keepdim=True)
        rest = log_probs.scatter(1, said, -math.inf).logsumexp(1).clamp(min=_NEVER)
        features.append(torch.stack([top[:, 0], -rest], 1))
        right.append((said[:, 0] == chunk.targets).double())
        mass.append(torch.ones_like(rest) if chunk.weights is None else chunk.weights)
    x, y, w = torch.cat(features).cpu(), torch.cat(right).cpu(), torch.cat(mass).cpu()
    share = float(y @ w) / float(w.sum())
    if before.unbounded or not 0 < share < 1:
        return TopMap(family, before.bounded, (1.0, 1.0, 0.0), (math.nan,) * 3, False, True)
    designs = (
        [torch.tensor([[1.0], [1.0]])]
        if family == "platt"
        else [torch.eye(2), torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])]
    )
    for design in designs:
        coefficients, errors, converged = _shrunken(x @ design.double(), y, w)
        slopes, slope_errors = design.double() @ coefficients[:-1], design.double() @ errors[:-1]
        # A negative slope would make the model less sure where it was surer: the other one is
        # fitted alone then.
        if bool((slopes >= 0).all()):
            break
    a, b = slopes.clamp(min=0).tolist()
    return TopMap(
        family,
        before.bounded,
        (a, b, float(coefficients[-1])),
        (*slope_errors.tolist(), float(errors[-1])),
        converged,
        False,
    )


def _shrunken(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, bool]:
    """As `_logistic`, moved back towards no change by a share (p - 1) / W of the way, W being the
    distance in units of noise.
    """
    found, covariance, converged = _logistic(x, y, w)
    # No change: slopes of 1 and no intercept.
    apart = found - torch.tensor([1.0] * x.shape[1] + [0.0], dtype=torch.float64)
    distance = float(apart @ torch.linalg.pinv(covariance, hermitian=True) @ apart)
    noise = min(1.0, (len(found) - 1) / distance) if distance > 0 else 1.0
    return found - noise * apart, covariance.diagonal().clamp(min=0).sqrt(), converged


def _logistic(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Coefficients of `[n, p]` features and an intercept, their covariance, and whether Newton's
    method converged.
    """
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    unit = x.abs().amax(0).clamp(min=1e-12)
    x = x / unit
    at = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = 1e-9 * float(w.sum()) * torch.eye(len(at), dtype=torch.float64)

    def loss(coefficients: Tensor) -> float:
        z = x @ coefficients
        return float(
            (torch.nn.functional.softplus(z) - y * z) @ w + coefficients @ ridge @ coefficients / 2
        )

    value, converged = loss(at), False
    for _ in range(_MOST_STEPS):
        p = (x @ at).sigmoid()
        gradient = x.T @ (w * (p - y)) + ridge @ at
        curvature = x.T @ (x * (w * p * (1 - p))[:, None]) + ridge
        step = -torch.linalg.solve(curvature, gradient)
        promised, length = -float(gradient @ step), 1.0
        if promised <= 1e-10 * float(w.sum()):
            at, converged = at + step, True
            break
        while length > 1e-6 and loss(at + length * step) > value - 1e-4 * length * promised:
            length /= 2
        at = at + length * step
        value = loss(at)
    return at / unit, torch.linalg.inv(curvature) / torch.outer(unit, unit), converged
