"""P-values of slices whose rows fail together: visits of a patient, or neighbours in time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gendebug_torch.data.inputs.nested_values import hashable_values
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.stats.dependence.design_effects import few_groups, group_effect, group_ids

# Rows of the shortest stretch of time, the factor to the next longer one, and the fewest stretches.
_SHORTEST, _LONGER, _MIN_STRETCHES = 5, 3, 12
# Parts of the record whose means are taken off, so that a break is no dependence.
_PARTS = 4
# A column of the metadata may say of whom a row is, undeclared, if it has so many levels, and no
# more rows of each on average.
_MIN_LEVELS, _MAX_ROWS_PER_LEVEL = 50, 20.0
# Standard errors beyond which the likeness of rows is no chance.
_LIKE = 3.0
# Part of the largest effect that shorter stretches have to explain to be the ones that count.
_MOST = 0.7


@dataclass(frozen=True, eq=False)
class Dependence:
    """How alike rows of one unit fail, for each way to cut the rows into units.

    Args:
        declared: group of each row, `[n]` int64; None where the schema declares none.
        units: unit of each row, `[u, n]` int32 from 0.
        deviations: errors or losses less what is expected, `[n]` float64 with mean 0.
    """

    declared: Tensor | None
    units: Tensor
    deviations: Tensor

    def at(self, rows: Tensor) -> Dependence:
        """Dependence of some of the rows.

        Args:
            rows: `[n]` bool.
        """
        declared = None if self.declared is None else self.declared[rows]
        return Dependence(declared, self.units[:, rows], self.deviations[rows])

    def effect(self, values: Tensor, inside: Tensor) -> float:
        """Design effect of the mean of a slice, at least 1: the largest one of all units.

        A slice with m_u of its m rows in unit u has `1 + rho (sum_u m_u^2 / m - 1)`, with the
        correlation rho within units of all rows: a slice that is one bad hour cannot say itself how
        alike the rows of an hour are. What the slice has in excess is no likeness and is taken off.
        Rows in few units have another such factor, that of Student's t.
        Declared groups also count by how rows of the slice itself fail together.

        Source: Kish (1965), Survey Sampling, section 5.4; Donner (1986), Int. Stat. Rev. 54:67.

        Args:
            values: errors, losses or residuals of the rows, `[n]`.
            inside: whether rows belong to the slice, `[n]` bool.
        """
        rows, effects = int(inside.sum()), [1.0]
        if not rows:
            return 1.0
        if self.declared is not None:
            own = values[inside].double()
            numbers = torch.unique(self.declared[inside], return_inverse=True)[1]
            effects.append(group_effect(own - own.mean(), numbers))
        added = self._added(inside, rows)
        if len(added):
            # Longer stretches than those whose rows are alike add nothing, and are few.
            first = int((added[:, 0] >= _MOST * added[:, 0].amax()).int().argmax())
            effects.append(1 + float(added[first, 0]) * few_groups(float(added[first, 1]) - 1))
        return max(effects)

    def _added(self, inside: Tensor, rows: int) -> Tensor:
        """`[u, 2]` what each way of cutting adds to the variance of a slice, and its many units."""
        excess = float(self.deviations[inside].mean())
        alone = self._square - excess**2 * rows
        added = torch.zeros(len(self.units), 2, dtype=torch.float64)
        for i, (sums, pairs, products) in enumerate(self._sums):
            held, counts = torch.unique(self.units[i, inside], return_counts=True)
            alike = float(counts.double().square().sum())
            crossed = float((counts * sums[held]).sum())
            # Sums of squares by unit, as if the slice had no excess.
            together = products - 2 * excess * crossed + excess**2 * alike
            likeness = _likeness(together, alone, pairs, len(inside))
            added[i, 0] = likeness * (alike / rows - 1)
            added[i, 1] = rows**2 / alike
        return added

    @cached_property
    def _square(self) -> float:
        return float(self.deviations.square().sum())

    @cached_property
    def _sums(self) -> list[tuple[Tensor, float, float]]:
        """Per way of cutting: sum of each unit, pairs of rows in one unit, sum of squared sums."""
        found = []
        for ids in self.units:
            sizes = ids.bincount().double()
            sums = torch.zeros_like(sizes).index_add_(0, ids, self.deviations)
            pairs = float(sizes.square().sum()) - len(ids)
            found.append((sums, pairs, float(sums.square().sum())))
        return found


def _likeness(together: float, alone: float, pairs: float, rows: int) -> float:
    """Intraclass correlation, 0..1; 0 where chance may have made it so."""
    if pairs <= 0 or alone <= 0:
        return 0.0
    correlation = (together - alone) / pairs * rows / alone
    # Of independent rows the standard error is that of the mean of as many products.
    return min(correlation, 1.0) if correlation > _LIKE * math.sqrt(2 / pairs) else 0.0


def dependence(records: Records, residuals: Tensor, rows: Tensor | None = None) -> Dependence:
    """How rows fail together by group, by a column of many levels, and in stretches of time.

    Args:
        records: n rows, with a group, time or other metadata, or none of it.
        residuals: errors or losses less what is expected, `[m]`.
        rows: which of the rows they are, `[m]` int64; default all.

    Cost: a pass over the rows for each grouping, some dozen of 10^6 rows.
    """
    chosen = torch.arange(len(records)) if rows is None else rows
    groups, place = group_ids(records), _place_in_time(records, chosen)
    units = [*_columns_of_many_levels(records, chosen), *_stretches(place)]
    if groups is not None:
        groups = groups[chosen]
        units.append(groups)
    # A break between parts of the record is no dependence.
    part = torch.zeros_like(chosen) if place is None else place * _PARTS // max(len(chosen), 1)
    sums = torch.zeros(_PARTS, dtype=torch.float64).index_add_(0, part, residuals.double())
    means = sums / part.bincount(minlength=_PARTS).clamp(min=1)
    stacked = torch.stack(units) if units else torch.empty(0, len(chosen))
    return Dependence(groups, stacked.int(), residuals.double() - means[part])


def _place_in_time(records: Records, rows: Tensor) -> Tensor | None:
    """`[m]` int64 ranks of some rows in the order of time; None where no time is known."""
    column, metadata = records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return None
    place = torch.empty(len(records), dtype=torch.int64)
    place[parse_times(metadata[column], column).order] = torch.arange(len(records))
    return place[rows].argsort().argsort()


def _stretches(place: Tensor | None) -> Iterator[Tensor]:
    """Number of the stretch of time of each row, `[m]` int64, from short stretches to long ones."""
    length = _SHORTEST
    while place is not None and length * _MIN_STRETCHES <= len(place):
        yield place // length
        length *= _LONGER


def _columns_of_many_levels(records: Records, rows: Tensor) -> Iterator[Tensor]:
    """Level of each row, `[m]` int64, of columns that may say of whom a row is."""
    if records.metadata is None:
        return
    schema = records.schema
    for name in records.metadata:
        column = records.metadata[name]
        if name in (schema.time, schema.label_time, schema.group) or column.dtype.kind in "fMmb":
            continue
        values = hashable_values(column.iloc[rows.numpy()])
        numbers, levels_of = values.factorize()
        codes = torch.from_numpy(numbers.copy()).long()
        missing, levels = codes < 0, len(levels_of)
        given = len(codes) - int(missing.sum())
        if _MIN_LEVELS <= levels < given <= _MAX_ROWS_PER_LEVEL * levels:
            codes[missing] = levels + torch.arange(int(missing.sum()))
            yield codes


def discounted(log_p: Tensor, effects: Tensor) -> Tensor:
    """`[s]` logarithms of p-values with the deviates divided by the roots of design effects.

    Source: Rao and Scott (1992), Biometrics 48:577.

    Args:
        log_p: logarithms of one-sided p-values of independent rows, `[s]` float64.
        effects: design effects, `[s]`.

    Example:
        >>> one = torch.tensor([0.01], dtype=torch.float64).log()
        >>> round(float(discounted(one, torch.tensor([4.0], dtype=torch.float64)).exp()), 3)
        0.122
    """
    # The lower tail has a deviate for each logarithm: found by Newton's method.
    deviate = -(-2 * log_p).clamp(min=0.0).sqrt()
    for _ in range(20):
        tail = torch.special.log_ndtr(deviate)
        density = -deviate.square() / 2 - math.log(2 * math.pi) / 2
        deviate = deviate - (tail - log_p) * (tail - density).exp()
    smaller: Tensor = torch.special.log_ndtr(deviate / effects.sqrt())
    return smaller
