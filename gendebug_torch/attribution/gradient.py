"""Gradient attributions in batches of rows times steps, with one backward pass per batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject

# Points per pass: enough to fill a CPU core or a GPU with a small network, little enough to stay in the cache.
POINTS = {"cpu": 4096, "cuda": 65536}

Output = Callable[[Tensor], Tensor]


def integrated_gradients(
    model: Output, inputs: Tensor, target: Tensor, *, baseline: Tensor | None = None, steps: int = 50, points: int | None = None
) -> tuple[Tensor, Tensor]:
    """Integrated gradients and their convergence delta.

    `(x - b) * sum_s w_s grad f(b + a_s (x - b))` with Gauss-Legendre nodes a and weights w on [0, 1]. Rows and
    steps share one batch; the weights enter as the seed of the backward pass, so that one pass sums them.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365.

    Args:
        model: inputs `[r, ...]` to logits `[r]` or `[r, k]`; its parameters should not ask for gradients.
        inputs: `[n, ...]` float.
        target: `[n]` int64 explained class; ignored for logits `[r]`.
        baseline: broadcastable to the inputs; default 0.
        steps: nodes of the quadrature.
        points: rows times steps per pass.

    Returns:
        Contributions `[n, ...]`, and `[n]` their sum minus `f(x) - f(b)`.

    Raises:
        InputError: fewer than one step, or inputs that have no gradient.

    Cost: `n * steps` forwards and backwards, memory of `points` rows.
    """
    if steps < 1:
        reject("steps", "at least 1", str(steps), "50 is the usual number.")
    if not inputs.is_floating_point():
        remedy = "Explain an embedding layer with a layer method."
        reject("inputs", "floating-point inputs, which have a gradient", str(inputs.dtype), remedy)
    nodes, weights = _quadrature(steps)
    alpha = torch.tensor(nodes, dtype=inputs.dtype, device=inputs.device)
    weight = torch.tensor(weights, dtype=torch.float32, device=inputs.device)
    start = torch.zeros_like(inputs) if baseline is None else baseline.to(inputs).expand_as(inputs)
    budget = points or POINTS.get(inputs.device.type, 4096)
    rows = max(1, budget // steps)
    parts = [
        _integral(model, inputs[i : i + rows], start[i : i + rows], target[i : i + rows], alpha, weight, max(1, budget // rows))
        for i in range(0, len(inputs), rows)
    ]
    values = torch.cat(parts) * (inputs - start) if parts else torch.zeros_like(inputs)
    with torch.no_grad():
        ends = [selected(model(side), target).float() if len(side) else side.new_zeros(0) for side in (inputs, start)]
    return values, values.reshape(len(values), -1).sum(1) - (ends[0] - ends[1])


def gradient(model: Output, inputs: Tensor, target: Tensor) -> Tensor:
    """`[n, ...]` gradient of the explained output at each row (Simonyan, Vedaldi and Zisserman, 2013, arXiv:1312.6034)."""
    points = inputs.detach().requires_grad_()
    return torch.autograd.grad(selected(model(points), target).sum(), points)[0]


def selected(logits: Tensor, target: Tensor) -> Tensor:
    """`[r]` the explained output of each row: its target's logit, or the only one."""
    return logits if logits.ndim == 1 else logits.gather(1, target[:, None])[:, 0]


def _integral(model: Output, inputs: Tensor, start: Tensor, target: Tensor, alpha: Tensor, weight: Tensor, at_once: int) -> Tensor:
    """`[r, ...]` mean gradient on the path from start to inputs."""
    total = torch.zeros_like(inputs)
    difference = inputs - start
    for begin in range(0, len(alpha), at_once):
        step = alpha[begin : begin + at_once]
        path = torch.addcmul(start, step.reshape(-1, *[1] * inputs.ndim), difference).flatten(0, 1).requires_grad_()
        output = selected(model(path), target.repeat(len(step)))
        seed = weight[begin : begin + at_once].repeat_interleave(len(inputs)).to(output.dtype)
        total += torch.autograd.grad(output, path, seed)[0].reshape(len(step), *inputs.shape).sum(0)
    return total


@lru_cache(maxsize=32)
def _quadrature(steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return tuple((nodes + 1) / 2), tuple(weights / 2)
