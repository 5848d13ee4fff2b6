"""Is a change limited to some columns, or do the others, and labels given them, change too?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.columns.shared_tables import SharedTables
from gendebug_torch.shift.kinds.label_model import (
    MAX_TRIED,
    LabeledColumns,
    LabelPair,
    most_followed,
    paired_z_score,
    same_rank_values,
)
from gendebug_torch.shift.kinds.moved_columns import FeatureChange, Kind, random_rows
from gendebug_torch.shift.scores.score_relation import (
    RelationChange,
    error_change,
    most_changed,
    relation_change,
)
from gendebug_torch.shift.transforms.cycles import CyclicOffset, cyclic_offset
from gendebug_torch.shift.transforms.relations import Relations
from gendebug_torch.shift.transforms.roles import OtherColumn
from gendebug_torch.shift.two_sample.joint import joint_shift
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.stats.probe_network import cross_fit, design, fold_ids

# The classifier test needs so many rows a side, and is not applied to more columns.
_MIN_ROWS = 40
_MAX_COLUMNS = 300
# Columns to which a change may be limited.
MAX_LOCALISED = 3
# Level of a change of labels given the columns, and the standard errors and the share of variance
# from which a network explains the residuals of another.
_LABEL_ALPHA = 1e-4
_MAX_LABELED = 10_000
_MIN_Z = 2.0
_MIN_EXPLAINED = 0.005
# Standard errors of the best exchange or sign, the share of the excess error that it may leave, and
# the level at which it must restore the joint distribution.
_EXCHANGE_MIN_Z = 5.0
_MAX_EXCESS_LEFT = 0.2
_RESTORED_ALPHA = 1e-3
# Lengths of cycles in which code may count from elsewhere: days of the week, months, hours.
_CYCLES = (7, 12, 24)


def joint_p_value(
    reference: pd.DataFrame, live: pd.DataFrame, *, categorical: Sequence[str] = (), block: int = 1
) -> tuple[float, tuple[str, ...]]:
    """P-value that all columns together are as before, and the columns that contribute most.

    NaN without columns, with more than 300 of them, or with fewer than 40 rows on a side.

    Args:
        reference: columns, `[n, d]`.
        live: the same columns, `[m, d]`.
        categorical: columns that hold codes.
        block: rows in time that are permuted together.
    """
    names = list(reference.columns)
    if not 0 < len(names) <= _MAX_COLUMNS or min(len(reference), len(live)) < _MIN_ROWS:
        return math.nan, ()
    coded = [name for name in categorical if name in names]
    test = joint_shift(reference, live, categorical=coded, block=block)
    pair_p = float(test.pairs["p_holm"].iloc[0]) if len(test.pairs) else 1.0
    important = [name for name, loss in test.importance.items() if loss > 0]
    if pair_p < test.p_value:
        pair = test.pairs[["one", "other"]].iloc[0].tolist()
        important = list(dict.fromkeys([*pair, *important]))
    return min(1.0, 2 * min(test.p_value, pair_p)), tuple(important)


def labels_given_columns_changed(
    reference: pd.DataFrame,
    live: pd.DataFrame,
    labels: LabelPair,
    *,
    categorical: Sequence[str] = (),
) -> bool:
    """Whether P(label | columns) changed, by a network fitted on both sides together.

    Either its score has another event rate (error, for quantities) on the two sides, or a second
    network, fitted to the residuals of the first in production, explains some of them. Both use
    out-of-fold scores, so that neither side is favoured. 10,000 labeled rows a side at most.

    Args:
        reference: columns, `[n, d]`.
        live: the same columns, `[m, d]`.
        labels: labels of the rows that have one.
        categorical: columns that hold codes.
    """
    first, second = (
        random_rows(len(side), _MAX_LABELED, seed)
        for seed, side in enumerate((labels.before, labels.after))
    )
    labels = labels.take(first, second)
    n, wanted = len(labels.before), torch.cat([labels.before, labels.after])
    if not reference.shape[1]:
        test = ks_two_sample(labels.before, labels.after)
        return bool((test.adjusted < _LABEL_ALPHA).any())
    coded = [name for name in categorical if name in reference.columns]
    sides = (reference.iloc[labels.rows[0].numpy()], live.iloc[labels.rows[1].numpy()])
    values = design(*sides, categorical=coded).values
    folds = fold_ids(len(values), 5)
    scores = cross_fit(values, wanted, folds=folds).scores
    relation = _relation_to_scores(scores, wanted, n, labels.kind)
    if relation is not None and relation.p_value < _LABEL_ALPHA and relation.matters:
        return True
    return _residuals_explained(values[n:], (wanted - scores)[n:], folds[n:])


def _relation_to_scores(scores: Tensor, wanted: Tensor, n: int, kind: str) -> RelationChange | None:
    """Labels of both sides given the scores of a network, of which the first n are reference."""
    if kind == "quantities":
        changes = [
            error_change(z[:n], y[:n], z[n:], y[n:])
            for z, y in zip(scores.T, wanted.T, strict=True)
        ]
        return most_changed([change for change in changes if change is not None])
    if kind == "labels" or wanted.shape[1] == 1:
        return most_changed(
            [
                relation_change(z[:n], y[:n].long(), z[n:], y[n:].long())
                for z, y in zip(scores.T, wanted.T, strict=True)
            ]
        )
    classes = wanted.argmax(1)
    return relation_change(scores[:n], classes[:n], scores[n:], classes[n:])


def _residuals_explained(values: Tensor, residuals: Tensor, folds: Tensor) -> bool:
    """Whether a network fitted to the residuals explains some of them out of fold."""
    refitted = residuals - cross_fit(values, residuals, folds=folds).scores
    explained = 1 - float(refitted.square().sum() / residuals.square().sum().clamp(min=1e-12))
    z_score = paired_z_score(residuals.square().sum(1), refitted.square().sum(1))
    return explained >= _MIN_EXPLAINED and z_score > _MIN_Z


@dataclass(frozen=True, eq=False)
class Localisation:
    """Both sides of a comparison, to find whether a change is limited to some of the columns.

    Args:
        columns: both sides.
        followed: those of the columns that labels are judged given.
        labels: labels of both sides, if known.
        block: rows in time that are permuted together.
        score_changed: whether labels given the model's score changed.
        alpha: level of the test of all columns together.
        deadline: end of the time, asked before each test and fit.
    """

    columns: SharedTables
    followed: SharedTables
    labels: LabelPair | None
    block: int
    score_changed: bool
    alpha: float
    deadline: Deadline = NO_DEADLINE

    def rest_unchanged(self, names: Sequence[str]) -> bool:
        """Whether the other columns, and labels given them, are as before."""
        self.deadline.check()
        before, after = (
            side.drop(columns=list(names))
            for side in (self.columns.reference, self.columns.production)
        )
        coded = self.columns.categorical
        p_value, _ = joint_p_value(before, after, categorical=coded, block=self.block)
        if p_value < self.alpha:
            return False
        return self.labels is None or not self._labels_changed(names)

    def labels_changed(self, without: Sequence[str] = ()) -> bool:
        """Whether labels given the columns, or given the score, changed; False without labels.

        Args:
            without: columns to leave out; the score, which follows them too, is left out then.
        """
        if self.labels is None or (self.score_changed and not without):
            return self.labels is not None
        return self._labels_changed(without) if without else self._changed_given_all

    @cached_property
    def _changed_given_all(self) -> bool:
        """Whether labels given all columns changed."""
        return self._labels_changed(())

    def _labels_changed(self, without: Sequence[str]) -> bool:
        assert self.labels is not None
        self.deadline.check()
        rest = self.followed.without(dict.fromkeys(without, ""))
        return labels_given_columns_changed(
            rest.reference, rest.production, self.labels, categorical=rest.categorical
        )

    def hidden_changes(self) -> list[FeatureChange]:
        """Columns that only relate to the others, or to the labels, in another way."""
        self.deadline.check()
        columns = self.columns
        p_value, important = joint_p_value(
            columns.reference,
            columns.production,
            categorical=columns.categorical,
            block=self.block,
        )
        joint = p_value < self.alpha
        labels_changed = self.labels_changed()
        if labels_changed and (found := self._exchanges_and_signs(certain=joint)):
            return found
        if not joint:
            return []
        text = "relates to the other columns in another way"
        # The score may relate to the labels in another way for reasons of its own.
        broken = labels_changed and (not self.score_changed or self._changed_given_all)
        kind: Kind = "train_serve_skew" if broken else "covariate_shift"
        for names in [*([name] for name in important[:MAX_LOCALISED]), list(important[:2])]:
            if self.rest_unchanged(names):
                if self._through_targets(names):
                    return []
                return [FeatureChange(n, 0.0, kind, text, certain=labels_changed) for n in names]
        return [FeatureChange(name, 0.0, "covariate_shift", text) for name in important[:1]]

    def _through_targets(self, names: Sequence[str]) -> bool:
        """Whether the columns related to others through the targets alone: a leak or a shortcut."""
        labels = self.labels
        if labels is None or labels.kind == "labels":
            return False
        targets = labels.before[:, 0]
        if labels.kind == "classes":
            one = labels.before.shape[1] == 1
            targets = targets.long() if one else labels.before.argmax(1)
        elif labels.before.shape[1] > 1:
            return False
        reference = self.columns.reference.iloc[labels.rows[0].numpy()]
        coded = self.columns.categorical
        relations = Relations.of(
            reference, self.columns.production, categorical=coded, targets=targets
        )
        if relations is None:
            return False
        asked = [i for i, name in enumerate(relations.names) if name in names]
        return relations.only_through_targets(np.isin(relations.owner, asked))

    def _exchanges_and_signs(self, *, certain: bool) -> list[FeatureChange]:
        """Columns that labels follow as if two were exchanged, or one reversed or cyclically moved.

        Only where reverting that leaves all columns together as before. A reversed sign of a column
        that relates to no other may as well be concept drift, and is not certain then.
        """
        assert self.labels is not None
        sample = LabeledColumns.sample(self.followed, self.labels, self.deadline)
        quantities = self.followed.quantities
        names = most_followed(quantities, self.followed, self.labels, MAX_TRIED)
        changes, versions = _candidates(names, sample, certain)
        if not versions:
            return []
        errors = sample.squared_errors([{}, *versions])
        z_scores = [paired_z_score(errors[0], error) for error in errors[1:]]
        best = max(range(len(z_scores)), key=z_scores.__getitem__)
        usual = float(sample.reference_errors().mean())
        excess, left = (float(error.mean()) - usual for error in (errors[0], errors[1 + best]))
        if z_scores[best] <= _EXCHANGE_MIN_Z or left >= _MAX_EXCESS_LEFT * excess:
            return []
        restored = sample.production.assign(**versions[best])
        p_value, _ = joint_p_value(
            sample.reference, restored, categorical=sample.categorical, block=self.block
        )
        return [] if p_value < _RESTORED_ALPHA else changes[best]


def _candidates(
    names: Sequence[str], sample: LabeledColumns, certain: bool
) -> tuple[list[list[FeatureChange]], list[dict[str, Any]]]:
    """Exchanges of two columns, reversed signs and offsets, and the columns with each reverted."""
    changes: list[list[FeatureChange]] = []
    versions: list[dict[str, Any]] = []
    after = sample.production
    for one, other in combinations(names, 2):
        changes.append([_exchange(one, other), _exchange(other, one)])
        versions.append({one: after[other], other: after[one]})
    text = "the labels follow it with the sign reversed"
    for name in names:
        ranks = (side[name].to_numpy(dtype=float) for side in (sample.reference, after))
        changes.append([FeatureChange(name, 0.0, "train_serve_skew", text, certain=certain)])
        versions.append({name: same_rank_values(*ranks, descending=True)})
        if (offset := _cyclic_offset(name, sample)) is not None:
            other = f"the labels follow it as if it were {offset}"
            changes.append([FeatureChange(name, 0.0, "train_serve_skew", other, transform=offset)])
            versions.append({name: offset.undo(after[name].to_numpy(dtype=float))})
    return changes, versions


def _cyclic_offset(name: str, sample: LabeledColumns) -> CyclicOffset | None:
    """The offset of an hour, weekday or month that labels follow best.

    None of a column that does not run through one of these cycles, or that fits best as it is.
    """
    before, after = (
        side[name].to_numpy(dtype=np.float64) for side in (sample.reference, sample.production)
    )
    first, length = before.min(), len(np.unique(before))
    if length not in _CYCLES or cyclic_offset(1, before) is None or not set(after) <= set(before):
        return None
    means = []
    for values, labels in ((before, sample.labels.before), (after, sample.labels.after)):
        level = torch.from_numpy(values - first).long()
        count = level.bincount(minlength=length).clamp(min=1)
        total = labels.new_zeros(length, labels.shape[1]).index_add(0, level, labels)
        means.append(total / count[:, None])
    left = [(means[0].roll(k, 0) - means[1]).square().sum() for k in range(length)]
    return cyclic_offset(int(torch.stack(left).argmin()), before)


def _exchange(name: str, other: str) -> FeatureChange:
    text = f"the labels follow it as if it were exchanged with {other}"
    exchange = OtherColumn({name: other, other: name})
    return FeatureChange(name, 0.0, "train_serve_skew", text, transform=exchange)
