"""Places in a cycle, such as hours, that are counted from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.transforms.distances import MAX_LEFT, NEGLIGIBLE


@dataclass(frozen=True)
class CyclicOffset:
    """Places in a cycle that are counted from elsewhere, such as hours of another time zone.

    Args:
        offset: places by which production is ahead, `-length / 2` to `length / 2`.
        first: number of the first place.
        length: places of the cycle.
        statistic: distance that is left after it.
    """

    offset: int
    first: float
    length: int
    statistic: float = 0.0

    kind: ClassVar[str] = "cycle"
    implausible_as_drift: ClassVar[bool] = True

    def apply(self, reference: Column) -> Column:
        """Values of production for these of the reference."""
        return (reference - self.first + self.offset) % self.length + self.first

    def undo(self, live: Column) -> Column:
        """Values of the reference for these of production."""
        return (live - self.first - self.offset) % self.length + self.first

    def __str__(self) -> str:
        units = {7: "days", 12: "months", 24: "hours, as in another time zone"}
        unit = units.get(self.length, f"places of {self.length}")
        return f"shifted by {self.offset:+d} {unit}"


def clock_offset_hours(reference: Column, live: Column) -> int:
    """Hours by which an hour-of-day column is offset, -11 to 12; 0 where no offset explains it.

    Compares the shares of the 24 hours under each offset by total variation, less what sampling
    alone gives. Columns that hold no hours of the day have offset 0.

    Args:
        reference: finite values, `[n]`.
        live: finite values, `[m]`.
    """
    if not _hours_of_day(np.concatenate([reference, live])) or not len(reference) or not len(live):
        return 0
    before, after = (
        np.bincount(side.astype(np.int64), minlength=24) / len(side) for side in (reference, live)
    )
    pooled = (before + after) / 2
    noise = float(
        np.sqrt(pooled * (1 - pooled) * (1 / len(reference) + 1 / len(live)) / (2 * np.pi)).sum()
    )
    distances = np.array(
        [np.abs(np.roll(before, hours) - after).sum() / 2 - noise for hours in range(24)]
    )
    best = int(distances.argmin())
    shifted = distances[0] > NEGLIGIBLE
    if not shifted or distances[best] > max(MAX_LEFT * distances[0], NEGLIGIBLE):
        return 0
    return best if best <= 12 else best - 24


def _hours_of_day(values: Column) -> bool:
    whole = bool(((values == np.floor(values)) & (values >= 0) & (values < 24)).all())
    return whole and len(np.unique(values)) >= 20


def cyclic_offset(places: int, column: Column) -> CyclicOffset | None:
    """The offset of a column that runs through a cycle; None of one that does not, or of 0 places.

    Args:
        places: places by which production is ahead, either way.
        column: values of the reference, `[n]`.
    """
    first, length = float(column.min()), len(np.unique(column))
    if column.max() - first != length - 1 or bool((column != np.floor(column)).any()):
        return None
    places %= length
    if not places:
        return None
    return CyclicOffset(places if places <= length // 2 else places - length, first, length)
