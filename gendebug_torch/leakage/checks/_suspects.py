"""The check of single columns that tell the target too well, with what each is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.columns.association import Association
from gendebug_torch.leakage.columns.column_codes import coded_blocks
from gendebug_torch.leakage.columns.exact_sums import ExactSum, exact_sum


@dataclass(frozen=True)
class Suspect:
    """A column that tells the target by itself: how much, by which measure, and the exact sum if it
    is part of one.
    """

    column: str
    place: int
    alone: float
    auc: float
    formula: ExactSum | None = None


def screen_cost(given: Mapping[str, Any]) -> Cost:
    """Operations of one screen of the training columns, and the rows that go through a model once
    more.
    """
    train = given.get("train")
    if train is None or train.features is None:
        return Cost()
    rows = min(len(train), 200_000)
    judged = sum(
        len(given[name]) for name in ("validation", "production") if given.get(name) is not None
    )
    return Cost(
        elements=60.0 * rows * math.prod(train.features.shape[1:]),
        forwards=float(judged) if given.get("model") is not None else 0.0,
    )


def suspects_of(
    train: Records, found: Association, max_pearson: float, max_auc: float
) -> list[Suspect]:
    """Columns that tell too much, the most telling first."""
    r, shared = (
        found.pearson.nan_to_num(0.0).abs(),
        torch.maximum(found.explained, found.best_explained).nan_to_num(0.0),
    )
    alone = torch.maximum(shared, r.square())
    auc, low = found.auc.nan_to_num(0.5), found.interval("auc")[0].nan_to_num(0.0)
    limit = max_pearson**2
    sure = alone - 2 * found.explained_error.nan_to_num(0.0) > 0.75 * limit
    flagged = ((alone >= limit) & sure) | ((auc >= max_auc) & (low > max_auc - 0.05))
    suspects = {
        i: Suspect(found.names[i], i, float(alone[i]), float(auc[i]))
        for i in flagged.nonzero()[:, 0].tolist()
    }
    formula = _formula(train)
    for name in () if formula is None else formula.names:
        place = found.names.index(name)
        suspects[place] = Suspect(name, place, float(alone[place]), float(auc[place]), formula)
    return sorted(suspects.values(), key=lambda s: (s.formula is None, -s.alone))


def _formula(train: Records) -> ExactSum | None:
    features, targets = train.features, train.targets
    if (
        features is None
        or targets is None
        or (not targets.is_floating_point() and int(targets.max()) > 1)
    ):
        return None
    blocks = coded_blocks(features, categorical=train.schema.categorical, bins=2, most_levels=2)
    quantities = [(block.names, block.values) for block in blocks if block.values is not None]
    names = [name for part, _ in quantities for name in part]
    return (
        exact_sum(torch.cat([values for _, values in quantities]).T, names, targets)
        if names
        else None
    )
