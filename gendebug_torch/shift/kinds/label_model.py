"""Do labels follow a column as before? Judged by a small network fitted on the reference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.columns.shared_tables import SharedTables
from gendebug_torch.shift.kinds.moved_columns import FeatureChange, random_rows
from gendebug_torch.shift.scores.outputs import compared_outputs, labeled_rows, output_columns
from gendebug_torch.shift.transforms.cycles import CyclicOffset
from gendebug_torch.shift.transforms.levels import LevelRenaming
from gendebug_torch.shift.transforms.quantities import FeatureTransform, MixedUnits
from gendebug_torch.stats.probe_network import cross_fit, design, fitted_network

# Columns whose original values are tried; each costs one more pass of production.
MAX_TRIED = 8
_MAX_ROWS = 4000
# Labeled rows a side below which labels decide nothing.
_MIN_LABELED = 30
# Columns that labels are judged given; of more, those that they follow most.
MAX_FOLLOWED = 200
NOT_FOLLOWED = "labels follow others more"
# One-hot columns of targets; further classes share the last.
_MAX_CLASSES = 20


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Labels of both sides of a comparison as numbers that a network can be fitted to.

    Args:
        before: numbers of the labeled reference rows, `[n, r]` float64: an indicator of each class
            (one of two classes), answers 0 and 1, or normal scores of quantities.
        after: the same of production, `[m, r]`.
        rows: numbers of the rows that are labeled, of the reference `[n]` and of production `[m]`.
        kind: `classes`, `labels` or `quantities`.
    """

    before: Tensor
    after: Tensor
    rows: tuple[Tensor, Tensor]
    kind: str

    def take(self, first: Tensor, second: Tensor) -> LabelPair:
        """Some of the labeled rows of the reference and of production."""
        rows = self.rows[0][first], self.rows[1][second]
        return LabelPair(self.before[first], self.after[second], rows, self.kind)


def label_pair(reference: Records, production: Records) -> LabelPair | None:
    """Labels of both sides, on the host; None if either lacks them, or they are not of one kind.

    Of several labels or outputs, rows that lack one of them are left out.

    Args:
        reference: records with targets where known.
        production: the same.
    """
    if reference.targets is None or production.targets is None:
        return None
    before, after = reference.targets.cpu(), production.targets.cpu()
    quantities = before.is_floating_point()
    if quantities is not after.is_floating_point() or before.shape[1:] != after.shape[1:]:
        return None
    if before.ndim == 2:
        chosen = compared_outputs(before)
        before, after = before[:, chosen], after[:, chosen]
    complete = [
        output_columns(labeled_rows(side)).all(1).nonzero()[:, 0] for side in (before, after)
    ]
    before, after = before[complete[0]], after[complete[1]]
    if min(len(before), len(after)) < _MIN_LABELED:
        return None
    both = torch.cat([before, after])
    if quantities:
        numbers = design(both.reshape(len(both), -1)).values
    else:
        numbers = both.double() if both.ndim == 2 else one_hot(both)
    kind = "quantities" if quantities else "classes" if both.ndim == 1 else "labels"
    n = len(before)
    return LabelPair(numbers[:n], numbers[n:], (complete[0], complete[1]), kind)


@dataclass(frozen=True, eq=False)
class LabeledColumns:
    """At most 4,000 labeled rows a side: columns and labels.

    Args:
        reference: columns, `[n, d]`.
        production: the same columns, `[m, d]`.
        labels: labels of these rows.
        categorical: columns that hold codes.
        deadline: end of the time, asked before each fit.
    """

    reference: pd.DataFrame
    production: pd.DataFrame
    labels: LabelPair
    categorical: tuple[str, ...]
    deadline: Deadline = NO_DEADLINE

    @classmethod
    def sample(
        cls, columns: SharedTables, labels: LabelPair, deadline: Deadline = NO_DEADLINE
    ) -> LabeledColumns:
        """Rows drawn at random from both sides, always the same ones."""
        first, second = (
            random_rows(len(side), _MAX_ROWS, seed)
            for seed, side in enumerate((labels.before, labels.after))
        )
        drawn = labels.take(first, second)
        return cls(
            columns.reference.iloc[drawn.rows[0].numpy()],
            columns.production.iloc[drawn.rows[1].numpy()],
            drawn,
            columns.categorical,
            deadline,
        )

    def squared_errors(
        self, versions: Sequence[Mapping[str, Any]], *, without: Sequence[str] = ()
    ) -> Tensor:
        """Errors `[v, m]` on each version of production of a network fitted on the reference.

        Args:
            versions: columns of production, `[m]` each by name, that replace its own; v times.
            without: columns that the network does not see.
        """
        replaced = sorted({name for version in versions for name in version})
        rest = self._design([self.reference, self.production], [*replaced, *without])
        others = [name for name in self.reference.columns if name not in replaced]
        tables = [self.production.assign(**version) for version in versions]
        own = self._design([self.reference, self.production, *tables], others)
        n, m = len(self.reference), len(self.production)
        both = torch.cat([rest, own[: n + m]], 1)
        network = fitted_network(both, self.labels.before)
        errors = [
            (network(torch.cat([rest[n:], values], 1)) - self.labels.after).square().sum(1)
            for values in torch.split(own[n + m :], m)
        ]
        return torch.stack(errors)

    def reference_errors(self) -> Tensor:
        """Out-of-fold errors `[n]` on the reference."""
        wanted = self.labels.before
        values = self._design([self.reference, self.production], ())[: len(wanted)]
        return (cross_fit(values, wanted).scores - wanted).square().sum(1)

    def _design(self, tables: Sequence[pd.DataFrame], without: Sequence[str]) -> Tensor:
        """Numbers of the rows of these tables, one below the other, without some columns."""
        self.deadline.check()
        chosen = [table.drop(columns=list(without)) for table in tables]
        coded = [name for name in self.categorical if name in chosen[0].columns]
        return design(*chosen, categorical=coded).values


def followed_columns(
    columns: SharedTables, labels: LabelPair, keep: Sequence[str] = ()
) -> SharedTables:
    """The columns that labels of the reference follow most, 200 at most, and those to keep.

    Source: Fan and Lv (2008), J. R. Stat. Soc. B 70:849, for screening by correlation; of
    categories it is the share of variance between the levels.

    Args:
        columns: both sides.
        labels: labels of both sides.
        keep: columns that stay.

    Cost: one pass over 4,000 rows.
    """
    names = tuple(map(str, columns.reference.columns))
    rest = set(names) - set(most_followed(names, columns, labels, MAX_FOLLOWED)) - set(keep)
    return columns.without(dict.fromkeys(rest, NOT_FOLLOWED))


def most_followed(
    names: tuple[str, ...], columns: SharedTables, labels: LabelPair, most: int
) -> tuple[str, ...]:
    """Those of some columns that labels of the reference follow most, in their order.

    Args:
        names: columns to choose from.
        columns: both sides.
        labels: labels of both sides.
        most: number of columns to choose.
    """
    if len(names) <= most:
        return names
    strength = _strengths(columns, labels)
    chosen = set(sorted(names, key=lambda name: -strength[name])[:most])
    return tuple(name for name in names if name in chosen)


def _strengths(columns: SharedTables, labels: LabelPair) -> dict[str, float]:
    """Share of the variance of the labels that each column of the reference tells by itself."""
    rows = random_rows(len(labels.before), _MAX_ROWS, 0)
    table = columns.reference.iloc[labels.rows[0][rows].numpy()]
    wanted = labels.before[rows].numpy()
    wanted = (wanted - wanted.mean(0)) / np.maximum(wanted.std(0), 1e-12)
    quantities = list(columns.quantities)
    values = table[quantities].to_numpy(dtype=np.float64, copy=True)
    values[~np.isfinite(values)] = np.nan
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # A column without any value has no mean.
        warnings.simplefilter("ignore", RuntimeWarning)
        values = (values - np.nanmean(values, 0)) / np.maximum(np.nanstd(values, 0), 1e-300)
    values = np.clip(np.nan_to_num(values), -3.0, 3.0)
    shares = np.square(values.T @ wanted / max(len(wanted), 1)).max(1, initial=0.0)
    strength = dict(zip(quantities, shares.tolist(), strict=True))
    strength |= {name: _between_levels(table[name], wanted) for name in columns.categorical}
    return strength


def _between_levels(column: pd.Series[Any], wanted: Column) -> float:
    """Largest share of the variance of standardised labels `[n, r]` between the levels."""
    codes, levels = pd.factorize(column, use_na_sentinel=False)
    counts = np.bincount(codes, minlength=len(levels))
    sums = np.stack([np.bincount(codes, side, minlength=len(levels)) for side in wanted.T])
    shares = np.square(sums) / np.maximum(counts, 1)
    return float(shares.sum(1).max(initial=0.0)) / max(len(codes), 1)


def one_hot(targets: Tensor) -> Tensor:
    """Indicators of the classes `[n, k]`, `[n, 1]` for two; classes from the 20th on share one.

    Args:
        targets: class ids, `[n]` int64.
    """
    k = max(2, 1 + int(targets.max()) if len(targets) else 2)
    clamped = targets.clamp(max=_MAX_CLASSES - 1)
    indicators = torch.nn.functional.one_hot(clamped, min(k, _MAX_CLASSES)).double()
    return indicators[:, 1:] if indicators.shape[1] == 2 else indicators


def paired_z_score(before: Tensor, after: Tensor) -> float:
    """Standard errors by which the mean of paired losses fell; 0 for fewer than two pairs.

    Args:
        before: losses, `[m]`.
        after: losses of the same rows, `[m]`.
    """
    reduction = before - after
    if len(reduction) < 2:
        return 0.0
    error = (reduction.std() / len(reduction) ** 0.5).clamp(min=1e-12)
    return float(reduction.mean() / error)


def original_value_z_scores(
    features: Sequence[FeatureChange], sample: LabeledColumns
) -> dict[str, float]:
    """Standard errors by which labels fit the original value of a column better than the present.

    The original value of a quantity is the one of the same rank in the reference, as any increasing
    map would leave it (a decreasing one for a reversed sign); that of a category is the level
    before a renaming. Tries eight columns at most.
    """
    tried = [
        feature
        for feature in features
        if feature.name not in sample.categorical or isinstance(feature.transform, LevelRenaming)
    ][:MAX_TRIED]
    if not tried:
        return {}
    restored = [{f.name: _original_values(f, sample)} for f in tried]
    errors = sample.squared_errors([{}, *restored])
    return {
        feature.name: paired_z_score(errors[0], error)
        for feature, error in zip(tried, errors[1:], strict=True)
    }


def predictive_value_z_score(names: Sequence[str], sample: LabeledColumns) -> float:
    """Standard errors by which labels are predicted better with these columns than without them."""
    if set(names) >= set(sample.reference.columns):
        return 0.0
    without, with_them = (
        sample.squared_errors([{}], without=dropped)[0] for dropped in (names, ())
    )
    return paired_z_score(without, with_them)


def same_rank_values(before: Column, after: Column, *, descending: bool = False) -> Column:
    """Reference values `[m]` of the same rank; missing values stay missing.

    Args:
        before: values of the reference, `[n]`.
        after: values of production, `[m]`.
        descending: whether ranks count from the other end.
    """
    mapped = after.copy()
    finite, target = np.isfinite(after), np.sort(before[np.isfinite(before)])
    if finite.any() and len(target):
        ordered = np.sort(after[finite])
        rank = (
            np.searchsorted(ordered, after[finite])
            + np.searchsorted(ordered, after[finite], side="right")
        ) / (2 * len(ordered))
        mapped[finite] = np.quantile(target, 1 - rank if descending else rank)
    return mapped


def _original_values(feature: FeatureChange, sample: LabeledColumns) -> Any:
    before, after = sample.reference[feature.name], sample.production[feature.name]
    if isinstance(feature.transform, LevelRenaming):
        return feature.transform.undo(after)
    values = [side.to_numpy(dtype=np.float64) for side in (before, after)]
    if isinstance(feature.transform, CyclicOffset | MixedUnits):
        return feature.transform.undo(values[1])
    transform = feature.transform
    reversed_sign = isinstance(transform, FeatureTransform) and transform.factor < 0
    return same_rank_values(values[0], values[1], descending=reversed_sign)
