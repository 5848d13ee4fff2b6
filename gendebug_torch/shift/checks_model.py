"""Checks of what the model says: how sure it is, and whether one predicted class holds two populations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check
from gendebug_torch.shift.checks_kinds import FAIL_EFFECT, cause_of_symptom, p_text
from gendebug_torch.shift.columns import times_between
from gendebug_torch.shift.confidence import ConfidenceShift, confidence_series, confidence_shift
from gendebug_torch.shift.modes import ConfidenceModes, confidence_modes
from gendebug_torch.stats import holm_adjusted

# How many standard errors the dip must have grown beyond the reference's.
GROWN = 3.5


def _confidence_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=20.0 * sum(float(r.logits.numel()) for r in map(given.get, ("validation", "production")) if r is not None))


@check("shift.confidence", cause=Cause.COVARIATE_SHIFT, needs=("validation.logits", "production.logits"), cost=_confidence_cost)
def confidence_keeps_its_distribution(
    validation: Records,
    production: Records,
    *,
    threshold: float = 0.5,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_ratio: float = 2.0,
) -> Iterator[Finding]:
    """The model is as sure in production as in validation: distribution, positive rate, share near the threshold.

    Where the schema names a time column, rows count as the independent ones that they are worth.

    Source: Smirnov (1939), Bull. Math. Univ. Moscou 2; Newcombe (1998), Stat. Med. 17:873 for the shares; Sokal (1997)
    for rows that depend on each other; Holm (1979) over the three questions.

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
        yield this.finding(Severity.NOTE, f"No rows to compare: {n} against {m}.", numbers={"n": n, "m": m})
        return
    p = _three_questions(shift)
    if min(p) < alpha:
        before, after = (confidence_series(side.probs.cpu(), threshold=threshold) for side in (validation, production))
        shift = replace(shift, times=torch.stack(times_between(validation, production, before, after, torch.arange(3))))
        p = _three_questions(shift)
    moved = p[0] < alpha and shift.statistic >= min_effect
    more, spike = (
        q < alpha and _matters(shift, what, min_effect, min_ratio) for what, q in (("positive", p[1]), ("near", p[2]))
    )
    rate_before, rate_after = shift.rates().tolist()
    near_before, near_after = shift.rates("near").tolist()
    numbers = {"statistic": shift.statistic, "p_holm": p[0], "n": n, "m": m, "threshold": threshold}
    numbers |= {"mean_reference": float(shift.mean[0]), "mean_production": float(shift.mean[1])}
    numbers |= {"positive_rate_reference": rate_before, "positive_rate_production": rate_after, "p_holm_positive": p[1]}
    numbers |= {"near_share_reference": near_before, "near_share_production": near_after, "p_holm_near": p[2]}
    low, high = shift.rate_difference("near")[1:]
    numbers |= {"near_low": low, "near_high": high}
    text = (
        f"The {shift.quantity} {'moved' if moved else 'kept its distribution'}: distance {shift.statistic:.2f} (Holm {p_text(p[0])}); "
        f"at or above {threshold:g}: {rate_before:.1%} → {rate_after:.1%}; "
        f"within {shift.half_width:g} of it: {near_before:.1%} → {near_after:.1%}"
    )
    alarm = moved or more or spike
    remedy = "Find the feature that moved (shift.ks), then set the threshold anew on production-like rows." if alarm else ""
    if spike and near_after > near_before:
        text += ", a pile of cases near the threshold where small errors flip decisions"
    severity = Severity.OK
    if alarm:
        severity = Severity.FAIL if shift.statistic >= FAIL_EFFECT else Severity.WARN
    cause = cause_of_symptom(production, validation) if alarm else None
    yield this.finding(severity, f"{text}.", cause=cause, numbers=numbers, remedy=remedy, evidence=shift)


def _three_questions(shift: ConfidenceShift) -> list[float]:
    """Holm's p-values of the distribution, of the positive rate, and of the share near the threshold."""
    asked = torch.tensor([shift.p_value, shift.rate_p_value(), shift.rate_p_value("near")], dtype=torch.float64)
    return list(holm_adjusted(asked).tolist())


def _matters(shift: ConfidenceShift, what: str, min_effect: float, min_ratio: float) -> bool:
    """Whether a share changed by `min_effect`, or by the factor `min_ratio` in either direction."""
    before, after = map(float, shift.rates(what))
    return abs(after - before) >= min_effect or max(before, after) >= min_ratio * min(before, after)


@check("shift.bimodality", cause=Cause.COVARIATE_SHIFT, needs=("production.logits",), cost=_confidence_cost)
def predicted_classes_hold_one_population(
    production: Records, validation: Records | None = None, *, top: int = 3, alpha: float = 0.002, min_dip: float = 0.02
) -> Iterator[Finding]:
    """Within each of the classes predicted most often, the confidence has one mode, or no more than it had in validation.

    Two modes are two populations under one prediction. Without validation to compare with, they are a note: a model may
    well be sure of most rows and unsure of a few by design.

    Source: Hartigan and Hartigan (1985), Ann. Stat. 13:70 for the dip test; Holm (1979) over the classes.

    Args:
        production: records with logits.
        validation: what the model said before, if known.
        top: how many of the most often predicted classes to look at.
        alpha: chance of any false alarm over them.
        min_dip: smallest dip, and smallest growth of it, that matters; the smaller population holds twice this share at least.
    """
    this = predicted_classes_hold_one_population
    if production.schema.multilabel:
        yield this.finding(Severity.NOTE, "Not judged: a multilabel model has no single predicted class.")
        return
    names = production.schema.classes
    if not len(production):
        yield this.finding(Severity.NOTE, "No rows to judge.", numbers={"n": 0})
        return
    found = production.predicted.bincount().cpu()
    ids = [int(c) for c in found.argsort(descending=True, stable=True)[:top] if found[c]]
    after, before = confidence_modes(production.probs, classes=ids, names=names), None
    if validation is not None and validation.logits is not None:
        before = confidence_modes(validation.probs, classes=ids, names=names)
    bimodal = ((after.adjusted < alpha) & (after.dip >= min_dip)).nonzero().flatten().tolist()
    swing = _swing(validation, production) if bimodal and before is not None and validation is not None else 1.0
    for which in bimodal:
        finding = _modes_finding(after, before, which, min_dip, swing)
        yield replace(finding, cause=cause_of_symptom(production, validation))
    if not bimodal:
        largest = int(after.dip.nan_to_num(-1.0).argmax())
        numbers = {"classes": len(after.classes), "dip": float(after.dip[largest]), "p_holm": float(after.adjusted[largest])}
        text = (
            f"The confidence within each of the {len(after.classes)} classes predicted most often has one mode: largest dip "
            f"{numbers['dip']:.3f} in {after.classes[largest]} (Holm {p_text(numbers['p_holm'])}, {after.rows:,} rows)."
        )
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=after)


def _swing(validation: Records, production: Records) -> float:
    """How many times larger the standard errors are for rows that depend on their neighbours in time."""
    before, after = (side.confidence.cpu().double()[:, None] for side in (validation, production))
    return math.sqrt(max(map(float, times_between(validation, production, before, after, torch.arange(1)))))


def _modes_finding(after: ConfidenceModes, before: ConfidenceModes | None, which: int, min_dip: float, swing: float) -> Finding:
    name, value = after.classes[which], float(after.dip[which])
    low, high = (float(bound[which]) for bound in after.interval())
    lower, valley, upper, below = after.valley(which)
    numbers = {"dip": value, "low": low, "high": high, "p_value": float(after.p_value[which]), "p_holm": float(after.adjusted[which])}
    numbers |= {"n": int(after.n[which]), "lower_mode": lower, "valley": valley, "upper_mode": upper, "share_below_valley": below}
    told = f"dip {value:.3f}, {low:.3f} to {high:.3f}, Holm {p_text(float(after.adjusted[which]))}"
    text = f"The confidence of rows predicted as {name} has two modes ({told})"
    if math.isfinite(valley):
        text += f", near {lower:.2f} and {upper:.2f}; {below:.0%} of the rows lie below {valley:.2f}"
    grew = False
    if before is not None and math.isfinite(float(before.dip[which])):
        earlier = float(before.dip[which])
        error = swing * math.hypot(float(after.standard_error[which]), float(before.standard_error[which]))
        grew = value - earlier >= max(min_dip, GROWN * error)
        numbers |= {"dip_reference": earlier, "growth": value - earlier, "standard_error": error}
        text += f"; in validation the dip was {earlier:.3f}"
    remedy = ""
    if grew:
        remedy = (
            f"Compare the rows below {valley:.2f} with those above by features and metadata: they are two populations under one "
            "prediction; label some of each before trusting the class."
        )
    severity = (Severity.FAIL if value >= FAIL_EFFECT / 3 else Severity.WARN) if grew else Severity.NOTE
    return predicted_classes_hold_one_population.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=after)
