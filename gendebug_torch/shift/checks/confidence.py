"""`shift.confidence`: the distribution of the confidence, and decisions near the threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, kinds_in_time, root_cause
from gendebug_torch.shift.checks._costs import logits_cost
from gendebug_torch.shift.checks._outputs import (
    CONFIDENCE,
    ConfidenceCounter,
    confidence_of_rows,
    outputs_finding,
)
from gendebug_torch.shift.columns.shared_columns import design_effects
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.scores.confidence import (
    ConfidenceShift,
    confidence_series,
)
from gendebug_torch.shift.scores.outputs import has_outputs
from gendebug_torch.stats.intervals import p_value_text
from gendebug_torch.stats.multiple_testing import holm_adjusted

_FAIL_DISTANCE = 0.3


@check(
    "shift.confidence",
    cause=Cause.COVARIATE_SHIFT,
    needs=("validation.logits", "production.logits"),
    cost=logits_cost,
    derived=(CONFIDENCE,),
    deferred=(CHANGE_KINDS,),
)
def confidence_keeps_its_distribution(
    validation: Records,
    production: Records,
    count_confidence: ConfidenceCounter = confidence_of_rows,
    change_kinds: Deferred[ChangeKinds | None] = NOTHING,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_ratio: float = 2.0,
) -> Iterator[Finding]:
    """The confidence, the positive rate and the share near the threshold are as in validation.

    Of a regression or of several labels, each output keeps its distribution (Holm over them). Where
    the schema names a time column, tests use the effective sample size.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Newcombe (1998), Stat. Med. 17:873 for the
    shares; Sokal (1997) for rows that depend on each other; Holm (1979) over the three tests.

    Args:
        validation: records with logits.
        production: records with logits.
        count_confidence: how probabilities are counted, derived.
        change_kinds: kinds of change, derived; used where the confidence changed.
        threshold: decision threshold on the probability; for k classes, on the top confidence.
        alpha: chance of any false alarm over the three tests.
        min_effect: smallest distance, or change of a share, that matters.
        min_ratio: smallest ratio of two shares that matters, however small they are.
    """
    this = confidence_keeps_its_distribution
    if has_outputs(validation, production):
        yield outputs_finding(this, validation, production, change_kinds, alpha, min_effect)
        return
    shift = count_confidence(validation, production, threshold)
    n, m = shift.n.tolist()
    if not n or not m:
        text = f"No rows to compare: {n} against {m}."
        yield this.finding(Severity.NOTE, text, numbers={"n": n, "m": m})
        return
    if min(_holm_p_values(shift)) < alpha:
        shift = _dependent_in_time(shift, validation, production, threshold)
    p_values = _holm_p_values(shift)
    moved = p_values[0] < alpha and shift.statistic >= min_effect
    more, near = (
        p < alpha and _matters(shift, share, min_effect, min_ratio)
        for share, p in zip(("positive", "near"), p_values[1:], strict=True)
    )
    text = _text(shift, p_values, _verb(shift, moved, min_effect))
    numbers = _numbers(shift, p_values, threshold)
    if not (moved or more or near):
        yield this.finding(Severity.OK, f"{text}.", numbers=numbers, evidence=shift)
        return
    rates = shift.rates("near").tolist()
    if near and rates[1] > rates[0]:
        text += ", where small errors flip decisions"
    yield this.finding(
        Severity.FAIL if moved and shift.statistic >= _FAIL_DISTANCE else Severity.WARN,
        f"{text}.",
        cause=root_cause(kinds_in_time(change_kinds)),
        numbers=numbers,
        remedy="Find the feature that shifted (shift.ks), then tune the threshold on recent rows.",
        evidence=shift,
    )


def _verb(shift: ConfidenceShift, moved: bool, min_effect: float) -> str:
    if moved:
        return "shifted"
    if shift.statistic >= min_effect:
        return "shifted by what chance allows"
    return "kept its distribution"


def _text(shift: ConfidenceShift, p_values: list[float], verb: str) -> str:
    positive, near = shift.rates().tolist(), shift.rates("near").tolist()
    return (
        f"The {shift.quantity} {verb}: "
        f"Kolmogorov-Smirnov distance {shift.statistic:.2f} (Holm {p_value_text(p_values[0])}). "
        f"Rows at or above {shift.threshold:g}: {positive[0]:.1%} → {positive[1]:.1%}; "
        f"within {shift.half_width:g} of it: {near[0]:.1%} → {near[1]:.1%}"
    )


def _numbers(shift: ConfidenceShift, p_values: list[float], threshold: float) -> dict[str, Any]:
    positive, near = shift.rates().tolist(), shift.rates("near").tolist()
    low, high = shift.rate_difference("near")[1:]
    n, m = shift.n.tolist()
    return {
        "statistic": shift.statistic,
        "p_holm": p_values[0],
        "n": n,
        "m": m,
        "threshold": threshold,
        "mean_reference": float(shift.mean[0]),
        "mean_production": float(shift.mean[1]),
        "positive_rate_reference": positive[0],
        "positive_rate_production": positive[1],
        "p_holm_positive": p_values[1],
        "near_share_reference": near[0],
        "near_share_production": near[1],
        "p_holm_near": p_values[2],
        "near_low": low,
        "near_high": high,
    }


def _dependent_in_time(
    shift: ConfidenceShift, validation: Records, production: Records, threshold: float
) -> ConfidenceShift:
    """The same with the effective sample size of rows in time."""
    before, after = (
        confidence_series(side.probs.cpu(), threshold=threshold)
        for side in (validation, production)
    )
    times = torch.stack(design_effects(validation, production, before, after, torch.arange(3)))
    # Of more rows than these, neighbours are closer.
    closer = shift.n.double() / torch.tensor([len(before), len(after)])
    return replace(shift, times=torch.where(times > 1, times * closer[:, None], times))


def _holm_p_values(shift: ConfidenceShift) -> list[float]:
    """Of the distribution, of the positive rate, and of the share near the threshold."""
    p_values = [shift.p_value, shift.rate_p_value(), shift.rate_p_value("near")]
    return list(holm_adjusted(torch.tensor(p_values, dtype=torch.float64)).tolist())


def _matters(shift: ConfidenceShift, share: str, min_effect: float, min_ratio: float) -> bool:
    """Whether a share changed by `min_effect`, or by the factor `min_ratio` in either direction."""
    before, after = map(float, shift.rates(share))
    return abs(after - before) >= min_effect or max(before, after) >= min_ratio * min(before, after)
