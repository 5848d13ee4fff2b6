"""Values whose share of a column grew: defaults that production fills in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.shift.columns.prepared import PreparedReference, prepare_reference
from gendebug_torch.shift.transforms.cycles import clock_offset_hours
from gendebug_torch.shift.two_sample.ks import ks_two_sample

# A column with fewer distinct values is a code, whose levels may grow without being a default.
_MIN_DISTINCT = 20
# Level and distance from which the values beside a default value count as shifted, and the rows
# that it takes to judge.
_REST_ALPHA = 1e-3
_REST_DISTANCE = 0.05
_MIN_REST = 20
# Values in a row, and share of production, from which a value may be stuck; how many times longer
# than any run of the reference that is, and the share that it may have had there.
_MIN_STUCK, _MIN_SHARE_STUCK, _LONGER, _MAX_USUAL = 50, 0.05, 5, 0.02


@dataclass(frozen=True)
class Atom:
    """A single value with a share of its own.

    Args:
        value: the value.
        reference_share: share of the reference values that equal it.
        live_share: share of the production values that equal it.
        reference_distinct: number of distinct reference values.
    """

    value: float
    reference_share: float
    live_share: float
    reference_distinct: int

    @property
    def growth(self) -> float:
        """Share in production less share in the reference."""
        return self.live_share - self.reference_share


def largest_atom(
    reference: PreparedReference | Tensor, live: PreparedReference | Tensor, column: int = 0
) -> Atom | None:
    """The value of one column whose share grew most, or None without values in a sample.

    Args:
        reference: values, `[n, d]` or `[n]`, or what `prepare_reference` returned for them.
        live: values, `[m, d]` or `[m]`, or prepared likewise; NaN is missing.
        column: number of the column.

    Cost: `m log m + n` for the one column.
    """
    before, after = one_column(reference, column), one_column(live, column)
    known = before.values(0).cpu().numpy()
    values, counts = np.unique(
        after.values(0).to(before.columns.dtype).cpu().numpy(), return_counts=True
    )
    if not len(values) or not len(known):
        return None
    known_counts = np.searchsorted(known, values, side="right") - np.searchsorted(known, values)
    known_shares, shares = known_counts / len(known), counts / counts.sum()
    best = int((shares - known_shares).argmax())
    distinct = 1 + int((known[1:] != known[:-1]).sum())
    return Atom(float(values[best]), float(known_shares[best]), float(shares[best]), distinct)


def default_value(
    reference: PreparedReference | Tensor,
    live: PreparedReference | Tensor,
    column: int = 0,
    *,
    min_growth: float = 0.1,
) -> Atom | None:
    """The value that a part of production has in one column where it varied before, or None.

    The other values have to keep their distribution; those of a real drift move as well.

    Args:
        reference: values, `[n, d]` or `[n]`, or what `prepare_reference` returned for them.
        live: values, `[m, d]` or `[m]`, or prepared likewise.
        column: number of the column.
        min_growth: smallest growth of the share of the value; the share has to double as well.
    """
    sides = one_column(reference, column), one_column(live, column)
    atom = largest_atom(*sides)
    if atom is None or atom.growth <= min_growth or atom.live_share < 2 * atom.reference_share:
        return None
    # The busy hours of a clock in another zone grow as well, and are no default.
    if clock_offset_hours(*(side.values(0).double().cpu().numpy() for side in sides)):
        return None
    if atom.reference_distinct <= _MIN_DISTINCT and atom.live_share <= 0.99:
        return None
    return atom if _others_stay(*sides, atom.value) else None


def stuck_value(reference: Tensor, live: Tensor) -> Atom | None:
    """The value that a sensor is stuck on in production, or None.

    It lies between values of the reference, where it is rare, and is repeated in a row for longer
    than any value was there: nights and limits of a scale, which come back, are no fault.

    Args:
        reference: values in the order of time, `[n]`, or as they come; NaN is missing.
        live: values of production likewise, `[m]`.

    Cost: one pass over each, and a sort of the reference.
    """
    before, after = (side[side.isfinite()].double().cpu().numpy() for side in (reference, live))
    if len(before) < _MIN_STUCK or len(after) < _MIN_STUCK:
        return None
    value, length = _longest_run(after)
    usual, share = _longest_run(before)[1], float((before == value).mean())
    inside = before.min() < value < before.max()
    if not inside or share > _MAX_USUAL or length < max(_MIN_STUCK, _LONGER * usual):
        return None
    if length < _MIN_SHARE_STUCK * len(after):
        return None
    distinct = len(np.unique(before))
    return Atom(value, share, float((after == value).mean()), distinct)


def _longest_run(values: NDArray[np.float64]) -> tuple[float, int]:
    """The value that is repeated most often in a row, and how often."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    longest = int(lengths.argmax())
    return float(values[starts[longest]]), int(lengths[longest])


def _others_stay(before: PreparedReference, after: PreparedReference, value: float) -> bool:
    """Whether the other values keep their distribution: those of real drift move as well."""
    rest = [values[values != value] for values in (before.values(0), after.values(0))]
    if min(map(len, rest)) < _MIN_REST:
        return True
    test = ks_two_sample(*rest)
    return float(test.p_value) > _REST_ALPHA or float(test.statistic) < _REST_DISTANCE


def one_column(side: Tensor | PreparedReference, column: int) -> PreparedReference:
    """One column of a sample, sorted."""
    if isinstance(side, PreparedReference):
        return side.select([column])
    return prepare_reference(side if side.ndim == 1 else side[:, column])
