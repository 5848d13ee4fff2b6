"""Maximum likelihood of calibration and label noise together, its test and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.labels.noise.minimization import minimized, offset_penalty
from gendebug_torch.stats.intervals import normal_quantile

_EM_STEPS, _ALTERNATIONS = 25, 3
# Rows of uniform noise per class added to the data, so that no cell of the transition is 0.
_PRIOR_ROWS = 2.0
# Pairwise noise is not fitted to fewer rows per class: it would never predict better.
_MIN_ROWS_PER_CLASS = 20
# Confident rows: this share of each predicted class, if the probability is at least the limit.
_CONFIDENT_SHARE, _MIN_CONFIDENCE = 0.65, 0.7
# Half of the 99 % quantile, one-sided, of a chi-square with one degree of freedom.
_CONTRADICTION = 2.706
_TINY = 1e-300


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
        return self.logits(z).T.softmax(0).T

    def logits(self, z: Tensor) -> Tensor:
        """`[n, k]` calibrated logits of the true class."""
        return (z.T * self.scale + self.offsets[:, None]).T


def fit_noise(z: Tensor, targets: Tensor) -> tuple[NoiseFit, float]:
    """Calibration with uniform or pairwise noise, and the p-value of no noise.

    Uniform noise is one number: half of a chi-square with one degree of freedom, since it cannot be
    negative (Chernoff, 1954). Pairwise noise is k (k - 1) numbers: it is fitted on one half of the
    rows and its likelihood ratio taken on the other, both ways, where `exp(-log ratio)` bounds the
    p-value (Wasserman, Ramdas and Balakrishnan, 2020). The smaller p-value of the two is doubled
    (Bonferroni). Pairwise noise is the estimate only where it predicts held-out labels better than
    uniform noise does: of few rows per class it would find noise everywhere.

    Noise that the most confident rows do not show is miscalibration, with a p-value of 1: errors of
    a network that memorizes rare levels, or has few rows per class, fade where it is sure, and
    wrong labels do not. Cost: some 200 passes over `[n, k]`.

    Args:
        z: logits, `[n, k]` float64.
        targets: class ids, `[n]` int64.
    """
    clean = _fit_clean(z, targets)
    uniform = _fit_uniform(z, targets, clean)
    if len(z) < 4:
        return uniform, 1.0
    gain = _penalized(z, targets, uniform) - _penalized(z, targets, clean)
    p_value = 0.5 * math.erfc(math.sqrt(max(gain, 0.0)))
    fit = uniform
    if len(z) >= _MIN_ROWS_PER_CLASS * z.shape[1]:
        halves = [(z[half::2], targets[half::2]) for half in (0, 1)]
        one, other = ((*half, _fit_clean(*half)) for half in halves)
        both = [_held_out_gains(one, other), _held_out_gains(other, one)]
        gains = torch.tensor(both, dtype=torch.float64)
        bound = math.log(2.0) - float(gains[:, 0].logsumexp(0))
        p_value = 2 * min(p_value, math.exp(min(bound, 0.0)))
        if float(gains[:, 1].sum()) > 0:
            fit = _fit_pairwise(z, targets, uniform)
    if p_value < 0.05:
        rows = _confident_rows(clean.probs(z))
        confident = _contradiction(z[rows], targets[rows], fit)
        if confident is not None:
            return calibrated(z, targets, confident, clean), 1.0
    return fit, min(1.0, p_value)


def _confident_rows(probs: Tensor) -> Tensor:
    """`[m]` int64 most confident rows of each predicted class, each above a limit."""
    confidence, predicted = probs.max(1)
    order = confidence.argsort(descending=True, stable=True)
    order = order[predicted[order].argsort(stable=True)]
    counts = torch.bincount(predicted, minlength=probs.shape[1])
    rank = (
        torch.arange(len(order), device=order.device)
        - (counts.cumsum(0) - counts)[predicted[order]]
    )
    first = rank < _CONFIDENT_SHARE * counts[predicted[order]]
    return order[first & (confidence[order] >= _MIN_CONFIDENCE)].sort().values


def _contradiction(z: Tensor, targets: Tensor, fit: NoiseFit) -> Tensor | None:
    """`[k, k]` transition of confident rows if they are significantly less noisy than `fit`."""
    eye = torch.eye(len(fit.transition), dtype=z.dtype, device=z.device)
    if not len(z):
        return eye
    # One scale over the fitted logits: offsets of many classes, free on few confident rows, would
    # explain every error among them.
    z = fit.logits(z)
    start = NoiseFit(1.0, z.new_zeros(z.shape[1]), eye)
    confident = _fit_uniform(z, targets, start, fixed_offsets=True)
    if float(confident.transition[0, 0]) <= float(fit.transition.diagonal().mean()):
        return None
    expected = calibrated(z, targets, fit.transition, confident, fixed_offsets=True)
    loss = log_likelihood(z, targets, confident) - log_likelihood(z, targets, expected)
    return confident.transition if loss > _CONTRADICTION else None


def _held_out_gains(
    some: tuple[Tensor, Tensor, NoiseFit], others: tuple[Tensor, Tensor, NoiseFit]
) -> tuple[float, float]:
    """Nats of the pairwise fit to some rows over clean and over uniform noise, on other rows.

    The clean fit is that to the other rows, as the split test requires, and no worse than it.

    Args:
        some: logits, targets and clean fit of the rows that are fitted.
        others: the same of the other rows.
    """
    z, targets, _ = some
    uniform = _fit_uniform(*some)
    pairwise = log_likelihood(*others[:2], _fit_pairwise(z, targets, uniform))
    return pairwise - log_likelihood(*others), pairwise - log_likelihood(*others[:2], uniform)


def label_probs(probs: Tensor, transition: Tensor) -> Tensor:
    """`[n, k]` probability of each label; O(n k) under uniform noise, else O(n k^2).

    Args:
        probs: calibrated probabilities of the true class, `[n, k]`.
        transition: probability of each label for each true class, `[k, k]`.
    """
    other = transition[0, 1]
    stays = transition.diagonal()
    uniform = transition.new_full(transition.shape, float(other)).diagonal_scatter(stays)
    if torch.equal(uniform, transition):
        return other + probs * (stays - other)
    return probs @ transition


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
    by_class, of_label, away = z.T.contiguous(), off[:, targets], off.sum(1)[targets]

    def loss(point: Tensor) -> Tensor:
        scaled = by_class * fit.scale * point[0].exp()
        probs = (scaled + fit.offsets[:, None]).softmax(0)
        own = probs.gather(0, targets[None])[0]
        noise = (probs * of_label).sum(0) - away * own
        return -(own + point[1].exp() * noise).clamp(min=_TINY).log().sum()

    zeros = z.new_zeros(2)
    hessian = torch.autograd.functional.hessian(loss, zeros)  # type: ignore[no-untyped-call]
    return float(torch.linalg.pinv(hessian, hermitian=True)[1, 1])


def _highest_uniform_rate(probs: Tensor, targets: Tensor, cost: float) -> float:
    """Largest rate of uniform noise within `cost` nats of the most likely one."""
    own = probs.gather(1, targets[:, None])[:, 0]
    other = (1 - own) / (probs.shape[1] - 1)
    rates = torch.cat([torch.zeros(1), torch.logspace(-6, math.log10(0.999), 100)]).to(probs)
    gain = (own + rates[:, None] * (other - own)).clamp(min=_TINY).log().sum(1)
    return float(rates[gain >= gain.max() - cost].max())


def _fit_clean(z: Tensor, targets: Tensor) -> NoiseFit:
    """Calibration without noise."""
    start = torch.zeros(1 + z.shape[1], dtype=torch.float64)
    if z.numel() > 1:
        # The scale of standardized logits keeps the first step short, whatever their unit.
        start[0] = -float(z.std().clamp(min=1.0).log()) / 2

    def loss(probs: Tensor, rows: slice, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = probs.gather(0, targets[None, rows])
        nats = -own.clamp(min=_TINY).log().sum()
        return nats, _minus_own(probs, targets[rows], torch.ones_like(own)), own.new_zeros(0)

    return _noise_fit(minimized(z, start, loss), torch.eye(z.shape[1], dtype=z.dtype), z)


def _fit_uniform(
    z: Tensor, targets: Tensor, start: NoiseFit, *, fixed_offsets: bool = False
) -> NoiseFit:
    """Every other class is equally likely to be the label by mistake."""
    k = z.shape[1]

    def loss(probs: Tensor, rows: slice, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rate = logit.sigmoid()
        own, other = probs.gather(0, targets[None, rows]), rate / (k - 1)
        label = (other + own * (1 - rate - other)).clamp(min=_TINY)
        slope = ((1 - own) / (k - 1) - own) / label
        away = 1 - other / label
        gradient = _minus_own(probs * away, targets[rows], away)
        return -label.log().sum(), gradient, -slope.sum() * rate * (1 - rate)

    point = torch.cat([_point(start), torch.tensor([-3.0], dtype=torch.float64)])
    point = minimized(z, point, loss, fixed_offsets=fixed_offsets)
    rate = float(point[-1].sigmoid())
    transition = z.new_full((k, k), rate / (k - 1)).fill_diagonal_(1 - rate)
    return _noise_fit(point, transition, z)


def _fit_pairwise(z: Tensor, targets: Tensor, uniform: NoiseFit) -> NoiseFit:
    """A transition per pair of classes by EM, alternating with the calibration."""
    fit = uniform
    for _ in range(_ALTERNATIONS):
        transition = _transition(fit.probs(z), targets, fit.transition, uniform.transition)
        fit = calibrated(z, targets, transition, fit, iterations=10)
    return fit


def calibrated(
    z: Tensor,
    targets: Tensor,
    transition: Tensor,
    start: NoiseFit,
    *,
    iterations: int = 60,
    fixed_offsets: bool = False,
) -> NoiseFit:
    """Scale and offsets under a fixed transition.

    Args:
        z: logits, `[n, k]` float64.
        targets: class ids, `[n]` int64.
        transition: probability of each label for each true class, `[k, k]`.
        start: fit to start from.
        iterations: most iterations.
        fixed_offsets: whether offsets stay as they start.
    """
    of_label = transition[:, targets]

    def loss(probs: Tensor, rows: slice, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        joint = probs * of_label[:, rows]
        label = joint.sum(0, keepdim=True).clamp(min=_TINY)
        return -label.log().sum(), probs - joint / label, label.new_zeros(0)

    point = minimized(z, _point(start), loss, iterations=iterations, fixed_offsets=fixed_offsets)
    return _noise_fit(point, transition, z)


def _point(fit: NoiseFit) -> Tensor:
    """Log scale and offsets of a fit as a vector `[1 + k]` on the host."""
    return torch.cat([torch.tensor([math.log(fit.scale)]).double(), fit.offsets.cpu()])


def _noise_fit(point: Tensor, transition: Tensor, z: Tensor) -> NoiseFit:
    k = z.shape[1]
    return NoiseFit(float(point[0].exp()), point[1 : k + 1].to(z), transition.to(z))


def _minus_own(gradient: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """The gradient `[k, n]` less `[1, n]` values at the given labels, in place."""
    return gradient.scatter_add_(0, targets[None], -values)


def log_likelihood(z: Tensor, targets: Tensor, fit: NoiseFit) -> float:
    """Nats of the labels under a fit."""
    label = (fit.probs(z).T * fit.transition[:, targets]).sum(0)
    return float(label.clamp(min=_TINY).log().sum())


def _penalized(z: Tensor, targets: Tensor, fit: NoiseFit) -> float:
    """Nats of the labels less what the offsets cost."""
    return log_likelihood(z, targets, fit) - offset_penalty(fit.offsets)


def _transition(probs: Tensor, targets: Tensor, transition: Tensor, uniform: Tensor) -> Tensor:
    """`[k, k]` transition by EM, with a prior of a few rows of uniform noise per class."""
    for _ in range(_EM_STEPS):
        label = (probs.T * transition[:, targets]).sum(0).clamp(min=_TINY)
        sums = torch.zeros_like(transition).index_add_(1, targets, probs.T / label)
        counts = sums * transition + _PRIOR_ROWS * uniform
        transition = counts / counts.sum(1, keepdim=True)
    return transition
