"""Do labels follow a column as before? Judged by a small network fitted on the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.shift.columns.shared_columns import Column, SharedTables
from gendebug_torch.shift.kinds.column_transforms import LevelRenaming
from gendebug_torch.shift.kinds.moved_columns import FeatureChange, random_rows
from gendebug_torch.stats.probe_network import cross_fit, design

# Columns whose original values are tried; each costs one more pass of production.
MAX_TRIED = 8
_MAX_ROWS = 4000
# One-hot columns of targets; further classes share the last.
_MAX_CLASSES = 20


@dataclass(frozen=True, eq=False)
class LabelPair:
    """Labels of both sides of a comparison, on the host.

    Args:
        before: class ids of the reference, `[n]` int64.
        after: class ids of production, `[m]` int64.
    """

    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class LabeledColumns:
    """At most 4,000 labeled rows a side: columns and class ids.

    Args:
        reference: columns, `[n, d]`.
        production: the same columns, `[m, d]`.
        labels: class ids, `[n]` and `[m]`.
        categorical: columns that hold codes.
    """

    reference: pd.DataFrame
    production: pd.DataFrame
    labels: LabelPair
    categorical: tuple[str, ...]

    @classmethod
    def sample(cls, columns: SharedTables, labels: LabelPair) -> LabeledColumns:
        """Rows drawn at random from both sides, always the same ones."""
        first, second = (
            random_rows(len(side), _MAX_ROWS, seed)
            for seed, side in enumerate((labels.before, labels.after))
        )
        return cls(
            columns.reference.iloc[first.numpy()],
            columns.production.iloc[second.numpy()],
            LabelPair(labels.before[first], labels.after[second]),
            columns.categorical,
        )

    def squared_errors(
        self, versions: Sequence[pd.DataFrame], *, without: Sequence[str] = ()
    ) -> Tensor:
        """Errors `[v, m]` on each version of production of a network fitted on the reference.

        All versions are predicted in one pass: they are rows of one fold, the reference is the
        other.

        Args:
            versions: v tables `[m, d]` of the same production rows.
            without: columns that the network does not see.
        """
        n, m = len(self.labels.before), len(self.labels.after)
        targets = torch.cat([self.labels.before, self.labels.after.repeat(len(versions))])
        wanted = one_hot(targets)
        folds = (torch.arange(len(targets)) < n).long()
        scores = cross_fit(self._design(versions, without), wanted, folds=folds).scores
        return (scores - wanted).square().sum(1)[n:].reshape(len(versions), m)

    def reference_errors(self, versions: Sequence[pd.DataFrame]) -> Tensor:
        """Out-of-fold errors `[n]` on the reference, with columns scaled as for these versions."""
        wanted = one_hot(self.labels.before, int(self.labels.after.max()) + 1)
        values = self._design(versions, ())[: len(wanted)]
        return (cross_fit(values, wanted).scores - wanted).square().sum(1)

    def _design(self, versions: Sequence[pd.DataFrame], without: Sequence[str]) -> Tensor:
        tables = [side.drop(columns=list(without)) for side in (self.reference, *versions)]
        coded = [name for name in self.categorical if name in tables[0].columns]
        return design(*tables, categorical=coded).values


def one_hot(targets: Tensor, classes: int = 2) -> Tensor:
    """Indicators of the classes `[n, k]`, `[n, 1]` for two; classes from the 20th on share one.

    Args:
        targets: class ids, `[n]` int64.
        classes: least number of classes.
    """
    k = max(classes, 2, 1 + int(targets.max()) if len(targets) else 2)
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
    after = sample.production
    restored = [after.assign(**{f.name: _original_values(f, sample)}) for f in tried]
    errors = sample.squared_errors([after, *restored])
    return {
        feature.name: paired_z_score(errors[0], error)
        for feature, error in zip(tried, errors[1:], strict=True)
    }


def predictive_value_z_score(names: Sequence[str], sample: LabeledColumns) -> float:
    """Standard errors by which labels are predicted better with these columns than without them."""
    if set(names) >= set(sample.reference.columns):
        return 0.0
    without, with_them = (
        sample.squared_errors([sample.production], without=dropped)[0] for dropped in (names, ())
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
        old = {new: name for name, new in feature.transform.levels.items()}
        return after.map(lambda level: old.get(str(level), level))
    reversed_sign = feature.transform is not None and feature.transform.factor < 0
    return same_rank_values(
        before.to_numpy(dtype=np.float64),
        after.to_numpy(dtype=np.float64),
        descending=reversed_sign,
    )
