"""A target that is an exact sum of columns: the smallest set that gives it back to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.errors import reject

# Columns that enter the search: those that correlate most with the target.
MOST_COLUMNS = 200
MOST_ROWS = 20_000
# Largest error in deviations of the target that counts as rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class ExactSum:
    """The target as `intercept + sum of weight * column`.

    Args:
        names: of the columns.
        weights: of each.
        intercept: the constant.
        error: largest distance from the target over all rows, in deviations of the target.
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


def exact_sum(
    values: Tensor, names: Sequence[str], targets: Tensor, *, most: int = 8
) -> ExactSum | None:
    """The fewest columns of which the target is a linear function in every row, or None.

    Least squares on the columns that correlate most with the target; where it leaves nothing but
    rounding, columns join by falling weight until the target is reproduced. None if more than
    `most` are needed, for a formula over many columns is a way to define a target, and not a leak
    of one.

    Args:
        values: `[n, d]` float64; columns with many gaps are left out, then rows with one.
        names: of the d columns.
        targets: `[n]` numbers.
        most: columns of the sum.

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
    full = (
        values.isfinite().double().mean(0) > 0.9
        if len(values)
        else torch.zeros(len(names), dtype=torch.bool)
    )
    names = [name for name, enough in zip(names, full.tolist(), strict=True) if enough]
    kept = values[:, full].cpu()
    known = kept.isfinite().all(1)
    kept, y = kept[known], targets.double().cpu()[known]
    if not names or len(y) < 2 * min(len(names), MOST_COLUMNS) + 10 or float(y.std()) == 0:
        return None
    spread = float(y.std())
    step = max(len(y) // MOST_ROWS, 1)
    x, z = kept[::step], (y - y.mean())[::step] / spread
    deviation = x.std(0)
    standard = torch.where(deviation > 0, (x - x.mean(0)) / deviation.clamp(min=1e-300), 0.0)
    chosen = (standard.T @ z).abs().argsort(descending=True)[:MOST_COLUMNS]
    chosen = chosen[deviation[chosen] > 0]
    weights = torch.linalg.lstsq(standard[:, chosen], z[:, None], driver="gelsd").solution[:, 0]
    if not len(chosen) or float((standard[:, chosen] @ weights - z).abs().max()) > ROUNDING:
        return None
    order = chosen[weights.abs().argsort(descending=True)]
    for count in range(1, min(most, len(order)) + 1):
        if (found := _solved(kept, y, order[:count], names, spread)) is not None:
            return found
    return None


def _solved(
    values: Tensor, y: Tensor, columns: Tensor, names: Sequence[str], spread: float
) -> ExactSum | None:
    part = values[:, columns]
    centre = part.mean(0)
    weights = torch.linalg.lstsq(part - centre, (y - y.mean())[:, None], driver="gelsd").solution[
        :, 0
    ]
    error = float(((part - centre) @ weights - (y - y.mean())).abs().max()) / spread
    if error > ROUNDING:
        return None
    return ExactSum(
        tuple(names[i] for i in columns.tolist()),
        tuple(weights.tolist()),
        float(y.mean() - centre @ weights),
        error,
    )
