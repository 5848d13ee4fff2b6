"""What each check costs in seconds, and in which order checks run: most value per second first."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from gendebug_torch.checks.registry import Check, Cost, Deferred
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import logits_of, map_rows

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_PROBE_ROWS = 512
_PROBE_ELEMENTS = 2**20


@dataclass(frozen=True)
class Speed:
    """Measured rates of this machine with this model, per second.

    Args:
        forwards: rows through the model.
        backwards: rows through the model and back to its inputs.
        elements: elementary operations on float64 tensors.
    """

    forwards: float
    backwards: float
    elements: float

    def seconds(self, cost: Cost) -> float:
        """Time that this work takes at these rates."""
        return (
            cost.forwards / self.forwards
            + cost.backwards / self.backwards
            + cost.elements / self.elements
        )


def seconds_of(budget: str | float) -> float:
    """Seconds of `90`, `90s`, `2m` or `1.5h`.

    Raises:
        InputError: anything else, or a budget that is not positive.
    """
    if isinstance(budget, (int, float)):
        seconds = float(budget)
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", str(budget).lower())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds > 0:
        reject(
            "budget",
            "a positive time such as `90s`, `2m` or `1h`",
            repr(budget),
            "Write a number and a unit.",
        )
    return seconds


def probe_speed(given: Mapping[str, Any], device: str | torch.device = "auto") -> Speed:
    """Rates measured on a few hundred rows of the given records, in well under a second for a small
    model.

    The second of two equal runs is timed: the first pays for compiled kernels and cold caches.
    Without a model, or without rows to feed it, the model's rates are infinite, since no check can
    use it.
    """
    elements = torch.arange(_PROBE_ELEMENTS, dtype=torch.float64)
    rate = 3 * _PROBE_ELEMENTS / _seconds(lambda: elements.mul(0.5).add_(1.0).sum())
    sets = [given[name] for name in ("validation", "production", "train")]
    rows = next(
        (r for r in sets if isinstance(r, Records) and r.features is not None and len(r)), None
    )
    model = given["model"]
    if model is None or rows is None:
        return Speed(float("inf"), float("inf"), rate)
    sample = rows.select(range(min(_PROBE_ROWS, len(rows))))

    def forward(inputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        return {"logits": logits_of(model, inputs)}

    def backward(inputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        points = inputs.detach().requires_grad_()
        return {"gradient": torch.autograd.grad(logits_of(model, points).sum(), points)[0]}

    there = _seconds(lambda: map_rows(forward, sample, model=model, device=device))
    differentiable = (
        sample.features is None
        or not isinstance(sample.features, torch.Tensor)
        or sample.features.is_floating_point()
    )
    back = (
        _seconds(lambda: map_rows(backward, sample, model=model, device=device, grad=True))
        if differentiable
        else 3 * there
    )
    return Speed(len(sample) / there, len(sample) / back, rate)


def _seconds(work: Callable[[], Any]) -> float:
    work()
    started = time.perf_counter()
    work()
    return max(time.perf_counter() - started, 1e-9)


# One model forward counts as this many elementary operations, a backward as three forwards, where
# nothing was probed.
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

    The first check of a cause tells most; each further one of the same cause tells less
    (harmonically), so that a short budget is spread over causes. Greedy, as is usual for submodular
    cover (Nemhauser, Wolsey and Fisher, 1978, Math. Program. 14:265).
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


def estimates(
    checks: Sequence[Check],
    given: Mapping[str, Any],
    speed: Speed | None,
    shared: Mapping[str, Deferred[Any]] | None = None,
) -> dict[str, float]:
    """Cost of each check: seconds by the probe, else elementary operations.

    It is 0 for a check that lacks an input. Derived inputs in `shared` that are computed already
    cost nothing more.
    """
    return {
        check.name: 0.0 if check.lacks(given) else _price(check.total_cost(given, shared), speed)
        for check in checks
    }


def _price(cost: Cost, speed: Speed | None) -> float:
    return (
        speed.seconds(cost)
        if speed
        else cost.elements + _ELEMENTS_PER_FORWARD * (cost.forwards + 3 * cost.backwards)
    )


def triage_table(costs: Sequence[CheckCost]) -> pd.DataFrame:
    """One row per check in the order in which they were taken: value, estimated and spent
    seconds.
    """
    rows = [
        (cost.check, cost.cause, round(cost.value, 2), cost.estimated, cost.spent) for cost in costs
    ]
    return pd.DataFrame(
        rows, columns=["check", "cause", "value", "estimated_seconds", "spent_seconds"]
    )
