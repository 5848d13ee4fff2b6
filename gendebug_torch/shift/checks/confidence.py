"""Checks of what the model says: how sure it is, and whether one predicted class holds two
populations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import FAIL_EFFECT, cause_of_symptom, p_text
from gendebug_torch.shift.checks._model import _confidence_cost
from gendebug_torch.shift.columns.shared_columns import autocorrelation_times
from gendebug_torch.shift.scores.confidence import (
    ConfidenceShift,
    confidence_series,
    confidence_shift,
)
from gendebug_torch.stats.multiple_testing import holm_adjusted


@check(
    "shift.confidence",
    cause=Cause.COVARIATE_SHIFT,
    needs=("validation.logits", "production.logits"),
    cost=_confidence_cost,
)
def confidence_keeps_its_distribution(
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_ratio: float = 2.0,
) -> Iterator[Finding]:
    """The model is as sure in production as in validation: distribution, positive rate, share near
    the threshold.

    Where the schema names a time column, rows count as the independent ones that they are worth.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Newcombe (1998), Stat. Med. 17:873 for the
    shares; Sokal (1997) for rows that depend on each other; Holm (1979) over the three questions.

    Args:
        validation: records with logits.
        production: records with logits.
        threshold: decision threshold on the probability; for k classes, on the top confidence.
        alpha: chance of any false alarm over the three questions.
        min_effect: smallest distance, or change of a share, that matters.
        min_ratio: smallest ratio of two shares that matters, however small they are.
    """
    this = confidence_keeps_its_distribution
    shift = confidence_shift(validation.probs, production.probs, threshold=threshold)
    n, m = shift.n.tolist()
    if not n or not m:
        yield this.finding(
            Severity.NOTE, f"No rows to compare: {n} against {m}.", numbers={"n": n, "m": m}
        )
        return
    p = _three_questions(shift)
    if min(p) < alpha:
        before, after = (
            confidence_series(side.probs.cpu(), threshold=threshold)
            for side in (validation, production)
        )
        shift = replace(
            shift,
            times=torch.stack(
                autocorrelation_times(validation, production, before, after, torch.arange(3))
            ),
        )
        p = _three_questions(shift)
    moved = p[0] < alpha and shift.statistic >= min_effect
    more, spike = (
        q < alpha and _matters(shift, what, min_effect, min_ratio)
        for what, q in (("positive", p[1]), ("near", p[2]))
    )
    rate_before, rate_after = shift.rates().tolist()
    near_before, near_after = shift.rates("near").tolist()
    numbers = {"statistic": shift.statistic, "p_holm": p[0], "n": n, "m": m, "threshold": threshold}
    numbers |= {"mean_reference": float(shift.mean[0]), "mean_production": float(shift.mean[1])}
    numbers |= {
        "positive_rate_reference": rate_before,
        "positive_rate_production": rate_after,
        "p_holm_positive": p[1],
    }
    numbers |= {
        "near_share_reference": near_before,
        "near_share_production": near_after,
        "p_holm_near": p[2],
    }
    low, high = shift.rate_difference("near")[1:]
    numbers |= {"near_low": low, "near_high": high}
    text = (
        f"The {shift.quantity} {'moved' if moved else 'kept its distribution'}: distance "
        f"{shift.statistic:.2f} (Holm {p_text(p[0])}); "
        f"at or above {threshold:g}: {rate_before:.1%} → {rate_after:.1%}; "
        f"within {shift.half_width:g} of it: {near_before:.1%} → {near_after:.1%}"
    )
    alarm = moved or more or spike
    remedy = (
        "Find the feature that moved (shift.ks), then set the threshold anew on production-like "
        "rows."
        if alarm
        else ""
    )
    if spike and near_after > near_before:
        text += ", a pile of cases near the threshold where small errors flip decisions"
    severity = Severity.OK
    if alarm:
        severity = Severity.FAIL if shift.statistic >= FAIL_EFFECT else Severity.WARN
    cause = cause_of_symptom(production, validation) if alarm else None
    yield this.finding(
        severity, f"{text}.", cause=cause, numbers=numbers, remedy=remedy, evidence=shift
    )


def _three_questions(shift: ConfidenceShift) -> list[float]:
    """Holm's p-values of the distribution, of the positive rate, and of the share near the
    threshold.
    """
    asked = torch.tensor(
        [shift.p_value, shift.rate_p_value(), shift.rate_p_value("near")], dtype=torch.float64
    )
    return list(holm_adjusted(asked).tolist())


def _matters(shift: ConfidenceShift, what: str, min_effect: float, min_ratio: float) -> bool:
    """Whether a share changed by `min_effect`, or by the factor `min_ratio` in either direction."""
    before, after = map(float, shift.rates(what))
    return abs(after - before) >= min_effect or max(before, after) >= min_ratio * min(before, after)
