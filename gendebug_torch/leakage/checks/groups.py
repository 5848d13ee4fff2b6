"""The check for groups and ids that occur in more than one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import ALIKE, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.inputs.likely_groups import (
    LikelyGroup,
    likely_groups,
    searched_rows,
    without_labeling,
)
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._splits import overlap_numbers, share_severity, share_text
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap, shared_values


def _cost(given: Mapping[str, Any]) -> Cost:
    """A few sorts of one value per row, and codes of all columns among the rows searched."""
    elements = 0.0
    for records in map(given.get, ("train", "validation")):
        if records is not None:
            elements += 60.0 * len(records)
            if isinstance(records.features, pd.DataFrame):
                columns = records.features.shape[1]
                elements += columns * (55.0 * searched_rows(records.features) + 1e5)
    return Cost(elements=elements)


@check("leakage.groups", cause=Cause.SPLIT_LEAKAGE, needs=("train", "validation"), cost=_cost)
def splits_share_no_groups(
    train: Records,
    validation: Records,
    production: Records | None = None,
    *,
    min_share: float = 0.01,
    limit: int = 10,
) -> Iterator[Finding]:
    """No group (customer, patient, session) and no id has rows in both splits.

    Without `schema.group` or `schema.ids`, a column that looks like a group and that both splits
    share is a note: its values repeat, and many other columns are constant within a value.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209
    for the interval.

    Args:
        train: records with `schema.group` or `schema.ids` among the metadata, or with a table in
            which groups can be found.
        validation: records with the same columns.
        production: records with the same columns; where it shares at least half as many rows with
            training as validation does, that is no reason for a fall of the quality.
        min_share: share of validation rows from which shared values matter; fewer are a note.
        limit: largest number of shared values listed.
    """
    this = splits_share_no_groups
    tables = [_group_table(split) for split in (train, validation)]
    declared = dict.fromkeys([train.schema.group, *train.schema.ids])
    present = [
        column
        for column in declared
        if all(s.metadata is not None and column in s.metadata for s in (train, validation))
    ]
    for column in map(str, present):
        kind = "group" if column == train.schema.group else "id"
        found = _shared(tables, column, f"{kind}s ({column})")
        alike = _share_known(tables[0][column], production, column)
        yield _declared_finding(found, column, min_share, limit, alike)
    if present:
        return
    shared = [str(column) for column in tables[0] if column in tables[1]]
    searched = searched_rows(tables[0][shared])
    part = f" Groups were looked for in the first {searched:,} rows."
    part = part if searched < len(train) else ""
    for group in likely_groups(tables[0][shared])[:1]:
        found = _shared(tables, group.column, f"values of {group.column}")
        yield _likely_finding(found, group, part, limit)
        return
    yield this.finding(
        Severity.SKIPPED,
        f"Skipped: needs schema.group or schema.ids.{part}",
        numbers={"lacks": ["schema.group"]},
        remedy="Declare `group` in the schema.",
    )


def _group_table(split: Records) -> pd.DataFrame:
    """Features and metadata, without the columns that say how and when a row was labeled."""
    whole = without_labeling(split.features, split.metadata, split.schema.labeling)
    return pd.DataFrame(index=range(len(split))) if whole is None else whole


def _shared(tables: list[pd.DataFrame], column: str, kind: str) -> SplitOverlap:
    train, validation = tables
    return shared_values({"train": train[column], "validation": validation[column]}, kind=kind)


def _shared_text(found: SplitOverlap, column: str) -> str:
    return (
        f"{len(found.rows):,} of {int(found.sizes[1]):,} validation rows "
        f"({share_text(found.share, *found.interval())}) have a value of {column} that also occurs "
        f"in training: {len(found.values):,} shared values, e.g. {', '.join(found.values[:3])}."
    )


def _share_known(train: pd.Series[Any], production: Records | None, column: str) -> float:
    """Share of the production rows whose value occurs in training."""
    if production is None or not len(production):
        return 0.0
    table = _group_table(production)
    if column not in table:
        return 0.0
    return shared_values({"train": train, "production": table[column]}, kind=column).share


def _declared_finding(
    found: SplitOverlap, column: str, min_share: float, limit: int, alike: float
) -> Finding:
    this, numbers = splits_share_no_groups, overlap_numbers(found)
    if not len(found.rows):
        text = f"No value of {column} occurs both in training and in validation."
        return this.finding(Severity.OK, text, subject=column, numbers=numbers, evidence=found)
    text, same = _shared_text(found, column), alike >= found.share / 2
    if same:
        text += (
            f" So have {alike:.1%} of the production rows: this is no reason for a difference "
            "between the two."
        )
    return this.finding(
        Severity.NOTE if found.share < min_share else share_severity(found.share),
        text,
        subject=column,
        numbers=numbers | _value_numbers(found, limit) | ({ALIKE: alike} if same else {}),
        remedy=f"Split by {column}, with all rows of one value in the same split, and evaluate the "
        "model again.",
        evidence=found,
    )


def _likely_finding(found: SplitOverlap, group: LikelyGroup, part: str, limit: int) -> Finding:
    column, more = group.column, len(group.constant) - 3
    names = ", ".join(group.constant[:3]) + (f" and {more} more columns" if more > 0 else "")
    shared = _shared_text(found, column) if len(found.rows) else "No value is in both splits."
    return splits_share_no_groups.finding(
        Severity.NOTE,
        f"{column} looks like a group: rows with the same value agree in {names}. {shared}{part}",
        subject=column,
        numbers=overlap_numbers(found)
        | _value_numbers(found, limit)
        | {"constant": list(group.constant)},
        remedy=f"If {column} is a customer, a patient or a session, declare it as `group` in the "
        "schema and split by it; tests of shift and slices count its rows together then.",
        evidence=found,
    )


def _value_numbers(found: SplitOverlap, limit: int) -> dict[str, object]:
    return {"values": list(found.values[:limit]), "shared_values": len(found.values)}
