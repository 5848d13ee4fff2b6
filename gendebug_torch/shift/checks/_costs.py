"""What checks of columns and of scores cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gendebug_torch.checks.inputs import Cost
from gendebug_torch.data.records import Records


def columns_cost(given: Mapping[str, Any]) -> Cost:
    """Of a check that sorts every column of both sides."""
    validation, train, production = (
        _cells(given.get(name)) for name in ("validation", "train", "production")
    )
    return Cost(elements=20.0 * ((validation or train) + production))


def logits_cost(given: Mapping[str, Any]) -> Cost:
    """Of a check that sorts the scores of both sides."""
    sides = (given.get("validation"), given.get("production"))
    return Cost(elements=20.0 * sum(side.logits.numel() for side in sides if side is not None))


def _cells(records: Records | None) -> float:
    if records is None or records.features is None:
        return 0.0
    return float(math.prod(records.features.shape))
