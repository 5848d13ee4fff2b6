"""Check `slices.collapse`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gendebug_torch.checks.finding import SHARE_OF_RISE, Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.slices.checks._slicing import (
    MAX_SHARE,
    class_outputs,
    nothing_to_slice,
    slicing_columns,
    slicing_cost,
)
from gendebug_torch.slices.levels.binning import fit_binnings
from gendebug_torch.slices.search.change import SliceChange, slice_change
from gendebug_torch.slices.search.error_events import errors_by_class
from gendebug_torch.stats.intervals import wilson_interval

_NEEDS = ("validation.logits", "validation.targets", "production.logits", "production.targets")


@check("slices.collapse", cause=Cause.SUBGROUP_FAILURE, needs=_NEEDS, cost=slicing_cost)
def no_slice_collapsed(
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_change: float = 0.1,
    limit: int = 5,
) -> Iterator[Finding]:
    """No subgroup became much worse in production while the whole hardly changed.

    For every one- and two-way slice the change of its error rate, and for two classes of its
    false negative and false positive rates, is compared with the change outside the slice, on the
    scale of log odds.

    Source: Breslow and Day (1980), Statistical Methods in Cancer Research 1, section 4.4, for the
    homogeneity of odds ratios; Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        validation: labeled records with logits.
        production: labeled records with logits.
        threshold: threshold on the probability of a binary model.
        alpha: false discovery rate over all slices and kinds of error.
        min_change: smallest rise of the rate, beyond that of all rows, that matters.
        limit: most slices to report; slices with half of the rows are no subgroups.
    """
    this = no_slice_collapsed
    changes = _changes(validation, production, threshold, alpha)
    if changes is None:
        yield nothing_to_slice(this)
        return
    risen: dict[str, list[tuple[SliceChange, int]]] = {}
    for change in changes:
        rise = change.change - max(change.overall_change, 0.0)
        share = change.after[:, 0] / max(int(change.total[1, 0]), 1)
        for i in ((rise >= min_change) & (share < MAX_SHARE)).nonzero()[:, 0].tolist():
            risen.setdefault(change.names[i], []).append((change, i))
    worst_first = sorted(
        risen.values(), key=lambda cases: min(float(change.log_p[i]) for change, i in cases)
    )
    for cases in worst_first[:limit]:
        yield _collapsed_slice(this, cases, min_change)
    if not risen:
        rates = ", ".join(f"{change.name} rate {change.overall_change:+.1%}" for change in changes)
        numbers = {f"{_key(change)}_change": change.overall_change for change in changes}
        text = f"No slice became worse in production beyond the change of all rows ({rates})."
        yield this.finding(Severity.OK, text, numbers=numbers)


def _changes(
    validation: Records, production: Records, threshold: float, alpha: float
) -> list[SliceChange] | None:
    """The changes of each kind of error per slice; None without columns or classes."""
    before, after = slicing_columns(validation), slicing_columns(production)
    outputs, live_outputs = class_outputs(validation), class_outputs(production)
    if before is None or after is None or outputs is None or live_outputs is None:
        return None
    binnings = fit_binnings(before, categorical=validation.schema.categorical)
    errors = errors_by_class(*outputs, threshold=threshold)
    live_errors = errors_by_class(*live_outputs, threshold=threshold)
    names = [name for name in errors if name in live_errors]
    changes = []
    for name in names:
        (rows, error), (live_rows, live_error) = errors[name], live_errors[name]
        changes.append(
            slice_change(
                before[rows.numpy()],
                error[rows],
                after[live_rows.numpy()],
                live_error[live_rows],
                binnings=binnings,
                alpha=alpha / len(names),
                name=name,
            )
        )
    return changes


def _key(change: SliceChange) -> str:
    return change.name.replace(" ", "_")


def _collapsed_slice(
    this: Check, cases: list[tuple[SliceChange, int]], min_change: float
) -> Finding:
    """One finding for all kinds of error that rose in a slice, the most significant first."""
    change, i = min(cases, key=lambda case: float(case[0].log_p[case[1]]))
    counts = torch.stack([change.before[i], change.after[i]])
    before, after = (counts[:, 1] / counts[:, 0].clamp(min=1)).tolist()
    low, high = (bound.tolist() for bound in wilson_interval(counts[:, 1], counts[:, 0]))
    name, rows = change.names[i], int(counts[1, 0])
    numbers: dict[str, Any] = {
        "event": change.name,
        "rate_validation": before,
        "rate_production": after,
        "change": after - before,
        "interval_validation": [low[0], high[0]],
        "interval_production": [low[1], high[1]],
        "change_overall": change.overall_change,
        SHARE_OF_RISE: float(change.share_of_rise[i]),
        "support": rows,
        "adjusted_p_value": float(change.adjusted[i]),
        "tests": change.tests,
    }
    numbers |= {f"{_key(other)}_change": float(other.change[j]) for other, j in cases}
    return this.finding(
        Severity.FAIL if low[1] - before >= min_change else Severity.WARN,
        f"Where {name}, the {change.name} rate rose from {before:.1%} in validation to "
        f"{after:.1%} in production (95 % interval {low[1]:.1%} to {high[1]:.1%}; {rows:,} rows). "
        f"Over all rows it changed by {change.overall_change:+.1%}.",
        subject=name,
        numbers=numbers,
        remedy=f"Look at production rows where {name}: what is new about them? Route them "
        "elsewhere until the model is retrained with such rows.",
        evidence=change,
    )
