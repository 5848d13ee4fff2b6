"""Checks that tell the kinds of change apart: class shares, what inputs mean, how inputs are
computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gendebug_torch.checks.finding import Cause
from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.shared_columns import column_count
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds, change_kinds

CAUSES = {
    "skew": Cause.TRAIN_SERVE_SKEW,
    "classes": Cause.LABEL_SHIFT,
    "inputs": Cause.COVARIATE_SHIFT,
    "meaning": Cause.CONCEPT_DRIFT,
    # Scores that move although no input does: the same ranking, perhaps, but no longer the same
    # operating point.
    "scores": Cause.THRESHOLD,
}
FAIL_EFFECT = 0.3


def p_text(value: float) -> str:
    """A p-value as a sentence shows it."""
    return "p < 1e-16" if value < 1e-16 else f"p = {value:.2g}"


def kinds_between(
    production: Records, validation: Records | None, train: Records | None = None
) -> ChangeKinds | None:
    """The decision table against validation, or against training without its scores, which are too
    good to compare.
    """
    reference = validation if validation is not None else train
    if reference is None:
        return None
    return change_kinds(production, reference, scores=validation is not None)


def cause_of_symptom(production: Records, validation: Records | None) -> Cause:
    """The root behind a change of what the model says: the first kind of change, or the inputs
    where none is seen.
    """
    kinds = kinds_between(production, validation)
    return CAUSES[kinds.kinds[0]] if kinds is not None and kinds.kinds else Cause.COVARIATE_SHIFT


def _cost(given: Mapping[str, Any]) -> Cost:
    sizes = []
    for records in map(given.get, ("validation", "train", "production")):
        cells = 0.0 if records is None else float(min(len(records), 20_000))
        sizes.append(
            cells
            * (1 if records is None or records.features is None else records.features.shape[-1])
        )
    # Three comparisons of all columns together at most, as `shift.joint` makes one.
    return Cost(
        elements=60.0 * sum(sizes)
        + 3 * 5000.0 * (96.0 + column_count(given.get("production"))) ** 2
        + 1e7
    )
