"""Checks along the time of production: when did the impact begin, and was it a break or a
wander.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError
from gendebug_torch.shift.checks._kinds import p_text
from gendebug_torch.shift.time.change_point import ChangePoint, change_point


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
    """Accuracy, or confidence where labels are unknown, keeps its level from the first to the last
    production row.

    A fall of the accuracy with the confidence unmoved is concept drift; where confidence moves too,
    inputs did.

    Source: Ploberger and Krämer (1992), Econometrica 60:271; Carlstein (1986), Ann. Stat. 14:1171,
    for dependent rows.

    Args:
        production: records with logits and a time column; with targets where known.
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
    series = {"confidence": (production.confidence[order], min_confidence)}
    if production.targets is not None and production.targets.dtype == torch.int64:
        series["accuracy"] = (production.correct[order].double(), min_accuracy)
    try:
        found = {name: change_point(values, name=name) for name, (values, _) in series.items()}
    except InputError as error:
        yield this.finding(Severity.NOTE, f"Not judged: {error}", numbers={"m": len(production)})
        return
    moments = metadata[column].iloc[order.numpy()].reset_index(drop=True)
    moved = [
        name
        for name, change in found.items()
        if change.p_value < alpha / len(found) and abs(change.change[0]) >= series[name][1]
    ]
    if not moved:
        told = [
            f"{name} {change.before[0]:.3f} → {change.after[0]:.3f} ({p_text(change.p_value)})"
            for name, change in found.items()
        ]
        numbers = {f"{name}_p_value": change.p_value for name, change in found.items()}
        evidence = found.get("accuracy", found["confidence"])
        yield this.finding(
            Severity.OK,
            f"No change inside production: {', '.join(told)}.",
            numbers=numbers,
            evidence=evidence,
        )
        return
    name = "accuracy" if "accuracy" in moved else "confidence"
    cause = Cause.CONCEPT_DRIFT if "confidence" not in moved else Cause.COVARIATE_SHIFT
    yield _change_finding(found[name], moments, cause)


def _change_finding(change: ChangePoint, times: Any, cause: Cause) -> Finding:
    difference, error = change.change
    numbers: dict[str, Any] = {
        "row": change.row,
        "low": change.low,
        "high": change.high,
        "change": difference,
        "standard_error": error,
    }
    numbers |= {
        "p_value": change.p_value,
        "sudden": change.sudden,
        "before": change.before[0],
        "after": change.after[0],
    }
    numbers |= {"moment": str(times.iloc[min(change.row, len(times) - 1)])}
    bounds = f"{times.iloc[change.low]} to {times.iloc[min(change.high, len(times) - 1)]}"
    how = {True: "broke", False: "wandered", None: "changed"}[change.sudden]
    text = (
        f"{change.name.capitalize()} {how} inside production, {change.before[0]:.3f} → "
        f"{change.after[0]:.3f} "
        f"({difference:+.3f} ± {1.96 * error:.3f}, {p_text(change.p_value)}), from "
        f"{numbers['moment']} on ({bounds})"
    )
    what = (
        "what grows or fades since"
        if change.sudden is False
        else "what was released, switched or renamed then"
    )
    remedy = (
        f"Look for {what}; compare rows before and after that moment feature by feature "
        "(gendebug shift)."
    )
    severity = Severity.FAIL if abs(difference) >= 0.15 else Severity.WARN
    return production_stays_the_same_over_time.finding(
        severity, f"{text}.", cause=cause, numbers=numbers, remedy=remedy, evidence=change
    )
