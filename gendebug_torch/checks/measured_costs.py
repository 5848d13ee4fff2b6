"""What checks of tables take by the size of their inputs; `scripts/bench_size.py --fit` measures.

A check without an entry is scheduled by the cost that it declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

SPLITS = ("train", "validation", "production")


@dataclass(frozen=True, slots=True)
class SizeCost:
    """Elementary operations as a sum over the sizes of the records that a check inspects.

    Args:
        fixed: operations whatever the size.
        rows: operations per row.
        cells: operations per row and column of features.
        scores: operations per row and class.
        columns: operations per column of features, however many the rows are.
        max_rows: most rows of each side that count, for checks that sample.
    """

    fixed: float = 0.0
    rows: float = 0.0
    cells: float = 0.0
    scores: float = 0.0
    columns: float = 0.0
    max_rows: float = float("inf")

    def elements(self, given: Mapping[str, Any], names: Iterable[str]) -> float:
        """Operations for the given records.

        Args:
            given: inputs by name.
            names: those that the check inspects.
        """
        parts = sizes(given, names, self.max_rows)
        weights = (self.rows, self.cells, self.scores, self.columns)
        return self.fixed + sum(weight * size for weight, size in zip(weights, parts, strict=True))


def sizes(
    given: Mapping[str, Any], names: Iterable[str], max_rows: float = float("inf")
) -> tuple[float, float, float, float]:
    """Rows, cells and columns of features and scores of the records among `names`, in sum.

    In the order rows, cells, scores, columns.
    """
    rows = cells = scores = columns = 0.0
    for name in names:
        records = given.get(name)
        if name not in SPLITS or records is None:
            continue
        n = min(float(len(records)), max_rows)
        rows += n
        cells += n * _width(records.features)
        scores += n * _width(records.logits)
        columns += _width(records.features)
    return rows, cells, scores, columns


def _width(value: Any) -> int:
    """Values per row of a table or Tensor."""
    if value is None:
        return 0
    width = 1
    for size in value.shape[1:]:
        width *= size
    return width


# Fitted by `scripts/bench_size.py --fit`; checks that declare as good a cost have no entry.
MEASURED: Mapping[str, SizeCost] = MappingProxyType(
    {
        "calibration.ece": SizeCost(fixed=3.98e07),
        "calibration.production_ece": SizeCost(fixed=3.96e07, rows=14.6, cells=0.014, scores=1.68),
        "column_screen": SizeCost(fixed=1.12e07, cells=295, scores=77.9, columns=2.11e05),
        "labels.noise": SizeCost(
            fixed=1.91e08, rows=9.05e04, scores=787, columns=2.84e06, max_rows=20000
        ),
        "labels.validation_noise": SizeCost(rows=1.22e05, cells=496, scores=2.6e03, max_rows=10000),
        "leakage.columns": SizeCost(
            fixed=8.16e07, rows=4.88e03, cells=33, scores=39.2, max_rows=20000
        ),
        "leakage.duplicates": SizeCost(fixed=2.82e06, cells=48.3, scores=2.48, columns=2.49e05),
        "leakage.ids": SizeCost(fixed=2.92e07, cells=6.06, scores=0.696, columns=4.99e05),
        "leakage.missing": SizeCost(fixed=1.11e07, cells=47.1, scores=15.2, columns=5.63e04),
        "leakage.preprocessing": SizeCost(fixed=7.46e05, cells=123, scores=1.89, columns=5.95e05),
        "leakage.vanishing": SizeCost(fixed=3.98e07),
        "shift.estimated_accuracy": SizeCost(fixed=2.27e07, rows=665, cells=0.939, scores=577),
        "shift.ks": SizeCost(fixed=2.21e07, cells=43.5, scores=10.5, columns=9.88e04),
        "shift.quality": SizeCost(rows=1.76e04, max_rows=10000),
        "shift.reproduced_change": SizeCost(
            fixed=1.61e07, cells=4.62, scores=6.27, columns=9.75e04
        ),
        "slices.error_clusters": SizeCost(rows=4.87e04, cells=138, scores=236, max_rows=20000),
    }
)
