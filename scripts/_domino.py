"""Domino's slice discovery as its paper and its code state it: the reference of hidden groups.

Source: Eyuboglu et al. (2022), ICLR, arXiv:2203.14960, section 4 and appendix; defaults and order
of the slices from `domino` 0.1.5, which asks for scikit-learn 0.24 and meerkat and does not run
beside current numpy.
"""

import torch
from torch import Tensor

_COMPONENTS, _PRINCIPAL, _ITERATIONS = 25, 128, 100
_WEIGHT, _NOISE, _RIDGE, _TOLERANCE = 10.0, 1e-3, 1e-6, 1e-3
_TINY = 2.2e-16


def domino_slices(
    embedding: Tensor, targets: Tensor, probs: Tensor, *, slices: int = 5, seed: int = 0
) -> Tensor:
    """Responsibility of each slice for each row, the largest gap first, `[n, slices]`.

    A mixture of normal distributions with diagonal covariances over principal components, joined
    with the label and the predicted probability, each with weight 10 in the E-step. It starts from
    the cells of the confusion matrix with a little noise. Slices are the components whose label and
    prediction differ most.

    Args:
        embedding: `[n, e]`.
        targets: classes `[n]`.
        probs: predicted probabilities `[n, k]`, k^2 <= 25.
        slices: number of slices.
        seed: of the noise.
    """
    x = _principal(embedding.double())
    y = torch.nn.functional.one_hot(targets.long(), probs.shape[1]).double()
    y_hat = probs.double()
    share = _start(y, y_hat, seed)
    bound = -torch.inf
    for _ in range(_ITERATIONS):
        mean, variance, weight, y_probs, y_hat_probs = _fitted(x, y, y_hat, share)
        scores = weight.log() + _log_normal(x, mean, variance)
        scores += _WEIGHT * (y @ y_probs.T + _TINY).log()
        scores += _WEIGHT * (y_hat @ y_hat_probs.T + _TINY).log()
        norm = scores.logsumexp(1)
        share = (scores - norm[:, None]).exp()
        last, bound = bound, float(norm.mean())
        if abs(bound - last) < _TOLERANCE:
            break
    gap = (y_hat_probs - y_probs).amax(1).abs()
    return share[:, gap.argsort(descending=True, stable=True)[:slices]]


def _principal(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    wanted = min(_PRINCIPAL, *centred.shape)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:wanted].T


def _start(y: Tensor, y_hat: Tensor, seed: int) -> Tensor:
    """Cells of the confusion matrix in turn, with noise by which equal cells part."""
    cells = (y[:, :, None] * y_hat[:, None, :]).flatten(1)
    share = cells.repeat(1, -(-_COMPONENTS // cells.shape[1]))[:, :_COMPONENTS]
    share = share / share.sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    share = share + _NOISE * torch.rand(share.shape, generator=generator, dtype=torch.float64)
    return share / share.sum(1, keepdim=True)


def _fitted(x: Tensor, y: Tensor, y_hat: Tensor, share: Tensor) -> tuple[Tensor, ...]:
    """Means, variances, weights, label and prediction shares of the components (M-step)."""
    count = share.sum(0) + 10 * _TINY
    mean = share.T @ x / count[:, None]
    square = share.T @ x.square() / count[:, None]
    variance = (square - mean.square()).clamp(min=0) + _RIDGE
    parts = (share.T @ side / count[:, None] for side in (y, y_hat))
    return mean, variance, count / len(x), *parts


def _log_normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log-densities `[n, c]`."""
    precision = 1 / variance
    squares = x.square() @ precision.T - 2 * x @ (mean * precision).T
    squares += (mean.square() * precision).sum(1)
    return -0.5 * (squares + (2 * torch.pi * variance).log().sum(1))
