"""Maximum likelihood of calibration and label noise together, its test and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.stats.intervals import normal_quantile

_EM_STEPS, _ALTERNATIONS = 25, 3
# Rows of uniform noise per class added to the data, so that no cell of the transition is 0.
_PRIOR_ROWS = 2.0
# A penalty of a hundredth of a row pulls scale and offsets to 1 and 0: separable classes have a
# finite fit.
_RIDGE = 0.01
_TINY = 1e-300

# `[n, k]` log-probabilities -> `[n]` negative log-likelihood of each label, in nats.
_Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NoiseFit:
    """Calibrated probabilities `softmax(scale z + offsets)` and how true classes are labeled.

    Args:
        scale: factor on the logits.
        offsets: offset of each class, `[k]`.
        transition: probability of each label (column) for each true class (row), `[k, k]`.
    """

    scale: float
    offsets: Tensor
    transition: Tensor

    def probs(self, z: Tensor) -> Tensor:
        """`[n, k]` calibrated probabilities of the true class."""
        return (z * self.scale + self.offsets).softmax(1)


def fit_noise(z: Tensor, targets: Tensor) -> NoiseFit:
    """A transition per pair of classes by EM, alternating with the calibration.

    Args:
        z: logits, `[n, k]` float64.
        targets: class ids, `[n]` int64.
    """
    fit = _fit_uniform(z, targets)
    uniform = fit.transition
    for _ in range(_ALTERNATIONS):
        transition = _transition(fit.probs(z), targets, fit.transition, uniform)
        scale, offsets = _calibration(z, targets, transition, start=fit)
        fit = NoiseFit(scale, offsets, transition)
    return fit


def error_probability(probs: Tensor, targets: Tensor, transition: Tensor) -> Tensor:
    """`[n]` probability that the true class is another than the given one.

    Args:
        probs: calibrated probabilities of the true class, `[n, k]`.
        targets: given class ids, `[n]` int64.
        transition: probability of each label for each true class, `[k, k]`.
    """
    joint = probs * transition[:, targets].T
    own = joint.gather(1, targets[:, None])[:, 0]
    return (1 - own / joint.sum(1).clamp(min=_TINY)).clamp(0.0, 1.0)


def noise_p_value(z: Tensor, targets: Tensor) -> float:
    """P-value of no label noise: the smaller of two tests, doubled (Bonferroni).

    Uniform noise is one number: half of a chi-square with one degree of freedom, since it cannot be
    negative (Chernoff, 1954). Noise per pair of classes is k (k - 1) numbers, for which asymptotics
    fail: it is fitted on one half of the rows and its likelihood ratio taken on the other, both
    ways, where `exp(-log ratio)` bounds the p-value (Wasserman, Ramdas and Balakrishnan, 2020).

    Args:
        z: logits, `[n, k]` float64.
        targets: class ids, `[n]` int64.
    """
    if len(z) < 4:
        return 1.0
    gain = _log_likelihood_ratio(z, targets, _fit_uniform(z, targets))
    uniform = 0.5 * math.erfc(math.sqrt(max(gain, 0.0)))
    halves = [(z[half::2], targets[half::2]) for half in (0, 1)]
    ratios = [
        _log_likelihood_ratio(*test, fit_noise(*training))
        for test, training in (halves, halves[::-1])
    ]
    bound = -torch.tensor(ratios, dtype=torch.float64).logsumexp(0) + math.log(2.0)
    return min(1.0, 2 * min(uniform, math.exp(min(float(bound), 0.0))))


def noise_interval(
    z: Tensor, targets: Tensor, fit: NoiseFit, rate: float, level: float
) -> tuple[float, float]:
    """Confidence bounds of the rate.

    All noise is scaled by one factor and the logits by another; their curvature gives the variance.
    At rate 0 the curvature says nothing: the upper bound is where uniform noise costs too much
    likelihood.

    Args:
        z: logits, `[n, k]` float64.
        targets: class ids, `[n]` int64.
        fit: calibration and noise fitted to them.
        rate: estimated share of wrong labels.
        level: coverage.
    """
    quantile = normal_quantile(0.5 + level / 2)
    if rate * len(z) <= 0.5:
        return 0.0, _highest_uniform_rate(fit.probs(z), targets, quantile**2 / 2)
    deviation = math.sqrt(min(max(_log_rate_variance(z, targets, fit), 0.0), 100.0))
    factor = math.exp(quantile * deviation)
    return rate / factor, min(1.0, rate * factor)


def _log_rate_variance(z: Tensor, targets: Tensor, fit: NoiseFit) -> float:
    """Variance of the logarithm of the noise, from the curvature of the likelihood."""
    off = fit.transition - torch.diag(fit.transition.diagonal())

    def loss(point: Tensor) -> Tensor:
        probs = (z * fit.scale * point[0].exp() + fit.offsets).softmax(1)
        own = probs.gather(1, targets[:, None])[:, 0]
        noise = (probs * off[:, targets].T).sum(1) - off.sum(1)[targets] * own
        return -(own + point[1].exp() * noise).clamp(min=_TINY).log().sum()

    hessian = torch.autograd.functional.hessian(loss, z.new_zeros(2))  # type: ignore[no-untyped-call]
    return float(torch.linalg.pinv(hessian, hermitian=True)[1, 1])


def _highest_uniform_rate(probs: Tensor, targets: Tensor, cost: float) -> float:
    """Largest rate of uniform noise within `cost` nats of the most likely one."""
    own = probs.gather(1, targets[:, None])[:, 0]
    other = (1 - own) / (probs.shape[1] - 1)
    rates = torch.cat([torch.zeros(1), torch.logspace(-6, math.log10(0.999), 100)]).to(probs)
    gain = (own + rates[:, None] * (other - own)).clamp(min=_TINY).log().sum(1)
    return float(rates[gain >= gain.max() - cost].max())


def _fit_uniform(z: Tensor, targets: Tensor) -> NoiseFit:
    """Every other class is equally likely to be the label by mistake."""
    k = z.shape[1]
    log_scale, offsets, logit = _start(z)

    def nats(log_probs: Tensor) -> Tensor:
        own = log_probs.gather(1, targets[:, None])[:, 0].exp()
        label = own + logit.sigmoid() * ((1 - own) / (k - 1) - own)
        return -label.clamp(min=_TINY).log()

    _minimize(z, (log_scale, offsets, logit), nats, iterations=60)
    rate = float(logit.detach().sigmoid())
    transition = z.new_full((k, k), rate / (k - 1)).fill_diagonal_(1 - rate)
    return NoiseFit(float(log_scale.detach().exp()), offsets.detach(), transition)


def _calibration(
    z: Tensor, targets: Tensor, transition: Tensor, *, start: NoiseFit | None = None
) -> tuple[float, Tensor]:
    """Maximum likelihood of scale and offsets under a fixed transition."""
    log_scale, offsets, _ = _start(z)
    if start is not None:
        log_scale, offsets = z.new_tensor(math.log(start.scale)), start.offsets.clone()
    log_label = transition[:, targets].T.log()
    _minimize(
        z,
        (log_scale, offsets),
        lambda log_probs: -(log_probs + log_label).logsumexp(1),
        iterations=60 if start is None else 10,
    )
    return float(log_scale.detach().exp()), offsets.detach()


def _minimize(z: Tensor, parameters: tuple[Tensor, ...], nats: _Loss, *, iterations: int) -> None:
    """Move log scale, offsets and further parameters to the minimum of the penalized loss."""
    log_scale, offsets = parameters[:2]
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            list(parameters), max_iter=iterations, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_probs = (z * log_scale.exp() + offsets).log_softmax(1)
            penalty = _RIDGE * (log_scale.square() + offsets.square().sum()) / len(z)
            value = nats(log_probs).mean() + penalty
            value.backward()  # type: ignore[no-untyped-call]
            return value

        if len(z):
            optimizer.step(loss)  # type: ignore[no-untyped-call]


def _start(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log scale, offsets and log-odds of noise to start from.

    The scale of standardized logits keeps the first step short, whatever their unit.
    """
    log_scale = -z.std().clamp(min=1.0).log() / 2 if z.numel() > 1 else z.new_zeros(())
    return log_scale, z.new_zeros(z.shape[1]), z.new_tensor(-3.0)


def _log_likelihood_ratio(z: Tensor, targets: Tensor, noisy: NoiseFit) -> float:
    """Nats that a fit with noise gains over the best fit without noise to these rows."""
    clean = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    without = NoiseFit(*_calibration(z, targets, clean), clean)
    return _log_likelihood(z, targets, noisy) - _log_likelihood(z, targets, without)


def _log_likelihood(z: Tensor, targets: Tensor, fit: NoiseFit) -> float:
    log_probs = (z * fit.scale + fit.offsets).log_softmax(1)
    return float((log_probs + fit.transition[:, targets].T.log()).logsumexp(1).sum())


def _transition(probs: Tensor, targets: Tensor, transition: Tensor, uniform: Tensor) -> Tensor:
    """`[k, k]` transition by EM, with a prior of a few rows of uniform noise per class."""
    for _ in range(_EM_STEPS):
        joint = probs * transition[:, targets].T
        joint = joint / joint.sum(1, keepdim=True).clamp(min=_TINY)
        counts = torch.zeros_like(transition).index_add_(0, targets, joint).T
        counts = counts + _PRIOR_ROWS * uniform
        transition = counts / counts.sum(1, keepdim=True)
    return transition
