"""Checks of what quantities do not show: missing values and levels of categories; and what checks
of columns share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import CAUSES
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds


def columns_cost(given: Mapping[str, Any]) -> Cost:
    """Of a check that looks at every value of both sides."""
    sizes = [_cells(given.get(name)) for name in ("validation", "train")]
    return Cost(elements=20.0 * ((sizes[0] or sizes[1]) + _cells(given.get("production"))))


def _cells(records: Records | None) -> float:
    if records is None or records.features is None:
        return 0.0
    shape = records.features.shape
    return float(math.prod(shape))


def nothing_to_compare(self_check: Any) -> Finding:
    """A check without a reference."""
    remedy = "Pass validation or train with features."
    found: Finding = self_check.finding(
        Severity.SKIPPED,
        "Skipped: needs validation.features or train.features.",
        numbers={"lacks": ["validation.features"]},
        remedy=remedy,
    )
    return found


def lost(
    self_check: Any, names: tuple[str, str], absent: Sequence[str], textual: Sequence[str] = ()
) -> Iterator[Finding]:
    """A failure per column that production lacks, or holds as text where the reference has
    numbers.
    """
    for name, problem in [(n, "absent") for n in absent] + [
        (n, "no longer numeric") for n in textual
    ]:
        yield self_check.finding(
            Severity.FAIL,
            f"The column {name} of {names[0]} is {problem} in {names[1]}.",
            cause=Cause.TRAIN_SERVE_SKEW,
            subject=name,
            numbers={"absent": problem == "absent"},
            remedy=f"Deliver {name} in production as it was in training, or retrain without it.",
        )


def by_kind(finding: Finding, kinds: ChangeKinds | None) -> Finding:
    """The finding about one column under the cause that its move is taken for; one that follows the
    classes is a note.
    """
    change = None if kinds is None else kinds.of(finding.subject)
    if change is None:
        return finding
    if change.kind == "classes":
        summary = f"{finding.summary[:-1]}; within the classes it kept its distribution."
        return replace(finding, severity=Severity.NOTE, cause=Cause.LABEL_SHIFT, summary=summary)
    return replace(finding, cause=CAUSES[change.kind])
