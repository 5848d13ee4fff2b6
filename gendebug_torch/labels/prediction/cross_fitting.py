"""Out-of-sample answers by cross-fitting: one small network per fold, all trained as one batch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gendebug_torch.errors import NO_DEADLINE, Deadline, reject
from gendebug_torch.labels.prediction.small_networks import Networks, Truth
from gendebug_torch.progress import progress_bar

# Folds of the checks: with fewer, each network sees too few rows.
FOLDS = 4
_BATCH = 256
# Gradient steps: this many passes over the rows, within these limits.
_PASSES, _MIN_STEPS, _MAX_STEPS = 10, 100, 1500
# Evaluations of the held-out loss, for early stopping.
_EVALUATIONS = 24
# Standard deviations of the noise on standardized inputs: next to none for few sharp features,
# much for many weak ones such as pixels.
_INPUT_NOISE = (0.1, 0.4, 0.8)
# Share of the steps after which only the strength of input noise that does better goes on.
_TRIAL = 0.25


def cross_fitted_logits(
    features: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    folds: int = 5,
    hidden: int = 32,
    scaled: bool = False,
    seed: int = 0,
) -> Tensor:
    """`[n, k]` float32 logits of each row by networks that did not see its label.

    For each of three strengths of input noise, one network per fold with two hidden layers. The
    strength of least held-out loss is selected after a quarter of the steps, and at the end the
    step of least held-out loss (early stopping). At most 1500 steps of 256 rows, however many rows
    there are.

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
    x = features.float() if scaled else standardized(features)
    k = int(classes or int(targets.max()) + 1)
    truth = Truth(targets.to(features.device), "class", k)
    return cross_fitted(x, truth, folds=folds, hidden=hidden, seed=seed).log_softmax(1)


def cross_fitted(
    x: Tensor,
    truth: Truth,
    *,
    folds: int = FOLDS,
    hidden: int = 32,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
) -> Tensor:
    """`[m, k]` float32 outputs for each row by networks that did not see its truth.

    Args:
        x: inputs of comparable scale, `[m, d]` float32.
        truth: what the networks are to answer, of the first n rows. No network learns from the
            rows after them; each is answered by one.
        folds: number of folds.
        hidden: width of the hidden layers.
        seed: seed of folds, weights and batches; the global random state is not touched.
        deadline: end of the time, asked between evaluations.
    """
    n, levels = len(truth.values), len(_INPUT_NOISE)
    generator = torch.Generator().manual_seed(seed)
    sizes = (x.shape[1], hidden, hidden, truth.outputs)
    networks = Networks(levels * folds, sizes, generator, x.device)
    order = torch.randperm(n, generator=generator).to(x.device)
    held_out, training = _partition(order, folds)
    others = torch.arange(n, len(x), device=x.device)
    others = nn.functional.pad(others, (0, -len(others) % folds), value=-1).view(-1, folds).T
    held_out = torch.cat([held_out, others], 1)
    outputs = _trained(networks, x, truth, training, held_out, generator, deadline)
    inside = held_out.flatten() >= 0
    found = x.new_zeros(len(x), truth.outputs)
    return found.index_copy_(0, held_out.flatten()[inside], outputs.flatten(0, 1)[inside])


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


def _trained(
    networks: Networks,
    x: Tensor,
    truth: Truth,
    training: Tensor,
    held_out: Tensor,
    generator: torch.Generator,
    deadline: Deadline,
) -> Tensor:
    """`[f, h, k]` held-out outputs of the strength of input noise and step of least loss.

    Args:
        networks: as many networks for each strength of input noise as folds f.
        x: inputs, `[n, d]`.
        truth: what they are to answer.
        training: rows that the network of each fold learns from, `[f, t]` int64.
        held_out: rows that it answers without seeing them, `[f, h]` int64, padded with -1; those
            beyond the rows of the truth are not evaluated.
        generator: source of batches and input noise.
        deadline: end of the time.
    """
    folds, n = len(training), len(truth.values)
    inside, rows = (held_out >= 0) & (held_out < n), held_out.clamp(min=0)
    evaluated = (rows * inside).expand(len(_INPUT_NOISE), -1, -1)
    noise, judged = x.new_tensor(_INPUT_NOISE), x[rows]
    steps = min(max(_PASSES * n // _BATCH, _MIN_STEPS), _MAX_STEPS)
    every, trial = max(1, steps // _EVALUATIONS), int(_TRIAL * steps)
    best, outputs = math.inf, x.new_zeros(*held_out.shape, truth.outputs)
    with progress_bar(steps, "steps", show=deadline.progress) as count:
        for step in range(steps):
            inputs, drawn = _batch(x, training, noise, generator)
            networks.step(inputs, truth, drawn, _learning_rate(step / steps))
            count(1)
            if (step + 1) % every:
                continue
            deadline.check()
            answers = networks(judged.repeat(len(noise), 1, 1))
            answers = answers.view(len(noise), folds, *answers.shape[1:])
            losses = (truth.loss(answers, evaluated[: len(noise)]) * inside).sum((1, 2))
            least = int(losses.argmin())
            if float(losses[least]) < best:
                best, outputs = float(losses[least]), answers[least]
            if step >= trial and len(noise) > 1:
                networks.keep(torch.arange(folds, device=x.device) + folds * least)
                noise = noise[least : least + 1]
    return outputs


def _batch(
    x: Tensor, training: Tensor, noise: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch per network: `[m, b, d]` noisy inputs, and `[m, b]` rows.

    The networks of one fold, one for each strength of noise, share rows and draws.
    """
    folds, rows = training.shape
    positions = torch.randint(rows, (folds, min(_BATCH, rows)), generator=generator)
    drawn = training.gather(1, positions.to(x.device))
    draws = torch.randn(positions.shape[1], x.shape[1], generator=generator).to(x.device)
    values = x.index_select(0, drawn.flatten()).view(*drawn.shape, -1)
    inputs = torch.addcmul(values, noise[:, None, None, None], draws)
    return inputs.flatten(0, 1), drawn.repeat(len(noise), 1)


def standardized(features: Tensor) -> Tensor:
    """`[n, d]` float32 with mean 0 and standard deviation 1, clipped at 8; NaN becomes the mean."""
    x = features.double()
    mean = x.nanmean(0).nan_to_num(0.0)
    x = torch.where(x.isfinite(), x, mean) - mean
    deviation = x.square().mean(0).sqrt()
    varying = deviation > 1e-12 * (mean.abs() + 1)
    return (x / torch.where(varying, deviation, 1.0)).clamp(-8.0, 8.0).float()


def _partition(order: Tensor, folds: int) -> tuple[Tensor, Tensor]:
    """Held-out rows `[folds, h]`, padded with -1, and training rows of each fold's network."""
    cuts = [round(len(order) * i / folds) for i in range(folds + 1)]
    widest = max(end - start for start, end in pairwise(cuts))
    held_out, training = [], []
    for start, end in pairwise(cuts):
        held_out.append(nn.functional.pad(order[start:end], (0, widest - (end - start)), value=-1))
        training.append(torch.cat([order[:start], order[end:]])[: len(order) - widest])
    return torch.stack(held_out), torch.stack(training)


def _learning_rate(progress: float) -> float:
    """One cycle: up to 0.03 over the first quarter, then down to 0 (Smith and Topin, 2019)."""
    if progress < 0.25:
        return 0.03 * progress / 0.25 + 1e-3
    return 0.015 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) + 1e-5
