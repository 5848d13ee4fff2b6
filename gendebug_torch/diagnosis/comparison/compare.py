"""`compare()`: what changed between two diagnoses, two models, or two profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.data.records import Records
from gendebug_torch.diagnosis.comparison.comparison import Comparison
from gendebug_torch.diagnosis.comparison.diagnoses import (
    bill_notes,
    compared_bills,
    compared_findings,
)
from gendebug_torch.diagnosis.comparison.models import compared_models
from gendebug_torch.diagnosis.diagnose import Diagnosis, diagnose
from gendebug_torch.errors import reject
from gendebug_torch.profiles.answers import prepared_tables
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.shift.columns.prepared_table import table_comparison

# Checks whose statistics two profiles hold; the others need labels and outputs on both sides, and
# slices that both count.
_OF_PROFILES = ("shift.ks", "shift.categories", "shift.missing", "shift.label_shift")
_OF_OUTCOMES, _OF_SLICES = "shift.quality", "slices.collapse"


def compare(
    before: Diagnosis | Sequence[Finding] | Records | Profile,
    after: Diagnosis | Sequence[Finding] | Records | Profile,
    *,
    alpha: float = 0.02,
) -> Comparison:
    """What changed from one run to the next, and whether something got worse beyond noise.

    Two diagnoses, or lists of findings: which findings are new, gone, worse or better. Two records
    of the same rows with the outputs of two models: paired tests, overall, by class and by level of
    each column, corrected by Holm for all questions. Two profiles: drift of the columns, the
    classes and the quality between them.

    Args:
        before: the earlier run.
        after: the later one, of the same kind.
        alpha: chance that any change between two models is claimed where there is none.

    Raises:
        InputError: two things of different kinds, or models on different rows.

    Example:
        >>> import torch
        >>> from gendebug_torch import Records, compare
        >>> targets = torch.arange(400) % 2
        >>> old = Records(targets=targets, logits=4.0 * targets - 2.0)
        >>> flipped = torch.where(torch.arange(400) < 80, -2.0, old.logits)
        >>> new = Records(targets=targets, logits=flipped)
        >>> compare(old, old).worse, compare(old, new).worse
        (False, True)
    """
    if isinstance(before, Records) and isinstance(after, Records):
        return compared_models(before, after, alpha=alpha)
    if isinstance(before, Profile) and isinstance(after, Profile):
        return _profiles(before, after)
    found = [_findings(side) for side in (before, after)]
    if found[0] is None or found[1] is None:
        got = f"{type(before).__name__} and {type(after).__name__}"
        expected = "two diagnoses, two Records, or two Profiles"
        reject("before, after", expected, got, "Compare like with like.")
    compared = compared_findings(found[0], found[1])
    if isinstance(before, Diagnosis) and isinstance(after, Diagnosis):
        sides = before.bill, after.bill
        findings = (*compared.findings, *bill_notes(*sides))
        compared = replace(compared, findings=findings, bills=compared_bills(*sides))
    return compared


def _findings(side: Any) -> list[Finding] | None:
    """The findings of a diagnosis or a list; None of anything else."""
    listed = side.findings if isinstance(side, Diagnosis) else side
    if not isinstance(listed, (list, tuple)) or not all(isinstance(f, Finding) for f in listed):
        return None
    return list(listed)


def _profiles(before: Profile, after: Profile) -> Comparison:
    """Drift between two profiles."""
    scored = all(side.outcomes.labeled for side in (before, after))
    sliced = scored and all(side.cells is not None for side in (before, after))
    checks = [*_OF_PROFILES, *[_OF_OUTCOMES] * scored, *[_OF_SLICES] * sliced]
    found = diagnose(validation=before, production=after, only=checks)
    judged = [finding for finding in found.findings if finding.severity is not Severity.SKIPPED]
    test = table_comparison(*prepared_tables(before, after)).quantities.test
    return Comparison("profiles", test.table(), tuple(judged), context=dict(found.context))
