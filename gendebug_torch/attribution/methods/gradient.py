"""Gradient methods in batches of rows times steps, with one backward pass per batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.question import Question
from gendebug_torch.data.batches import moved
from gendebug_torch.errors import UnsupportedError, reject

# (rows, steps) -> `[s, r, d]` points, or what their gradients are multiplied by.
Path = Callable[[slice, slice], Tensor]


def weighted_gradients(
    question: Question, path: Path, weight: Tensor, factor: Path | None = None
) -> Tensor:
    """`[n, d]` sum over s of weight[s] times the gradient at path(rows, s), times factor(rows, s)
    if there is one.

    The weights enter as the seed of the backward pass, so that one pass serves many points. They
    are scaled to mean one there, since small seeds underflow in half precision.
    """
    count, n = len(weight), len(question.points)
    rows, at_once = question.blocks(count)
    total = torch.zeros_like(
        question.points, dtype=torch.promote_types(question.points.dtype, torch.float32)
    )
    for i in range(0, n, rows):
        span = slice(i, min(n, i + rows))
        index = torch.arange(span.start, span.stop, device=question.points.device)
        for begin in range(0, count, at_once):
            steps = slice(begin, begin + at_once)
            points = path(span, steps)
            at = points.flatten(0, 1).detach().requires_grad_()
            output = question.output(at, index.repeat(len(points)))
            if not output.requires_grad:
                raise UnsupportedError(
                    "the output has no gradient with respect to the inputs: the model detaches "
                    "them, or runs under no_grad; "
                    "choose a method without gradients, e.g. `kernel_shap`"
                )
            seed = (weight[steps] * count).repeat_interleave(len(index)).to(output.dtype)
            slope = torch.autograd.grad(output, at, seed)[0].reshape(points.shape)
            total[span] += (slope if factor is None else slope * factor(span, steps)).sum(0)
    return total / count


def saliency(question: Question) -> dict[str, Tensor]:
    """Gradient of the output at each row, with its sign.

    Source: Simonyan, Vedaldi and Zisserman (2013), arXiv:1312.6034, who show its absolute value.
    """
    one = question.points.new_ones(1, dtype=torch.float32)
    return {
        "values": weighted_gradients(question, lambda rows, steps: question.points[None, rows], one)
    }


def input_x_gradient(question: Question) -> dict[str, Tensor]:
    """Gradient times input, or times input minus baseline where a baseline is given.

    Source: Shrikumar, Greenside, Shcherbina and Kundaje (2016), arXiv:1605.01713.
    """
    return {"values": saliency(question)["values"] * (question.points - question.baseline.mean(0))}


def smooth_grad(
    question: Question, *, samples: int = 50, noise: float = 0.15, seed: int = 0
) -> dict[str, Tensor]:
    """Mean gradient in a Gaussian cloud around each row, drawn in mirrored pairs.

    The cloud is the same for every row, so that a row's answer depends on no other row.

    Source: Smilkov, Thorat, Kim, Viégas and Wattenberg (2017), arXiv:1706.03825.

    Args:
        question: what to explain.
        samples: points per row.
        noise: standard deviation of the cloud as a share of a row's distance to the baseline, root
            mean square.
        seed: of the cloud.
    """
    _at_least_one("samples", samples)
    half = torch.randn(
        (samples + 1) // 2, question.points.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    cloud = moved(
        torch.cat([half, -half])[:samples].to(question.points.dtype), question.points.device
    )
    width = noise * (question.points - question.baseline.mean(0)).square().mean(1).sqrt()

    def around(rows: slice, steps: slice) -> Tensor:
        return question.points[None, rows] + cloud[steps, None] * width[None, rows, None]

    return {"values": weighted_gradients(question, around, _even(samples, question))}


def integrated_gradients(
    question: Question, *, steps: int = 50, max_steps: int | None = None, tolerance: float = 0.01
) -> dict[str, Tensor]:
    """`(x - b) * sum_s w_s grad f(b + a_s (x - b))` with Gauss-Legendre nodes a and weights w on
    [0, 1].

    Over several baselines the mean is taken. With `max_steps`, rows whose sum misses the change of
    the output by more than `tolerance` are integrated again with twice the steps, until they hold
    or `max_steps` is reached.

    Source: Sundararajan, Taly and Yan (2017), arXiv:1703.01365.

    Args:
        question: what to explain.
        steps: nodes of the quadrature.
        max_steps: most nodes for a row; default `steps`.
        tolerance: relative error of completeness that is good enough.

    Cost: `n * steps` forwards and backwards for each baseline; memory of one pass. With `max_steps`
    the host waits for the device once per doubling, to learn which rows are left.
    """
    _at_least_one("steps", steps)
    values = _integral(question, steps)
    while max_steps is not None and (steps := 2 * steps) <= max_steps:
        change = question.at_points - question.at_baseline
        scale = torch.maximum(
            change.abs(), 1e-3 * torch.maximum(question.at_points.abs(), question.at_baseline.abs())
        )
        rest = ((values.sum(1) - change).abs() > tolerance * scale).nonzero()[:, 0]
        if not len(rest):
            break
        values[rest] = _integral(question.of_rows(rest), steps)
    return {"values": values}


def _integral(question: Question, steps: int) -> Tensor:
    nodes, weights = quadrature(steps)
    device = question.points.device
    alpha = moved(torch.tensor(nodes, dtype=question.points.dtype), device)[:, None, None]
    weight = moved(torch.tensor(weights, dtype=torch.float32), device)
    values = torch.zeros_like(question.points)
    for start in question.baseline:
        difference = question.points - start

        def path(
            rows: slice, at: slice, start: Tensor = start, difference: Tensor = difference
        ) -> Tensor:
            return torch.addcmul(start[None, rows], alpha[at], difference[None, rows])

        values = values + weighted_gradients(question, path, weight) * difference
    return values / len(question.baseline)


def gradient_shap(question: Question, *, samples: int = 50, seed: int = 0) -> dict[str, Tensor]:
    """Expected gradients: mean over baselines and path positions of (x - b) * grad f(b + a (x -
    b)).

    Positions are stratified and baselines come in equal numbers, drawn once for all rows, so that a
    row's answer depends on no other row; the error of sampling is shared by the rows.

    Source: Erion, Janizek, Sturmfels, Lundberg and Lee (2021), Nat. Mach. Intell. 3:620,
    arXiv:1906.10670.

    Args:
        question: what to explain.
        samples: points per row.
        seed: of positions and baselines.
    """
    _at_least_one("samples", samples)
    generator = torch.Generator().manual_seed(seed)
    device, dtype = question.points.device, question.points.dtype
    alpha = moved(
        ((torch.arange(samples) + torch.rand(samples, generator=generator)) / samples).to(dtype),
        device,
    )[:, None, None]
    turns = torch.arange(samples) % len(question.baseline)
    pick = moved(turns[torch.randperm(samples, generator=generator)], device)

    def distance(rows: slice, steps: slice) -> Tensor:
        return question.points[None, rows] - question.baseline[pick[steps], rows]

    def path(rows: slice, steps: slice) -> Tensor:
        return question.points[None, rows] + (alpha[steps] - 1) * distance(rows, steps)

    return {"values": weighted_gradients(question, path, _even(samples, question), distance)}


@lru_cache(maxsize=32)
def quadrature(steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return tuple((nodes + 1) / 2), tuple(weights / 2)


def _even(count: int, question: Question) -> Tensor:
    return torch.full((count,), 1.0 / count, device=question.points.device)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        reject(name, "at least 1", str(value), "50 is the usual number.")
