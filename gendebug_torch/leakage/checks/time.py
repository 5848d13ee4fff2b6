"""Checks of what the sides of a split share: rows, groups, times, and the rows that a
transformation was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.leakage.checks._splits import _row_cost
from gendebug_torch.leakage.splits.time_overlap import TimeOverlap, moments, time_overlap


@check(
    "leakage.time",
    cause=Cause.SPLIT_LEAKAGE,
    needs=("train.metadata", "validation.metadata"),
    cost=_row_cost,
)
def validation_comes_after_training(
    train: Records,
    validation: Records,
    *,
    min_inside: float = 0.05,
    min_likeness: float = 0.2,
    alpha: float = 1e-3,
) -> Iterator[Finding]:
    """Validation lies after training in time, or labels do not repeat from one moment to the next.

    A random split of a series puts each validation row between two training rows that nearly are
    it. Overlap alone is a note; it is a leak where neighbours in time across the split share their
    label.

    Source: Bergmeir and Benítez (2012), Inf. Sci. 191:192; Cohen (1960), Educ. Psychol. Meas. 20:37
    for kappa; Hoeffding (1951), Ann. Math. Stat. 22:558 for its distribution under permuted labels.

    Args:
        train: records with `schema.time` among the metadata.
        validation: records with the same.
        min_inside: share of validation rows before the last training row that counts as overlap.
        min_likeness: kappa, or correlation of a real target, of neighbours in time that counts as a
            leak.
        alpha: chance of it by accident.
    """
    this = validation_comes_after_training
    column = train.schema.time
    if (
        column is None
        or train.metadata is None
        or validation.metadata is None
        or column not in train.metadata
        or column not in validation.metadata
    ):
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.time.",
            numbers={"lacks": ["schema.time"]},
            remedy="Declare `time`.",
        )
        return
    (before, calendar), (after, dated) = (
        moments(side.metadata[column], f"{side.name}.{column}")
        for side in (train, validation)
        if side.metadata is not None
    )
    if calendar != dated:
        reject(
            column,
            "times of one kind on both sides",
            "numbers on one and dates on the other",
            "Store the time alike on both sides.",
        )
    labels = [
        side.targets if side.targets is not None and side.targets.ndim == 1 else None
        for side in (train, validation)
    ]
    found = time_overlap(before, after, *labels, calendar=calendar)
    yield _time_finding(found, column, min_inside, min_likeness, alpha)


def _time_finding(
    found: TimeOverlap, column: str, min_inside: float, min_likeness: float, alpha: float
) -> Finding:
    this = validation_comes_after_training
    numbers = {
        "inside": found.inside,
        "likeness": found.likeness,
        "p_value": found.p_value,
        "between": found.between,
    }
    alike = math.isfinite(found.likeness)
    p = "p < 1e-16" if found.p_value < 1e-16 else f"p = {found.p_value:.2g}"
    neighbours = (
        f"labels of neighbours in time agree by {found.likeness:.2f} (0 is chance, 1 is "
        f"always; {p})"
    )
    overlap = (
        f"{found.inside:.0%} of the validation rows are not later in {column} than the last "
        "training row"
    )
    if found.inside < min_inside:
        return this.finding(
            Severity.OK, f"{overlap}.", subject=column, numbers=numbers, evidence=found
        )
    if not alike or found.p_value >= alpha or found.likeness < min_likeness:
        rest = f"but {neighbours}" if alike else "and whether labels repeat in time is not known"
        rest = (
            rest
            if found.between
            else "but none lies between training rows: validation is older than training"
        )
        return this.finding(
            Severity.NOTE, f"{overlap}, {rest}.", subject=column, numbers=numbers, evidence=found
        )
    remedy = (
        f"Split by {column}: train on what comes first, leave a gap as long as labels "
        "repeat, validate on what comes last."
    )
    severity = Severity.FAIL if found.likeness >= 2 * min_likeness else Severity.WARN
    return this.finding(
        severity,
        f"{overlap}, and {neighbours}.",
        subject=column,
        numbers=numbers,
        remedy=remedy,
        evidence=found,
    )
