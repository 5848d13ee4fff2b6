"""Transformations of a quantity: an affine map or a logarithm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.transforms.distances import explains_shift, ks_distance

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
