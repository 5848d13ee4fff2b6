"""Columns whose distribution shifted, and what explains the shift of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.columns.default_values import default_value, stuck_value
from gendebug_torch.shift.columns.prepared import prepare_reference
from gendebug_torch.shift.columns.shared_tables import SharedTables
from gendebug_torch.shift.kinds.class_shares import ClassShares
from gendebug_torch.shift.time.calendar_columns import calendar_changes
from gendebug_torch.shift.transforms.alignment import OtherRows, columns_beside_other_rows
from gendebug_torch.shift.transforms.cycles import CyclicOffset, clock_offset_hours, cyclic_offset
from gendebug_torch.shift.transforms.distances import explains_shift, weighted_ks_distance
from gendebug_torch.shift.transforms.levels import (
    LevelRenaming,
    fit_level_renaming,
    recoded_columns,
)
from gendebug_torch.shift.transforms.quantities import (
    FeatureTransform,
    MixedUnits,
    fit_feature_transform,
    fit_mixed_units,
)
from gendebug_torch.shift.transforms.relations import Relations
from gendebug_torch.shift.transforms.roles import (
    MIN_FAR,
    OtherColumn,
    exchanged_columns,
    moved_family,
    role_changes,
)
from gendebug_torch.shift.two_sample.categories import (
    CategoryShift,
    category_shift,
    level_indicators,
)
from gendebug_torch.shift.two_sample.ks import KSTest, ks_two_sample
from gendebug_torch.stats.dependence.effective_sample_size import MAX_LEVELS
from gendebug_torch.stats.multiple_testing import holm_adjusted

Transform = FeatureTransform | MixedUnits | LevelRenaming | CyclicOffset | OtherColumn | OtherRows

# Values of `Cause`; `threshold` where scores moved although no input did.
Kind = Literal["train_serve_skew", "label_shift", "covariate_shift", "concept_drift", "threshold"]
# Share of the rows from which an offset of a column is that of all.
_NEARLY_ALL = 0.95
_MAX_COLUMNS = 40
_SHIFTED = "its distribution shifted"
# Share of production values outside the range of the reference from which autocorrelation excuses
# nothing.
MIN_OUTSIDE = 0.9


@dataclass(frozen=True)
class FeatureChange:
    """One column that shifted, and what explains it.

    Args:
        name: feature name.
        statistic: Kolmogorov-Smirnov (or total variation) distance; 0 for a column that only
            relates to other columns, or to labels, in another way.
        kind: `train_serve_skew`, `label_shift` or `covariate_shift`.
        description: what was found, as part of a sentence.
        residual: distance after weighting the classes as in production; NaN if not computed.
        transform: map that explains the shift, if there is one.
        certain: whether the data decide the kind; False where labels, or other data, are needed.
    """

    name: str
    statistic: float
    kind: Kind
    description: str
    residual: float = math.nan
    transform: Transform | None = None
    certain: bool = True


def shifted_columns(
    columns: SharedTables, alpha: float, min_effect: float, deadline: Deadline = NO_DEADLINE
) -> list[FeatureChange]:
    """Columns whose distribution shifted, largest distance first.

    A single value that piles up while the other values keep their distribution is a default value
    of serving code, and a part of the rows in another unit is skew; all else is covariate shift so
    far.

    Args:
        columns: both sides.
        alpha: chance of any false alarm over all columns (Holm, 1979).
        min_effect: smallest distance that counts.
        deadline: end of the time, asked between columns.
    """
    names = list(columns.quantities)
    before, after = (
        torch.from_numpy(side[names].to_numpy(dtype=np.float64, copy=True))
        for side in (columns.reference, columns.production)
    )
    prepared = prepare_reference(before, names=names)
    test = ks_two_sample(prepared, after)
    coded = [
        category_shift(columns.reference[name], columns.production[name], name=name)
        for name in columns.categorical
    ]
    if columns.dependence.known:
        suspects = (_adjusted(test, coded) < alpha).tolist()
        test = _dependent_quantities(test, columns, before, after, suspects[: len(names)])
        for i in (i for i, suspect in enumerate(suspects[len(names) :]) if suspect):
            deadline.check()
            coded[i] = _dependent_category(coded[i], columns)
    significant = _adjusted(test, coded) < alpha
    found = []
    for column in significant[: len(names)].nonzero().flatten().tolist():
        name, distance = names[column], float(test.statistic[column])
        if distance < min_effect / 2:
            continue
        atom = default_value(prepared, after, column)
        if atom is not None:
            default = f"constant at {atom.value:.4g} in {atom.live_share:.0%} of the rows"
            found.append(FeatureChange(name, distance, "train_serve_skew", default))
            continue
        mixed = fit_mixed_units(*columns.finite(name), distance)
        if mixed is not None:
            found.append(_transformed(FeatureChange(name, distance, "covariate_shift", ""), mixed))
        elif distance >= min_effect:
            found.append(FeatureChange(name, distance, "covariate_shift", _SHIFTED))
    found += [
        FeatureChange(shift.name, shift.distance, "covariate_shift", _SHIFTED)
        for shift, shifted in zip(coded, significant[len(names) :].tolist(), strict=True)
        if shifted and shift.effect >= min_effect
    ]
    return _with_stuck(sorted(found, key=lambda feature: -feature.statistic), columns)


def _with_stuck(features: list[FeatureChange], columns: SharedTables) -> list[FeatureChange]:
    """The same, and quantities that are stuck on a value, however slowly they fluctuate."""
    known = {feature.name: feature for feature in features}
    orders = [slice(None) if order is None else order for order in columns.orders]
    for name in columns.quantities:
        if name in known and known[name].kind == "train_serve_skew":
            continue
        before, after = (
            torch.from_numpy(side[name].to_numpy(dtype=np.float64, copy=True))[order]
            for side, order in zip((columns.reference, columns.production), orders, strict=True)
        )
        if (stuck := stuck_value(before, after)) is not None:
            distance = known[name].statistic if name in known else stuck.growth
            text = f"stuck on {stuck.value:.4g} in {stuck.live_share:.0%} of the rows"
            known[name] = FeatureChange(name, distance, "train_serve_skew", text)
    return list(known.values())


def _adjusted(test: KSTest, coded: list[CategoryShift]) -> Tensor:
    """P-values of the quantities, then of the categories, adjusted for all (Holm, 1979)."""
    p_values = torch.tensor([shift.p_value for shift in coded], dtype=torch.float64)
    return holm_adjusted(torch.cat([test.p_value, p_values]))


def _dependent_quantities(
    test: KSTest, columns: SharedTables, before: Tensor, after: Tensor, suspects: list[bool]
) -> KSTest:
    """The tests at the effective sample sizes of rows in time, as `shift.ks` makes them.

    Not of columns that left the range of the reference: no fluctuation that was seen explains that.

    Args:
        test: tests with all rows taken as independent.
        columns: both sides.
        before: quantities of the reference, `[n, d]`.
        after: quantities of production, `[m, d]`.
        suspects: whether each quantity is significant if rows are independent.
    """
    low, high = before.nan_to_num(math.inf).amin(0), before.nan_to_num(-math.inf).amax(0)
    outside = ((after < low) | (after > high)).double().mean(0) >= MIN_OUTSIDE
    looked_at = (torch.tensor(suspects, dtype=torch.bool) & ~outside).nonzero().flatten()
    times = torch.ones(2, len(suspects), dtype=torch.float64)
    times[:, looked_at] = columns.dependence.effects(before[:, looked_at], after[:, looked_at])
    return test.with_autocorrelation(times[0], times[1])


def _dependent_category(shift: CategoryShift, columns: SharedTables) -> CategoryShift:
    """The test of levels at the effective sample size of rows, by its commonest levels."""
    counts = shift.reference + shift.live
    common = counts.argsort(descending=True, stable=True)[:MAX_LEVELS].tolist()
    levels = [shift.levels[i] for i in common]
    series = [
        level_indicators(side[shift.name], levels)
        for side in (columns.reference, columns.production)
    ]
    times = columns.dependence.effects(*series).amax(1)
    return replace(shift, times=(float(times[0]), float(times[1])))


def label_shift_explanation(
    feature: FeatureChange, columns: SharedTables, classes: ClassShares, targets: Tensor
) -> FeatureChange:
    """The same shift, as label shift where weighting the classes of the reference explains it.

    Args:
        feature: a column that shifted.
        columns: both sides.
        classes: shares of the classes.
        targets: class ids of the reference, `[n]` int64.
    """
    before, after = columns.reference[feature.name], columns.production[feature.name]
    if feature.name in columns.categorical:
        # Levels in the order of their change: the distance of the distribution functions is the
        # total variation then.
        shares = before.value_counts(normalize=True)
        change = after.value_counts(normalize=True).sub(shares, fill_value=0.0).sort_values()
        rank = {level: float(i) for i, level in enumerate(change.index)}
        before, after = before.map(rank), after.map(rank)
    values, live = (
        torch.from_numpy(side.to_numpy(dtype=np.float64, copy=True)) for side in (before, after)
    )
    weights = classes.weights[targets.cpu()]
    finite, live = values.isfinite(), live[live.isfinite()]
    residual, rows = weighted_ks_distance(values[finite], weights[finite], live)
    if not math.isfinite(residual) or not explains_shift(
        residual, feature.statistic, round(rows), len(live)
    ):
        return replace(feature, residual=residual)
    return replace(
        feature, residual=residual, kind="label_shift", description="follows the class shares"
    )


def transform_explanations(
    features: list[FeatureChange], columns: SharedTables
) -> list[FeatureChange]:
    """The same shifts, with the exchange, clock offset or transform that explains each, if any.

    They are train/serve skew where drift is unlikely to do the same.
    """
    features = _moved_families(features, columns)
    open_ = [feature for feature in features if feature.kind == "covariate_shift"][:_MAX_COLUMNS]
    quantities = [feature for feature in open_ if feature.name in columns.quantities]
    sides = [columns.finite(feature.name) for feature in quantities]
    exchanged = exchanged_columns(
        [before for before, _ in sides],
        [after for _, after in sides],
        [feature.statistic for feature in quantities],
    )
    explained: dict[str, FeatureChange] = {}
    for i, (feature, (before, after)) in enumerate(zip(quantities, sides, strict=True)):
        if i in exchanged:
            other = quantities[exchanged[i]].name
            change = _held(feature, OtherColumn({feature.name: other, other: feature.name}))
        else:
            hours = clock_offset_hours(before, after)
            found = CyclicOffset(hours, 0.0, 24) if hours else None
            times = columns.design_effects(feature.name)
            change = _transformed(
                feature,
                found or fit_feature_transform(before, after, feature.statistic, times=times),
            )
        explained[feature.name] = change
    for feature in open_:
        if feature.name in columns.categorical:
            levels = columns.reference[feature.name], columns.production[feature.name]
            renaming = fit_level_renaming(*levels, feature.statistic)
            explained[feature.name] = _transformed(feature, renaming)
    return [explained.get(feature.name, feature) for feature in features]


def off_the_calendar(
    features: list[FeatureChange], columns: SharedTables, reference: Records, production: Records
) -> list[FeatureChange]:
    """The same, with columns that no longer are the part of the calendar that they were.

    Args:
        features: columns that shifted.
        columns: both sides.
        reference: records of the reference, with their times.
        production: the same.
    """
    name, sides = reference.schema.time, (reference.metadata, production.metadata)
    if name is None or any(side is None or name not in side for side in sides):
        return features
    times = [side[name] for side in sides if side is not None]
    changes = calendar_changes(columns.reference, columns.production, (times[0], times[1]))
    known = {feature.name: feature for feature in features}
    for column, change in changes.items():
        distance = known[column].statistic if column in known else 0.0
        offset = None
        if column in columns.quantities and change.share >= _NEARLY_ALL:
            offset = cyclic_offset(change.offset, columns.finite(column)[0])
        text = change.text(name)
        known[column] = FeatureChange(column, distance, "train_serve_skew", text, transform=offset)
    return list(known.values())


def _moved_families(features: list[FeatureChange], columns: SharedTables) -> list[FeatureChange]:
    """The same, and all columns of numbered families that moved together."""
    known = {feature.name: feature for feature in features}
    if sum(feature.name in columns.quantities for feature in features) < MIN_FAR:
        return features
    moved = moved_family({name: columns.finite(name) for name in columns.quantities})
    for name, transform in moved.items():
        feature = known.get(name, FeatureChange(name, 0.0, "covariate_shift", _SHIFTED))
        known[name] = _held(feature, transform)
    return list(known.values())


def relation_explanations(
    features: list[FeatureChange],
    columns: SharedTables,
    targets: Tensor | None = None,
    deadline: Deadline = NO_DEADLINE,
) -> list[FeatureChange]:
    """The same, and columns that hold other values than their own, by how they relate to others.

    Codes that changed places, columns that hold the values of others or run in reverse, and those
    that stand beside other rows; none of which need move a distribution. Drift does nothing of it.

    Args:
        features: columns that shifted.
        columns: both sides.
        targets: classes or quantities of the reference, `[n]`.
        deadline: end of the time.
    """
    known = {feature.name: feature for feature in features}
    names = [str(name) for name in columns.reference.columns]
    open_ = [n for n in names if n not in known or known[n].kind == "covariate_shift"]
    deadline.check()
    relations = Relations.of(
        columns.reference,
        columns.production,
        categorical=columns.categorical,
        order=columns.orders[0],
        targets=targets,
    )
    if relations is None:
        return features
    found: dict[str, Transform] = dict(recoded_columns(relations, open_))
    for group in columns_beside_other_rows(relations):
        found |= {name: group for name in group.columns if name in open_ and name not in found}
    deadline.check()
    left = [n for n in columns.quantities if n in open_ and n not in found]
    found |= role_changes(relations, {name: columns.finite(name) for name in left})
    for name, transform in found.items():
        feature = known.get(name, FeatureChange(name, 0.0, "covariate_shift", _SHIFTED))
        known[name] = _held(feature, transform)
    return list(known.values())


def _held(feature: FeatureChange, transform: Transform) -> FeatureChange:
    """The column as one of which drift cannot have made what it holds."""
    text = transform.text(feature.name) if isinstance(transform, OtherColumn) else str(transform)
    if isinstance(transform, OtherRows):
        text = "its values stand beside other rows"
    return replace(feature, kind="train_serve_skew", description=text, transform=transform)


def _transformed(feature: FeatureChange, transform: Transform | None) -> FeatureChange:
    if transform is None:
        return feature
    kind: Kind = "train_serve_skew" if transform.implausible_as_drift else "covariate_shift"
    return replace(feature, kind=kind, description=str(transform), transform=transform)


def random_rows(rows: int, most: int, seed: int) -> Tensor:
    """Indices of at most so many rows, drawn without replacement, in their order."""
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:most].sort().values
