"""Checks that tell the kinds of change apart: class shares, what inputs mean, how inputs are
computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import _cost, p_text
from gendebug_torch.shift.kinds.change_kinds import ALPHA, change_kinds
from gendebug_torch.shift.kinds.score_relation import RelationChange


@check(
    "shift.concept_drift",
    cause=Cause.CONCEPT_DRIFT,
    needs=("validation.targets", "validation.logits", "production.targets", "production.logits"),
    cost=_cost,
)
def scores_keep_their_meaning(
    validation: Records, production: Records, *, fail_effect: float = 0.1
) -> Iterator[Finding]:
    """The same score means the same chance in production as in validation, unless inputs or classes
    moved.

    Concept drift is a change of P(y | x) at inputs that stay. Where inputs moved too, the network
    may as well be extrapolating, which labels given the score alone cannot tell apart: then this is
    a note.

    Source: Gama et al. (2014), ACM Comput. Surv. 46(4):44, for the kinds; Cochran (1954),
    Biometrics 10:417 for the test.

    Args:
        validation: records with targets and logits; with features where known.
        production: the same.
        fail_effect: mean change of the chance from which it is a failure.
    """
    this = scores_keep_their_meaning
    kinds = change_kinds(production, validation)
    relation = kinds.relation
    if relation is None or not relation.p_value >= 0:
        yield this.finding(
            Severity.NOTE, "Not judged: no classes, or too few rows in every bin of the score."
        )
        return
    numbers = _relation_numbers(relation)
    text = (
        f"the chance of {relation.event!r} given the score moved by {relation.effect:.3f} on "
        "average beyond noise "
        f"({relation.direction:+.3f} net, {p_text(relation.p_value)})"
    )
    if "meaning" in kinds.kinds:
        remedy = (
            "Retrain on recent labeled rows: recalibration mends the probabilities, not the "
            "ranking. Find where it turned: "
            "`slices`, and the attributions of production errors."
        )
        severity = Severity.FAIL if relation.effect >= fail_effect else Severity.WARN
        inputs = "and no input moved" if kinds.judged else "; inputs were not given"
        yield this.finding(
            severity,
            f"Concept drift: {text} {inputs}.",
            numbers=numbers,
            remedy=remedy,
            evidence=relation,
        )
        return
    if relation.p_value < ALPHA and kinds.kinds:
        why = {
            "skew": "an input is computed differently",
            "inputs": "inputs moved",
            "scores": "the scores moved although no input did",
        }
        reason = why.get(kinds.kinds[0], "class shares moved")
        yield this.finding(
            Severity.NOTE,
            f"No concept drift by itself, since {reason}: {text}.",
            numbers=numbers,
            evidence=relation,
        )
        return
    yield this.finding(
        Severity.OK, f"Scores kept their meaning: {text}.", numbers=numbers, evidence=relation
    )


def _relation_numbers(relation: RelationChange) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "effect": relation.effect,
        "direction": relation.direction,
        "p_value": relation.p_value,
    }
    return numbers | {"n": int(relation.rows[0].sum()), "m": int(relation.rows[1].sum())}
