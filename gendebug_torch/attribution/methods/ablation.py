"""What the output loses when a feature, or a window of an image, is replaced by the baseline."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.question import Question
from gendebug_torch.data.batches import moved
from gendebug_torch.errors import reject


def mean_outputs(question: Question, masks: Callable[[slice], Tensor], count: int) -> Tensor:
    """`[n, m]` float64 mean output over the baselines, with the columns outside each mask at the
    baseline.

    Args:
        question: what to explain.
        masks: slice of masks -> `[s, d]` bool, true where the row's own value stays.
        count: how many masks.

    Cost: `n * count` forwards for each baseline, rows and masks together in one pass.
    """
    points, n = question.points, len(question.points)
    rows, at_once = question.blocks(count)
    total = torch.zeros(n, count, dtype=torch.float64, device=points.device)
    for begin in range(0, count, at_once):
        span = slice(begin, min(count, begin + at_once))
        kept = masks(span)[:, None]
        for i in range(0, n, rows):
            index = torch.arange(i, min(n, i + rows), device=points.device)
            for start in question.baseline:
                mixed = torch.where(
                    kept, points[None, i : i + rows], start[None, i : i + rows]
                ).flatten(0, 1)
                with torch.no_grad():
                    said = question.output(mixed, index.repeat(len(kept)))
                total[i : i + rows, span] += said.double().reshape(len(kept), -1).T
    return total / len(question.baseline)


def feature_ablation(question: Question) -> dict[str, Tensor]:
    """`f(x) - f(x with one feature at the baseline)`, feature by feature.

    Of two features that carry the same, neither may look important.

    Source: Zeiler and Fergus (2014), ECCV, arXiv:1311.2901, section 4.2.

    Cost: one forward per row, feature and baseline.
    """
    f = question.features

    def others(span: slice) -> Tensor:
        wanted = torch.arange(span.start, span.stop, device=question.points.device)
        masks = torch.arange(f, device=question.points.device) != wanted[:, None]
        return question.columns(masks)

    return {
        "values": (question.at_points.double()[:, None] - mean_outputs(question, others, f)).float()
    }


def occlusion(
    question: Question,
    *,
    window: int | Sequence[int] = 4,
    stride: int | Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Mean loss of the output over the windows that cover a pixel, each window at the baseline.

    Source: Zeiler and Fergus (2014), ECCV, arXiv:1311.2901.

    Args:
        question: what to explain.
        window: edge, or edges along the last axes of a row; earlier axes (channels) are covered
            whole.
        stride: steps between windows; default half a window, at least 1.

    Cost: one forward per row, window and baseline.

    Raises:
        InputError: inputs that are not one Tensor of at least one axis per row, or a window that
            does not fit.
    """
    shape = question.shape
    if not question.whole:
        reject(
            "inputs",
            "one Tensor per batch, e.g. images [n, c, h, w]",
            "groups of inputs",
            "Choose `feature_ablation`.",
        )
    axes = min(2, len(shape)) if isinstance(window, int) else len(window)
    size = _edges(window, axes, shape, "window")
    step = (
        tuple(max(1, edge // 2) for edge in size)
        if stride is None
        else _edges(stride, axes, shape, "stride")
    )
    covered = shape[len(shape) - axes :]
    starts = [
        sorted({min(at, full - edge) for at in range(0, full, by)})
        for full, edge, by in zip(covered, size, step, strict=True)
    ]
    corners = moved(torch.tensor(list(itertools.product(*starts))), question.points.device)

    def windows(span: slice) -> Tensor:
        inside = torch.ones(
            span.stop - span.start, *[1] * len(shape), dtype=torch.bool, device=corners.device
        )
        for axis in range(axes):
            at = torch.arange(covered[axis], device=corners.device) - corners[span, axis, None]
            along = [1] * len(shape)
            along[len(shape) - axes + axis] = -1
            inside = inside & ((at >= 0) & (at < size[axis])).reshape(len(inside), *along)
        return inside.expand(-1, *shape).flatten(1)

    count = len(corners)
    lost = question.at_points.double()[:, None] - mean_outputs(
        question, lambda span: ~windows(span), count
    )
    total, times = (
        torch.zeros_like(question.points),
        question.points.new_zeros(question.points.shape[1]),
    )
    at_once = max(1, 2**22 // max(1, len(times)))
    for begin in range(0, count, at_once):
        span = slice(begin, min(count, begin + at_once))
        inside = windows(span).to(total.dtype)
        total += lost[:, span].to(total.dtype) @ inside
        times += inside.sum(0)
    return {"values": total / times.clamp(min=1)}


def _edges(
    value: int | Sequence[int], axes: int, shape: tuple[int, ...], name: str
) -> tuple[int, ...]:
    edges = (value,) * axes if isinstance(value, int) else tuple(value)
    last = shape[len(shape) - axes :]
    if (
        not 0 < axes <= len(shape)
        or len(edges) != axes
        or any(not 0 < edge <= full for edge, full in zip(edges, last, strict=True))
    ):
        reject(
            name,
            f"edges between 1 and the last axes of a row {list(shape)}",
            str(value),
            "Pass e.g. window=(3, 3).",
        )
    return edges
