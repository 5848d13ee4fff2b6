"""What each check costs in seconds, and in which order checks run: most value per second first."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost, Deferred
from gendebug_torch.checks.registry import Check, derived_inputs
from gendebug_torch.data.records import Records
from gendebug_torch.diagnosis.preparation.views import SPLITS
from gendebug_torch.errors import Deadline
from gendebug_torch.model.runner import logits_of, map_rows
from gendebug_torch.progress import progress_bar

_PROBE_ROWS = 512
_PROBE_ELEMENTS = 2**20
# Runs of each probe, and the seconds after which no further one begins.
_PROBES, _PROBE_SECONDS = 15, 0.2
# Beyond this multiple of the budget the report says so, in a finding of this name.
_TOLERATED, OVERRUN = 1.2, "diagnose.budget"


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


def probe_speed(given: Mapping[str, Any], device: str | torch.device = "auto") -> Speed:
    """Rates measured on a few hundred rows of the given records.

    The fastest of several equal runs counts: the first pays for compiled kernels and cold caches,
    and others wait where the machine has more to do. Without a model, or without rows to feed it,
    the model's rates are infinite, since no check can use it. Cost: well under a second for a
    small model.
    """
    elements = torch.arange(_PROBE_ELEMENTS, dtype=torch.float64)
    rate = 3 * _PROBE_ELEMENTS / _seconds(lambda: elements.mul(0.5).add_(1.0).sum())
    model = given["model"]
    rows = next(
        (
            records
            for name in ("validation", "production", "train")
            if isinstance(records := given[name], Records)
            and records.features is not None
            and len(records)
        ),
        None,
    )
    if model is None or rows is None:
        return Speed(float("inf"), float("inf"), rate)
    sample = rows.select(range(min(_PROBE_ROWS, len(rows))))
    return Speed(*_model_rates(model, sample, device), rate)


def _model_rates(model: Any, sample: Records, device: str | torch.device) -> tuple[float, float]:
    """Rows per second through the model, and through it and back to its inputs."""

    def forward(inputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        return {"logits": logits_of(model, inputs)}

    def backward(inputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        points = inputs.detach().requires_grad_()
        return {"gradient": torch.autograd.grad(logits_of(model, points).sum(), points)[0]}

    seconds = _seconds(lambda: map_rows(forward, sample, model=model, device=device))
    features = sample.features
    if isinstance(features, torch.Tensor) and not features.is_floating_point():
        return len(sample) / seconds, len(sample) / (3 * seconds)
    options: dict[str, Any] = {"model": model, "device": device, "grad": True}
    return len(sample) / seconds, len(sample) / _seconds(
        lambda: map_rows(backward, sample, **options)
    )


def _seconds(work: Callable[[], Any]) -> float:
    """Least time of several runs after the first; of long ones one is enough."""
    work()
    least, total = math.inf, 0.0
    for _ in range(_PROBES):
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        least, total = min(least, taken), total + taken
        if total > _PROBE_SECONDS:
            break
    return max(least, 1e-9)


# One model forward counts as this many elementary operations, a backward as three forwards, where
# nothing was probed.
_ELEMENTS_PER_FORWARD = 1e3


@dataclass(frozen=True)
class CheckCost:
    """One line of the schedule.

    Args:
        check: id of the check.
        cause: cause that it looks for.
        value: 1 for the first check of a cause, 1/2 for the second, and so on.
        estimated: seconds by the probe; None where no budget needed them.
        spent: seconds that it took; None where it did not run.
    """

    check: str
    cause: str
    value: float
    estimated: float | None
    spent: float | None


def by_value(checks: Sequence[Check], costs: Mapping[str, float]) -> list[tuple[Check, float]]:
    """Checks with their value, the highest value per cost first.

    The first check of a cause is worth most and each further one less (harmonically), so that a
    short budget is spread over causes. Greedy, as is usual for submodular cover (Nemhauser, Wolsey
    and Fisher, 1978, Math. Program. 14:265).
    """
    left, scheduled = list(checks), Counter[str]()
    ordered = []
    while left:
        value = {check.name: 1 / (1 + scheduled[check.cause]) for check in left}
        rate = {check.name: value[check.name] / max(costs[check.name], 1e-9) for check in left}
        best = max(left, key=lambda check: rate[check.name])
        ordered.append((best, value[best.name]))
        scheduled[best.cause] += 1
        left.remove(best)
    return ordered


def estimate(
    check: Check,
    given: Mapping[str, Any],
    speed: Speed | None,
    shared: Mapping[str, Deferred[Any]] | None = None,
) -> float:
    """Seconds of a check by the probe, else elementary operations; 0 where it lacks an input.

    Derived inputs in `shared` that are computed already cost nothing more.
    """
    if check.lacks(given):
        return 0.0
    cost = check.total_cost(given, shared)
    if speed is not None:
        return speed.seconds(cost)
    return cost.elements + _ELEMENTS_PER_FORWARD * (cost.forwards + 3 * cost.backwards)


def run_within(
    ordered: Sequence[tuple[Check, float]],
    given: Mapping[str, Any],
    described: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]],
    speed: Speed | None,
    deadline: Deadline,
    *,
    whole: Mapping[str, Deferred[Any]] | None = None,
    progress: bool = False,
) -> tuple[list[Finding], tuple[CheckCost, ...]]:
    """Findings of the checks that fit into the time that is left, and what each took.

    Args:
        ordered: checks with their values, in the order in which they run.
        given: inputs by name, which checks that run the model take.
        described: the same in words, which the others take.
        settings: options by check.
        speed: rates by which costs become seconds; None runs every check.
        deadline: end of the budget.
        whole: derived inputs by name that more rows than those given answer.
        progress: whether to show a bar of the checks, and of long loops inside them.
    """
    findings: list[Finding] = []
    costs = []
    deadline = deadline.with_progress(progress)
    with (
        _stopping(given["model"], deadline) as model,
        progress_bar(len(ordered), "checks", show=progress) as count,
    ):
        more = {"model": model, "deadline": deadline}
        given, described = {**given, **more}, {**described, **more}
        shared = dict(whole or {})
        for check, _ in ordered:
            shared = derived_inputs([check], _in_words(check, given, described)) | shared
        for check, value in ordered:
            estimated = None if speed is None else estimate(check, given, speed, shared)
            spent, left = None, deadline.left
            late = estimated is not None and (estimated > left or left == 0.0)
            if estimated is not None and late and not check.lacks(given):
                findings.append(_unaffordable(check, estimated, left))
            else:
                began = deadline.spent
                inputs = _inputs_of(check, given, described)
                findings.extend(check.run(inputs, settings[check.name], shared))
                spent = None if check.lacks(given) else deadline.spent - began
            costs.append(CheckCost(check.name, check.cause, value, estimated, spent))
            count(1)
    return findings, tuple(costs)


def _inputs_of(
    check: Check, given: Mapping[str, Any], described: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a check reads: rows as they are where it runs the model on them, else words.

    Leaks are looked for among properties where there are no columns, which no model is run on.
    """
    words = _in_words(check, given, described)
    if "model" not in check.inputs:
        return words
    if not check.name.startswith("leakage."):
        return given
    in_words = any(words[name] is not given[name] for name in SPLITS)
    return {**words, "model": None} if in_words else given


def _in_words(
    check: Check, given: Mapping[str, Any], described: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Inputs in words; leaks are looked for in the columns that a table has.

    Texts with equal properties are no equal texts, and a network that reads a text may use all that
    it says.
    """
    if not check.name.startswith("leakage."):
        return described
    tables = {
        name: value
        for name, value in given.items()
        if isinstance(value, Records)
        and isinstance(value.features, pd.DataFrame)
        and value.properties is None
    }
    return {**described, **tables}


@contextlib.contextmanager
def _stopping(model: Any, deadline: Deadline) -> Iterator[Any]:
    """The model, whose forward passes end with the budget, so that every loop over batches does."""
    if deadline.left == math.inf or model is None or isinstance(model, torch.jit.ScriptModule):
        yield model
    elif isinstance(model, torch.nn.Module):
        hook = model.register_forward_pre_hook(lambda *_: deadline.check())
        try:
            yield model
        finally:
            hook.remove()
    else:

        def stopping(*inputs: Any, **named: Any) -> Any:
            deadline.check()
            return model(*inputs, **named)

        yield stopping


def _unaffordable(check: Check, seconds: float, left: float) -> Finding:
    summary = f"Skipped: would take about {seconds:.3g} s; {left:.3g} s of the budget were left."
    remedy = f"Raise the budget, or run it alone with only={check.name!r}."
    numbers = {"estimated_seconds": seconds, "seconds_left": left}
    return check.finding(Severity.SKIPPED, summary, numbers=numbers, remedy=remedy)


def overrun(limit: float, seconds: float, costs: Sequence[CheckCost]) -> list[Finding]:
    """A note where a diagnosis took a fifth longer than its budget: which part of it did.

    Args:
        limit: budget in seconds.
        seconds: what the diagnosis took.
        costs: what each check took.
    """
    ran = [cost for cost in costs if cost.spent is not None]
    if seconds <= _TOLERATED * limit:
        return []
    late = max(ran, key=_lateness, default=None)
    besides = seconds - sum(cost.spent or 0.0 for cost in ran)
    text = f"The budget of {limit:.3g} s was exceeded: {seconds:.3g} s."
    numbers: dict[str, Any] = {"budget": limit, "seconds": seconds}
    remedy = "Raise the budget."
    if late is None or besides > _lateness(late):
        text += f" What comes before and after the checks took {besides:.3g} s."
    else:
        text += (
            f" {late.check} took {late.spent:.3g} s of an estimated {late.estimated or 0:.2g} s."
        )
        numbers["check"] = late.check
        remedy = "Raise the budget, or leave that check out with `only`."
    # A check without its inputs costs nothing.
    left = sum(cost.spent is None and bool(cost.estimated) for cost in costs)
    summary = f"{text} {left} checks did not run."
    note = Finding(OVERRUN, Cause.UNKNOWN, Severity.NOTE, summary, numbers=numbers)
    return [replace(note, remedy=remedy)]


def _lateness(cost: CheckCost) -> float:
    """Seconds that a check took beyond its estimate."""
    return (cost.spent or 0.0) - (cost.estimated or 0.0)


def schedule_table(costs: Sequence[CheckCost]) -> pd.DataFrame:
    """One row per check in the order in which they ran: value, estimated and spent seconds."""
    rows = [
        (cost.check, cost.cause, round(cost.value, 2), cost.estimated, cost.spent) for cost in costs
    ]
    columns = ["check", "cause", "value", "estimated_seconds", "spent_seconds"]
    return pd.DataFrame(rows, columns=columns)
