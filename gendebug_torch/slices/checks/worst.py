"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.slices.checks._slices import (
    _cost,
    _has_classes,
    _nothing_to_slice,
    _said,
    slicing_columns,
)
from gendebug_torch.slices.search.columns import Binning, fit_binnings
from gendebug_torch.slices.search.events import Event, promised_events
from gendebug_torch.slices.search.result import Slices
from gendebug_torch.slices.search.search import confirmed_slices, find_slices

# With fewer rows or events the halves of a split would both be blind.
_ROWS_TO_SPLIT = 4000
_EVENTS_TO_SPLIT = 200
# An excess of this many points matters whatever its ratio: half of the rows wrong instead of 0.4.
_ENOUGH_POINTS = 0.1


@check(
    "slices.worst",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets"),
    cost=_cost,
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
    """No subgroup of the rows, by one or two columns, fails more often than the model's own
    confidence says.

    Every one- and two-way slice of metadata and features is asked whether errors, and for two
    classes missed positives and false alarms, are more frequent than among rows of the same score:
    a slice that is hard is named in passing, one where the model is wrong about itself is the
    alarm. Where there are rows enough, one random half proposes and the other half confirms.

    Source: Ayer et al. (1955), Ann. Math. Stat. 26:641, for the expectation; Benjamini and Hochberg
    (1995), JRSS B 57:289; Chung et al. (2019), Slice Finder, arXiv:1807.06068, for the question.

    Args:
        validation: labeled records with logits and named columns.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_lift: smallest ratio of the slice's rate to what was promised that matters; so does an
            excess of 10 points.
        limit: most slices to report.
        seed: of the split into halves.
    """
    this = no_slice_fails
    columns = slicing_columns(validation)
    if columns is None or not _has_classes(validation):
        yield _nothing_to_slice(this)
        return
    cuts = fit_binnings(columns, categorical=validation.schema.categorical)
    events = promised_events(*_said(validation), threshold=threshold)
    failing: dict[str, list[tuple[Slices, int]]] = {}
    for event in events:
        found = _failing(columns, cuts, event, alpha / len(events), seed)
        for place in _mattering(found, min_lift):
            failing.setdefault(found.names[place], []).append((found, place))
    worst_first = sorted(
        failing.values(), key=lambda cases: min(float(found.log_p[place]) for found, place in cases)
    )
    among = {event.name: event.among for event in events}
    for cases in worst_first[:limit]:
        yield _failing_slice(this, cases, among)
    if not failing:
        yield _hardest_slice(this, columns, cuts, events[0])


def _failing(
    columns: pd.DataFrame, cuts: Sequence[Binning], event: Event, alpha: float, seed: int
) -> Slices:
    """Slices beyond what was promised: found on all rows, or proposed by one half and confirmed by
    the other.
    """
    frame = columns.iloc[event.rows.numpy()]
    options: dict[str, Any] = {"binnings": cuts, "alpha": alpha, "name": event.name}
    if len(frame) < _ROWS_TO_SPLIT or int(event.happened.sum()) < _EVENTS_TO_SPLIT:
        return find_slices(frame, event.happened, expected=event.promise(), **options)
    return confirmed_slices(frame, event.happened, promise=event.promise, seed=seed, **options)


def _mattering(found: Slices, min_lift: float) -> list[int]:
    low, _ = found.interval()
    large = (found.lift >= min_lift) | (found.rate - found.expected_rate >= _ENOUGH_POINTS)
    places: list[int] = (large & (low > found.expected_rate)).nonzero()[:, 0].tolist()
    return places


def _failing_slice(
    this: Check, cases: list[tuple[Slices, int]], among: Mapping[str, str]
) -> Finding:
    """One finding of all that goes wrong in a slice, the most significant event first."""
    found, at = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    name, rate, promised = found.names[at], float(found.rate[at]), float(found.expected_rate[at])
    low, high = (float(bound[at]) for bound in found.interval())
    overall = found.overall[1] / max(found.overall[0], 1)
    numbers: dict[str, Any] = {
        "event": found.name,
        "support": int(found.support[at]),
        "rate": rate,
        "interval": [low, high],
    }
    numbers |= {
        "promised": promised,
        "overall": overall,
        "lift": float(found.lift[at]),
        "adjusted_p_value": float(found.adjusted[at]),
    }
    share = float(found.total[at]) / max(found.overall[1], 1)
    numbers |= {
        "asked": found.asked,
        "same_rows_as": list(found.also[at][:3]),
        "share_of_events": share,
    }
    numbers |= {
        f"{other.name.replace(' ', '_')}_rate": float(other.rate[place]) for other, place in cases
    }
    summary = (
        f"{found.name.capitalize()} rate {rate:.1%} (95 % interval {low:.1%} to {high:.1%}) where "
        f"{name}, while the model's "
        f"confidence promises {promised:.1%} there; {overall:.1%} over {among[found.name]}. "
        f"{int(found.support[at]):,} rows, "
        f"one of {found.asked:,} slices asked."
    )
    remedy = (
        f"Look at rows where {name}: are their labels and features sound? Then add a feature that "
        "tells what is different there, "
        "collect more of them, or give them a model of their own."
    )
    broken = low > 2 * promised and low - promised > _ENOUGH_POINTS / 2
    severity = Severity.FAIL if broken else Severity.WARN
    return this.finding(
        severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=found
    )


def _hardest_slice(
    this: Check, columns: pd.DataFrame, cuts: Sequence[Binning], event: Event
) -> Finding:
    """What to say where nothing fails: the slice with the clearest excess of errors, which the
    model owns up to.
    """
    hard = find_slices(columns, event.happened, binnings=cuts, limit=5, name=event.name)
    numbers: dict[str, Any] = {
        "rows": len(columns),
        "columns": columns.shape[1],
        "errors": int(event.happened.sum()),
    }
    summary = (
        f"No slice of {columns.shape[1]} columns fails beyond what the model's confidence "
        "says there."
    )
    if len(hard):
        inside = hard.mask(columns, 0)
        promised = float(event.promise()[inside].mean())
        numbers |= {"hardest": hard.names[0], "rate": float(hard.rate[0]), "promised": promised}
        summary += (
            f" The hardest one, {hard.names[0]}, errs in {float(hard.rate[0]):.1%} of rows "
            f"and promises {promised:.1%}."
        )
    return this.finding(Severity.OK, summary, numbers=numbers, evidence=hard if len(hard) else None)
