"""What checks of tables take by the size of their inputs; `scripts/bench_size.py --fit` measures.

A check without an entry is scheduled by the cost that it declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


# Made by `scripts/bench_size.py --fit`.
MEASURED: Mapping[str, SizeCost] = {
    "shift.ks": SizeCost(cells=20.0),
}
