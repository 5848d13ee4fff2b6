"""Gradient methods in batches of rows times steps, with one backward pass per batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.batch import ExplainedBatch
from gendebug_torch.errors import UnsupportedError, reject
from gendebug_torch.model.batches import moved

# From a slice of rows and a slice of steps to `[s, r, d]` points, or factors of their gradients.
Path = Callable[[slice, slice], Tensor]


def weighted_gradients(
    batch: ExplainedBatch, path: Path, weight: Tensor, factor: Path | None = None
) -> Tensor:
    """`[n, d]` weighted sum of the gradients along a path, `sum_s w_s grad f(path_s) * factor_s`.

    The weights enter as the seed of the backward pass, so that one pass serves many points. They
    are scaled to mean one there, since small seeds underflow in half precision.

    Args:
        batch: points, baselines and output to explain.
        path: function from a slice of rows and one of steps to points `[s, r, d]`.
        weight: `[s]` float weight of each step.
        factor: function like `path` to the factors of the gradients; None for 1.

    Raises:
        UnsupportedError: an output without a gradient.
    """
    count, n = len(weight), len(batch.points)
    rows, steps_per_pass = batch.pass_size(count)
    total = torch.zeros_like(
        batch.points, dtype=torch.promote_types(batch.points.dtype, torch.float32)
    )
    for i in range(0, n, rows):
        span = slice(i, min(n, i + rows))
        index = torch.arange(span.start, span.stop, device=batch.points.device)
        for begin in range(0, count, steps_per_pass):
            steps = slice(begin, begin + steps_per_pass)
            points = path(span, steps)
            leaf = points.flatten(0, 1).detach().requires_grad_()
            output = batch.output(leaf, index.repeat(len(points)))
            seed = (weight[steps] * count).repeat_interleave(len(index)).to(output.dtype)
            gradient = _gradient(output, leaf, seed).reshape(points.shape)
            total[span] += (gradient if factor is None else gradient * factor(span, steps)).sum(0)
    return total / count


def _gradient(output: Tensor, leaf: Tensor, seed: Tensor) -> Tensor:
    """Gradient of an output with respect to its inputs.

    Raises:
        UnsupportedError: there is none.
    """
    gradient = None
    if output.requires_grad:
        gradient = torch.autograd.grad(output, leaf, seed, allow_unused=True)[0]
    if gradient is None:
        raise UnsupportedError(
            "the output has no gradient with respect to the inputs: the model detaches them, runs "
            "under no_grad, or is quantized; choose a method without gradients, e.g. `kernel_shap`"
        )
    return gradient


def saliency(batch: ExplainedBatch) -> dict[str, Tensor]:
    """Gradient of the output at each row, with its sign.

    Source: Simonyan, Vedaldi and Zisserman (2013), arXiv:1312.6034, who show its absolute value.
    """
    one = batch.points.new_ones(1, dtype=torch.float32)
    return {"values": weighted_gradients(batch, lambda rows, steps: batch.points[None, rows], one)}


def input_x_gradient(batch: ExplainedBatch) -> dict[str, Tensor]:
    """Gradient times input, or times input minus baseline where a baseline is given.

    Source: Shrikumar, Greenside, Shcherbina and Kundaje (2016), arXiv:1605.01713.
    """
    return {"values": saliency(batch)["values"] * (batch.points - batch.baseline.mean(0))}


def smooth_grad(
    batch: ExplainedBatch, *, samples: int = 50, noise: float = 0.15, seed: int = 0
) -> dict[str, Tensor]:
    """Mean gradient in a Gaussian cloud around each row, drawn in mirrored pairs.

    The cloud is the same for every row, so that a row's answer depends on no other row.

    Source: Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), arXiv:1706.03825.

    Args:
        batch: points, baselines and output to explain.
        samples: number of points per row.
        noise: standard deviation of the cloud as a share of a row's distance to the baseline, root
            mean square.
        seed: seed of the cloud.
    """
    _at_least_one("samples", samples)
    half = torch.randn(
        (samples + 1) // 2, batch.points.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    cloud = moved(torch.cat([half, -half])[:samples].to(batch.points.dtype), batch.points.device)
    width = noise * (batch.points - batch.baseline.mean(0)).square().mean(1).sqrt()

    def around(rows: slice, steps: slice) -> Tensor:
        return batch.points[None, rows] + cloud[steps, None] * width[None, rows, None]

    return {"values": weighted_gradients(batch, around, _even(samples, batch))}


def integrated_gradients(
    batch: ExplainedBatch, *, steps: int = 50, max_steps: int | None = None, tolerance: float = 0.01
) -> dict[str, Tensor]:
    """`(x - b) * sum_s w_s grad f(b + a_s (x - b))`, a and w from Gauss-Legendre quadrature.

    Over several baselines the mean is taken. With `max_steps`, rows whose sum misses the change of
    the output by more than `tolerance` are integrated again with twice the steps, until they
    converge or `max_steps` is reached.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365.

    Args:
        batch: points, baselines and output to explain.
        steps: number of nodes of the quadrature.
        max_steps: largest number of nodes for a row; default `steps`.
        tolerance: largest relative error of completeness of a row.

    Cost: `n * steps` forwards and backwards for each baseline; memory of one pass. With `max_steps`
    the host waits for the device once per doubling.
    """
    _at_least_one("steps", steps)
    values = _integral(batch, steps)
    while max_steps is not None and (steps := 2 * steps) <= max_steps:
        change = batch.output_change
        scale = torch.maximum(
            change.abs(), 1e-3 * torch.maximum(batch.outputs.abs(), batch.baseline_outputs.abs())
        )
        rest = ((values.sum(1) - change).abs() > tolerance * scale).nonzero()[:, 0]
        if not len(rest):
            break
        values[rest] = _integral(batch.select(rest), steps)
    return {"values": values}


def _integral(batch: ExplainedBatch, steps: int) -> Tensor:
    nodes, weights = quadrature(steps)
    device = batch.points.device
    alpha = moved(torch.tensor(nodes, dtype=batch.points.dtype), device)[:, None, None]
    weight = moved(torch.tensor(weights, dtype=torch.float32), device)
    values = torch.zeros_like(batch.points)
    for start in batch.baseline:
        difference = batch.points - start

        def path(
            rows: slice, at: slice, start: Tensor = start, difference: Tensor = difference
        ) -> Tensor:
            return torch.addcmul(start[None, rows], alpha[at], difference[None, rows])

        values = values + weighted_gradients(batch, path, weight) * difference
    return values / len(batch.baseline)


def gradient_shap(batch: ExplainedBatch, *, samples: int = 50, seed: int = 0) -> dict[str, Tensor]:
    """Expected gradients: the mean of `(x - b) * grad f(b + a (x - b))` over baselines b and a.

    Positions a are stratified and baselines come in equal numbers, sampled once for all rows, so
    that the answer of a row depends on no other row; the rows share the sampling error.

    Source: Erion, Janizek, Sturmfels, Lundberg and Lee (2021), Nat. Mach. Intell. 3:620,
    arXiv:1906.10670.

    Args:
        batch: points, baselines and output to explain.
        samples: number of points per row.
        seed: seed of the positions and baselines.
    """
    _at_least_one("samples", samples)
    generator = torch.Generator().manual_seed(seed)
    device, dtype = batch.points.device, batch.points.dtype
    alpha = moved(
        ((torch.arange(samples) + torch.rand(samples, generator=generator)) / samples).to(dtype),
        device,
    )[:, None, None]
    cycle = torch.arange(samples) % len(batch.baseline)
    choice = moved(cycle[torch.randperm(samples, generator=generator)], device)

    def distance(rows: slice, steps: slice) -> Tensor:
        return batch.points[None, rows] - batch.baseline[choice[steps], rows]

    def path(rows: slice, steps: slice) -> Tensor:
        return batch.points[None, rows] + (alpha[steps] - 1) * distance(rows, steps)

    return {"values": weighted_gradients(batch, path, _even(samples, batch), distance)}


@lru_cache(maxsize=32)
def quadrature(steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return tuple((nodes + 1) / 2), tuple(weights / 2)


def _even(count: int, batch: ExplainedBatch) -> Tensor:
    return torch.full((count,), 1.0 / count, device=batch.points.device)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        reject(name, "at least 1", str(value), "50 is the usual number.")
