"""Check `slices.worst`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Check, check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import numeric_features
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.slices.checks._rounds import SCORE_COUNTS
from gendebug_torch.slices.checks._slicing import (
    MAX_SHARE,
    PREDICTED,
    cap_note,
    class_outputs,
    nothing_to_slice,
    row_losses,
    slicing_columns,
    slicing_cost,
    with_classes,
)
from gendebug_torch.slices.levels.binning import Binning, fit_binnings
from gendebug_torch.slices.levels.slice_counts import ScoreCounts
from gendebug_torch.slices.search.error_events import ErrorEvent, errors_by_prediction
from gendebug_torch.slices.search.find import confirmed_slices, counted_slices, find_slices
from gendebug_torch.slices.search.result import Slices
from gendebug_torch.slices.search.row_losses import RowLosses
from gendebug_torch.slices.statistics.correction import correction_gain
from gendebug_torch.slices.statistics.groups import Dependence, dependence, discounted

# With fewer rows or errors, half of them have too little power.
_MIN_ROWS_TO_SPLIT = 4000
_MIN_ERRORS_TO_SPLIT = 200
# An excess of ten points matters whatever its ratio: half of the rows wrong instead of 0.4.
_LARGE_EXCESS = 0.1
# Standard errors by which the gain of a correction must exceed zero.
_Z = 3.1
_REMEDY = (
    "Look at rows where {name}: are their labels and features correct? Then add a feature that "
    "explains the difference, collect more such rows, or train a separate model for them."
)


@check(
    "slices.worst",
    cause=Cause.SUBGROUP_FAILURE,
    needs=("validation.logits", "validation.targets"),
    cost=slicing_cost,
    derived=(SCORE_COUNTS,),
    partial_labels=True,
)
def no_slice_fails(
    validation: Records,
    score_counts: ScoreCounts | None = None,
    deadline: Deadline = NO_DEADLINE,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_lift: float = 1.5,
    min_gain: float = 0.25,
    limit: int = 5,
    seed: int = 0,
) -> Iterator[Finding]:
    """No subgroup of the rows, by one or two columns, has more errors than the model expects.

    In every one- and two-way slice of metadata, features and, of three and more classes, the
    predicted class, errors (for two classes also wrong negative and wrong positive predictions) are
    compared with the error rate among rows of the same score. So a slice that is hard is only
    mentioned, and one where the model is overconfident is reported. Of several labels the mean log
    loss is compared with that of rows of the same entropy. Of quantities the absolute error is
    compared with that of rows of the same prediction, and a slice is reported only if a correction
    fitted to its rows takes off much of its squared error: else it may be noise. With enough rows,
    one random half proposes slices and the other half confirms them.

    Source: Ayer et al. (1955), Ann. Math. Stat. 26:641, for the expectation; Benjamini and Hochberg
    (1995), JRSS B 57:289; Chung et al. (2019), Slice Finder, arXiv:1807.06068, for the question.

    Args:
        validation: labeled records with logits and named columns.
        score_counts: sums of slices over more rows than these, where they were counted, derived.
        deadline: end of the time.
        threshold: threshold on the probability of a binary model.
        alpha: false discovery rate over all slices and kinds of error.
        min_lift: smallest ratio of the slice's error rate to the expected one that matters; so does
            an excess of 10 points.
        min_gain: of quantities, smallest share of the squared error of a slice that a correction
            must take off.
        limit: most slices to report; slices with half of the rows are no subgroups.
        seed: seed of the split into halves.
    """
    this = no_slice_fails
    columns, outputs = slicing_columns(validation), class_outputs(validation)
    losses = row_losses(validation)
    if columns is None or (outputs is None and losses is None):
        yield nothing_to_slice(this)
        return
    if outputs is None:
        assert losses is not None
        options = alpha, min_lift, min_gain, limit, seed
        yield from _loss_slices(validation, columns, losses, score_counts, *options)
        return
    counts = score_counts if score_counts and score_counts.threshold == threshold else None
    events = errors_by_prediction(*outputs, threshold=threshold)
    binnings = _levels_of(columns, validation, counts)
    if not events[0].is_binary:
        columns, binnings = with_classes(columns, events[0].predicted, PREDICTED, validation)
    failing: dict[str, list[tuple[Slices, int, ErrorEvent]]] = {}
    for event in events:
        deadline.check()
        frame, level = columns.iloc[event.rows.numpy()], alpha / len(events)
        how = {"binnings": binnings, "alpha": level, "name": event.name}
        found = _excess_slices(frame, event.errors, event.expected_rate, seed, counts, **how)
        residuals = event.errors.double() - event.expected_rate()
        rows = _Rows(frame, residuals, dependence(validation, residuals, event.rows))
        for i in _relevant(found, rows, min_lift, level):
            failing.setdefault(found.names[i], []).append((found, i, event))
    worst_first = sorted(
        failing.values(), key=lambda cases: min(float(found.log_p[i]) for found, i, _ in cases)
    )
    for cases in worst_first[:limit]:
        yield _failing_slice(this, cases)
    if not failing:
        note = cap_note(sum(len(binning.levels) for binning in binnings), validation)
        yield _hardest_slice(columns, binnings, events[0], counts, note)


def _excess_slices(
    frame: pd.DataFrame,
    metric: Tensor,
    expected: Callable[..., Tensor],
    seed: int,
    counts: ScoreCounts | None,
    **options: Any,
) -> Slices:
    """Slices with a metric higher than expected; by two halves where there are enough rows."""
    if counts is not None and options["name"] in counts.sums:
        del options["binnings"]
        return counted_slices(frame, metric, counts, expected=expected(), **options)
    few_errors = not metric.is_floating_point() and int(metric.sum()) < _MIN_ERRORS_TO_SPLIT
    if len(frame) < _MIN_ROWS_TO_SPLIT or few_errors:
        return find_slices(frame, metric, expected=expected(), **options)
    return confirmed_slices(frame, metric, expected=expected, seed=seed, **options)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows that were sliced.

    Args:
        frame: columns that they were sliced by, `[n, c]`.
        residuals: metric less what is expected, `[n]` float64.
        dependence: how rows of one group, or time, fail together.
    """

    frame: pd.DataFrame
    residuals: Tensor
    dependence: Dependence


def _relevant(found: Slices, rows: _Rows, min_lift: float, alpha: float) -> list[int]:
    """Indices of subgroups whose excess is large and certain, also where rows fail together."""
    low, _ = found.interval()
    subgroup = found.support < MAX_SHARE * found.overall[0]
    large = found.lift >= min_lift
    if found.is_count:
        large |= found.rate - found.expected_rate >= _LARGE_EXCESS
    indices: list[int] = (subgroup & large & (low > found.expected_rate)).nonzero()[:, 0].tolist()
    masks = (found.mask(rows.frame, i) for i in indices)
    effects = [rows.dependence.effect(rows.residuals, mask) for mask in masks]
    log_p = found.log_p[indices]
    rise = discounted(log_p, torch.tensor(effects, dtype=torch.float64)) - log_p
    # Adjusted p-values may underflow; they are no smaller than their own.
    certain = found.adjusted[indices].log().maximum(log_p) + rise <= math.log(alpha) + 1e-9
    return [i for i, sure in zip(indices, certain.tolist(), strict=True) if sure]


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
    rates = {f"{other.name.replace(' ', '_')}_rate": float(other.rate[j]) for other, j, _ in cases}
    return _slice_numbers(found, i) | rates


def _levels_of(
    columns: pd.DataFrame, validation: Records, counts: ScoreCounts | None
) -> tuple[Binning, ...]:
    """The levels by which slices were counted, or those of these columns."""
    if counts is not None:
        return counts.binnings
    return fit_binnings(columns, categorical=validation.schema.categorical)


def _hardest_slice(
    columns: pd.DataFrame,
    binnings: Sequence[Binning],
    event: ErrorEvent,
    counts: ScoreCounts | None,
    note: str,
) -> Finding:
    """No slice fails; names the slice with the most significant excess of expected errors."""
    if counts is None:
        hard = find_slices(columns, event.errors, binnings=binnings, limit=5, name=event.name)
    else:
        hard = counted_slices(columns, event.errors, counts, limit=5, name=event.name)
    rows, errors = (len(columns), int(event.errors.sum())) if counts is None else hard.overall
    numbers: dict[str, Any] = {
        "rows": rows,
        "columns": columns.shape[1],
        "errors": int(errors),
    }
    summary = (
        f"No slice of {columns.shape[1]} columns has more errors than the model's confidence "
        "expects."
    )
    if len(hard):
        implied = event.expected_rate()[hard.mask(columns, 0)].mean()
        expected = float(implied if counts is None else hard.expected_rate[0])
        rate = float(hard.rate[0])
        numbers |= {"hardest": hard.names[0], "rate": rate, "expected_rate": expected}
        summary += (
            f" The hardest one is {hard.names[0]}, with {rate:.1%} errors and {expected:.1%} "
            "expected."
        )
    return no_slice_fails.finding(
        Severity.OK, summary + note, numbers=numbers, evidence=hard if len(hard) else None
    )


def _loss_slices(
    validation: Records,
    columns: pd.DataFrame,
    losses: RowLosses,
    counts: ScoreCounts | None,
    alpha: float,
    min_lift: float,
    min_gain: float,
    limit: int,
    seed: int,
) -> Iterator[Finding]:
    """Slices of quantities, or of several labels."""
    frame = columns.iloc[losses.rows.numpy()].reset_index(drop=True)
    binnings = _levels_of(frame, validation, counts)
    options = {"binnings": binnings, "alpha": alpha, "name": losses.name}
    found = _excess_slices(frame, losses.mean, losses.expected, seed, counts, **options)
    hard: list[tuple[int, float]] = []
    failing: list[tuple[int, float]] = []
    residuals = losses.mean.double() - losses.expected()
    rows = _Rows(frame, residuals, dependence(validation, residuals, losses.rows))
    for i in _relevant(found, rows, min_lift, alpha)[:limit]:
        gain, error = _gain(validation, losses, found.mask(frame, i), seed)
        certain = gain >= min_gain and gain > _Z * error
        (failing if losses.residuals is None or certain else hard).append((i, gain))
    for i, gain in failing:
        yield _failing_loss(found, i, losses, gain)
    if not failing:
        note = cap_note(sum(len(binning.levels) for binning in binnings), validation)
        yield _no_failing_loss(found, frame.shape, hard, note)


def _gain(validation: Records, losses: RowLosses, inside: Tensor, seed: int) -> tuple[float, float]:
    """Share of the squared error of a slice that a correction takes off, with standard error."""
    if losses.residuals is None:
        return 0.0, 0.0
    parts = [losses.scores[inside]]
    if validation.features is not None:
        parts.append(numeric_features(validation)[1].cpu()[losses.rows][inside])
    return correction_gain(losses.residuals[inside], torch.cat(parts, 1), seed=seed)


def _failing_loss(found: Slices, i: int, losses: RowLosses, gain: float) -> Finding:
    """The finding for one slice whose loss is larger than expected."""
    name, rate, expected = found.names[i], float(found.rate[i]), float(found.expected_rate[i])
    low, high = (float(bound[i]) for bound in found.interval())
    reason = f"A correction fitted to these rows takes off {gain:.0%} of their squared error"
    usual = "rows with such predictions have"
    if losses.residuals is None:
        reason, usual = f"Over all rows it is {_overall(found):.3g}", "the confidence implies"
    numbers = _slice_numbers(found, i)
    if losses.residuals is not None:
        numbers["gain"] = gain
    return no_slice_fails.finding(
        Severity.FAIL if low > 2 * expected else Severity.WARN,
        f"Where {name}, the {found.name} is {rate:.3g} (95 % interval {low:.3g} to {high:.3g}; "
        f"{int(found.support[i]):,} rows); {usual} {expected:.3g}. {reason}. "
        f"{found.tests:,} slices were tested.",
        subject=name,
        numbers=numbers,
        remedy=_REMEDY.format(name=name),
        evidence=found,
    )


def _no_failing_loss(
    found: Slices, shape: tuple[int, ...], hard: list[tuple[int, float]], note: str
) -> Finding:
    """No slice fails; names one that is hard, if there is one."""
    numbers: dict[str, Any] = {"rows": shape[0], "columns": shape[1], "mean_loss": _overall(found)}
    summary = f"No slice of {shape[1]} columns has a larger {found.name} than expected."
    if hard:
        i, gain = hard[0]
        numbers |= _slice_numbers(found, i) | {"hardest": found.names[i], "gain": gain}
        summary = (
            f"No slice of {shape[1]} columns fails. The hardest one is {found.names[i]}, with a "
            f"{found.name} of {float(found.rate[i]):.3g} where rows with such predictions have "
            f"{float(found.expected_rate[i]):.3g}; no simple correction takes much off it."
        )
    return no_slice_fails.finding(
        Severity.OK, summary + note, numbers=numbers, evidence=found if len(found) else None
    )


def _overall(found: Slices) -> float:
    return found.overall[1] / max(found.overall[0], 1)


def _slice_numbers(found: Slices, i: int) -> dict[str, Any]:
    low, high = found.interval()
    return {
        "event": found.name,
        "support": int(found.support[i]),
        "rate": float(found.rate[i]),
        "interval": [float(low[i]), float(high[i])],
        "expected_rate": float(found.expected_rate[i]),
        "overall": _overall(found),
        "lift": float(found.lift[i]),
        "adjusted_p_value": float(found.adjusted[i]),
        "tests": found.tests,
        "same_rows_as": list(found.aliases[i][:3]),
        "share_of_events": float(found.total[i]) / max(found.overall[1], 1e-300),
    }
