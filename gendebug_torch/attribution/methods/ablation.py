"""Ablation: the change of the output when a feature or a window takes its baseline value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.attribution.explanation.batch import ExplainedBatch
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved

# Entries of the window masks that are expanded at once.
_MASK_ENTRIES = 2**22


def masked_outputs(batch: ExplainedBatch, masks: Callable[[slice], Tensor], count: int) -> Tensor:
    """`[n, m]` float64 mean output over the baselines, under each of m masks.

    Args:
        batch: points, baselines and output to explain.
        masks: function from a slice of masks to `[s, d]` bool, true where a row keeps its value
            and false where it takes that of the baseline.
        count: number of masks.

    Cost: `n * count` forwards for each baseline, rows and masks together in one pass.
    """
    points, n = batch.points, len(batch.points)
    rows, masks_per_pass = batch.pass_size(count)
    total = torch.zeros(n, count, dtype=torch.float64, device=points.device)
    for begin in range(0, count, masks_per_pass):
        span = slice(begin, min(count, begin + masks_per_pass))
        keep = masks(span)[:, None]
        for i in range(0, n, rows):
            index = torch.arange(i, min(n, i + rows), device=points.device)
            for start in batch.baseline:
                mixed = torch.where(keep, points[None, i : i + rows], start[None, i : i + rows])
                with torch.no_grad():
                    output = batch.output(mixed.flatten(0, 1), index.repeat(len(keep)))
                total[i : i + rows, span] += output.double().reshape(len(keep), -1).T
    return total / len(batch.baseline)


def feature_ablation(batch: ExplainedBatch) -> dict[str, Tensor]:
    """`f(x) - f(x with one feature at the baseline)`, feature by feature.

    Of two features with the same information, neither may look important.

    Source: Zeiler and Fergus (2014), ECCV, arXiv:1311.2901, section 4.2.

    Cost: one forward per row, feature and baseline.
    """
    f, device = batch.features, batch.points.device

    def others(span: slice) -> Tensor:
        ablated = torch.arange(span.start, span.stop, device=device)
        return batch.column_masks(torch.arange(f, device=device) != ablated[:, None])

    drop = batch.outputs.double()[:, None] - masked_outputs(batch, others, f)
    return {"values": drop.float()}


def occlusion(
    batch: ExplainedBatch,
    *,
    window: int | Sequence[int] = 4,
    stride: int | Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Mean drop of the output over the windows that cover a pixel, each window at the baseline.

    Source: Zeiler and Fergus (2014), ECCV, arXiv:1311.2901.

    Args:
        batch: points, baselines and output to explain.
        window: edge, or edges along the last axes of a row; earlier axes (channels) are covered
            whole.
        stride: steps between windows; default half a window, at least 1.

    Cost: one forward per row, window and baseline.

    Raises:
        InputError: inputs that are not one Tensor of at least one axis per row, or a window that
            does not fit.
    """
    windows = _windows(batch, window, stride)
    count = len(windows.corners)
    outputs = masked_outputs(batch, lambda span: ~windows.masks(span), count)
    drop = batch.outputs.double()[:, None] - outputs
    total = torch.zeros_like(batch.points)
    times = batch.points.new_zeros(batch.points.shape[1])
    masks_at_once = max(1, _MASK_ENTRIES // max(1, len(times)))
    for begin in range(0, count, masks_at_once):
        span = slice(begin, min(count, begin + masks_at_once))
        inside = windows.masks(span).to(total.dtype)
        total += drop[:, span].to(total.dtype) @ inside
        times += inside.sum(0)
    return {"values": total / times.clamp(min=1)}


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows over the last axes of a row.

    Args:
        shape: shape of a row.
        edges: edge of a window along each of the last axes.
        corners: `[m, a]` int64 first position of each window.
    """

    shape: tuple[int, ...]
    edges: tuple[int, ...]
    corners: Tensor

    def masks(self, span: slice) -> Tensor:
        """`[s, d]` bool, true inside each window."""
        device, first_axis = self.corners.device, len(self.shape) - len(self.edges)
        count = span.stop - span.start
        inside = torch.ones(count, *[1] * len(self.shape), dtype=torch.bool, device=device)
        for axis, edge in enumerate(self.edges):
            length = self.shape[first_axis + axis]
            offset = torch.arange(length, device=device) - self.corners[span, axis, None]
            view = [1] * len(self.shape)
            view[first_axis + axis] = -1
            inside = inside & ((offset >= 0) & (offset < edge)).reshape(count, *view)
        return inside.expand(-1, *self.shape).flatten(1)


def _windows(
    batch: ExplainedBatch, window: int | Sequence[int], stride: int | Sequence[int] | None
) -> _Windows:
    """The windows of an occlusion."""
    shape = batch.shape
    if not batch.single_tensor:
        expected = "one Tensor per batch, e.g. images [n, c, h, w]"
        reject("inputs", expected, "groups of inputs", "Choose `feature_ablation`.")
    axes = min(2, len(shape)) if isinstance(window, int) else len(window)
    edges = _edges(window, axes, shape, "window")
    steps = (
        tuple(max(1, edge // 2) for edge in edges)
        if stride is None
        else _edges(stride, axes, shape, "stride")
    )
    lengths = shape[len(shape) - axes :]
    starts = [
        sorted({min(start, length - edge) for start in range(0, length, step)})
        for length, edge, step in zip(lengths, edges, steps, strict=True)
    ]
    corners = torch.tensor(list(itertools.product(*starts)))
    return _Windows(shape, edges, moved(corners, batch.points.device))


def _edges(
    value: int | Sequence[int], axes: int, shape: tuple[int, ...], name: str
) -> tuple[int, ...]:
    edges = (value,) * axes if isinstance(value, int) else tuple(value)
    lengths = shape[len(shape) - axes :]
    fits = 0 < axes <= len(shape) and len(edges) == axes
    if not fits or any(not 0 < edge <= full for edge, full in zip(edges, lengths, strict=True)):
        expected = f"edges between 1 and the last axes of a row {list(shape)}"
        reject(name, expected, str(value), "Pass e.g. window=(3, 3).")
    return edges
