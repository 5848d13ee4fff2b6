"""Answers over time of which only sums over windows are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TimeSums:
    """Sums over windows in the order of time.

    Args:
        starts: first moment of each window, `[w]`.
        rows: rows of each, `[w]` float64.
        labeled: labeled rows of each, `[w]` float64.
        level: sums over all rows of the confidence, or of the prediction of a quantity, `[w]`.
        squared_level: sums of its square, `[w]`.
        correct: numbers of right answers, `[w]`.
        error: sums over the labeled rows of the error of a quantity, `[w]`.
        size: the same of its size, `[w]`.
        squared_error: the same of its square, `[w]`.
        undated: rows without a time.
    """

    starts: pd.Series[Any]
    rows: Tensor
    labeled: Tensor
    level: Tensor
    squared_level: Tensor
    correct: Tensor
    error: Tensor
    size: Tensor
    squared_error: Tensor
    undated: int


def spread(squares: Tensor, sums: Tensor, rows: Tensor) -> float:
    """Standard deviation of all rows.

    Args:
        squares: sums of squares by window, `[w]` float64.
        sums: sums by window, `[w]` float64.
        rows: numbers of rows by window, `[w]`.
    """
    total = max(float(rows.sum()), 1.0)
    mean = float(sums.sum()) / total
    return math.sqrt(max(float(squares.sum()) / total - mean**2, 0.0))
