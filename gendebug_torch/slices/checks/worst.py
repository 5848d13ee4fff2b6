"""Check `slices.worst`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.slices.checks._slicing import (
    MAX_SHARE,
    class_outputs,
    nothing_to_slice,
    slicing_columns,
    slicing_cost,
)
from gendebug_torch.slices.levels.binning import Binning, fit_binnings
from gendebug_torch.slices.search.error_events import ErrorEvent, errors_by_prediction
from gendebug_torch.slices.search.find import confirmed_slices, find_slices
from gendebug_torch.slices.search.result import Slices

# With fewer rows or errors, half of them have too little power.
_MIN_ROWS_TO_SPLIT = 4000
_MIN_ERRORS_TO_SPLIT = 200
# An excess of ten points matters whatever its ratio: half of the rows wrong instead of 0.4.
_LARGE_EXCESS = 0.1
_REMEDY = (
    "Look at rows where {name}: are their labels and features correct? Then add a feature that "
    "explains the difference, collect more such rows, or train a separate model for them."
)


@check(
    "slices.worst",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets"),
    cost=slicing_cost,
)
def no_slice_fails(
    validation: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_lift: float = 1.5,
    limit: int = 5,
    seed: int = 0,
) -> Iterator[Finding]:
    """No subgroup of the rows, by one or two columns, has more errors than the confidence expects.

    In every one- and two-way slice of metadata and features, errors (for two classes also wrong
    negative and wrong positive predictions) are compared with the error rate among rows of the same
    score. So a slice that is hard is only mentioned, and one where the model is overconfident is
    reported. With enough rows, one random half proposes slices and the other half confirms them.

    Source: Ayer et al. (1955), Ann. Math. Stat. 26:641, for the expectation; Benjamini and Hochberg
    (1995), JRSS B 57:289; Chung et al. (2019), Slice Finder, arXiv:1807.06068, for the question.

    Args:
        validation: labeled records with logits and named columns.
        threshold: threshold on the probability of a binary model.
        alpha: false discovery rate over all slices and kinds of error.
        min_lift: smallest ratio of the slice's error rate to the expected one that matters; so does
            an excess of 10 points.
        limit: most slices to report; slices with half of the rows are no subgroups.
        seed: seed of the split into halves.
    """
    this = no_slice_fails
    columns, outputs = slicing_columns(validation), class_outputs(validation)
    if columns is None or outputs is None:
        yield nothing_to_slice(this)
        return
    binnings = fit_binnings(columns, categorical=validation.schema.categorical)
    events = errors_by_prediction(*outputs, threshold=threshold)
    failing: dict[str, list[tuple[Slices, int, ErrorEvent]]] = {}
    for event in events:
        found = _excess_slices(columns, binnings, event, alpha / len(events), seed)
        for i in _relevant(found, min_lift):
            failing.setdefault(found.names[i], []).append((found, i, event))
    worst_first = sorted(
        failing.values(), key=lambda cases: min(float(found.log_p[i]) for found, i, _ in cases)
    )
    for cases in worst_first[:limit]:
        yield _failing_slice(this, cases)
    if not failing:
        yield _hardest_slice(this, columns, binnings, events[0])


def _excess_slices(
    columns: pd.DataFrame, binnings: Sequence[Binning], event: ErrorEvent, alpha: float, seed: int
) -> Slices:
    """Slices with more errors than expected; by two halves where there are enough rows."""
    frame = columns.iloc[event.rows.numpy()]
    options: dict[str, Any] = {"binnings": binnings, "alpha": alpha, "name": event.name}
    if len(frame) < _MIN_ROWS_TO_SPLIT or int(event.errors.sum()) < _MIN_ERRORS_TO_SPLIT:
        return find_slices(frame, event.errors, expected=event.expected_rate(), **options)
    return confirmed_slices(frame, event.errors, expected=event.expected_rate, seed=seed, **options)


def _relevant(found: Slices, min_lift: float) -> list[int]:
    """Indices of subgroups whose excess is large and certain."""
    low, _ = found.interval()
    subgroup = found.support < MAX_SHARE * found.overall[0]
    large = (found.lift >= min_lift) | (found.rate - found.expected_rate >= _LARGE_EXCESS)
    indices: list[int] = (subgroup & large & (low > found.expected_rate)).nonzero()[:, 0].tolist()
    return indices


def _failing_slice(this: Check, cases: list[tuple[Slices, int, ErrorEvent]]) -> Finding:
    """One finding for all kinds of error of a slice, the most significant first."""
    found, i, event = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    name, rate, expected = found.names[i], float(found.rate[i]), float(found.expected_rate[i])
    low, high = (float(bound[i]) for bound in found.interval())
    rows, overall = int(found.support[i]), found.overall[1] / max(found.overall[0], 1)
    summary = (
        f"Where {name}, {rate:.1%} of {event.predictions} are wrong (95 % interval {low:.1%} to "
        f"{high:.1%}; {rows:,} rows). The model's confidence implies {expected:.1%} there; overall "
        f"{overall:.1%} are wrong. {found.tests:,} slices were tested."
    )
    broken = low > 2 * expected and low - expected > _LARGE_EXCESS / 2
    return this.finding(
        Severity.FAIL if broken else Severity.WARN,
        summary,
        subject=name,
        numbers=_numbers(cases, found, i),
        remedy=_REMEDY.format(name=name),
        evidence=found,
    )


def _numbers(cases: list[tuple[Slices, int, ErrorEvent]], found: Slices, i: int) -> dict[str, Any]:
    low, high = found.interval()
    numbers: dict[str, Any] = {
        "event": found.name,
        "support": int(found.support[i]),
        "rate": float(found.rate[i]),
        "interval": [float(low[i]), float(high[i])],
        "expected_rate": float(found.expected_rate[i]),
        "overall": found.overall[1] / max(found.overall[0], 1),
        "lift": float(found.lift[i]),
        "adjusted_p_value": float(found.adjusted[i]),
        "tests": found.tests,
        "same_rows_as": list(found.aliases[i][:3]),
        "share_of_events": float(found.total[i]) / max(found.overall[1], 1),
    }
    rates = {f"{other.name.replace(' ', '_')}_rate": float(other.rate[j]) for other, j, _ in cases}
    return numbers | rates


def _hardest_slice(
    this: Check, columns: pd.DataFrame, binnings: Sequence[Binning], event: ErrorEvent
) -> Finding:
    """No slice fails; names the slice with the most significant excess of expected errors."""
    hard = find_slices(columns, event.errors, binnings=binnings, limit=5, name=event.name)
    numbers: dict[str, Any] = {
        "rows": len(columns),
        "columns": columns.shape[1],
        "errors": int(event.errors.sum()),
    }
    summary = (
        f"No slice of {columns.shape[1]} columns has more errors than the model's confidence "
        "expects."
    )
    if len(hard):
        inside = hard.mask(columns, 0)
        expected, rate = float(event.expected_rate()[inside].mean()), float(hard.rate[0])
        numbers |= {"hardest": hard.names[0], "rate": rate, "expected_rate": expected}
        summary += (
            f" The hardest one is {hard.names[0]}, with {rate:.1%} errors and {expected:.1%} "
            "expected."
        )
    return this.finding(Severity.OK, summary, numbers=numbers, evidence=hard if len(hard) else None)
