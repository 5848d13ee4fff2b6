"""Signs that a column is not available at prediction time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._candidates import LeakCandidate
from gendebug_torch.leakage.checks._comparison import Context
from gendebug_torch.leakage.columns.association import (
    MIN_ROWS,
    Association,
    association,
    unsuitable_targets,
)
from gendebug_torch.leakage.columns.column_ablation import outcome_covariance
from gendebug_torch.leakage.columns.column_codes import feature_table
from gendebug_torch.leakage.columns.missing_values import missing_value_association
from gendebug_torch.leakage.times.label_times import label_delays

# A column that explains so much of the target or of a class, or has such an AUC, is the target.
NEARLY_ALL, _NEARLY_ALL_AUC = 0.97, 0.995
_MIN_LATE = 0.01
# Limits of the association of missing values, as in `leakage.missing`, but of any correlation that
# is beyond chance.
_MIN_SHARE, _MIN_CORRELATION, _ALPHA = 0.95, 0.3, 1e-6
# Part of what a column explains that its missing values must explain: an ordinary column is missing
# more often in one class than in another without following any of them.
_BY_MISSING = 0.75
# Increase of the share of missing values, and part of the explained share that must remain.
_MISSING_INCREASE, _REMAINING = 0.5, 0.5
# Other columns with which a column's loss is compared, what they must explain together, and the
# part of what they keep below which the loss is its own.
COMPARED, _MIN_OF_OTHERS, OWN_LOSS = 20, 0.02, 0.7


def is_property(column: str, records: Records) -> bool:
    """Whether a column describes the inputs themselves, which are known before any answer is.

    Args:
        column: column name.
        records: records, with the properties of images, texts or series where they have such.
    """
    return records.properties is not None and column in records.properties


def accusation(
    candidate: LeakCandidate,
    context: Context,
    found: Association,
    train: Records,
    production: Records | None,
) -> str:
    """What speaks for a record of the outcome and against an honest predictor, as a sentence.

    Empty if nothing does: of a single strong column that is all that a model needs, numbers do not
    tell when it is recorded.

    Args:
        candidate: a column that predicts far better than the others.
        context: what it is compared with.
        found: association of the columns with the target.
        train: labeled training records.
        production: records of production, with or without targets, or None.
    """
    if candidate.combination is not None:
        return f"The target is {candidate.combination} in every row."
    if candidate.explained >= NEARLY_ALL or candidate.auc >= _NEARLY_ALL_AUC:
        return "That is too much for a single column."
    name = candidate.column
    if signs := unavailability_signs(name, train, production):
        return f"It seems to be recorded after the outcome: {' and '.join(signs)}."
    if lost := lost_relation(name, train, production, found.order):
        return f"A model that relies on it fails: {lost}."
    assert train.features is not None
    assert train.targets is not None
    codes, columns = train.schema.categorical, context.equivalent
    shared = outcome_covariance(
        columns, train.features, train.targets, order=found.order, categorical=codes
    )
    if not shared.follows:
        return ""
    return "The other columns predict it as they would predict a record of the target."


def unavailability_signs(
    column: str, train: Records, production: Records | None, *, explained: float = 0.0
) -> list[str]:
    """What suggests that a column is recorded after the outcome, as clauses of a sentence.

    Nothing does so of a property of the inputs.

    Args:
        column: column name.
        train: labeled training records.
        production: records of production, with or without targets, or None.
        explained: share of the target that the column explains, most of which its missing values
            must explain to speak against it; 0 if any association does.
    """
    assert train.features is not None
    if is_property(column, train):
        return []
    values = feature_table(train.features, [column])
    signs = [
        _late(values, train),
        _missing(values, train, explained),
        fate(column, train, production),
    ]
    return [sign for sign in signs if sign]


def _late(values: pd.DataFrame, train: Records) -> str:
    time, metadata = train.schema.label_time, train.metadata
    if time is None or metadata is None or time not in metadata:
        return ""
    late = [d for d in label_delays(values, metadata[time]) if d.interval()[0] >= _MIN_LATE]
    return f"it is dated after {time} in {late[0].share:.0%} of the rows" if late else ""


def _missing(values: pd.DataFrame, train: Records, explained: float) -> str:
    assert train.targets is not None
    found = missing_value_association(values, train.targets)
    limit = max(_MIN_CORRELATION, math.sqrt(_BY_MISSING * max(explained, 0.0)))
    if not found.associated(_MIN_SHARE, limit, _ALPHA):
        return ""
    r = float(found.correlation[0])
    return f"its missing values correlate with the target ({r:+.2f})"


def fate(column: str, train: Records, production: Records | None) -> str:
    """That a column is no longer there in production, as a clause; empty if it is.

    By itself that may as well be a fault of serving.

    Args:
        column: column name.
        train: training records.
        production: records of production or None.
    """
    if production is None or production.features is None or is_property(column, train):
        return ""
    assert train.features is not None
    values, after = (
        feature_table(side, [column]) for side in (train.features, production.features)
    )
    if not after.shape[1]:
        return f"{production.name} does not have it"
    if len(after) < MIN_ROWS:
        return ""
    before, now = (float(part[column].isna().mean()) for part in (values, after))
    if now - before >= _MISSING_INCREASE:
        return f"it is missing in {now:.0%} of the rows of {production.name}"
    if _distinct(after[column]) <= 1 < _distinct(values[column]):
        return f"it is constant in {production.name}"
    return ""


def lost_relation(
    column: str, train: Records, production: Records | None, columns: Sequence[str]
) -> str:
    """How much less a column explains in production, as a clause; empty if it explains as much.

    A column that is there and no longer follows the target is a shortcut rather than a leak. Where
    the other columns lost as much, it is the target that is another one, or incomplete.

    Args:
        column: column name.
        train: labeled training records.
        production: records of production, with or without targets, or None.
        columns: all columns, the strongest first.
    """
    labeled = None if production is None else production.labeled()
    if labeled is None or labeled.features is None or labeled.targets is None:
        return ""
    assert train.features is not None
    assert train.targets is not None
    others = [name for name in columns if name != column][:COMPARED]
    values, rows = (
        feature_table(part, [column, *others]) for part in (train.features, labeled.features)
    )
    if column not in rows or unsuitable_targets(labeled.targets):
        return ""
    codes = train.schema.categorical
    first = association(values, train.targets, categorical=codes)
    second = association(rows, labeled.targets, categorical=codes)
    here, there = first.names.index(column), second.names.index(column)
    share, rest = float(first.strength[here]), float(second.strength[there])
    before = 2 * float(first.explained_error[here].nan_to_num(0.0))
    after = 2 * float(second.explained_error[there].nan_to_num(0.0))
    own = rest < OWN_LOSS * kept_by_others(column, first, second) * share
    if own and rest + after < _REMAINING * (share - before):
        return f"it explains {rest:.0%} of the target in {labeled.name}, not {share:.0%}"
    return ""


def kept_by_others(column: str, before: Association, after: Association) -> float:
    """Share of what other columns explain in training that they explain in production, up to 1.

    1 where they explain next to nothing. Where they lost as much as a column, it is the target
    that is another one, or incomplete, and nothing speaks against the column.

    Args:
        column: column name.
        before: associations with the target in training.
        after: the same in production.
    """
    others = [n for n in before.order if n != column and n in after.names][:COMPARED]
    first, second = (
        sum(float(found.strength[found.names.index(name)]) for name in others)
        for found in (before, after)
    )
    return 1.0 if first < _MIN_OF_OTHERS else min(second / first, 1.0)


def _distinct(values: pd.Series[Any]) -> int:
    return int(values.astype("string").nunique())
