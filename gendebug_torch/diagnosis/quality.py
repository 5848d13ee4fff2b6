"""Quality on both sides as a diagnosis knows it: computed once, by its check where that ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.rows import position_rows
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.shift.quality.quality_change import QualityChange, quality_change

# The check that asks whether there is anything to explain.
_CHECK = "shift.quality"


def quality_of(
    findings: Sequence[Finding], given: Mapping[str, Any], deadline: Deadline = NO_DEADLINE
) -> QualityChange | None:
    """Quality as its check found it; computed where the check did not run and there is time.

    Args:
        findings: findings of all checks.
        given: inputs by name.
        deadline: end of the budget.
    """
    for finding in findings:
        if isinstance(finding.evidence, QualityChange):
            return finding.evidence
        if finding.check == _CHECK and finding.severity is not Severity.SKIPPED:
            return None
    if deadline.left == 0.0:
        return None
    return quality_change(*(position_rows(given[side]) for side in ("validation", "production")))


def finding_order(finding: Finding) -> tuple[bool, int, bool, str]:
    """Whether the quality fell comes first, then the worst findings, those with a subject first.

    The order in which checks ran depends on what they cost, and so on columns that say nothing.

    Args:
        finding: finding to place.
    """
    first = finding.check == _CHECK and finding.severity is not Severity.SKIPPED
    return not first, -finding.severity.level, not finding.subject, finding.check
