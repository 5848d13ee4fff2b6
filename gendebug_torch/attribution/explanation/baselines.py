"""Baselines, the inputs without signal: zeros, a mean, rows, a blurred image, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from gendebug_torch.attribution.explanation.input_space import InputSpace
from gendebug_torch.errors import reject

_WORDS = ("zero", "mean", "median", "sample", "blur")
# Baselines that are computed from rows of the data.
FROM_ROWS = ("mean", "median", "sample")
# Rows of the baseline `sample`.
SAMPLE_ROWS = 32


def check_baseline(baseline: Any) -> None:
    """Refuse an unknown word."""
    if isinstance(baseline, str) and baseline not in _WORDS:
        expected = f"{', '.join(_WORDS)}, a number, or inputs"
        reject("baseline", expected, repr(baseline), "Choose one of them.")


def baseline_points(
    baseline: Any,
    inputs: Any,
    space: InputSpace,
    points_of: Callable[[Any], Tensor],
    background: Any,
) -> Tensor:
    """`[b, n, d]` baselines of the points of a batch, as a view where rows share them.

    Args:
        baseline: None or a word, a number, a Tensor like one row or like several rows, or inputs
            of the structure of the batch with any number of rows.
        inputs: inputs of the batch.
        space: the same inputs as points.
        points_of: function from inputs of this structure to points `[m, d]`.
        background: inputs of the data, for the words that need rows.

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
        rows = points_of(background)
        if baseline == "sample":
            return rows[:SAMPLE_ROWS, None].to(points).expand(-1, n, d)
        center = rows.mean(0) if baseline == "mean" else rows.median(0).values
        return center.to(points)[None, None].expand(1, n, d)
    if isinstance(baseline, (int, float)) or (isinstance(baseline, Tensor) and baseline.ndim == 0):
        return points.new_full((1, 1, d), float(baseline)).expand(1, n, d)
    rows = points_of(_rows_like(inputs, baseline))
    if rows.shape[1] != d:
        expected, remedy = f"inputs of {d} values per row", "Pass rows structured as the data."
        reject("baseline", expected, f"{rows.shape[1]}", remedy)
    return rows[:, None].to(points).expand(-1, n, d)


def _rows_like(inputs: Any, baseline: Any) -> Any:
    """A baseline as rows of the structure of the inputs; one row of a Tensor may be broadcast."""
    if not isinstance(baseline, Tensor) or not isinstance(inputs, Tensor):
        return baseline
    row = inputs.shape[1:]
    if baseline.ndim != inputs.ndim or baseline.shape[1:] != row:
        try:
            baseline = baseline.broadcast_to(row)[None]
        except RuntimeError:
            expected = f"a shape that broadcasts to a row {list(row)}"
            reject("baseline", expected, str(list(baseline.shape)), "Pass one row, or rows.")
    return baseline.to(inputs.dtype)


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
    padding = [edge // 2 for edge in kernel]
    blurred: Tensor = pool(images, kernel, stride=1, padding=padding, count_include_pad=False)
    return blurred.reshape(points.shape)
