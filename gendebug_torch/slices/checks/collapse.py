"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.slices.change import SliceChange, slice_change
from gendebug_torch.slices.checks._slices import (
    _cost,
    _has_classes,
    _nothing_to_slice,
    _said,
    slicing_columns,
)
from gendebug_torch.slices.search.columns import fit_binnings
from gendebug_torch.slices.search.events import plain_events
from gendebug_torch.stats.intervals import wilson_interval

_CHANGE_NEEDS = (
    "validation.logits",
    "validation.targets",
    "production.logits",
    "production.targets",
)


@check("slices.collapse", cause=Cause.SUBGROUP_FAILURE, needs=_CHANGE_NEEDS, cost=_cost)
def no_slice_collapsed(
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_change: float = 0.1,
    limit: int = 5,
) -> Iterator[Finding]:
    """No subgroup got much worse in production while the whole stayed almost as it was.

    For every one- and two-way slice the change of its error rate, and for two classes of its missed
    positives (1 - recall) and false alarms, is compared with the change outside the slice, on the
    scale of log odds.

    Source: Breslow and Day (1980), Statistical Methods in Cancer Research 1, section 4.4, for the
    homogeneity of odds ratios; Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        validation: labeled records with logits.
        production: labeled records with logits.
        threshold: on the probability of a binary model.
        alpha: false discovery rate over all slices and events.
        min_change: smallest rise of the rate, beyond that of all rows, that matters.
        limit: most slices to report.
    """
    this = no_slice_collapsed
    sides = (validation, production)
    columns = [frame for frame in map(slicing_columns, sides) if frame is not None]
    if len(columns) < len(sides) or not all(map(_has_classes, sides)):
        yield _nothing_to_slice(this)
        return
    events = [_plain(records, threshold) for records in sides]
    cuts = fit_binnings(columns[0], categorical=validation.schema.categorical)
    shared = [name for name in events[0] if name in events[1]]
    worse: dict[str, list[tuple[SliceChange, int]]] = {}
    wholes = {}
    for name in shared:
        cases = [(columns[side], *events[side][name]) for side in (0, 1)]
        before, after = ((frame[asked.numpy()], event[asked]) for frame, asked, event in cases)
        change = slice_change(*before, *after, binnings=cuts, alpha=alpha / len(shared), name=name)
        wholes[f"{name.replace(' ', '_')}_change"] = change.whole
        rise = change.change - max(change.whole, 0.0)
        for place in (rise >= min_change).nonzero()[:, 0].tolist():
            worse.setdefault(change.names[place], []).append((change, place))
    worst_first = sorted(
        worse.values(), key=lambda risen: min(float(change.log_p[place]) for change, place in risen)
    )
    for risen in worst_first[:limit]:
        yield _collapsed_slice(this, risen, min_change)
    if not worse:
        said = ", ".join(
            f"{name.removesuffix('_change').replace('_', ' ')} rate {value:+.1%}"
            for name, value in wholes.items()
        )
        yield this.finding(
            Severity.OK,
            f"No slice got worse in production beyond the change of all rows ({said}).",
            numbers=wholes,
        )


def _collapsed_slice(
    this: Check, cases: list[tuple[SliceChange, int]], min_change: float
) -> Finding:
    change, at = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    counts = torch.stack([change.before[at], change.after[at]])
    then, now = (counts[:, 1] / counts[:, 0].clamp(min=1)).tolist()
    low, high = wilson_interval(counts[:, 1], counts[:, 0])
    numbers: dict[str, Any] = {
        "event": change.name,
        "rate_validation": then,
        "rate_production": now,
        "change": now - then,
    }
    numbers |= {
        "interval_validation": [float(low[0]), float(high[0])],
        "interval_production": [float(low[1]), float(high[1])],
    }
    numbers |= {
        "change_overall": change.whole,
        "share_of_rise": float(change.share_of_rise[at]),
        "support": int(counts[1, 0]),
        "adjusted_p_value": float(change.adjusted[at]),
    }
    numbers |= {"asked": change.asked} | {
        f"{other.name.replace(' ', '_')}_change": float(other.change[place])
        for other, place in cases
    }
    summary = (
        f"{change.name.capitalize()} rate rose from {then:.1%} to {now:.1%} (95 % interval "
        f"{float(low[1]):.1%} to {float(high[1]):.1%}) "
        f"where {change.names[at]}, while it changed by {change.whole:+.1%} overall; "
        f"{int(counts[1, 0]):,} rows in production."
    )
    remedy = (
        f"Look at production rows where {change.names[at]}: what about them is new? Until the "
        "model is retrained with them, "
        "route them elsewhere."
    )
    severity = Severity.FAIL if float(low[1]) - then >= min_change else Severity.WARN
    return this.finding(
        severity, summary, subject=change.names[at], numbers=numbers, remedy=remedy, evidence=change
    )


def _plain(records: Records, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
    return plain_events(*_said(records), threshold=threshold)
