"""Checks of the outputs of a model one by one: several labels, or quantities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.inputs import Deferred, DerivedInput
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.shift.checks._change_kinds import kinds_in_time, root_cause
from gendebug_torch.shift.columns.shared_columns import design_effects
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.scores.confidence import ConfidenceShift, confidence_shift
from gendebug_torch.shift.scores.outputs import (
    labeled_rows,
    output_columns,
    output_names,
    task_of_pair,
)
from gendebug_torch.shift.time.time_sums import TimeSums
from gendebug_torch.shift.two_sample.feature_shift import feature_shift
from gendebug_torch.shift.two_sample.ks import KSTest, ks_two_sample
from gendebug_torch.stats.intervals import p_value_text

_FAIL_DISTANCE = 0.3
ConfidenceCounter: TypeAlias = Callable[[Records, Records, float], ConfidenceShift]


def confidence_of_rows(
    validation: Records, production: Records, threshold: float
) -> ConfidenceShift:
    """Shift of the probabilities between the rows of two records."""
    return confidence_shift(validation.probs, production.probs, threshold=threshold)


def _of_rows() -> ConfidenceCounter:
    return confidence_of_rows


# How probabilities are counted: row by row, or by sums over more rows than these.
CONFIDENCE = DerivedInput("count_confidence", _of_rows)


def _of_time() -> TimeSums | None:
    return None


# Answers over time of more rows than are at hand, where they were counted.
TIME_SUMS = DerivedInput("time_sums", _of_time)


def outputs_finding(
    check: Check,
    validation: Records,
    production: Records,
    change_kinds: Deferred[ChangeKinds | None],
    alpha: float,
    min_effect: float,
) -> Finding:
    """Whether each output of a regression or of a multilabel model keeps its distribution.

    Args:
        check: check that reports it.
        validation: records with logits.
        production: records with logits.
        change_kinds: kinds of change, used where an output shifted.
        alpha: chance of any false alarm over all outputs.
        min_effect: smallest Kolmogorov-Smirnov distance that matters.
    """
    assert validation.logits is not None
    assert production.logits is not None
    n, m = len(validation), len(production)
    if not n or not m:
        text = f"No rows to compare: {n} against {m}."
        return check.finding(Severity.NOTE, text, numbers={"n": n, "m": m})
    sides = (validation.logits, production.logits)
    before, after = (output_columns(side).double() for side in sides)
    test = columns_test(before, after, validation, production, alpha)
    kind = "prediction" if task_of_pair(validation, production) is Task.REGRESSION else "score"
    shifted = largest_shifts(test, alpha, min_effect)
    which = shifted[0] if shifted else int(test.statistic.nan_to_num(-1.0).argmax())
    numbers = column_numbers(test, before, after, which) | {"outputs": len(test.statistic)}
    if not shifted:
        count = (
            f"None of {len(test.statistic)} {kind}s" if len(test.statistic) > 1 else f"No {kind}"
        )
        text = (
            f"{count} shifted by {min_effect:g} or more: largest distance "
            f"{numbers['statistic']:.3f} in {test.labels[which]} (Holm "
            f"{p_value_text(numbers['p_holm'])})."
        )
        return check.finding(Severity.OK, text, numbers=numbers, evidence=test)
    text = _shifted_text(test, numbers, which, kind, len(shifted))
    use = "tune the thresholds" if kind == "score" else "measure the error"
    severity = Severity.FAIL if numbers["statistic"] >= _FAIL_DISTANCE else Severity.WARN
    return check.finding(
        severity,
        f"{text}.",
        cause=root_cause(kinds_in_time(change_kinds)),
        numbers=numbers | {"shifted": len(shifted)},
        remedy=f"Find the feature that shifted (shift.ks), then {use} on recent labeled rows.",
        evidence=feature_shift(before[:, which], after[:, which], name=test.labels[which]),
    )


def _shifted_text(
    test: KSTest, numbers: dict[str, Any], which: int, kind: str, shifted: int
) -> str:
    change = f"{test.labels[which]}: {distance_text(numbers)}"
    if shifted == 1:
        return f"The {kind} of {test.labels[which]} shifted: {distance_text(numbers)}"
    return f"{shifted} of {len(test.statistic)} {kind}s shifted, most of them that of {change}"


def targets_test(reference: Records, production: Records, alpha: float) -> KSTest | None:
    """Tests of the counted targets of each output; None where either side has none of its kind.

    Args:
        reference: records with targets of several labels, or quantities.
        production: the same.
        alpha: level below which rows in time are looked at.
    """
    sides = target_columns(reference, production)
    return None if sides is None else columns_test(*sides, reference, production, alpha)


def target_columns(reference: Records, production: Records) -> tuple[Tensor, Tensor] | None:
    """Targets of both sides, `[n, k]` and `[m, k]` float64, missing ones NaN; or None."""
    targets = (reference.targets, production.targets)
    if targets[0] is None or targets[1] is None or targets[0].shape[1:] != targets[1].shape[1:]:
        return None
    before, after = (
        output_columns(side.double().masked_fill(~labeled_rows(side), torch.nan))
        for side in targets
        if side is not None
    )
    return before, after


def columns_test(
    before: Tensor, after: Tensor, reference: Records, production: Records, alpha: float
) -> KSTest:
    """Tests of the columns, at the effective sample sizes of rows in time.

    Args:
        before: values of the reference, `[n, k]`.
        after: values of production, `[m, k]`.
        reference: records that may have a time.
        production: records that may have a time.
        alpha: level below which rows in time are looked at.
    """
    test = ks_two_sample(before, after, names=output_names(reference, before.shape[1]))
    significant = (test.adjusted < alpha).nonzero().flatten()
    times = design_effects(reference, production, before, after, significant)
    return test.with_autocorrelation(*times)


def largest_shifts(test: KSTest, alpha: float, min_effect: float) -> list[int]:
    """Numbers of the columns that shifted by enough to matter, largest distance first."""
    shifted = ((test.adjusted < alpha) & (test.statistic >= min_effect)).nonzero().flatten()
    return sorted(shifted.tolist(), key=lambda column: -float(test.statistic[column]))


def column_numbers(test: KSTest, before: Tensor, after: Tensor, which: int) -> dict[str, Any]:
    """Numbers of one column."""
    low, high = test.interval()
    columns = (before[:, which], after[:, which])
    medians = [float(side.nanmedian()) for side in columns]
    means = [float(side.nanmean()) for side in columns]
    return {
        "statistic": float(test.statistic[which]),
        "low": float(low[which]),
        "high": float(high[which]),
        "p_holm": float(test.adjusted[which]),
        "n": int(test.n[which]),
        "m": int(test.m[which]),
        "median_reference": medians[0],
        "median_production": medians[1],
        "mean_reference": means[0],
        "mean_production": means[1],
    }


def distance_text(numbers: dict[str, Any]) -> str:
    """Distance with its interval and the medians, as part of a sentence."""
    return (
        f"Kolmogorov-Smirnov distance {numbers['statistic']:.2f} (95 % interval "
        f"{numbers['low']:.2f} to {numbers['high']:.2f}, Holm {p_value_text(numbers['p_holm'])}), "
        f"median {numbers['median_reference']:.4g} → {numbers['median_production']:.4g}"
    )
