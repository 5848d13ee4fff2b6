"""In which order checks run: what each would tell per second that it takes, and what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gendebug_torch.budget import Speed
from gendebug_torch.registry import Check

# One model forward counts as this many elementary operations, a backward as three forwards, where nothing was probed.
_ELEMENTS_PER_FORWARD = 1e3


@dataclass(frozen=True)
class CheckCost:
    """One line of the triage.

    Args:
        check: its id.
        cause: what it is after.
        value: 1 for the first check of a cause, 1/2 for the second, and so on.
        estimated: seconds by the probe; None where no budget asked for it.
        spent: seconds that it took; None where it did not run.
    """

    check: str
    cause: str
    value: float
    estimated: float | None
    spent: float | None


def by_value(checks: Sequence[Check], costs: Mapping[str, float]) -> list[tuple[Check, float]]:
    """Checks with their value, the highest value per cost first.

    The first check of a cause tells most; each further one of the same cause tells less (harmonically), so
    that a short budget is spread over causes. Greedy, as is usual for submodular cover (Nemhauser, Wolsey and
    Fisher, 1978, Math. Program. 14:265).
    """
    left, told = list(checks), Counter[str]()
    ordered = []
    while left:
        value = {check.name: 1 / (1 + told[check.cause]) for check in left}
        rate = {check.name: value[check.name] / max(costs[check.name], 1e-9) for check in left}
        best = next(check for check in left if rate[check.name] == max(rate.values()))
        ordered.append((best, value[best.name]))
        told[best.cause] += 1
        left.remove(best)
    return ordered


def estimates(checks: Sequence[Check], given: Mapping[str, Any], speed: Speed | None) -> dict[str, float]:
    """Cost of each check: seconds by the probe, else elementary operations; 0 for a check that lacks an input."""
    return {check.name: 0.0 if check.lacks(given) else _price(check, given, speed) for check in checks}


def _price(check: Check, given: Mapping[str, Any], speed: Speed | None) -> float:
    cost = check.cost(given)
    return speed.seconds(cost) if speed else cost.elements + _ELEMENTS_PER_FORWARD * (cost.forwards + 3 * cost.backwards)


def triage_table(costs: Sequence[CheckCost]) -> pd.DataFrame:
    """One row per check in the order in which they were taken: value, estimated and spent seconds."""
    rows = [(cost.check, cost.cause, round(cost.value, 2), cost.estimated, cost.spent) for cost in costs]
    return pd.DataFrame(rows, columns=["check", "cause", "value", "estimated_seconds", "spent_seconds"])
