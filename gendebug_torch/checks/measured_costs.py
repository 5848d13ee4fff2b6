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
        max_rows: most rows of each side that count, for checks that sample.
    """

    fixed: float = 0.0
    rows: float = 0.0
    cells: float = 0.0
    scores: float = 0.0
    max_rows: float = float("inf")

    def elements(self, given: Mapping[str, Any], names: Iterable[str]) -> float:
        """Operations for the given records.

        Args:
            given: inputs by name.
            names: those that the check inspects.
        """
        parts = sizes(given, names, self.max_rows)
        return self.fixed + sum(
            weight * size
            for weight, size in zip((self.rows, self.cells, self.scores), parts, strict=True)
        )


def sizes(
    given: Mapping[str, Any], names: Iterable[str], max_rows: float = float("inf")
) -> tuple[float, float, float]:
    """Rows, cells of features and scores of the records among `names`, in sum."""
    rows = cells = scores = 0.0
    for name in names:
        records = given.get(name)
        if name not in SPLITS or records is None:
            continue
        n = min(float(len(records)), max_rows)
        rows += n
        cells += n * _width(records.features)
        scores += n * _width(records.logits)
    return rows, cells, scores


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
        "calibration.coverage": SizeCost(fixed=1.38e06, rows=10.7, cells=0.0553, scores=0.00597),
        "calibration.ece": SizeCost(fixed=1.84e07, rows=205, scores=19.6),
        "calibration.production_ece": SizeCost(fixed=1.92e07, rows=164, scores=18.3),
        "column_pair": SizeCost(fixed=4.25e05, rows=6.65, cells=0.0373),
        "column_screen": SizeCost(cells=688, scores=127, max_rows=50000),
        "compare_quality": SizeCost(fixed=3.66e04),
        "count_bins": SizeCost(fixed=8.72e04),
        "curves.residuals": SizeCost(rows=1.75e04, max_rows=10000),
        "leakage.after_label": SizeCost(fixed=1.56e06, rows=4.22, scores=0.33),
        "leakage.columns": SizeCost(
            fixed=1.27e08, rows=2.17e03, cells=21.5, scores=49, max_rows=50000
        ),
        "leakage.duplicates": SizeCost(fixed=7.04e06, cells=160, max_rows=50000),
        "leakage.ids": SizeCost(fixed=1.94e07, rows=166, cells=200, scores=1.07, max_rows=10000),
        "leakage.missing": SizeCost(fixed=1.95e06, cells=78.5, scores=11.8),
        "leakage.near_duplicates": SizeCost(fixed=5.53e07, rows=1.01e03, cells=224, max_rows=50000),
        "leakage.preprocessing": SizeCost(fixed=4.78e06, cells=414, max_rows=50000),
        "leakage.time": SizeCost(fixed=7.05e06, rows=242, cells=0.263),
        "leakage.vanishing": SizeCost(fixed=4.43e06, rows=6.41, cells=1.19),
        "shift.bimodality": SizeCost(fixed=1.17e07, rows=297, scores=29.2),
        "shift.categories": SizeCost(fixed=7.85e06, rows=60.5, cells=44.6, max_rows=10000),
        "shift.concept_drift": SizeCost(fixed=3.32e06, rows=9.24, cells=0.247),
        "shift.confidence": SizeCost(fixed=1.62e07, rows=224, scores=23.4),
        "shift.estimated_accuracy": SizeCost(fixed=2.7e07, rows=1.46e03, scores=650),
        "shift.ks": SizeCost(fixed=5.43e07, cells=94.6, scores=2.15),
        "shift.label_shift": SizeCost(fixed=2.11e06, rows=4.26, cells=0.0295),
        "shift.missing": SizeCost(fixed=1.13e07, rows=75.5, cells=9.52),
        "shift.over_time": SizeCost(fixed=3.19e07, cells=24.8, scores=28.4),
        "shift.quality": SizeCost(fixed=1.49e08, rows=3.78e03, scores=5.28),
        "shift.reproduced_change": SizeCost(fixed=8.42e06, cells=29.3),
        "shift.serving_skew": SizeCost(fixed=6.43e05, cells=1.47),
        "slices.collapse": SizeCost(fixed=1.65e07, cells=411, max_rows=50000),
        "slices.error_clusters": SizeCost(rows=3.27e04, cells=211, scores=529, max_rows=20000),
        "slices.worst": SizeCost(fixed=3.76e06, cells=912, scores=441, max_rows=50000),
    }
)
