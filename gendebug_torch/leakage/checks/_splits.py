"""Checks of what the sides of a split share: rows, groups, times, and the rows that a
transformation was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.splits.overlap import SplitOverlap
from gendebug_torch.leakage.splits.row_hashes import Features

FAIL_SHARE = 0.1
_ROWS_NAMED = 20
_SPLIT_NEEDS = ("train.features", "validation.features")


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("train", "validation", "production")]
    return Cost(
        elements=30.0
        * sum(
            float(math.prod(r.features.shape))
            for r in sides
            if r is not None and r.features is not None
        )
    )


def _row_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(
        elements=60.0
        * sum(len(given[name]) for name in ("train", "validation") if given.get(name) is not None)
    )


def _features(**sides: Records | None) -> dict[str, Features]:
    return {
        name: records.features
        for name, records in sides.items()
        if records is not None and records.features is not None
    }


def _overlap_numbers(found: SplitOverlap) -> dict[str, Any]:
    low, high = found.interval()
    sizes = {"n": int(found.sizes[0]), "m": int(found.sizes[1])}
    return {"shared": len(found.rows), "share": found.share, "low": low, "high": high} | sizes
