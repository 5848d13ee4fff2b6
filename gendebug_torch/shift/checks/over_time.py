"""`shift.over_time`: accuracy, or confidence, from the first to the last production row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError
from gendebug_torch.shift.time.change_point import ChangePoint, change_point
from gendebug_torch.stats.intervals import p_value_text

_FAIL_CHANGE = 0.15


def _cost(given: Mapping[str, Any]) -> Cost:
    production = given.get("production")
    return Cost(elements=30.0 * (0 if production is None else len(production)) + 1e6)


@check("shift.over_time", cause=Cause.CONCEPT_DRIFT, needs=("production.logits",), cost=_cost)
def production_stays_the_same_over_time(
    production: Records,
    *,
    alpha: float = 0.002,
    min_accuracy: float = 0.05,
    min_confidence: float = 0.05,
) -> Iterator[Finding]:
    """Accuracy (confidence, where labels are unknown) keeps its level over all production rows.

    A change of the accuracy without one of the confidence is concept drift; where the confidence
    changes too, inputs did.

    Source: Ploberger and Krämer (1992), Econometrica 60:271; Carlstein (1986), Ann. Stat. 14:1171,
    for dependent rows.

    Args:
        production: records with logits and a time column, and with targets where known.
        alpha: chance of any false alarm over both series.
        min_accuracy: smallest change of the accuracy that matters.
        min_confidence: smallest change of the mean confidence that matters.
    """
    this = production_stays_the_same_over_time
    column, metadata = production.schema.time, production.metadata
    if column is None or metadata is None or column not in metadata:
        yield this.finding(
            Severity.NOTE, "Not judged: no time column; name it as `time` in the schema."
        )
        return
    if production.schema.multilabel or production.confidence.ndim != 1:
        yield this.finding(Severity.NOTE, "Not judged: needs one prediction per row.")
        return
    times = parse_times(metadata[column], column)
    order = times.order[: len(production) - times.missing]
    if times.missing:
        text = f"{times.missing} of {len(production)} rows have no time and are left out."
        yield this.finding(Severity.NOTE, text, numbers={"without_time": times.missing})
    try:
        found = _change_points(production, order)
    except InputError as error:
        yield this.finding(Severity.NOTE, f"Not judged: {error}", numbers={"m": len(production)})
        return
    min_change = {"confidence": min_confidence, "accuracy": min_accuracy}
    changed = [
        name
        for name, change in found.items()
        if change.p_value < alpha / len(found) and abs(change.change[0]) >= min_change[name]
    ]
    if not changed:
        yield _clean_finding(found)
        return
    moments = metadata[column].iloc[order.numpy()].reset_index(drop=True)
    cause = Cause.COVARIATE_SHIFT if "confidence" in changed else Cause.CONCEPT_DRIFT
    name = "accuracy" if "accuracy" in changed else "confidence"
    yield _change_finding(found[name], moments, cause)


def _change_points(production: Records, order: torch.Tensor) -> dict[str, ChangePoint]:
    """Of the confidence, and of the accuracy where production has class ids."""
    series = {"confidence": production.confidence[order]}
    if production.targets is not None and production.targets.dtype == torch.int64:
        series["accuracy"] = production.correct[order].double()
    return {name: change_point(values, name=name) for name, values in series.items()}


def _clean_finding(found: dict[str, ChangePoint]) -> Finding:
    parts = [
        f"{name} {change.before[0]:.3f} → {change.after[0]:.3f} ({p_value_text(change.p_value)})"
        for name, change in found.items()
    ]
    return production_stays_the_same_over_time.finding(
        Severity.OK,
        f"No change within production: {', '.join(parts)}.",
        numbers={f"{name}_p_value": change.p_value for name, change in found.items()},
        evidence=found.get("accuracy", found["confidence"]),
    )


def _change_finding(change: ChangePoint, times: Any, cause: Cause) -> Finding:
    difference, error = change.change
    last = len(times) - 1
    moment = str(times.iloc[min(change.row, last)])
    numbers: dict[str, Any] = {"row": change.row, "low": change.low, "high": change.high}
    numbers |= {"change": difference, "standard_error": error, "p_value": change.p_value}
    numbers |= {"before": change.before[0], "after": change.after[0]}
    numbers |= {"sudden": change.sudden, "moment": moment}
    how = {True: "changed suddenly", False: "changed gradually", None: "changed"}[change.sudden]
    text = (
        f"{change.name.capitalize()} {how} within production, {change.before[0]:.3f} → "
        f"{change.after[0]:.3f} ({difference:+.3f} ± {1.96 * error:.3f}, "
        f"{p_value_text(change.p_value)}), from {moment} on (95 % interval "
        f"{times.iloc[change.low]} to {times.iloc[min(change.high, last)]})"
    )
    suspect = (
        "what grows or fades since then"
        if change.sudden is False
        else "what was released, switched or renamed then"
    )
    return production_stays_the_same_over_time.finding(
        Severity.FAIL if abs(difference) >= _FAIL_CHANGE else Severity.WARN,
        f"{text}.",
        cause=cause,
        numbers=numbers,
        remedy=(
            f"Look for {suspect}; compare rows before and after that moment feature by feature "
            "(gendebug shift)."
        ),
        evidence=change,
    )
