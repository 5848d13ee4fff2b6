"""Checks of what the sides of a split share: rows, groups, times, and the rows that a
transformation was fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._splits import (
    _ROWS_NAMED,
    FAIL_SHARE,
    _overlap_numbers,
    _row_cost,
)
from gendebug_torch.leakage.splits.likely_groups import likely_groups
from gendebug_torch.leakage.splits.overlap import SplitOverlap, shared_values


@check("leakage.groups", cause=Cause.SPLIT_LEAKAGE, needs=("train", "validation"), cost=_row_cost)
def groups_keep_to_one_side(
    train: Records, validation: Records, *, min_share: float = 0.01, limit: int = 10
) -> Iterator[Finding]:
    """No group (customer, patient, session) and no id has rows on both sides of the split.

    Without `schema.group` or `schema.ids`, columns that look like a group and that both sides share
    are a note: their values repeat, and many other columns hold still within a value.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209
    for the interval.

    Args:
        train: records with `schema.group` or `schema.ids` among the metadata, or with a table to
            look for groups in.
        validation: records with the same.
        min_share: share of validation rows from which shared values matter; fewer are a note.
        limit: most shared values named.
    """
    this = groups_keep_to_one_side
    sides = [_table(side) for side in (train, validation)]
    shared = [str(column) for column in sides[0] if column in sides[1]]
    declared = [
        column
        for column in dict.fromkeys([train.schema.group, *train.schema.ids])
        if column is not None
    ]
    present = [
        column
        for column in declared
        if all(
            side.metadata is not None and column in side.metadata for side in (train, validation)
        )
    ]
    for column in present:
        what = "group" if column == train.schema.group else "id"
        found = shared_values(
            {"train": sides[0][column], "validation": sides[1][column]}, kind=f"{what}s ({column})"
        )
        if not len(found.rows):
            text = f"No {what} in {column} has rows on both sides."
            yield this.finding(
                Severity.OK, text, subject=column, numbers=_overlap_numbers(found), evidence=found
            )
            continue
        remedy = (
            f"Split by {column}, all rows of one value on one side (`shift.group_split`), "
            "and judge the model again."
        )
        severity = (
            Severity.NOTE
            if found.share < min_share
            else Severity.FAIL
            if found.share >= FAIL_SHARE
            else Severity.WARN
        )
        text, numbers = (
            _shared_text(found, column),
            _overlap_numbers(found) | _shared_numbers(found, limit),
        )
        yield this.finding(
            severity, f"{text}.", subject=column, numbers=numbers, remedy=remedy, evidence=found
        )
    likely = [] if present else likely_groups(sides[0][shared])
    for group in likely[:1]:
        column = group.column
        found = shared_values(
            {"train": sides[0][column], "validation": sides[1][column]}, kind=f"values of {column}"
        )
        text = (
            f"{column} looks like a group: rows of one value agree in {', '.join(group.fixed[:3])}"
            f"{f' and {len(group.fixed) - 3} more' if len(group.fixed) > 3 else ''}, and "
            f"{_shared_text(found, column)}"
        )
        numbers = (
            _overlap_numbers(found) | _shared_numbers(found, limit) | {"fixed": list(group.fixed)}
        )
        remedy = (
            f"If {column} names a customer, a patient or a session, declare it as `group` in "
            "the schema and split by it."
        )
        yield this.finding(
            Severity.NOTE,
            f"{text}.",
            subject=column,
            numbers=numbers,
            remedy=remedy,
            evidence=found,
        )
    if not present and not likely:
        lacks = {"lacks": ["schema.group"]}
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.group or schema.ids.",
            numbers=lacks,
            remedy="Declare `group`.",
        )


def _table(side: Records) -> pd.DataFrame:
    """Features and metadata side by side, without what says how and when a row was labeled."""
    parts = [part for part in (side.features, side.metadata) if isinstance(part, pd.DataFrame)]
    whole = (
        pd.concat([part.reset_index(drop=True) for part in parts], axis=1)
        if parts
        else pd.DataFrame(index=range(len(side)))
    )
    kept = ~whole.columns.duplicated() & ~whole.columns.isin(
        [side.schema.source, side.schema.time, side.schema.label_time]
    )
    return whole.loc[:, kept]


def _shared_numbers(found: SplitOverlap, limit: int) -> dict[str, Any]:
    first = found.rows[:_ROWS_NAMED].tolist()
    return {
        "values": list(found.values[:limit]),
        "shared_values": len(found.values),
        "first_rows": first,
    }


def _shared_text(found: SplitOverlap, column: str) -> str:
    low, high = found.interval()
    return (
        f"{len(found.rows):,} of {int(found.sizes[1]):,} validation rows ({found.share:.1%}, 95 % "
        f"interval {low:.1%} to {high:.1%}) "
        f"have a value of {column} that training has as well: {len(found.values):,} shared, e.g. "
        f"{', '.join(found.values[:3])}"
    )
