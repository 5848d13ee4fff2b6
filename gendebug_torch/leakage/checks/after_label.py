"""Checks of what a column is: a number of the row rather than a fact about it, or a time after the
outcome.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._columns import _cost
from gendebug_torch.leakage.columns.identifiers import AfterLabel, after_label

FAIL_AFTER = 0.5


@check(
    "leakage.after_label",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.metadata"),
    cost=_cost,
)
def features_are_known_before_the_label(
    train: Records, *, min_share: float = 0.01, limit: int = 10
) -> Iterator[Finding]:
    """No feature holds a time later than the one at which the label became known.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 3 (no time
    travel); Wilson (1927), JASA 22:209 for the interval.

    Args:
        train: records with features, and with `schema.label_time` among the metadata.
        min_share: share of rows from which it counts.
        limit: most columns reported one by one.
    """
    this = features_are_known_before_the_label
    column = train.schema.label_time
    if (
        column is None
        or train.metadata is None
        or column not in train.metadata
        or not isinstance(train.features, pd.DataFrame)
    ):
        lacks = ["schema.label_time"]
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.label_time and a table of features.",
            numbers={"lacks": lacks},
            remedy="Declare `label_time`.",
        )
        return
    late = after_label(train.features, train.metadata[column])
    found = [entry for entry in late if entry.low >= min_share]
    for entry in found[:limit]:
        yield _late_finding(entry, column)
    if not found:
        text = f"None of {len(late)} columns of times lies after {column}."
        yield this.finding(
            Severity.OK, text, numbers={"columns": len(late)}, evidence=late[0] if late else None
        )


def _late_finding(entry: AfterLabel, column: str) -> Finding:
    numbers = {
        "late": entry.late,
        "rows": entry.rows,
        "share": entry.share,
        "low": entry.low,
        "high": entry.high,
        "first_rows": list(entry.first_rows),
    }
    text = (
        f"{entry.column} is later than {column} in {entry.late:,} of {entry.rows:,} rows "
        f"({entry.share:.1%}, 95 % interval "
        f"{entry.low:.1%} to {entry.high:.1%}), first in row {entry.first_rows[0]}."
    )
    remedy = (
        f"Drop {entry.column} and all that is computed from it, or rebuild it as it stood "
        "when the model is asked; then retrain."
    )
    severity = Severity.FAIL if entry.share >= FAIL_AFTER else Severity.WARN
    return features_are_known_before_the_label.finding(
        severity, text, subject=entry.column, numbers=numbers, remedy=remedy, evidence=entry
    )
