"""The check for validation rows that are not later than the training rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from math import nan

from torch import Tensor

from gendebug_torch.checks.finding import ALIKE, Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED
from gendebug_torch.data.times import Times, parse_times
from gendebug_torch.errors import reject
from gendebug_torch.leakage.checks._costs import row_cost
from gendebug_torch.leakage.checks._targets import target_order
from gendebug_torch.leakage.times.time_overlap import TimeOverlap, time_overlap

_SMALLEST_P = 1e-16
# Share of production that lies in the time of training from which it is as validation is.
_MOST = 0.5


@check(
    "leakage.time",
    cause=Cause.SPLIT_LEAKAGE,
    needs=("train.metadata", "validation.metadata"),
    cost=row_cost,
    partial_labels=True,
)
def validation_is_later_than_training(
    train: Records,
    validation: Records,
    production: Records | None = None,
    *,
    min_overlap: float = 0.05,
    min_agreement: float = 0.2,
    alpha: float = 1e-3,
) -> Iterator[Finding]:
    """Validation is later than training, or labels of neighbours in time do not agree.

    A random split of a series puts each validation row between two training rows that are nearly
    the same. Overlap alone is a note; it is a leak if neighbours in time across the splits share
    their label; of several labels the one that agrees most counts, corrected for their number.

    Source: Bergmeir and Benítez (2012), Inf. Sci. 191:192; Cohen (1960), Educ. Psychol. Meas. 20:37
    for kappa; Hoeffding (1951), Ann. Math. Stat. 22:558 for its distribution under permuted labels.

    Args:
        train: records with `schema.time` among the metadata.
        validation: records with the same column.
        production: records with the same column; where they are no later than training either, a
            leak is a warning at most, and no reason for a fall of the quality.
        min_overlap: share of validation rows before the last training row that counts as overlap.
        min_agreement: kappa, or correlation of a real target, of neighbours in time that counts as
            a leak.
        alpha: level of the test of that agreement.
    """
    this = validation_is_later_than_training
    train, validation = _labeled(train), _labeled(validation)
    column, before, after = train.schema.time, train.metadata, validation.metadata
    if (
        column is None
        or before is None
        or after is None
        or column not in before
        or column not in after
    ):
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.time.",
            numbers={"lacks": ["schema.time"]},
            remedy="Declare `time` in the schema.",
        )
        return
    first = parse_times(before[column], f"{train.name}.{column}")
    second = parse_times(after[column], f"{validation.name}.{column}")
    if first.calendar != second.calendar:
        reject(
            column,
            "times of one kind in both splits",
            "numbers in one and dates in the other",
            "Store the time alike in both splits.",
        )
    found = _overlap((train.targets, validation.targets), first, second)
    agrees = found.p_value < alpha and found.agreement >= min_agreement
    severity = Severity.NOTE
    if found.overlap < min_overlap:
        severity = Severity.OK
    elif agrees:
        strong = found.agreement >= 2 * min_agreement
        severity = Severity.FAIL if strong else Severity.WARN
    alike = _share_before(first, production, column) if agrees else 0.0
    if alike >= _MOST:
        severity = min(severity, Severity.WARN, key=lambda severity: severity.level)
    yield _overlap_finding(found, column, severity, alike)


def _share_before(train: Times, production: Records | None, column: str) -> float:
    """Share of the production rows that are not later than the last training row."""
    if production is None or production.metadata is None or column not in production.metadata:
        return 0.0
    times = parse_times(production.metadata[column], f"{production.name}.{column}")
    known, before = (side.values[~side.values.isnan()] for side in (times, train))
    if times.calendar != train.calendar or not len(known) or not len(before):
        return 0.0
    return float((known <= before.max()).double().mean())


def _overlap(
    targets: tuple[Tensor | None, Tensor | None], train: Times, validation: Times
) -> TimeOverlap:
    """The overlap, with the agreement of labels; of several labels that of the strongest."""
    times, calendar = (train.values, validation.values), train.calendar
    before, after = targets
    if before is None or after is None or before.shape[1:] != after.shape[1:]:
        return time_overlap(*times, calendar=calendar)
    if before.ndim == 1:
        return time_overlap(*times, before, after, calendar=calendar)
    found = []
    for j in target_order(before):
        own, other = before[:, j], after[:, j]
        # Rows without this label are left out as rows without a time are.
        first = train.values.masked_fill(_unknown(own), nan)
        second = validation.values.masked_fill(_unknown(other), nan)
        found.append(time_overlap(first, second, own, other, calendar=calendar))
    best = min(found, key=lambda overlap: (overlap.p_value, -overlap.agreement))
    return replace(best, p_value=min(best.p_value * len(found), 1.0))


def _unknown(labels: Tensor) -> Tensor:
    """Rows without a label, `[n]` bool on the host."""
    return (labels.isnan() if labels.is_floating_point() else labels == IGNORED).cpu()


def _labeled(records: Records) -> Records:
    """The labeled rows, or all rows if none has a label; of several labels some may be missing."""
    if records.targets is not None and records.targets.ndim == 2:
        return records
    labeled = records.labeled()
    return labeled if len(labeled) else records


def _overlap_finding(found: TimeOverlap, column: str, severity: Severity, alike: float) -> Finding:
    text = (
        f"{found.overlap:.0%} of the validation rows are not later in {column} than the last "
        "training row."
    )
    p = f"p < {_SMALLEST_P:g}" if found.p_value < _SMALLEST_P else f"p = {found.p_value:.2g}"
    agreement = f"{found.agreement:.2f} (0 is chance, 1 is perfect; {p})"
    leak = severity in (Severity.WARN, Severity.FAIL)
    if leak:
        text += f" Labels of neighbours in time agree by {agreement}."
        if alike >= _MOST:
            text += (
                f" Neither are {alike:.0%} of the production rows, so this is no reason for a "
                "difference between the two; later rows will show one."
            )
    elif severity is Severity.NOTE and not found.pairs:
        text += " None is between training rows: validation is older than training."
    elif severity is Severity.NOTE and math.isfinite(found.agreement):
        text += f" Labels of neighbours in time agree by {agreement} only."
    elif severity is Severity.NOTE:
        text += " The agreement of labels of neighbours in time is not known."
    remedy = (
        f"Split by {column}: train on the earliest rows, leave a gap as long as labels repeat, and "
        "validate on the latest rows."
    )
    return validation_is_later_than_training.finding(
        severity,
        text,
        subject=column,
        numbers={
            "overlap": found.overlap,
            "agreement": found.agreement,
            "p_value": found.p_value,
            "pairs": found.pairs,
        }
        | ({ALIKE: alike} if alike >= _MOST else {}),
        remedy=remedy if leak else "",
        evidence=found,
    )
