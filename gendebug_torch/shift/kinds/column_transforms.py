"""Transformations of a column: affine map, logarithm, renamed levels, exchange, clock offset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value

# Factors between units that people mix up: powers of ten, clocks and calendars, bytes, lengths,
# areas, weights, volumes, speeds, pressures and energies.
UNIT_FACTORS = (
    *(10.0, 100.0, 1e3, 1e4, 1e6, 1e9),
    *(60.0, 3600.0, 24.0, 86400.0, 7.0, 12.0, 1024.0),
    *(2.54, 3.2808, 1.6093, 10.764, 2.4711, 2.2046, 28.35, 3.7854, 2.2369, 6.8948, 4.184),
)
# Slope and intercept of the conversion between two scales of temperature.
_TEMPERATURES = {
    (5 / 9, -160 / 9): "from degrees Fahrenheit to Celsius",
    (9 / 5, 32.0): "from degrees Celsius to Fahrenheit",
    (1.0, 273.15): "from degrees Celsius to kelvin",
    (1.0, -273.15): "from kelvin to degrees Celsius",
}
# How far an estimated factor may be from that of a unit, on the scale of its logarithm, and an
# offset, in standard deviations.
_UNIT_TOLERANCE = 0.08
_NEAR_OFFSET = 0.1
# How much worse a unit may fit than the estimated factor, in standard errors of a distance.
_MEANT = 0.7
# A transformation explains a shift if it leaves this share of the distance, or a distance this
# small, or one that is not significant at this level and at most this share of the distance.
_MAX_LEFT = 0.125
_NEGLIGIBLE = 0.02
_ALPHA = 1e-3
_MAX_LEFT_NOISE = 0.75
# Numbers of levels up to which any shares identify a renaming, and up to which uneven ones do, by
# this total variation distance from equal ones.
_FEW_LEVELS = 5
_MAX_LEVELS = 30
_MIN_UNEVEN = 0.2
# Prices and crowds double, and some grow fivefold; a larger factor is a matter of units.
_FAR = math.log(6.5)


@dataclass(frozen=True)
class FeatureTransform:
    """A map `live = factor * reference + offset`, or a logarithm, between two distributions.

    Args:
        kind: `unit`, `temperature`, `scale`, `sign`, `offset`, `standardised`, `affine` or
            `logarithm`.
        factor: slope of the map; NaN for a logarithm.
        offset: intercept of the map; NaN for a logarithm.
        statistic: Kolmogorov-Smirnov distance between the mapped reference and production.
    """

    kind: str
    factor: float
    offset: float
    statistic: float

    @property
    def implausible_as_drift(self) -> bool:
        """Whether drift is unlikely: a sign, a logarithm, another thermometer, a large factor."""
        return self.kind in ("temperature", "sign", "standardised", "logarithm") or (
            self.kind in ("unit", "scale") and abs(math.log(self.factor)) > _FAR
        )

    def __str__(self) -> str:
        affine = f"multiplied by {self.factor:.4g}, then shifted by {self.offset:+.4g}"
        return {
            "unit": f"multiplied by {self.factor:.4g}",
            "scale": f"multiplied by {self.factor:.4g}",
            "temperature": f"converted {_TEMPERATURES.get((self.factor, self.offset))} ({affine})",
            "offset": f"shifted by {self.offset:+.4g}",
            "sign": "with the sign reversed",
            "logarithm": "log-transformed",
            "standardised": f"standardised ({affine})",
        }.get(self.kind, affine)


@dataclass(frozen=True)
class LevelRenaming:
    """Levels of a category under other names, matched by their frequency.

    Args:
        kind: `renamed` where production has new levels, `recoded` where old ones changed places.
        levels: old name -> new name.
        statistic: total variation distance that is left after it.
    """

    kind: str
    levels: Mapping[str, str]
    statistic: float

    @property
    def implausible_as_drift(self) -> bool:
        """Whether drift is unlikely: new names, or four and more levels recoded."""
        return self.kind == "renamed" or len(self.levels) >= 4

    def __str__(self) -> str:
        changed = [f"{old} → {new}" for old, new in self.levels.items() if old != new]
        return f"levels {self.kind} ({', '.join(changed[:3])}{', …' if len(changed) > 3 else ''})"


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


Transform = FeatureTransform | LevelRenaming | CyclicOffset


def fit_level_renaming(
    reference: pd.Series[Any], live: pd.Series[Any], distance: float
) -> LevelRenaming | None:
    """The renaming of levels that explains how one category shifted, or None.

    Args:
        reference: levels, `[n]`.
        live: levels, `[m]`.
        distance: total variation distance between the two.
    """
    before, after = (side.value_counts(normalize=True) for side in (reference, live))
    if len(before) != len(after) or not len(before):
        return None
    candidates = [_matched_by_name(before, after)]
    if _identified_by_shares(before):
        candidates.append(dict(zip(before.index, after.index, strict=True)))
    for levels in candidates:
        left = sum(abs(before[old] - after[new]) for old, new in levels.items()) / 2
        if levels and explains_shift(float(left), distance, len(reference), len(live)):
            names = {str(old): str(new) for old, new in levels.items()}
            kind = "renamed" if set(names.values()) - set(names) else "recoded"
            return LevelRenaming(kind, names, float(left))
    return None


def _matched_by_name(before: pd.Series[Any], after: pd.Series[Any]) -> dict[Any, Any]:
    """Levels that have the same letters and digits, if that pairs them all; else none."""
    sides = [{_letters(str(level)): level for level in side.index} for side in (before, after)]
    if sides[0].keys() != sides[1].keys() or len(sides[0]) != len(before):
        return {}
    return {level: sides[1][letters] for letters, level in sides[0].items()}


def _identified_by_shares(shares: pd.Series[Any]) -> bool:
    """Whether shares tell levels apart: a few levels, or some that do not all have about the same.

    The levels of many dates or keys have similar shares in any two periods, whatever their names.
    """
    if len(shares) <= _FEW_LEVELS:
        return True
    uneven = float((shares - 1 / len(shares)).abs().sum()) / 2
    return len(shares) <= _MAX_LEVELS and uneven >= _MIN_UNEVEN


def _letters(level: str) -> str:
    return "".join(filter(str.isalnum, level.casefold()))


def fit_feature_transform(
    reference: Column, live: Column, distance: float
) -> FeatureTransform | None:
    """The simplest affine map, or a logarithm, that explains how one quantity shifted, or None.

    Factor and offset are estimated from 25 quantiles; the Kolmogorov-Smirnov distance that a
    candidate leaves decides. A factor between units is named where the estimated one fits no
    better than by noise.

    Args:
        reference: finite values, `[n]`.
        live: finite values, `[m]`.
        distance: Kolmogorov-Smirnov distance between the two.

    Example:
        >>> import numpy as np
        >>> metres = np.random.default_rng(0).gamma(4.0, 5.0, size=(2, 2000))
        >>> found = fit_feature_transform(metres[0], 100 * metres[1], distance=1.0)
        >>> found.kind, found.factor
        ('unit', 100.0)
    """
    sizes = len(reference), len(live)
    levels = np.linspace(0.02, 0.98, 25)
    quantiles = np.quantile(reference, levels), np.quantile(live, levels)
    if min(float(side.std()) for side in quantiles) <= 0:
        return None
    unit: FeatureTransform | None = None
    noise = math.sqrt(1 / len(reference) + 1 / len(live))
    for kind, factor, offset in _affine_candidates(*quantiles):
        left = _ks_distance(factor * reference + offset, live)
        if kind == "unit":
            unit = FeatureTransform(kind, factor, offset, left)
            continue
        # A unit that fits about as well as the estimated factor is what was meant.
        if kind == "scale" and unit is not None and unit.statistic <= left + _MEANT * noise:
            kind, factor, left = unit.kind, unit.factor, unit.statistic
        if explains_shift(left, distance, *sizes):
            if kind == "affine" and _is_standardised(live) and not 0.8 < factor < 1.25:
                kind = "standardised"
            return FeatureTransform(kind, factor, offset, left)
    for logarithm in _logarithms(reference):
        left = _ks_distance(logarithm, live)
        if explains_shift(left, distance, *sizes):
            return FeatureTransform("logarithm", math.nan, math.nan, left)
    return None


def _affine_candidates(before: Column, after: Column) -> Iterator[tuple[str, float, float]]:
    """Kind, factor and offset of the maps between two sets of quantiles, the simplest first."""
    large = np.abs(before) > 1e-9 * np.abs(before).max()
    ratio = float(np.median(after[large] / before[large]))
    # In units of the largest value, whose square may exceed every float.
    unit = float(np.abs(before).max()) or 1.0
    first, second = before / unit, after / unit
    slope = float(np.cov(first, second)[0, 1] / first.var(ddof=1))
    if ratio > 0:
        far = {u: abs(math.log(ratio / u)) for base in UNIT_FACTORS for u in (base, 1 / base)}
        nearest = min(far, key=far.__getitem__)
        if far[nearest] < _UNIT_TOLERANCE:
            yield "unit", nearest, 0.0
        yield "scale", ratio, 0.0
    for factor, offset in _TEMPERATURES:
        moved = float(np.median(after - factor * before)) - offset
        near = slope > 0 and abs(math.log(slope / factor)) < _UNIT_TOLERANCE
        if near and abs(moved) < _NEAR_OFFSET * unit * second.std():
            yield "temperature", factor, offset
    yield "sign", -1.0, 0.0
    yield "offset", 1.0, float(np.median(after - before))
    if slope > 0:
        yield "affine", slope, float(np.median(after - slope * before))


def _logarithms(reference: Column) -> Iterator[Column]:
    """The reference in the logarithms that are in use."""
    size = np.log1p(np.abs(reference))
    yield np.sign(reference) * size
    yield size / math.log(10)
    if float(reference.min()) > 0:
        yield np.log(reference)


def _is_standardised(live: Column) -> bool:
    return abs(float(live.mean())) < 0.2 and abs(float(live.std()) - 1) < 0.2


def exchanged_columns(
    reference: list[Column], live: list[Column], distances: list[float]
) -> dict[int, int]:
    """Columns that each hold the values of the other: `{i: j, j: i}`.

    Args:
        reference: finite values of each column.
        live: the same of production.
        distances: Kolmogorov-Smirnov distance of each column.
    """
    found: dict[int, int] = {}
    for i in range(len(reference)):
        for j in range(i):
            limit = min(distances[i], distances[j])
            if i in found or j in found:
                continue
            crossed = [(reference[j], live[i]), (reference[i], live[j])]
            if all(explains_shift(_ks_distance(a, b), limit, len(a), len(b)) for a, b in crossed):
                found |= {i: j, j: i}
    return found


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
    shifted = distances[0] > _NEGLIGIBLE
    if not shifted or distances[best] > max(_MAX_LEFT * distances[0], _NEGLIGIBLE):
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


def explains_shift(left: float, distance: float, n: float, m: float) -> bool:
    """Whether the distance that is left is negligible, or no more than noise and clearly smaller.

    Args:
        left: Kolmogorov-Smirnov distance after the explanation.
        distance: distance before it.
        n: effective rows of the reference.
        m: effective rows of production.
    """
    if left <= max(_MAX_LEFT * distance, _NEGLIGIBLE):
        return True
    p = float(ks_p_value(torch.tensor([left]), torch.tensor([n]), torch.tensor([m])))
    return p > _ALPHA and left <= _MAX_LEFT_NOISE * distance


def weighted_ks_distance(reference: Tensor, weights: Tensor, live: Tensor) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of a weighted and a plain sample, and the effective sample size.

    Source: Kish (1965), Survey Sampling, for `(sum w)^2 / sum w^2`.

    Args:
        reference: finite values, `[n]`.
        weights: weights of the reference rows, `[n]`, not negative.
        live: finite values, `[m]`.
    """
    order = reference.argsort()
    values, mass = reference[order].contiguous(), weights[order].double()
    total = float(mass.sum())
    if not len(live) or total <= 0:
        return math.nan, 0.0
    below = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / total])
    points = torch.unique(torch.cat([values, live]))
    ordered = live.sort().values
    differences = [
        below[torch.searchsorted(values, points, right=right)]
        - torch.searchsorted(ordered, points, right=right).double() / len(live)
        for right in (False, True)
    ]
    distance = max(float(difference.abs().max()) for difference in differences)
    return distance, total**2 / float(mass.square().sum())


def _ks_distance(reference: Column, live: Column) -> float:
    return float(ks_two_sample(torch.from_numpy(reference), torch.from_numpy(live)).statistic)
