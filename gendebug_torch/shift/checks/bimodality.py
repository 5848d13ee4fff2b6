"""`shift.bimodality`: whether one predicted class holds two populations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, kinds_in_time, root_cause
from gendebug_torch.shift.checks._costs import logits_cost
from gendebug_torch.shift.columns.shared_columns import design_effects
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.scores.bimodality import ConfidenceBimodality, confidence_bimodality
from gendebug_torch.shift.scores.outputs import has_outputs, task_of_pair
from gendebug_torch.stats.intervals import p_value_text

# Standard errors by which the dip must exceed that of the reference, and the dip of a failure.
_MIN_GROWTH = 3.5
_FAIL_DIP = 0.1


@check(
    "shift.bimodality",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.logits",),
    cost=logits_cost,
    deferred=(CHANGE_KINDS,),
)
def predicted_classes_hold_one_population(
    production: Records,
    validation: Records | None = None,
    change_kinds: Deferred[ChangeKinds | None] = NOTHING,
    *,
    top: int = 3,
    alpha: float = 0.002,
    min_dip: float = 0.02,
) -> Iterator[Finding]:
    """Within each of the most frequent predicted classes, the confidence has one mode.

    Two modes are two populations under one prediction. Modes that validation has too, or that
    cannot be compared with validation, are a note: a model may well be sure of most rows and unsure
    of a few by design.

    Source: Hartigan and Hartigan (1985), Ann. Stat. 13:70 for the dip test; Holm (1979) over the
    classes.

    Args:
        production: records with logits.
        validation: reference with logits, if there is one.
        change_kinds: kinds of change, derived; used where a class has two modes.
        top: number of most frequent predicted classes to test.
        alpha: chance of any false alarm over them.
        min_dip: smallest dip, and smallest growth of it, that matters; the smaller population holds
            twice this share at least.
    """
    this = predicted_classes_hold_one_population
    reference = production if validation is None else validation
    if has_outputs(reference, production):
        kind = (
            "a regression"
            if task_of_pair(reference, production) is Task.REGRESSION
            else "a multilabel model"
        )
        yield this.finding(Severity.NOTE, f"Not judged: {kind} has no single predicted class.")
        return
    if not len(production):
        yield this.finding(Severity.NOTE, "No rows to judge.", numbers={"n": 0})
        return
    counts = production.predicted.bincount().cpu()
    ids = [int(c) for c in counts.argsort(descending=True, stable=True)[:top] if counts[c]]
    names = production.schema.classes
    after, before = confidence_bimodality(production.probs, classes=ids, names=names), None
    if validation is not None and validation.logits is not None:
        before = confidence_bimodality(validation.probs, classes=ids, names=names)
    bimodal = ((after.adjusted < alpha) & (after.dip >= min_dip)).nonzero().flatten().tolist()
    inflation = 1.0
    if bimodal and before is not None and validation is not None:
        inflation = _error_inflation(validation, production)
    for which in bimodal:
        finding = _bimodal_finding(after, before, which, min_dip, inflation)
        yield replace(finding, cause=root_cause(kinds_in_time(change_kinds)))
    if not bimodal:
        yield _unimodal_finding(after)


def _unimodal_finding(after: ConfidenceBimodality) -> Finding:
    largest = int(after.dip.nan_to_num(-1.0).argmax())
    dip, p = float(after.dip[largest]), float(after.adjusted[largest])
    text = (
        f"The confidence has one mode within each of the {len(after.classes)} most frequent "
        f"predicted classes. The largest dip is {dip:.3f} in {after.classes[largest]} "
        f"(Holm {p_value_text(p)}, {after.rows:,} rows)."
    )
    numbers = {"classes": len(after.classes), "dip": dip, "p_holm": p}
    return predicted_classes_hold_one_population.finding(
        Severity.OK, text, numbers=numbers, evidence=after
    )


def _error_inflation(validation: Records, production: Records) -> float:
    """Factor of the standard errors for rows that depend on their neighbours in time."""
    before, after = (side.confidence.cpu().double()[:, None] for side in (validation, production))
    return math.sqrt(
        max(map(float, design_effects(validation, production, before, after, torch.arange(1))))
    )


def _bimodal_finding(
    after: ConfidenceBimodality,
    before: ConfidenceBimodality | None,
    which: int,
    min_dip: float,
    inflation: float,
) -> Finding:
    name, dip, p = after.classes[which], float(after.dip[which]), float(after.adjusted[which])
    low, high = (float(bound[which]) for bound in after.interval())
    lower, valley, upper, below = after.valley(which)
    numbers = {"dip": dip, "low": low, "high": high, "p_value": float(after.p_value[which])}
    numbers |= {"p_holm": p, "n": int(after.n[which]), "lower_mode": lower, "valley": valley}
    numbers |= {"upper_mode": upper, "share_below_valley": below}
    text = (
        f"The confidence of rows predicted as {name} has two modes (dip {dip:.3f}, 95 % interval "
        f"{low:.3f} to {high:.3f}, Holm {p_value_text(p)})"
    )
    if math.isfinite(valley):
        text += (
            f", near {lower:.2f} and {upper:.2f}; {below:.0%} of the rows are below {valley:.2f}"
        )
    severity, remedy = Severity.NOTE, ""
    if before is not None and math.isfinite(float(before.dip[which])):
        earlier = float(before.dip[which])
        error = inflation * math.hypot(
            float(after.standard_error[which]), float(before.standard_error[which])
        )
        numbers |= {"dip_reference": earlier, "growth": dip - earlier, "standard_error": error}
        text += f"; in validation the dip was {earlier:.3f}"
        if dip - earlier >= max(min_dip, _MIN_GROWTH * error):
            severity = Severity.FAIL if dip >= _FAIL_DIP else Severity.WARN
            remedy = (
                f"Compare the features and metadata of rows below and above {valley:.2f}: they "
                "are two populations. Label some of each before you trust this class."
            )
    return predicted_classes_hold_one_population.finding(
        severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=after
    )
