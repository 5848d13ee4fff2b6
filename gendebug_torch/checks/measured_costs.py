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


# Written by `scripts/bench_size.py --fit`.
MEASURED: Mapping[str, SizeCost] = MappingProxyType(
    {
        "calibration.coverage": SizeCost(fixed=2.44e06, rows=18.7, scores=0.433),
        "calibration.ece": SizeCost(fixed=3.73e07, rows=390, scores=71.3),
        "calibration.production_ece": SizeCost(fixed=3.41e07, rows=418, scores=63.7),
        "calibration.threshold": SizeCost(fixed=5.76e05, rows=1.28e04, cells=33),
        "change_kinds": SizeCost(rows=3.04e05, cells=1.67e03, scores=590, max_rows=5000),
        "column_pair": SizeCost(fixed=7.21e05, rows=8.87, cells=0.228, scores=0.119),
        "column_screen": SizeCost(fixed=1.76e07, cells=1.23e03, scores=232),
        "compare_quality": SizeCost(fixed=8.04e04),
        "count_bins": SizeCost(fixed=2.23e05),
        "curves.residuals": SizeCost(rows=3.52e04, max_rows=20000),
        "labels.noise": SizeCost(rows=4.38e05, cells=4.02e03, max_rows=10000),
        "labels.validation_noise": SizeCost(rows=2.4e05, cells=758, scores=2.06e03, max_rows=10000),
        "leakage.after_label": SizeCost(fixed=1.89e06, cells=0.75, scores=0.239),
        "leakage.columns": SizeCost(
            fixed=2.58e08, rows=4.01e03, cells=36.2, scores=144, max_rows=50000
        ),
        "leakage.duplicates": SizeCost(fixed=3.07e06, cells=280, scores=6.55, max_rows=50000),
        "leakage.groups": SizeCost(rows=2.43e03, cells=158, scores=27.1, max_rows=50000),
        "leakage.ids": SizeCost(fixed=2.65e07, cells=82.3, scores=92.5),
        "leakage.missing": SizeCost(cells=209, scores=53.5),
        "leakage.near_duplicates": SizeCost(fixed=2.01e08, cells=438, scores=1.3),
        "leakage.preprocessing": SizeCost(fixed=1.28e07, cells=1.23e03, scores=34.6),
        "leakage.time": SizeCost(fixed=1.71e07, rows=440, scores=2.94),
        "leakage.vanishing": SizeCost(fixed=1.06e07, rows=1.45, cells=0.888, scores=1.78),
        "shift.bimodality": SizeCost(fixed=4.04e07, rows=403, scores=79.9),
        "shift.categories": SizeCost(fixed=1.03e07, cells=93.5, scores=5.15, max_rows=10000),
        "shift.concept_drift": SizeCost(fixed=6e06, rows=4.23, cells=0.0529, scores=1.43),
        "shift.confidence": SizeCost(fixed=2.93e07, rows=305, scores=61.8),
        "shift.estimated_accuracy": SizeCost(rows=1.5e03, cells=10.1, scores=2.13e03),
        "shift.joint": SizeCost(fixed=6.27e08, scores=181, max_rows=5000),
        "shift.ks": SizeCost(fixed=3.62e07, rows=488, cells=259, scores=3.56),
        "shift.label_shift": SizeCost(fixed=3.74e06, rows=7.05, cells=0.192),
        "shift.missing": SizeCost(fixed=2.57e07, rows=64, cells=15, scores=2.68),
        "shift.over_time": SizeCost(fixed=5.44e07, cells=25.6, scores=89.3),
        "shift.quality": SizeCost(fixed=3.09e08, rows=6.74e03, scores=27.2),
        "shift.serving_skew": SizeCost(fixed=3.15e06, cells=1.9),
        "slices.collapse": SizeCost(fixed=3.23e05, cells=1.6e03, scores=196, max_rows=50000),
        "slices.error_clusters": SizeCost(rows=1.88e05, cells=752, scores=801, max_rows=20000),
        "slices.worst": SizeCost(cells=4.01e03, scores=372, max_rows=50000),
    }
)
