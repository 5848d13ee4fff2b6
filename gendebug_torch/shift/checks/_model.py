"""Checks of what the model says: how sure it is, and whether one predicted class holds two
populations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gendebug_torch.checks.registry import Cost


def _confidence_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(
        elements=20.0
        * sum(
            float(r.logits.numel())
            for r in map(given.get, ("validation", "production"))
            if r is not None
        )
    )
