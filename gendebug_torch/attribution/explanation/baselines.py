"""What stands for "no signal": zeros, a mean, rows of the data, a blurred image, or the user's
own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from gendebug_torch.attribution.explanation.input_space import Space
from gendebug_torch.errors import reject

WORDS = ("zero", "mean", "median", "sample", "blur")
# Words that need rows of the data.
FROM_ROWS = ("mean", "median", "sample")
# Rows that stand for the data where a baseline is a sample.
BACKGROUND = 32


def check_baseline(baseline: Any) -> None:
    """Refuse an unknown word."""
    if isinstance(baseline, str) and baseline not in WORDS:
        reject(
            "baseline",
            f"{', '.join(WORDS)}, a number, or inputs",
            repr(baseline),
            "Choose one of them.",
        )


def baselines(
    baseline: Any, inputs: Any, space: Space, points_of: Callable[[Any], Tensor], rows: Any
) -> Tensor:
    """`[b, n, d]` baselines of the points of a batch, as a view where rows share them.

    Args:
        baseline: None or a word, a number, a Tensor like one row or like a batch of backgrounds, or
            inputs of the same structure as the batch with any number of rows.
        inputs: the batch.
        space: the same, as points.
        points_of: from inputs of this structure to points `[m, d]`.
        rows: inputs of the data, for the words that need them.

    Raises:
        InputError: a baseline that does not fit the inputs.
    """
    points = space.points
    n, d = points.shape
    if baseline is None or (isinstance(baseline, str) and baseline == "zero"):
        return points.new_zeros(1, 1, d).expand(1, n, d)
    if isinstance(baseline, str) and baseline == "blur":
        return _blurred(points, space.shape)[None]
    if isinstance(baseline, str):
        known = points_of(rows)
        if baseline == "sample":
            return known[:BACKGROUND, None].to(points).expand(-1, n, d)
        center = known.mean(0) if baseline == "mean" else known.median(0).values
        return center.to(points)[None, None].expand(1, n, d)
    if isinstance(baseline, (int, float)) or (isinstance(baseline, Tensor) and baseline.ndim == 0):
        return torch.full(
            (1, 1, d), float(baseline), dtype=points.dtype, device=points.device
        ).expand(1, n, d)
    given = baseline
    if isinstance(baseline, Tensor) and isinstance(inputs, Tensor):
        row = inputs.shape[1:]
        whole = baseline.ndim == inputs.ndim and baseline.shape[1:] == row
        try:
            given = baseline if whole else baseline.broadcast_to(row)[None]
        except RuntimeError:
            reject(
                "baseline",
                f"a shape that broadcasts to a row {list(row)}",
                str(list(baseline.shape)),
                "Pass one row, or rows.",
            )
        given = given.to(inputs.device, inputs.dtype)
    made = points_of(given)
    if made.shape[1] != d:
        reject(
            "baseline",
            f"inputs of {d} values per row",
            f"{made.shape[1]}",
            "Pass rows of the same structure as the data.",
        )
    return made[:, None].to(points).expand(-1, n, d)


def _blurred(points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`[n, d]` rows averaged over a window of about a fifth of their last axes."""
    if len(shape) < 2:
        reject(
            "baseline",
            "images or sequences [n, c, ...] for `blur`",
            f"rows of shape {list(shape)}",
            "Choose `mean` or `sample`.",
        )
    pool, axes = (avg_pool1d, 1) if len(shape) == 2 else (avg_pool2d, 2)
    kernel = [max(1, edge // 5) // 2 * 2 + 1 for edge in shape[-axes:]]
    images = points.reshape(len(points), -1, *shape[-axes:])
    made: Tensor = pool(
        images, kernel, stride=1, padding=[k // 2 for k in kernel], count_include_pad=False
    )
    return made.reshape(points.shape)
