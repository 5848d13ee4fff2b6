"""Checks of whether explanations of this network can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gendebug_torch.checks.registry import Cost


def _explanations(times: int, rows: int) -> Callable[[Mapping[str, Any]], Cost]:
    """What explaining at most so many rows costs by 50 steps."""

    def cost(given: Mapping[str, Any]) -> Cost:
        explained = float(times * min(rows, len(given["validation"])))
        return Cost(backwards=50 * explained, forwards=3 * explained)

    return cost
