"""Columns that predict the target so well by themselves that they may leak it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gendebug_torch.checks.inputs import Deferred, DerivedInput
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._costs import screen_cost
from gendebug_torch.leakage.columns.association import Association, association, unsuitable_targets
from gendebug_torch.leakage.columns.column_codes import quantities
from gendebug_torch.leakage.columns.linear_combination import (
    LinearCombination,
    exact_linear_combination,
)
from gendebug_torch.leakage.columns.missing_values import MissingValueAssociation

# Part of the limit that the explained share must exceed by two standard errors, and what the lower
# bound of an AUC may fall below its limit.
_CERTAIN_SHARE, _AUC_MARGIN = 0.75, 0.05


@dataclass(frozen=True)
class LeakCandidate:
    """A column with a strong association with the target.

    Args:
        column: column name.
        index: position of the column in the association.
        explained: the largest share of the variance of the target, or of one class, that it
            explains.
        overall: share of the variance of the whole target that it explains.
        auc: AUC of the column alone.
        combination: the exact linear combination that it is part of, or None.
    """

    column: str
    index: int
    explained: float
    overall: float
    auc: float
    combination: LinearCombination | None = None


@dataclass(frozen=True, eq=False)
class ColumnScreen:
    """What the columns by themselves tell of one target.

    Args:
        found: association of each column with the target.
        combination: the exact linear combination of columns that gives the target, or None.
        rows: number of rows, of which the association may have used a part.
    """

    found: Association
    combination: LinearCombination | None
    rows: int


def column_screen(train: Records) -> ColumnScreen:
    """The screen of labeled records with one target `[n]`.

    Args:
        train: records with features and targets that `unsuitable_targets` does not refuse.
    """
    assert train.features is not None
    assert train.targets is not None
    codes = train.schema.categorical
    found = association(train.features, train.targets, categorical=codes)
    return ColumnScreen(found, _combination(train), len(train))


def _shared_screen(train: Records | None) -> ColumnScreen | None:
    """The screen of training records with one target; None where there is none."""
    if train is None or train.features is None or train.targets is None:
        return None
    return None if unsuitable_targets(train.targets) else column_screen(train)


SCREEN = DerivedInput("column_screen", _shared_screen, screen_cost, uses_labels=True)


def _of_rows() -> MissingValueAssociation | None:
    return None


# Missing values against the one target of training, where more rows were counted than are at hand.
MISSING = DerivedInput("missing_association", _of_rows)


def screened(train: Records, shared: Deferred[ColumnScreen | None] | None) -> ColumnScreen:
    """The shared screen where it is of these rows, else one of their own.

    Args:
        train: labeled records with one target.
        shared: screen of the given training records; None for one of several targets.
    """
    screen = None if shared is None else shared()
    return screen if screen is not None and screen.rows == len(train) else column_screen(train)


def leak_candidates(
    train: Records, screen: ColumnScreen, max_pearson: float, max_auc: float
) -> list[LeakCandidate]:
    """Columns beyond one of the limits that are not declared causal, the strongest first.

    Args:
        train: records with features and targets.
        screen: what their columns tell of the target.
        max_pearson: correlation whose square the explained share must not reach.
        max_auc: AUC that a column must not reach.
    """
    found, combination = screen.found, screen.combination
    limit, explained = max_pearson**2, found.strength
    auc, low = found.auc.nan_to_num(0.5), found.interval("auc")[0].nan_to_num(0.0)
    error = found.explained_error.nan_to_num(0.0)
    strong = (explained >= limit) & (explained - 2 * error > _CERTAIN_SHARE * limit)
    strong |= (auc >= max_auc) & (low > max_auc - _AUC_MARGIN)
    parts = () if combination is None else combination.names
    candidates = [
        LeakCandidate(
            name,
            i,
            float(explained[i]),
            float(found.overall[i]),
            float(auc[i]),
            combination if name in parts else None,
        )
        for i, name in enumerate(found.names)
        if (bool(strong[i]) or name in parts) and name not in train.schema.causal
    ]
    return sorted(candidates, key=lambda c: (c.combination is None, -c.explained))


def _combination(train: Records) -> LinearCombination | None:
    """The exact linear combination that gives the target, of two classes or a real one."""
    features, targets = train.features, train.targets
    if features is None or targets is None:
        return None
    if not targets.is_floating_point() and int(targets.max()) > 1:
        return None
    blocks = list(quantities(features, categorical=train.schema.categorical))
    if not blocks:
        return None
    names = [name for part, _ in blocks for name in part]
    values = torch.cat([values for _, values in blocks]).T
    return exact_linear_combination(values, names, targets)
