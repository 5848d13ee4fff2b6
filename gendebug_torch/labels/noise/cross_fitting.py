"""Out-of-sample logits by cross-fitting: one small network per fold, all trained as one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject

_BATCH = 256
# Gradient steps: this many passes over the rows, within these limits.
_PASSES, _MIN_STEPS, _MAX_STEPS = 10, 100, 1500
# Evaluations of the held-out loss, for early stopping.
_EVALUATIONS = 12
# Standard deviations of the noise on standardized inputs: next to none for few sharp features,
# much for many weak ones such as pixels.
_INPUT_NOISE = (0.05, 0.8)


def cross_fitted_logits(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    folds: int = 5,
    hidden: int = 48,
    scaled: bool = False,
    seed: int = 0,
) -> Tensor:
    """`[n, k]` float32 logits of each row by networks that did not see its label.

    For each of two strengths of input noise, one network per fold with two hidden layers. The
    strength and the step of least held-out loss are selected (early stopping). At most 1500 steps
    of 256 rows, however many rows there are.

    Source: Stone (1974), J. R. Stat. Soc. B 36:111, cross-validation; Bishop (1995), Neural Comput.
    7:108, noise as regularizer.

    Args:
        features: numbers, `[n, d]`.
        targets: class ids, `[n]` int64.
        classes: number of classes k, default the largest label + 1.
        folds: number of folds.
        hidden: width of the hidden layers.
        scaled: whether the features are scaled already, as by `probe_network.design`; else they are
            standardized. Unit variance would let a network memorize rare levels.
        seed: seed of folds, weights and batches; the global random state is not touched.

    Raises:
        InputError: other shapes, fewer rows than two per fold.

    Example:
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).long()
        >>> float((cross_fitted_logits(x, y).argmax(1) == y).double().mean()) > 0.9
        True
    """
    _validate(features, targets, folds)
    n, k = len(targets), int(classes or int(targets.max()) + 1)
    generator = torch.Generator().manual_seed(seed)
    x, y = features.float() if scaled else standardized(features), targets.to(features.device)
    levels = len(_INPUT_NOISE)
    networks = _Networks(levels * folds, (x.shape[1], hidden, hidden, k), generator, x.device)
    order = torch.randperm(n, generator=generator).to(x.device)
    held_out, training = _partition(order, folds, levels)
    inside, rows = held_out >= 0, held_out.clamp(min=0)
    evaluations = _training(networks, x, y, training, rows, generator)
    logits = _least_loss(evaluations, y[rows], inside, folds)
    valid = inside[:folds].flatten()
    return x.new_zeros(n, k).index_copy_(0, rows[:folds].flatten()[valid], logits[valid])


def _validate(features: Tensor, targets: Tensor, folds: int) -> None:
    n = len(targets)
    if (
        features.ndim != 2
        or targets.ndim != 1
        or len(features) != n
        or targets.dtype != torch.int64
    ):
        got = f"{list(features.shape)} with {targets.dtype} {list(targets.shape)}"
        reject(
            "features, targets", "[n, d] and int64 [n]", got, "Pass one row of numbers per label."
        )
    if folds < 2 or n < 2 * folds:
        reject(
            "features",
            f"at least {2 * max(folds, 2)} rows for {folds} folds, and 2 folds",
            f"{n} rows",
            "Pass more rows.",
        )


class _Networks:
    """m networks with ReLU layers of the given sizes as batched weights; input `[m, b, d]`."""

    def __init__(
        self, m: int, sizes: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> None:
        shapes = list(pairwise(sizes))
        # Small last weights: the first predictions are the same for all rows.
        gains = [2.0] * (len(shapes) - 1) + [0.01]
        self.weights = [
            (torch.randn(m, *shape, generator=generator) * math.sqrt(gain / max(shape[0], 1)))
            .to(device)
            .requires_grad_(True)
            for shape, gain in zip(shapes, gains, strict=True)
        ]
        self.biases = [
            torch.zeros(m, 1, shape[1], device=device, requires_grad=True) for shape in shapes
        ]

    @property
    def parameters(self) -> list[Tensor]:
        return self.weights + self.biases

    def __call__(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = nn.functional.relu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def _training(
    networks: _Networks,
    x: Tensor,
    y: Tensor,
    training: Tensor,
    held_out: Tensor,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Train the networks; yields their `[m, h, k]` held-out log-probabilities at each evaluation.

    Args:
        networks: m networks.
        x: inputs, `[n, d]`.
        y: class ids, `[n]` int64.
        training: rows that each network learns from, `[m, t]` int64.
        held_out: rows that it does not see, `[m, h]` int64.
        generator: source of batches and input noise.
    """
    steps = min(max(_PASSES * len(x) // _BATCH, _MIN_STEPS), _MAX_STEPS)
    folds = len(training) // len(_INPUT_NOISE)
    noise = torch.tensor(_INPUT_NOISE, device=x.device).repeat_interleave(folds)[:, None, None]
    optimizer = torch.optim.AdamW(networks.parameters, lr=1e-3, weight_decay=1e-3)
    for step in range(steps):
        inputs, labels = _batch(x, y, training, noise, generator)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(
                networks(inputs).flatten(0, 1), labels.flatten(), reduction="sum"
            )
            optimizer.zero_grad()
            (loss / labels.shape[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = _learning_rate(step / steps)
        optimizer.step()
        if (step + 1) % max(1, steps // _EVALUATIONS) == 0:
            with torch.no_grad():
                yield networks(x[held_out]).log_softmax(2)


def _least_loss(
    evaluations: Iterator[Tensor], labels: Tensor, inside: Tensor, folds: int
) -> Tensor:
    """`[folds * h, k]` held-out log-probabilities of the step and input noise of least loss.

    Args:
        evaluations: held-out log-probabilities over the steps, each `[m, h, k]`.
        labels: class ids of the held-out rows, `[m, h]` int64.
        inside: whether a row is held out, not padding, `[m, h]` bool.
        folds: number of networks for each strength of input noise.
    """
    best = labels.new_full((len(labels) // folds,), math.inf, dtype=torch.float32)
    logits = best.new_zeros(1)
    for log_probs in evaluations:
        losses = -log_probs.gather(2, labels[..., None])[..., 0] * inside
        loss = losses.view(len(best), -1).sum(1)
        better = (loss < best).repeat_interleave(folds)[:, None, None]
        best, logits = torch.minimum(loss, best), torch.where(better, log_probs, logits)
    return logits.view(len(best), -1, logits.shape[-1])[int(best.argmin())]


def _batch(
    x: Tensor, y: Tensor, training: Tensor, noise: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch per network: `[m, b, d]` noisy inputs and `[m, b]` labels."""
    m, rows = training.shape
    positions = torch.randint(rows, (m, min(_BATCH, rows)), generator=generator)
    drawn = training.gather(1, positions.to(x.device))
    inputs = x[drawn]
    return inputs + noise * torch.randn(inputs.shape, generator=generator).to(x.device), y[drawn]


def standardized(features: Tensor) -> Tensor:
    """`[n, d]` float32 with mean 0 and standard deviation 1, clipped at 8; NaN becomes the mean."""
    x = features.double()
    mean = x.nanmean(0).nan_to_num(0.0)
    x = torch.where(x.isfinite(), x, mean) - mean
    deviation = x.square().mean(0).sqrt()
    varying = deviation > 1e-12 * (mean.abs() + 1)
    return (x / torch.where(varying, deviation, 1.0)).clamp(-8.0, 8.0).float()


def _partition(order: Tensor, folds: int, copies: int) -> tuple[Tensor, Tensor]:
    """Held-out rows `[copies * folds, h]`, padded with -1, and training rows of each network."""
    cuts = [round(len(order) * i / folds) for i in range(folds + 1)]
    widest = max(end - start for start, end in pairwise(cuts))
    held_out, training = [], []
    for start, end in pairwise(cuts):
        held_out.append(nn.functional.pad(order[start:end], (0, widest - (end - start)), value=-1))
        training.append(torch.cat([order[:start], order[end:]])[: len(order) - widest])
    return torch.stack(held_out).repeat(copies, 1), torch.stack(training).repeat(copies, 1)


def _learning_rate(progress: float) -> float:
    """One cycle: up to 0.03 over the first quarter, then down to 0 (Smith and Topin, 2019)."""
    if progress < 0.25:
        return 0.03 * progress / 0.25 + 1e-3
    return 0.015 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) + 1e-5
