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


# Written by `scripts/bench_size.py --fit`; empty until it ran on the checks as they are.
MEASURED: Mapping[str, SizeCost] = MappingProxyType(
    {
        "calibration.coverage": SizeCost(fixed=1.45e06, rows=18.1, cells=0.054),
        "calibration.ece": SizeCost(fixed=2.52e07, rows=314, cells=0.189, scores=19.6),
        "calibration.production_ece": SizeCost(fixed=2.37e07, rows=297, cells=0.0641, scores=20.7),
        "calibration.threshold": SizeCost(rows=7.62e03, cells=28),
        "change_kinds": SizeCost(fixed=2.23e08, rows=1.93e05, cells=1.29e03, max_rows=5000),
        "column_pair": SizeCost(fixed=4.69e05, rows=4.05, cells=0.181),
        "column_screen": SizeCost(cells=791, scores=74.1),
        "curves.residuals": SizeCost(rows=1.43e04, max_rows=50000),
        "labels.noise": SizeCost(fixed=4e08, rows=9.06e04, cells=3.48e03, max_rows=50000),
        "labels.validation_noise": SizeCost(fixed=2.26e08, rows=5.5e04, cells=881, scores=710),
        "leakage.after_label": SizeCost(fixed=1.04e06, rows=0.947, cells=0.754),
        "leakage.columns": SizeCost(fixed=2.06e08, rows=1.52e03, cells=27.3, scores=33.6),
        "leakage.duplicates": SizeCost(cells=165),
        "leakage.groups": SizeCost(rows=468, cells=119, scores=8.3),
        "leakage.ids": SizeCost(fixed=1.33e07, cells=71.4, scores=32.2),
        "leakage.missing": SizeCost(cells=164, scores=16),
        "leakage.near_duplicates": SizeCost(fixed=5.42e07, cells=386),
        "leakage.preprocessing": SizeCost(cells=766),
        "leakage.time": SizeCost(fixed=6.35e06, rows=486, cells=1.02, scores=0.151),
        "leakage.vanishing": SizeCost(fixed=6.26e06, rows=17.7, cells=0.973),
        "shift.bimodality": SizeCost(fixed=2.43e07, rows=522, scores=26.7),
        "shift.categories": SizeCost(rows=1.88e03, cells=170, max_rows=2000),
        "shift.concept_drift": SizeCost(fixed=3.93e06, rows=12.8, cells=0.138),
        "shift.confidence": SizeCost(fixed=1.62e07, rows=427, cells=0.617, scores=21.2),
        "shift.estimated_accuracy": SizeCost(
            fixed=1.45e06, rows=2.27e03, cells=5.01, scores=1.32e03
        ),
        "shift.joint": SizeCost(fixed=2.9e08, rows=4.7e03, scores=41.3),
        "shift.ks": SizeCost(cells=204),
        "shift.label_shift": SizeCost(fixed=1.81e06, rows=4.26, cells=0.355),
        "shift.missing": SizeCost(fixed=1.07e07, rows=175, cells=11.9),
        "shift.over_time": SizeCost(fixed=3.55e07, rows=177, cells=21.4, scores=23.6),
        "shift.quality": SizeCost(fixed=1.48e08, rows=6.34e03, cells=3.8),
        "shift.serving_skew": SizeCost(fixed=1.43e06, cells=1.72),
        "slices.collapse": SizeCost(fixed=5.89e07, cells=743, scores=49.6, max_rows=50000),
        "slices.error_clusters": SizeCost(
            fixed=2.11e08, rows=7.68e04, cells=678, scores=128, max_rows=50000
        ),
        "slices.worst": SizeCost(fixed=7.66e07, cells=1.97e03, scores=71.7, max_rows=50000),
    }
)
