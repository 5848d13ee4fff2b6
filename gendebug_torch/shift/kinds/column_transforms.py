"""How a column may have been computed differently: another unit, an offset, standardised, or
exchanged with another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.shift.two_sample.ks_p_values import ks_p_value

# Factors between units that people mix up: powers of ten, clocks and calendars, lengths, weights,
# volumes.
UNITS = (
    10.0,
    100.0,
    1e3,
    1e4,
    1e6,
    1e9,
    60.0,
    3600.0,
    24.0,
    86400.0,
    7.0,
    12.0,
    2.54,
    3.2808,
    2.2046,
    3.7854,
    28.35,
    1024.0,
)
# A map explains a shift if it leaves a small share of it, or a larger one that is no more than
# noise.
_LEFT = 0.125
_NEGLIGIBLE = 0.02
_NOISE = 1e-3
_LESS = 0.75
# Prices and crowds double, and some grow fivefold.
_FAR = math.log(6.5)


@dataclass(frozen=True)
class Undo:
    """A map `live = factor * reference + offset`, or a logarithm, that turns one distribution into
    the other.

    Args:
        kind: `unit`, `scale`, `sign`, `offset`, `standardised`, `affine` or `logarithm`.
        factor: of the map; NaN for a logarithm.
        offset: of the map; NaN for a logarithm.
        statistic: Kolmogorov-Smirnov distance that is left after it.
    """

    kind: str
    factor: float
    offset: float
    statistic: float

    @property
    def telling(self) -> bool:
        """Whether no world is likely to move so by itself: a turned sign, a standardisation, a
        logarithm, or eight times as much.
        """
        return self.kind in ("sign", "standardised", "logarithm") or (
            self.kind in ("unit", "scale") and abs(math.log(self.factor)) > _FAR
        )

    def __str__(self) -> str:
        shown = {
            "unit": f"{self.factor:.4g} times",
            "scale": f"{self.factor:.4g} times",
            "offset": f"{self.offset:+.4g} added to",
        }
        shown |= {"sign": "the negative of", "logarithm": "the logarithm of"}
        return shown.get(self.kind, f"{self.factor:.4g} times, and {self.offset:+.4g} added to,")


@dataclass(frozen=True)
class Renaming:
    """Levels of a category that hold other names than before, matched by how frequent they are.

    Args:
        kind: `renamed` where production has levels that were never seen, `recoded` where known ones
            changed places.
        levels: old name -> new name.
        statistic: total variation that is left after it.
    """

    kind: str
    levels: Mapping[str, str]
    statistic: float

    @property
    def telling(self) -> bool:
        """Whether no world is likely to move so by itself: new names for old shares, or four and
        more levels that changed places.
        """
        return self.kind == "renamed" or len(self.levels) >= 4

    def __str__(self) -> str:
        changed = [f"{old} → {new}" for old, new in self.levels.items() if old != new]
        return (
            "levels under other names "
            f"({', '.join(changed[:3])}{', …' if len(changed) > 3 else ''}) beside"
        )


def renamed(reference: pd.Series[Any], live: pd.Series[Any], distance: float) -> Renaming | None:
    """The renaming of levels that explains how one category moved, or None.

    Args:
        reference: `[n]` levels.
        live: `[m]` levels.
        distance: total variation as it is.
    """
    before, after = (side.value_counts(normalize=True) for side in (reference, live))
    if len(before) != len(after) or not len(before):
        return None
    left = float(np.abs(before.to_numpy() - after.to_numpy()).sum()) / 2
    if not explained(left, distance, len(reference), len(live)):
        return None
    levels = {str(old): str(new) for old, new in zip(before.index, after.index, strict=True)}
    return Renaming("renamed" if set(levels.values()) - set(levels) else "recoded", levels, left)


def undo(reference: Column, live: Column, distance: float) -> Undo | None:
    """The simplest affine map, or a logarithm, that explains how one column moved, or None.

    Factor and offset are read off 25 quantiles; what they leave is judged by the distance of the
    distribution functions.

    Args:
        reference: `[n]` finite values.
        live: `[m]` finite values.
        distance: Kolmogorov-Smirnov distance as it is.
    """
    levels = np.linspace(0.02, 0.98, 25)
    before, after = np.quantile(reference, levels), np.quantile(live, levels)
    spread = float(before.std())
    if spread <= 0 or float(after.std()) <= 0:
        return None
    apart = np.abs(before) > 1e-9 * np.abs(before).max()
    ratio = float(np.median(after[apart] / before[apart]))
    slope = float(np.cov(before, after)[0, 1] / before.var(ddof=1))
    shift = float(np.median(after - before))
    intercept = float(np.median(after - slope * before))
    known = (
        [unit for base in UNITS for unit in (base, 1 / base) if abs(math.log(ratio / unit)) < 0.08]
        if ratio > 0
        else []
    )
    candidates = [("unit", unit, 0.0) for unit in known] + (
        [("scale", ratio, 0.0)] if ratio > 0 else []
    )
    candidates += [("sign", -1.0, 0.0), ("offset", 1.0, shift)] + (
        [("affine", slope, intercept)] if slope > 0 else []
    )
    for kind, factor, offset in candidates:
        if explained(
            left := _distance(factor * reference + offset, live),
            distance,
            len(reference),
            len(live),
        ):
            standard = (
                abs(float(live.mean())) < 0.2
                and abs(float(live.std()) - 1) < 0.2
                and not 0.8 < factor < 1.25
            )
            return Undo(
                "standardised" if kind == "affine" and standard else kind, factor, offset, left
            )
    size = np.log1p(np.abs(reference))
    logarithms = [np.sign(reference) * size, size / math.log(10)] + (
        [np.log(reference)] if float(reference.min()) > 0 else []
    )
    for logarithm in logarithms:
        if explained(left := _distance(logarithm, live), distance, len(reference), len(live)):
            return Undo("logarithm", math.nan, math.nan, left)
    return None


def swapped(reference: list[Column], live: list[Column], distances: list[float]) -> dict[int, int]:
    """Columns that moved because each holds the values of the other: `{i: j, j: i}`."""
    found: dict[int, int] = {}
    for i in range(len(reference)):
        for j in range(i):
            limit = min(distances[i], distances[j])
            if i in found or j in found:
                continue
            crossed = [(reference[j], live[i]), (reference[i], live[j])]
            if all(explained(_distance(a, b), limit, len(a), len(b)) for a, b in crossed):
                found |= {i: j, j: i}
    return found


def turned_clock(reference: Column, live: Column) -> int:
    """Hours by which an hour-of-day column was turned around the clock, or 0: not such a column, or
    no turn explains it.

    Compares shares of the 24 hours under each turn by total variation, less what sampling alone
    gives.
    """
    both = np.concatenate([reference, live])
    hours = (
        len(both)
        and bool(((both == np.floor(both)) & (both >= 0) & (both < 24)).all())
        and len(np.unique(both)) >= 20
    )
    if not hours or not len(reference) or not len(live):
        return 0
    before, after = (
        np.bincount(side.astype(np.int64), minlength=24) / len(side) for side in (reference, live)
    )
    pooled = (before + after) / 2
    noise = float(
        np.sqrt(pooled * (1 - pooled) * (1 / len(reference) + 1 / len(live)) / (2 * np.pi)).sum()
    )
    distances = np.array(
        [np.abs(np.roll(before, turn) - after).sum() / 2 - noise for turn in range(24)]
    )
    best = int(distances.argmin())
    if (
        best == 0
        or distances[0] <= _NEGLIGIBLE
        or distances[best] > max(_LEFT * distances[0], _NEGLIGIBLE)
    ):
        return 0
    return best if best <= 12 else best - 24


def explained(left: float, distance: float, n: float, m: float) -> bool:
    """Whether what is left of a distance is an eighth of it or negligible, or noise and clearly
    less than it was.
    """
    if left <= max(_LEFT * distance, _NEGLIGIBLE):
        return True
    p = float(ks_p_value(torch.tensor([left]), torch.tensor([n]), torch.tensor([m])))
    return p > _NOISE and left <= _LESS * distance


def weighted_distance(reference: Tensor, weights: Tensor, live: Tensor) -> tuple[float, float]:
    """Largest distance of the weighted and the plain distribution function, and the effective rows
    of the weighted one.

    Source: Kish (1965), Survey Sampling, for `(sum w)^2 / sum w^2`.

    Args:
        reference: `[n]` finite values.
        weights: `[n]` not negative.
        live: `[m]` finite values.
    """
    order = reference.argsort()
    values, mass = reference[order].contiguous(), weights[order].double()
    total = float(mass.sum())
    if not len(live) or total <= 0:
        return math.nan, 0.0
    below = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / total])
    points = torch.unique(torch.cat([values, live]))
    ordered = live.sort().values
    gaps = [
        below[torch.searchsorted(values, points, right=right)]
        - torch.searchsorted(ordered, points, right=right).double() / len(live)
        for right in (False, True)
    ]
    return max(float(gap.abs().max()) for gap in gaps), total**2 / float(mass.square().sum())


def _distance(reference: Column, live: Column) -> float:
    return float(ks_two_sample(torch.from_numpy(reference), torch.from_numpy(live)).statistic)
