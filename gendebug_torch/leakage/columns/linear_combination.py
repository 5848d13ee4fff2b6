"""Targets that are an exact linear combination of a few columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.errors import reject

# Columns and rows that enter the least-squares fit: the columns that correlate most.
_MAX_COLUMNS, _MAX_ROWS = 200, 20_000
# Largest error that counts as rounding, in standard deviations of the target.
_ROUNDING = 1e-6
_MIN_COMPLETE = 0.9


@dataclass(frozen=True)
class LinearCombination:
    """The target as `intercept + sum of weight * column`.

    Args:
        names: column names.
        weights: weight of each column.
        intercept: constant term.
        error: largest difference from the target, in standard deviations of the target.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    error: float

    def __str__(self) -> str:
        parts = " + ".join(
            name if abs(w - 1) < 1e-6 else f"{w:.4g} {name}"
            for name, w in zip(self.names, self.weights, strict=True)
        )
        return parts if abs(self.intercept) < 1e-6 else f"{parts} + {self.intercept:.4g}"


def exact_linear_combination(
    values: Tensor, names: Sequence[str], targets: Tensor, *, max_columns: int = 8
) -> LinearCombination | None:
    """The fewest columns of which the target is a linear function in every row, or None.

    Least squares on the columns that correlate most with the target; if only rounding errors
    remain, columns are added by falling weight until the target is reproduced. None if more than
    `max_columns` are needed: a formula over many columns defines a target, it does not leak it.

    Args:
        values: columns, `[n, d]` float64; columns with many missing values are left out, then rows
            with any.
        names: d column names.
        targets: numbers, `[n]`.
        max_columns: largest number of columns in the combination.

    Raises:
        InputError: shapes that do not fit.

    Cost: `rows * columns^2` with at most 20,000 rows and 200 columns, then one pass over all rows.
    """
    if values.ndim != 2 or len(names) != values.shape[1] or len(targets) != len(values):
        got = f"{list(values.shape)} values, {len(names)} names, {len(targets)} targets"
        reject(
            "values",
            "[n, d] with d names and n targets",
            got,
            "Pass one name per column and one target per row.",
        )
    x, names, y = _complete(values, names, targets)
    if not names or len(y) < 2 * min(len(names), _MAX_COLUMNS) + 10 or float(y.std()) == 0:
        return None
    order = _columns_by_weight(x, y)
    for count in range(1, min(max_columns, len(order)) + 1):
        if (found := _least_squares(x, y, order[:count], names)) is not None:
            return found
    return None


def _complete(
    values: Tensor, names: Sequence[str], targets: Tensor
) -> tuple[Tensor, list[str], Tensor]:
    """Columns that are nearly complete, and of their rows those without missing values."""
    if not len(values):
        return values.cpu(), [], targets.double().cpu()
    full = values.isfinite().double().mean(0) > _MIN_COMPLETE
    x = values[:, full].cpu()
    rows = x.isfinite().all(1)
    kept = [name for name, complete in zip(names, full.tolist(), strict=True) if complete]
    return x[rows], kept, targets.double().cpu()[rows]


def _columns_by_weight(x: Tensor, y: Tensor) -> Tensor:
    """Positions of columns by falling weight in a fit without error; none if there is an error."""
    step = max(len(y) // _MAX_ROWS, 1)
    part, z = x[::step], (y - y.mean())[::step] / y.std()
    deviation = part.std(0)
    standard = torch.where(deviation > 0, (part - part.mean(0)) / deviation.clamp(min=1e-300), 0.0)
    chosen = (standard.T @ z).abs().argsort(descending=True)[:_MAX_COLUMNS]
    chosen = chosen[deviation[chosen] > 0]
    fit = standard[:, chosen]
    weights = torch.linalg.lstsq(fit, z[:, None], driver="gelsd").solution[:, 0]
    if not len(chosen) or float((fit @ weights - z).abs().max()) > _ROUNDING:
        return chosen[:0]
    return chosen[weights.abs().argsort(descending=True)]


def _least_squares(
    x: Tensor, y: Tensor, columns: Tensor, names: Sequence[str]
) -> LinearCombination | None:
    part, z = x[:, columns], y - y.mean()
    mean = part.mean(0)
    weights = torch.linalg.lstsq(part - mean, z[:, None], driver="gelsd").solution[:, 0]
    error = float(((part - mean) @ weights - z).abs().max() / y.std())
    if error > _ROUNDING:
        return None
    return LinearCombination(
        tuple(names[i] for i in columns.tolist()),
        tuple(weights.tolist()),
        float(y.mean() - mean @ weights),
        error,
    )
