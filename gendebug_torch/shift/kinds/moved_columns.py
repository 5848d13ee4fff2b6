"""What the move of each column is taken for: of its world, of the classes, or of how it is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.shift.columns.default_values import default_value
from gendebug_torch.shift.columns.prepared import prepare_reference
from gendebug_torch.shift.columns.shared_columns import Column, SharedTables
from gendebug_torch.shift.kinds.class_shares import ClassShares
from gendebug_torch.shift.kinds.column_transforms import (
    Renaming,
    Undo,
    explained,
    renamed,
    swapped,
    turned_clock,
    undo,
    weighted_distance,
)
from gendebug_torch.shift.kinds.label_model import gain, losses
from gendebug_torch.shift.kinds.localised_change import apart
from gendebug_torch.shift.two_sample.categories import category_shift
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.stats.multiple_testing import holm_adjusted

Kind = Literal["skew", "classes", "inputs", "meaning", "scores"]
# Columns asked about exchanges and maps; columns whose labels are asked about old values and about
# exchanges; rows that judge them.
MOST_COLUMNS = 40
MOST_ASKED = 8
MOST_JUDGED = 4000
# Standard errors of a gain that count.
CLEAR = 3.0
CLEAR_EXCHANGE = 5.0
# Level at which what is left beside a default value counts as moved, and the values that it takes
# to judge.
NOISE = 1e-3
_FEWEST_OTHERS = 20


@dataclass(frozen=True)
class FeatureChange:
    """One column that moved, and what its move is taken for.

    Args:
        name: of the column.
        statistic: Kolmogorov-Smirnov distance; 0 for a column that only goes with the others, or
            with labels, in another way.
        kind: `skew`, `classes` or `inputs`.
        how: what was found, as part of a sentence.
        left: distance that remains once classes are weighted as in production; NaN if that was not
            asked.
        undone: the map that undoes the move, if there is one.
        certain: whether the kind follows from the data; False where labels, or other data, would be
            needed to tell.
    """

    name: str
    statistic: float
    kind: Kind
    how: str
    left: float = math.nan
    undone: Undo | Renaming | None = None
    certain: bool = True


@dataclass(frozen=True, eq=False)
class Labeled:
    """Labels of both sides of a comparison, `[n]` and `[m]` int64 class ids on the host."""

    before: Tensor
    after: Tensor


def moved_columns(columns: SharedTables, alpha: float, min_effect: float) -> list[FeatureChange]:
    """Columns whose distribution moved, largest distance first."""
    found = []
    names = list(columns.quantities)
    sides = (columns.reference, columns.production)
    before, after = (
        torch.from_numpy(side[names].to_numpy(dtype=np.float64, copy=True)) for side in sides
    )
    prepared = prepare_reference(before, names=names)
    test = ks_two_sample(prepared, after)
    coded = [
        category_shift(columns.reference[n], columns.production[n], name=n)
        for n in columns.categorical
    ]
    adjusted = holm_adjusted(
        torch.cat(
            [test.p_value, torch.tensor([shift.p_value for shift in coded], dtype=torch.float64)]
        )
    )
    for place in (adjusted < alpha).nonzero().flatten().tolist():
        if place >= len(names):
            if coded[place - len(names)].effect >= min_effect:
                found.append(
                    FeatureChange(
                        coded[place - len(names)].name,
                        coded[place - len(names)].distance,
                        "inputs",
                        "moved",
                    )
                )
            continue
        atom = (
            default_value(prepared, after, place)
            if float(test.statistic[place]) >= min_effect / 2
            else None
        )
        if atom is not None and _others_held(atom.value, before[:, place], after[:, place]):
            how = f"stuck at {atom.value:.4g} for {atom.live_share:.0%} of the rows"
            found.append(FeatureChange(names[place], float(test.statistic[place]), "skew", how))
        elif float(test.statistic[place]) >= min_effect:
            found.append(
                FeatureChange(names[place], float(test.statistic[place]), "inputs", "moved")
            )
    return sorted(found, key=lambda feature: -feature.statistic)


def _others_held(value: float, before: Tensor, after: Tensor) -> bool:
    """Whether the values beside the one that piles up are distributed as before; a world that moves
    piles up and moves the rest.
    """
    rest = [side[side.isfinite() & (side != value)] for side in (before, after)]
    if min(map(len, rest)) < _FEWEST_OTHERS:
        return True
    test = ks_two_sample(*rest)
    return float(test.p_value) > NOISE or float(test.statistic) < 0.05


def within_classes(
    feature: FeatureChange, columns: SharedTables, classes: ClassShares, targets: Tensor
) -> FeatureChange:
    """The same move, told as one of the classes where weighting the reference's classes explains
    it.
    """
    before, after = columns.reference[feature.name], columns.production[feature.name]
    if feature.name in columns.categorical:
        # Levels in the order of their change: the distance of the distribution functions is the
        # total variation then.
        change = (
            after.value_counts(normalize=True)
            .sub(before.value_counts(normalize=True), fill_value=0.0)
            .sort_values()
        )
        before, after = (
            side.map({level: float(place) for place, level in enumerate(change.index)})
            for side in (before, after)
        )
    values, live = (
        torch.from_numpy(side.to_numpy(dtype=np.float64, copy=True)) for side in (before, after)
    )
    weights = classes.weights[targets.cpu()]
    kept = values.isfinite()
    left, rows = weighted_distance(values[kept], weights[kept], live[live.isfinite()])
    if not math.isfinite(left) or not explained(
        left, feature.statistic, round(rows), int(live.isfinite().sum())
    ):
        return replace(feature, left=left)
    return replace(feature, left=left, kind="classes", how="follows the shares of the classes")


def recomputed(features: list[FeatureChange], columns: SharedTables) -> list[FeatureChange]:
    """Moves that an exchange of columns, a clock or a map explains, told as skew where that is
    telling and noted where not.
    """
    moved = [f for f in features if f.kind == "inputs"][:MOST_COLUMNS]
    told = {f.name: _named(f, columns) for f in moved if f.name in columns.categorical}
    open_ = [f for f in moved if f.name in columns.quantities]
    sides = [columns.finite(feature.name) for feature in open_]
    pairs = swapped(
        [before for before, _ in sides], [after for _, after in sides], [f.statistic for f in open_]
    )
    for place, (feature, (before, after)) in enumerate(zip(open_, sides, strict=True)):
        if place in pairs:
            how = f"holds the values of {open_[pairs[place]].name}, and the other way round"
            told[feature.name] = replace(feature, kind="skew", how=how)
            continue
        slipped = turned_clock(before, after)
        if slipped:
            told[feature.name] = replace(
                feature,
                kind="skew",
                how=f"turned by {slipped:+d} hours, as by a clock in another zone",
            )
            continue
        found = undo(before, after, feature.statistic)
        if found is not None:
            told[feature.name] = _undone(feature, found)
    return [told.get(feature.name, feature) for feature in features]


def _named(feature: FeatureChange, columns: SharedTables) -> FeatureChange:
    found = renamed(
        columns.reference[feature.name], columns.production[feature.name], feature.statistic
    )
    return feature if found is None else _undone(feature, found)


def _undone(feature: FeatureChange, found: Undo | Renaming) -> FeatureChange:
    return replace(
        feature,
        kind="skew" if found.telling else "inputs",
        how=f"{found} what it was",
        undone=found,
    )


def follow_gains(
    features: Sequence[FeatureChange], columns: SharedTables, labeled: Labeled
) -> dict[str, float]:
    """By how many standard errors labels follow the old value of a moved column better than the one
    it holds now.

    The old value of a quantity is the one of the same rank in the reference, as any increasing map
    of it would leave it (a decreasing one for a sign that turned); that of a category is the level
    that a renaming says. Asks of eight columns at most.
    """
    asked = [f for f in features if f.name in columns.quantities or isinstance(f.undone, Renaming)][
        :MOST_ASKED
    ]
    if not asked:
        return {}
    before, after, targets = _judges(columns, labeled)
    versions = [
        after,
        *(after.assign(**{f.name: _old_values(f, before[f.name], after[f.name])}) for f in asked),
    ]
    errors, _ = losses(
        before, targets.before, versions, targets.after, categorical=columns.categorical
    )
    return {
        feature.name: gain(errors[0], error)
        for feature, error in zip(asked, errors[1:], strict=True)
    }


def worth_of(names: Sequence[str], columns: SharedTables, labeled: Labeled) -> float:
    """By how many standard errors production's labels are told better with the values that these
    columns hold now than without them.
    """
    before, after, targets = _judges(columns, labeled)
    sides = [(side.drop(columns=list(names)), side) for side in (before, after)]
    errors = []
    for told, asked in zip(*sides, strict=True):
        coded = [name for name in columns.categorical if name in told.columns]
        errors.append(
            losses(told, targets.before, [asked], targets.after, categorical=coded)[0][0]
            if told.shape[1]
            else None
        )
    if errors[0] is None or errors[1] is None:
        return 0.0
    return gain(errors[0], errors[1])


def _old_values(feature: FeatureChange, before: pd.Series[Any], after: pd.Series[Any]) -> Any:
    if isinstance(feature.undone, Renaming):
        old = {new: name for name, new in feature.undone.levels.items()}
        return after.map(lambda level: old.get(str(level), level))
    down = feature.undone is not None and feature.undone.factor < 0
    return _of_same_rank(
        before.to_numpy(dtype=np.float64), after.to_numpy(dtype=np.float64), down=down
    )


def mistaken_columns(
    columns: SharedTables, labeled: Labeled, block: int, *, moved: bool
) -> list[FeatureChange]:
    """Columns that look as before while labels follow them as if two had been exchanged, or one had
    turned its sign.

    Only where undoing that leaves all columns together as before. A turned sign of a column that
    goes with no other may as well be a world that turned, and is not certain; where it `moved` how
    columns go together, it is.
    """
    names = columns.quantities[:MOST_ASKED]
    before, after, targets = _judges(columns, labeled)
    exchanges = list(combinations(names, 2))
    versions = [after.assign(**{one: after[other], other: after[one]}) for one, other in exchanges]
    for name in names:
        sides = (side[name].to_numpy(dtype=np.float64) for side in (before, after))
        versions.append(after.assign(**{name: _of_same_rank(*sides, down=True)}))
    if not versions:
        return []
    errors, own = losses(
        before, targets.before, [after, *versions], targets.after, categorical=columns.categorical
    )
    gains = [gain(errors[0], error) for error in errors[1:]]
    best = max(range(len(gains)), key=gains.__getitem__)
    excess, left = (float(error.mean() - own.mean()) for error in (errors[0], errors[1 + best]))
    if gains[best] <= CLEAR_EXCHANGE or left >= 0.2 * excess:
        return []
    if apart(before, versions[best], categorical=columns.categorical, block=block)[0] < NOISE:
        return []
    if best < len(exchanges):
        one, other = exchanges[best]
        how = "labels follow the columns as if they had been exchanged: {}"
        return [
            FeatureChange(a, 0.0, "skew", how.format(f"{a} holds {b}"))
            for a, b in ((one, other), (other, one))
        ]
    name = names[best - len(exchanges)]
    return [
        FeatureChange(
            name, 0.0, "skew", f"labels follow {name} with its sign turned", certain=moved
        )
    ]


def _judges(columns: SharedTables, labeled: Labeled) -> tuple[pd.DataFrame, pd.DataFrame, Labeled]:
    rows = [
        drawn(len(side), MOST_JUDGED, seed)
        for seed, side in enumerate((labeled.before, labeled.after))
    ]
    before, after = (
        side.iloc[r.numpy()]
        for side, r in zip((columns.reference, columns.production), rows, strict=True)
    )
    return before, after, Labeled(labeled.before[rows[0]], labeled.after[rows[1]])


def _of_same_rank(before: Column, after: Column, *, down: bool = False) -> Column:
    """`[m]` the reference value whose rank each value has (from the other end, if `down`); missing
    values stay.
    """
    mapped = after.copy()
    known, target = np.isfinite(after), np.sort(before[np.isfinite(before)])
    if known.any() and len(target):
        ordered = np.sort(after[known])
        middle = (
            np.searchsorted(ordered, after[known])
            + np.searchsorted(ordered, after[known], side="right")
        ) / (2 * len(ordered))
        mapped[known] = np.quantile(target, 1 - middle if down else middle)
    return mapped


def drawn(rows: int, most: int, seed: int) -> Tensor:
    """Places of at most so many rows, drawn without replacement, in their order."""
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most].sort().values
