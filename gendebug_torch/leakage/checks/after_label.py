"""The check for feature values that are dated after the label became available."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._costs import column_cost
from gendebug_torch.leakage.checks._splits import share_text
from gendebug_torch.leakage.times.label_times import LabelDelay, label_delays

_FAIL_SHARE = 0.5


@check(
    "leakage.after_label",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.metadata"),
    cost=column_cost,
)
def no_feature_is_later_than_the_label(
    train: Records, *, min_share: float = 0.01, limit: int = 10
) -> Iterator[Finding]:
    """No feature holds a time later than the one at which the label became available.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 3 (no time
    travel); Wilson (1927), JASA 22:209 for the interval.

    Args:
        train: records with features, and with `schema.label_time` among the metadata.
        min_share: share of late rows from which a column is reported.
        limit: largest number of columns reported one by one.
    """
    this = no_feature_is_later_than_the_label
    column, metadata = train.schema.label_time, train.metadata
    if (
        column is None
        or metadata is None
        or column not in metadata
        or not isinstance(train.features, pd.DataFrame)
    ):
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.label_time and a table of features.",
            numbers={"lacks": ["schema.label_time"]},
            remedy="Declare `label_time` in the schema.",
        )
        return
    delays = label_delays(train.features, metadata[column])
    late = [delay for delay in delays if delay.interval()[0] >= min_share]
    for delay in late[:limit]:
        yield _late_finding(delay, column)
    if not late:
        yield this.finding(
            Severity.OK,
            f"None of {len(delays)} time columns is dated after {column}.",
            numbers={"columns": len(delays)},
            evidence=delays[0] if delays else None,
        )


def _late_finding(delay: LabelDelay, label_time: str) -> Finding:
    low, high = delay.interval()
    numbers = {
        "late": delay.late,
        "rows": delay.rows,
        "share": delay.share,
        "low": low,
        "high": high,
        "first_rows": list(delay.first_rows),
    }
    text = (
        f"{delay.column} is dated after {label_time} in {delay.late:,} of {delay.rows:,} rows "
        f"({share_text(delay.share, low, high)}), first in row {delay.first_rows[0]}."
    )
    remedy = (
        f"Drop {delay.column} and everything computed from it, or rebuild it with its value at "
        "prediction time; then retrain."
    )
    return no_feature_is_later_than_the_label.finding(
        Severity.FAIL if delay.share >= _FAIL_SHARE else Severity.WARN,
        text,
        subject=delay.column,
        numbers=numbers,
        remedy=remedy,
        evidence=delay,
    )
