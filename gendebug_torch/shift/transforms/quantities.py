"""Transformations of a quantity: an affine map, a logarithm, or another unit in some rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.transforms.distances import (
    explains_shift,
    ks_distance,
    weighted_ks_distance,
)
from gendebug_torch.shift.two_sample.ks import ks_two_sample

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
            "sign": f"reversed, {self.offset:.4g} minus the value"
            if self.offset
            else "with the sign reversed",
            "logarithm": "log-transformed",
            "standardised": f"standardised ({affine})",
        }.get(self.kind, affine)


# Changes of unit that are known by themselves, and what they may leave of a distance between rows
# that depend on each other in time.
_KNOWN, _MAX_LEFT_IN_TIME = ("unit", "temperature"), 0.5


def fit_feature_transform(
    reference: Column,
    live: Column,
    distance: float,
    *,
    times: tuple[float, float] = (1.0, 1.0),
) -> FeatureTransform | None:
    """The simplest affine map, or a logarithm, that explains how one quantity shifted, or None.

    Factor and offset are estimated from 25 quantiles; the Kolmogorov-Smirnov distance that a
    candidate leaves decides. A factor between units is named where the estimated one fits no
    better than by noise.

    Args:
        reference: finite values, `[n]`.
        live: finite values, `[m]`.
        distance: Kolmogorov-Smirnov distance between the two.
        times: autocorrelation times of both, rows: beside a known change of unit, rows that depend
            on each other in time fluctuate by themselves.

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
        left = ks_distance(factor * reference + offset, live)
        if kind == "unit":
            unit = FeatureTransform(kind, factor, offset, left)
            continue
        # A unit that fits about as well as the estimated factor is what was meant.
        if kind == "scale" and unit is not None and unit.statistic <= left + _MEANT * noise:
            kind, factor, left = unit.kind, unit.factor, unit.statistic
        known = kind in _KNOWN and left <= _MAX_LEFT_IN_TIME * distance
        independent = times if known else (1.0, 1.0)
        effective = [size / time for size, time in zip(sizes, independent, strict=True)]
        if explains_shift(left, distance, *effective):
            if kind == "affine" and _is_standardised(live) and not 0.8 < factor < 1.25:
                kind = "standardised"
            return FeatureTransform(kind, factor, offset, left)
    for logarithm in _logarithms(reference):
        left = ks_distance(logarithm, live)
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
        apart = before[-1] < after[0] or after[-1] < before[0]
        if apart or (near and abs(moved) < _NEAR_OFFSET * unit * second.std()):
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


# Rows of production in another unit, and the share of them, that are told from all and from none;
# the distance between the column in both units from which rows are told apart; and the level, and
# the distance, at which the rows in another unit are not what the reference is in that unit.
_MIN_MIXED, _SHARES, _APART = 20, (0.02, 0.9), 0.85
# Units that are mixed within one column: of money and of counts, of time, of area. With all units
# some would be near whatever another group of rows brings.
_MIXED_FACTORS = (*(10.0, 100.0, 1e3, 1e4, 1e6, 1e9), *(60.0, 3600.0, 24.0, 86400.0), 10.764)
_PART_ALPHA, _PART_DISTANCE = 1e-3, 0.1
# The units are parted halfway between this quantile of the smaller and its like of the larger.
_TAIL = 0.98


@dataclass(frozen=True)
class MixedUnits:
    """Another unit in some of the rows, as where one of several sources counts in cents.

    Args:
        factor: what the values of these rows are multiplied by.
        share: share of production.
        cut: value beyond which a row of production is one of them.
        statistic: distance that is left after it.
    """

    factor: float
    share: float
    cut: float
    statistic: float

    kind: ClassVar[str] = "mixed_units"
    implausible_as_drift: ClassVar[bool] = True

    def apply(self, reference: Column) -> Column:
        """Values of production for these of the reference, the rows drawn at random."""
        drawn = np.random.default_rng(0).random(len(reference)) < self.share
        return np.where(drawn, self.factor * reference, reference)

    def undo(self, live: Column) -> Column:
        """Values of the reference for these of production."""
        return np.where(self._beyond(live), live / self.factor, live)

    def _beyond(self, values: Column) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return values > self.cut if self.factor > 1 else values < self.cut

    def __str__(self) -> str:
        return f"multiplied by {self.factor:.4g} in {self.share:.0%} of the rows"


def fit_mixed_units(reference: Column, live: Column, distance: float) -> MixedUnits | None:
    """The unit that some rows of production are in, or None.

    The factor is one between units, larger than a drift makes; both units must hardly overlap, the
    mixture must explain the shift, and the rows in the other unit must be distributed as the
    reference is in it. None too of columns with values below 0.

    Args:
        reference: finite values, `[n]`.
        live: finite values, `[m]`.
        distance: Kolmogorov-Smirnov distance between the two.

    Cost: a search in the sorted columns for each factor, and a distance for those that fit.

    Example:
        >>> import numpy as np
        >>> amounts = np.random.default_rng(0).gamma(4.0, 5.0, size=(2, 2000))
        >>> mixed = np.where(np.arange(2000) % 4 == 0, 100 * amounts[1], amounts[1])
        >>> print(fit_mixed_units(amounts[0], mixed, distance=0.25))
        multiplied by 100 in 25% of the rows
    """
    before, after = np.sort(reference), np.sort(live)
    if not len(before) or not len(after) or before[0] < 0 or after[0] < 0:
        return None
    noise = math.sqrt(1 / len(before) + 1 / len(after))
    best: MixedUnits | None = None
    for base in _MIXED_FACTORS:
        for factor in (base, 1 / base):
            found = _mixture(before, after, factor)
            if found is None or not explains_shift(
                found.statistic, distance, len(before), len(after)
            ):
                continue
            if best is None or found.statistic < best.statistic - _MEANT * noise:
                best = found
    return best


def _mixture(before: Column, after: Column, factor: float) -> MixedUnits | None:
    """The share of production in a unit, and what it leaves; None where it is not that one.

    Args:
        before: sorted values of the reference, `[n]`.
        after: sorted values of production, `[m]`.
        factor: factor of the unit.
    """
    other = factor * before
    low, high = (before, other) if factor > 1 else (other, before)
    edges = np.quantile(low, _TAIL), np.quantile(high, 1 - _TAIL)
    if edges[0] <= 0:
        return None
    cut = math.sqrt(edges[0] * edges[1])
    usual, there, live = (_share_beyond(side, cut, factor) for side in (before, other, after))
    if there - usual < _APART:
        return None
    share = (live - usual) / (there - usual)
    moved = after[after > cut] if factor > 1 else after[after < cut]
    if not _SHARES[0] <= share <= _SHARES[1] or len(moved) < _MIN_MIXED:
        return None
    own = other[other > cut] if factor > 1 else other[other < cut]
    test = ks_two_sample(torch.from_numpy(own.copy()), torch.from_numpy(moved.copy()))
    if float(test.p_value) < _PART_ALPHA and float(test.statistic) > _PART_DISTANCE:
        return None
    weights = np.repeat([1 - share, share], len(before))
    left, _ = weighted_ks_distance(
        torch.from_numpy(np.concatenate([before, other])),
        torch.from_numpy(weights),
        torch.from_numpy(after.copy()),
    )
    return MixedUnits(factor, share, cut, left)


def _share_beyond(values: Column, cut: float, factor: float) -> float:
    """Share of sorted values beyond a cut, on the side of the other unit."""
    below = int(np.searchsorted(values, cut, side="right" if factor > 1 else "left"))
    return (len(values) - below if factor > 1 else below) / len(values)
