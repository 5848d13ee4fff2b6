"""Columns that predict the target so well by themselves that they may leak it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gendebug_torch.data.records import Records
from gendebug_torch.leakage.columns.association import Association
from gendebug_torch.leakage.columns.column_codes import coded_blocks
from gendebug_torch.leakage.columns.linear_combination import (
    LinearCombination,
    exact_linear_combination,
)

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


def leak_candidates(
    train: Records, found: Association, max_pearson: float, max_auc: float
) -> list[LeakCandidate]:
    """Columns beyond one of the limits that are not declared causal, the strongest first.

    Args:
        train: records with features and targets.
        found: association of their columns with the target.
        max_pearson: correlation whose square the explained share must not reach.
        max_auc: AUC that a column must not reach.
    """
    limit, explained = max_pearson**2, found.strength
    auc, low = found.auc.nan_to_num(0.5), found.interval("auc")[0].nan_to_num(0.0)
    error = found.explained_error.nan_to_num(0.0)
    strong = (explained >= limit) & (explained - 2 * error > _CERTAIN_SHARE * limit)
    strong |= (auc >= max_auc) & (low > max_auc - _AUC_MARGIN)
    combination = _combination(train)
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
    blocks = coded_blocks(features, categorical=train.schema.categorical, bins=2, max_levels=2)
    quantities = [(block.names, block.values) for block in blocks if block.values is not None]
    if not quantities:
        return None
    names = [name for part, _ in quantities for name in part]
    values = torch.cat([values for _, values in quantities]).T
    return exact_linear_combination(values, names, targets)
