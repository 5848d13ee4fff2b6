"""`shift.concept_drift`: labels given the score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, not_compared
from gendebug_torch.shift.kinds.change_kinds import ALPHA, ChangeKinds
from gendebug_torch.shift.kinds.score_relation import RelationChange
from gendebug_torch.stats.intervals import p_value_text

_OTHER_REASONS = {
    "train_serve_skew": "an input is computed differently",
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
)
def labels_follow_the_score_as_before(
    validation: Records,
    production: Records,
    change_kinds: ChangeKinds | None = None,
    *,
    fail_effect: float = 0.1,
) -> Iterator[Finding]:
    """The event rate at the same score is that of validation, unless inputs or classes shifted.

    Concept drift is a change of P(y | x) at the same inputs. Where inputs shifted too, the network
    may as well be extrapolating, which labels given the score alone cannot distinguish: then this
    is a note.

    Source: Gama et al. (2014), ACM Comput. Surv. 46(4):44, for the kinds; Cochran (1954),
    Biometrics 10:417 for the test.

    Args:
        validation: records with targets and logits, and with features where known.
        production: the same.
        change_kinds: kinds of change, derived.
        fail_effect: mean change of the event rate from which it is a failure.
    """
    this = labels_follow_the_score_as_before
    relation = None if change_kinds is None else change_kinds.relation
    if change_kinds is None or relation is None or not relation.p_value >= 0:
        yield this.finding(
            Severity.NOTE, "Not judged: no classes, or too few rows in every bin of the score."
        )
        return
    text = (
        f"the rate of {relation.event!r} at the same score changed by {relation.effect:.3f} on "
        f"average beyond noise ({relation.direction:+.3f} net, {p_value_text(relation.p_value)})"
    )
    kinds, severity, remedy = change_kinds.kinds, Severity.OK, ""
    if "concept_drift" in kinds:
        severity = Severity.FAIL if relation.effect >= fail_effect else Severity.WARN
        if not change_kinds.judged:
            inputs = "Inputs were not compared"
        elif change_kinds.excluded:
            inputs = f"None of the {change_kinds.judged} inputs that were compared shifted"
        else:
            inputs = "No input shifted"
        text = f"Concept drift: {text}. {inputs}.{not_compared(change_kinds)}".rstrip(".")
        remedy = (
            "Retrain on recent labeled rows; recalibration corrects the probabilities but not the "
            "ranking. Find where the labels changed with `slices` and the attributions of "
            "production errors."
        )
    elif relation.p_value < ALPHA and kinds:
        severity = Severity.NOTE
        text = f"Not concept drift by itself, since {_OTHER_REASONS[kinds[0]]}: {text}"
    else:
        text = f"No concept drift: {text}"
    numbers = _numbers(relation)
    yield this.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=relation)


def _numbers(relation: RelationChange) -> dict[str, Any]:
    return {
        "effect": relation.effect,
        "direction": relation.direction,
        "p_value": relation.p_value,
        "n": int(relation.rows[0].sum()),
        "m": int(relation.rows[1].sum()),
    }
