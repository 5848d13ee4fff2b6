"""Out-of-sample logits where a caller has none: small networks, one per fold, trained together by
batched matmul.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject

_BATCH = 256
# Gradient steps: this many passes over the rows, within these limits.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 10, 100, 1500
# How often the held-out loss is looked at, to keep the logits from before the networks learn labels
# by heart.
_LOOKS = 12
# Standard deviations of the noise on standardised inputs: next to none, for few sharp features;
# much, for many like pixels.
_JITTER = (0.05, 0.8)


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

    For each of two strengths of noise on the inputs, one network per fold with two hidden layers:
    all are trained at once as one batched product, and the strength and the moment of least
    held-out loss are kept.

    Source: Stone (1974), J. R. Stat. Soc. B 36:111, cross-validation; Bishop (1995), Neural Comput.
    7:108, noise as regulariser.

    Args:
        features: `[n, d]` numbers.
        targets: `[n]` int64 labels.
        classes: k, default the largest label + 1.
        folds: parts of each partition.
        hidden: width.
        scaled: whether the features are as `probe.design` makes them, and stay so: blown up to unit
            spread, the marks of rare levels would be learnt by heart. Else they are `standardised`.
        seed: of partitions, weights and batches; the global random state is not touched.

    Raises:
        InputError: other shapes, fewer rows than two per fold.

    Note:
        At most 1500 steps of 256 rows however many rows there are.
    """
    n, k = len(targets), int(classes or (int(targets.max()) + 1 if len(targets) else 0))
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
    generator = torch.Generator().manual_seed(seed)
    x, y = features.float() if scaled else standardised(features), targets.to(features.device)
    m = len(_JITTER) * folds
    networks = _Networks(m, x.shape[1], hidden, k, generator, x.device)
    held, rest = _partition(
        torch.randperm(n, generator=generator).to(x.device), folds, len(_JITTER)
    )
    jitter = torch.tensor(_JITTER, device=x.device).repeat_interleave(folds)[:, None, None]
    best, logits = [math.inf] * len(_JITTER), x.new_zeros(m, held.shape[1], k)
    inside, held = (held >= 0).view(len(_JITTER), -1), held.clamp(min=0)
    steps = min(max(_PASSES * n // _BATCH, _FEWEST_STEPS), _MOST_STEPS)
    optimizer = torch.optim.AdamW(networks.parameters, lr=1e-3, weight_decay=1e-3)
    for step in range(steps):
        inputs, labels = _drawn(x, y, rest, jitter, generator)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(
                networks(inputs).flatten(0, 1), labels.flatten(), reduction="sum"
            )
            optimizer.zero_grad()
            (loss / labels.shape[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = _learning_rate(step / steps)
        optimizer.step()
        if (step + 1) % max(1, steps // _LOOKS) == 0:
            with torch.no_grad():
                current = networks(x[held]).log_softmax(2)
            losses = -current.gather(2, y[held][..., None]).view(len(_JITTER), -1)
            for level, found in enumerate((losses * inside).sum(1).tolist()):
                if found < best[level]:
                    best[level] = found
                    logits[level * folds : (level + 1) * folds] = current[
                        level * folds : (level + 1) * folds
                    ]
    chosen = slice(best.index(min(best)) * folds, (best.index(min(best)) + 1) * folds)
    flat = inside[0]
    return x.new_zeros(n, k).index_copy_(
        0, held[chosen].flatten()[flat], logits[chosen].flatten(0, 1)[flat]
    )


class _Networks:
    """m networks d → h → h → k as batched weights; called with `[m, b, d]`."""

    def __init__(
        self, m: int, d: int, h: int, k: int, generator: torch.Generator, device: torch.device
    ) -> None:
        shapes = ((d, h), (h, h), (h, k))
        gains = (2.0, 2.0, 0.01)
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


def standardised(features: Tensor) -> Tensor:
    """`[n, d]` float32 with mean 0 and spread 1, clipped at 8 standard deviations; NaN becomes the
    mean.
    """
    x = features.double()
    mean = x.nanmean(0).nan_to_num(0.0)
    x = torch.where(x.isfinite(), x, mean) - mean
    spread = x.square().mean(0).sqrt()
    return (
        (x / torch.where(spread > 1e-12 * (mean.abs() + 1), spread, 1.0)).clamp(-8.0, 8.0).float()
    )


def _partition(order: Tensor, folds: int, copies: int) -> tuple[Tensor, Tensor]:
    """Rows that each network does not see, `[copies * folds, h]` padded with -1, and those that it
    does.
    """
    cuts = [round(len(order) * i / folds) for i in range(folds + 1)]
    widest = max(end - start for start, end in pairwise(cuts))
    held, rest = [], []
    for start, end in pairwise(cuts):
        held.append(nn.functional.pad(order[start:end], (0, widest - (end - start)), value=-1))
        rest.append(torch.cat([order[:start], order[end:]])[: len(order) - widest])
    return torch.stack(held).repeat(copies, 1), torch.stack(rest).repeat(copies, 1)


def _drawn(
    x: Tensor, y: Tensor, rest: Tensor, jitter: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch per network, `[m, b, d]` noisy inputs and `[m, b]` labels."""
    size = (rest.shape[0], min(_BATCH, rest.shape[1]))
    rows = rest.gather(1, torch.randint(rest.shape[1], size, generator=generator).to(x.device))
    inputs = x[rows]
    return inputs + jitter * torch.randn(inputs.shape, generator=generator).to(x.device), y[rows]


def _learning_rate(progress: float) -> float:
    """Up to 0.03 over the first quarter, then down to nothing (Smith and Topin, 2019,
    one-cycle).
    """
    return (
        0.03 * progress / 0.25 + 1e-3
        if progress < 0.25
        else 0.015 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) + 1e-5
    )
