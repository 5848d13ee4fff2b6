"""`shift.concept_drift`: labels given the score."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gendebug_torch.checks.finding import MISREAD, TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, not_compared
from gendebug_torch.shift.kinds.change_kinds import ALPHA, ChangeKinds
from gendebug_torch.shift.kinds.missing_outcomes import MissingOutcomes, missing_outcomes
from gendebug_torch.shift.quality.outcomes import class_names
from gendebug_torch.shift.scores.outputs import has_outputs, task_of_pair
from gendebug_torch.shift.scores.score_relation import RelationChange
from gendebug_torch.shift.serving.label_columns import LabelColumns, label_columns
from gendebug_torch.shift.serving.output_scale import OutputScale, output_scale
from gendebug_torch.stats.intervals import p_value_text

_SKEW = "train_serve_skew"
# Kinds of change that labels alone tell; and the share of missing outcomes that is a failure.
_OF_LABELS = {"concept_drift", "label_shift"}
_FAIL_SHARE = 0.2
_OTHER_REASONS = {
    _SKEW: "an input is computed differently",
    "covariate_shift": "inputs shifted",
    "threshold": "the scores shifted although no compared input did",
    "label_shift": "the class shares changed",
}


@check(
    "shift.concept_drift",
    cause=Cause.CONCEPT_DRIFT,
    needs=("validation.targets", "validation.logits", "production.targets", "production.logits"),
    cost=lambda given: Cost(elements=100.0),
    derived=(CHANGE_KINDS,),
    partial_labels=True,
)
def labels_follow_the_score_as_before(
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None = None,
    *,
    fail_effect: float = 0.1,
    fail_error: float = 0.5,
) -> Iterator[Finding]:
    """Labels at the same score are those of validation, unless inputs or classes shifted.

    That is the event rate, that of each label, or the mean and the size of the error of each output
    of a regression; of several, the most significant one is reported, corrected for their number.
    Concept drift is a change of P(y | x) at the same inputs. Where inputs shifted too, the network
    may as well be extrapolating, which labels given the score alone cannot distinguish: then this
    is a note. Where a constant part of one of two classes lacks its label, at every score alike,
    the labels are incomplete and nothing drifted. Quantities whose errors are as in validation
    once labels or outputs are taken for those of another unit, or for logarithms, are just that;
    so are several labels that hold each other, their reverse or one value.

    Source: Gama et al. (2014), ACM Comput. Surv. 46(4):44, for the kinds; Cochran (1954),
    Biometrics 10:417 for the test; Elkan and Noto (2008), KDD, for labels that are missing.

    Args:
        validation: records with targets and logits, and with features where known.
        production: the same.
        change_kinds: kinds of change, derived.
        fail_effect: mean change of the event rate from which it is a failure.
        fail_error: mean change of the error, in its standard deviations, from which it is one.
    """
    this = labels_follow_the_score_as_before
    relation = None if change_kinds is None else change_kinds.relation
    p_value = math.nan if relation is None else relation.p_value
    if not p_value >= ALPHA and (misread := _misread(validation, production)) is not None:
        yield misread
        return
    if change_kinds is None or relation is None or not p_value >= 0:
        yield this.finding(Severity.NOTE, _not_judged(validation, production))
        return
    text = _change_text(relation)
    kinds, severity, remedy = change_kinds.kinds, Severity.OK, ""
    # Rare outcomes that are missing change the rate by less than what counts as a drift.
    of_labels = bool({*kinds} & _OF_LABELS) or (not kinds and p_value < ALPHA)
    lacking = _missing(validation, production) if of_labels else None
    if lacking is not None:
        yield _missing_finding(lacking, production, relation)
        return
    if "concept_drift" in kinds:
        limit = fail_effect if relation.unit is None else fail_error
        severity = Severity.FAIL if relation.effect >= limit else Severity.WARN
        text = f"Concept drift: {text}. {_inputs_text(change_kinds)}".rstrip(".")
        remedy = "Retrain on recent labeled rows"
        if relation.unit is None:
            remedy += "; recalibration corrects the probabilities but not the ranking"
        remedy += (
            ". Find where the labels changed with `slices` and the attributions of production "
            "errors."
        )
    elif p_value < ALPHA and kinds:
        severity = Severity.NOTE
        reason = _OTHER_REASONS[kinds[0]]
        if kinds[0] == _SKEW and not change_kinds.features:
            reason = "the predictions shifted although no compared input did"
        text = f"Not concept drift by itself, since {reason}: {text}"
    else:
        text = f"No concept drift: {text}"
    numbers = _numbers(relation)
    yield this.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=relation)


def _inputs_text(change_kinds: ChangeKinds) -> str:
    """Sentences on the inputs, of which none moved."""
    inputs = "No input shifted"
    if not change_kinds.judged:
        inputs = "Inputs were not compared"
    elif change_kinds.excluded:
        inputs = f"None of the {change_kinds.judged} inputs that were compared shifted"
    return f"{inputs}.{not_compared(change_kinds)}"


def _misread(validation: Records, production: Records) -> Finding | None:
    """Several labels, or quantities, that are not what they are read as in production."""
    task = task_of_pair(validation, production)
    if task is Task.REGRESSION:
        rescaled = output_scale(validation.labeled(), production.labeled())
        return None if rescaled is None else _scale_finding(rescaled, production)
    columns = label_columns(validation, production) if task is Task.MULTILABEL else None
    return None if columns is None else _columns_finding(columns, production)


def _columns_finding(found: LabelColumns, production: Records) -> Finding:
    """Columns of labels or of outputs that hold others, their reverse, or one value."""
    more = f", and {len(found.texts) - 4} more" if len(found.texts) > 4 else ""
    finding = labels_follow_the_score_as_before.finding(
        Severity.FAIL,
        f"The {found.side} of {production.name} are not those that they are read as: "
        f"{', '.join(found.texts[:4])}{more}, by their means and by what each has to do with the "
        "others in validation.",
        subject=found.names[0] if len(found.names) == 1 else f"order of the {found.side}",
        numbers={"columns": list(found.names), TO_REPAIR: True, MISREAD: "production"},
        remedy=f"Compare the names, the order and the coding of the {found.side} where "
        f"{production.name} is written and read with those of validation, and judge the network "
        "again then; do not retrain or recalibrate on this.",
    )
    return replace(finding, cause=Cause.TRAIN_SERVE_SKEW)


def _scale_finding(found: OutputScale, production: Records) -> Finding:
    """Labels or outputs of production that are written on another scale."""
    rows = "" if found.share == 1 else f", {found.share:.0%} of the rows"
    text = (
        f"The {found.side} of {found.name} are {found.text} in {production.name}{rows}: the mean "
        f"size of the error there is {found.error:.3g}, and {found.restored:.3g} with them back on "
        f"their scale, against {found.usual:.3g} in validation."
    )
    what = "labels are read and joined" if found.side == "labels" else "outputs are written"
    finding = labels_follow_the_score_as_before.finding(
        Severity.FAIL,
        text,
        subject=found.name,
        numbers={"share": found.share, "usual": found.usual, "error": found.error}
        | {"restored": found.restored, TO_REPAIR: True, MISREAD: "production"},
        remedy=f"Correct the unit or the transformation where {what} for {production.name}, and "
        "judge the network again then; do not retrain or recalibrate on this.",
    )
    return replace(finding, cause=Cause.TRAIN_SERVE_SKEW)


def _missing(validation: Records, production: Records) -> MissingOutcomes | None:
    """Outcomes of one of two classes that production lacks, if that is what changed."""
    before, after = validation.labeled(), production.labeled()
    if has_outputs(before, after) or before.logits is None or after.logits is None:
        return None
    if before.targets is None or after.targets is None or before.targets.ndim != 1:
        return None
    return missing_outcomes(before.logits, before.targets, after.logits, after.targets)


def _missing_finding(
    lacking: MissingOutcomes, production: Records, relation: RelationChange
) -> Finding:
    """Labels of production that say nothing of the network until they are complete."""
    name = class_names(production, 2)[lacking.event]
    text = (
        f"{lacking.share:.0%} (95 % interval {lacking.low:.0%} to {lacking.high:.0%}) of {name} in "
        f"{production.name} carry the label of the other class, at every score alike, also where "
        "the score is sure: the labels seem to be incomplete, as where outcomes have not arrived "
        "yet. A drift would have moved the sure ones least."
    )
    numbers = {"share": lacking.share, "low": lacking.low, "high": lacking.high}
    numbers |= {"event": lacking.event, "gain": lacking.gain}
    finding = labels_follow_the_score_as_before.finding(
        Severity.FAIL if lacking.low >= _FAIL_SHARE else Severity.WARN,
        text,
        subject=production.name,
        numbers=_numbers(relation) | numbers | {TO_REPAIR: True, MISREAD: "production"},
        remedy="Wait until the outcomes have arrived, or leave out rows that are younger than they "
        "take; check the join of the labels. Judge the network again then, and do not retrain on "
        "these labels.",
        evidence=relation,
    )
    return replace(finding, cause=Cause.LABEL_NOISE)


def _change_text(relation: RelationChange) -> str:
    if relation.unit is None:
        text = (
            f"the rate of {relation.event!r} at the same score changed by {relation.effect:.3f} on "
            f"average beyond noise ({relation.direction:+.3f} net"
        )
    else:
        text = (
            f"the {relation.event} at the same prediction changed by "
            f"{relation.effect * relation.unit:.3g} on average beyond noise "
            f"({relation.direction * relation.unit:+.3g} net, {relation.effect:.2f} standard "
            "deviations of it"
        )
    return f"{text}, {p_value_text(relation.p_value)})"


def _not_judged(validation: Records, production: Records) -> str:
    if not has_outputs(validation, production):
        return "Not judged: no classes, or too few rows in every bin of the score."
    if (validation.logits is None) or (validation.targets is None):
        return "Not judged: needs labels and outputs on both sides."
    shapes = [
        list(part.shape[1:])
        for part in (validation.logits, validation.targets, production.logits, production.targets)
        if part is not None
    ]
    if any(shape != shapes[0] for shape in shapes):
        return f"Not judged: outputs and labels of other shapes, {shapes}."
    return "Not judged: fewer than 50 labeled rows of every output, or no errors in validation."


def _numbers(relation: RelationChange) -> dict[str, Any]:
    return {
        "effect": relation.effect,
        "unit": relation.unit if relation.unit is not None else 1.0,
        "comparisons": relation.comparisons,
        "direction": relation.direction,
        "p_value": relation.p_value,
        "n": int(relation.rows[0].sum()),
        "m": int(relation.rows[1].sum()),
    }
