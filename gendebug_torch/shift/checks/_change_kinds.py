"""The kinds of change as an input that checks share, and the cause that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost, Deferred, DerivedInput
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline, OutOfTime
from gendebug_torch.shift.columns.shared_columns import column_count
from gendebug_torch.shift.kinds import change_kinds as kinds
from gendebug_torch.shift.kinds.label_model import MAX_FOLLOWED


def _between(
    production: Records | None,
    validation: Records | None,
    train: Records | None,
    deadline: Deadline = NO_DEADLINE,
) -> kinds.ChangeKinds | None:
    """Kinds of change since validation, or since training without its overconfident scores."""
    reference = validation if validation is not None else train
    if production is None or reference is None:
        return None
    return kinds.change_kinds(
        production, reference, scores=validation is not None, deadline=deadline
    )


def _cost(given: Mapping[str, Any]) -> Cost:
    cells = 0.0
    for records in map(given.get, ("validation", "train", "production")):
        if records is not None:
            columns = 1 if records.features is None else records.features.shape[-1]
            cells += float(min(len(records), kinds.MAX_ROWS)) * columns
    # Three tests of all columns together at most, as `shift.joint` makes one, and four fits to the
    # labels of 10,000 rows a side; what does not grow with the rows is a fifth of it.
    production = given.get("production")
    rows, count = 0 if production is None else len(production), column_count(production)
    share = 0.2 + 0.8 * min(1.0, rows / 1e4)
    joint = 0.0 if count > 300 else 5 * 5000.0 * (96.0 + count) ** 2
    labels = 7 * 2e4 * (96.0 + min(count, MAX_FOLLOWED)) ** 2
    return Cost(elements=100.0 * cells + share * (joint + labels) + 2e7)


CHANGE_KINDS = DerivedInput("change_kinds", _between, _cost, uses_labels=True, partial_labels=True)


def kinds_in_time(change_kinds: Deferred[kinds.ChangeKinds | None]) -> kinds.ChangeKinds | None:
    """The kinds of change; None where the budget ends before, and findings keep their own cause."""
    try:
        return change_kinds()
    except OutOfTime:
        return None


def root_cause(change_kinds: kinds.ChangeKinds | None) -> Cause:
    """Cause of a change of the scores: the first kind of change, or covariate shift."""
    found = () if change_kinds is None else change_kinds.kinds
    return Cause(found[0]) if found else Cause.COVARIATE_SHIFT


def with_cause(finding: Finding, change_kinds: kinds.ChangeKinds | None) -> Finding:
    """The finding about one column under the kind of its change; a note if classes explain it."""
    change = None if change_kinds is None else change_kinds.feature(finding.subject)
    if change is None:
        return finding
    if change.kind == "label_shift":
        summary = f"{finding.summary[:-1]}; within the classes its distribution is unchanged."
        return replace(finding, severity=Severity.NOTE, cause=Cause.LABEL_SHIFT, summary=summary)
    return replace(finding, cause=Cause(change.kind))


def not_compared(change_kinds: kinds.ChangeKinds) -> str:
    """Sentences about what was not compared, or only in part; empty where all was."""
    names = [f"{name} ({reason})" for name, reason in change_kinds.excluded.items()]
    more = ", …" if len(names) > 5 else ""
    text = f" Not compared: {', '.join(names[:5])}{more}." if names else ""
    if change_kinds.labeled and change_kinds.judged > MAX_FOLLOWED:
        text += f" Labels were judged given the {MAX_FOLLOWED} columns that they follow most."
    return text
