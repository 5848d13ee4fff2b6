"""Checks of what the model says: how sure it is, and whether one predicted class holds two
populations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import FAIL_EFFECT, cause_of_symptom, p_text
from gendebug_torch.shift.checks._model import _confidence_cost
from gendebug_torch.shift.columns.shared_columns import autocorrelation_times
from gendebug_torch.shift.scores.bimodality import ConfidenceBimodality, confidence_bimodality

# How many standard errors the dip must have grown beyond the reference's.
GROWN = 3.5


@check(
    "shift.bimodality",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.logits",),
    cost=_confidence_cost,
)
def predicted_classes_hold_one_population(
    production: Records,
    validation: Records | None = None,
    *,
    top: int = 3,
    alpha: float = 0.002,
    min_dip: float = 0.02,
) -> Iterator[Finding]:
    """Within each of the classes predicted most often, the confidence has one mode, or no more than
    it had in validation.

    Two modes are two populations under one prediction. Without validation to compare with, they are
    a note: a model may well be sure of most rows and unsure of a few by design.

    Source: Hartigan and Hartigan (1985), Ann. Stat. 13:70 for the dip test; Holm (1979) over the
    classes.

    Args:
        production: records with logits.
        validation: what the model said before, if known.
        top: how many of the most often predicted classes to look at.
        alpha: chance of any false alarm over them.
        min_dip: smallest dip, and smallest growth of it, that matters; the smaller population holds
            twice this share at least.
    """
    this = predicted_classes_hold_one_population
    if production.schema.multilabel:
        yield this.finding(
            Severity.NOTE, "Not judged: a multilabel model has no single predicted class."
        )
        return
    names = production.schema.classes
    if not len(production):
        yield this.finding(Severity.NOTE, "No rows to judge.", numbers={"n": 0})
        return
    found = production.predicted.bincount().cpu()
    ids = [int(c) for c in found.argsort(descending=True, stable=True)[:top] if found[c]]
    after, before = confidence_bimodality(production.probs, classes=ids, names=names), None
    if validation is not None and validation.logits is not None:
        before = confidence_bimodality(validation.probs, classes=ids, names=names)
    bimodal = ((after.adjusted < alpha) & (after.dip >= min_dip)).nonzero().flatten().tolist()
    swing = (
        _swing(validation, production)
        if bimodal and before is not None and validation is not None
        else 1.0
    )
    for which in bimodal:
        finding = _modes_finding(after, before, which, min_dip, swing)
        yield replace(finding, cause=cause_of_symptom(production, validation))
    if not bimodal:
        largest = int(after.dip.nan_to_num(-1.0).argmax())
        numbers = {
            "classes": len(after.classes),
            "dip": float(after.dip[largest]),
            "p_holm": float(after.adjusted[largest]),
        }
        text = (
            f"The confidence within each of the {len(after.classes)} classes predicted most often "
            "has one mode: largest dip "
            f"{numbers['dip']:.3f} in {after.classes[largest]} (Holm {p_text(numbers['p_holm'])}, "
            f"{after.rows:,} rows)."
        )
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=after)


def _swing(validation: Records, production: Records) -> float:
    """How many times larger the standard errors are for rows that depend on their neighbours in
    time.
    """
    before, after = (side.confidence.cpu().double()[:, None] for side in (validation, production))
    return math.sqrt(
        max(
            map(
                float, autocorrelation_times(validation, production, before, after, torch.arange(1))
            )
        )
    )


def _modes_finding(
    after: ConfidenceBimodality,
    before: ConfidenceBimodality | None,
    which: int,
    min_dip: float,
    swing: float,
) -> Finding:
    name, value = after.classes[which], float(after.dip[which])
    low, high = (float(bound[which]) for bound in after.interval())
    lower, valley, upper, below = after.valley(which)
    numbers = {
        "dip": value,
        "low": low,
        "high": high,
        "p_value": float(after.p_value[which]),
        "p_holm": float(after.adjusted[which]),
    }
    numbers |= {
        "n": int(after.n[which]),
        "lower_mode": lower,
        "valley": valley,
        "upper_mode": upper,
        "share_below_valley": below,
    }
    told = f"dip {value:.3f}, {low:.3f} to {high:.3f}, Holm {p_text(float(after.adjusted[which]))}"
    text = f"The confidence of rows predicted as {name} has two modes ({told})"
    if math.isfinite(valley):
        text += (
            f", near {lower:.2f} and {upper:.2f}; {below:.0%} of the rows lie below {valley:.2f}"
        )
    grew = False
    if before is not None and math.isfinite(float(before.dip[which])):
        earlier = float(before.dip[which])
        error = swing * math.hypot(
            float(after.standard_error[which]), float(before.standard_error[which])
        )
        grew = value - earlier >= max(min_dip, GROWN * error)
        numbers |= {"dip_reference": earlier, "growth": value - earlier, "standard_error": error}
        text += f"; in validation the dip was {earlier:.3f}"
    remedy = ""
    if grew:
        remedy = (
            f"Compare the rows below {valley:.2f} with those above by features and metadata: they "
            "are two populations under one "
            "prediction; label some of each before trusting the class."
        )
    severity = (
        (Severity.FAIL if value >= FAIL_EFFECT / 3 else Severity.WARN) if grew else Severity.NOTE
    )
    return predicted_classes_hold_one_population.finding(
        severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=after
    )
