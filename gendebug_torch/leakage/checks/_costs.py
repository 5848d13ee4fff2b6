"""What the checks compute, as elementary operations, so that a budget can be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gendebug_torch.checks.inputs import Cost

_SCREEN_ROWS = 200_000


def column_cost(given: Mapping[str, Any]) -> Cost:
    """A few passes over the training features."""
    return Cost(elements=10.0 * _cells(given, "train"))


def screen_cost(given: Mapping[str, Any]) -> Cost:
    """One screen of the training columns, and the rows that go through a model once more."""
    train = given.get("train")
    if train is None or train.features is None:
        return Cost()
    rows = sum(len(given[name]) for name in ("validation", "production") if given.get(name))
    return Cost(
        elements=60.0 * min(len(train), _SCREEN_ROWS) * math.prod(train.features.shape[1:]),
        forwards=float(rows) if given.get("model") is not None else 0.0,
    )


def split_cost(given: Mapping[str, Any]) -> Cost:
    """Hashes of the features of all splits."""
    return Cost(elements=30.0 * _cells(given, "train", "validation", "production"))


def neighbour_cost(given: Mapping[str, Any]) -> Cost:
    """Distances to all training rows."""
    return Cost(elements=200.0 * _cells(given, "train"))


def row_cost(given: Mapping[str, Any]) -> Cost:
    """A few sorts of one value per row."""
    rows = sum(len(given[name]) for name in ("train", "validation") if given.get(name))
    return Cost(elements=60.0 * rows)


def _cells(given: Mapping[str, Any], *names: str) -> float:
    splits = [given.get(name) for name in names]
    tables = [split.features for split in splits if split is not None]
    return float(sum(math.prod(table.shape) for table in tables if table is not None))
