"""Findings of `gendebug parity`: features that serving computes differently."""

from __future__ import annotations

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.leakage.checks._splits import share_severity, share_text
from gendebug_torch.leakage.preprocessing.feature_parity import ColumnParity, FeatureParity

_ROWS_LISTED = 20


def parity_findings(parity: FeatureParity, *, limit: int = 20) -> list[Finding]:
    """One finding for each feature that differs or is absent, and one for records that failed.

    Args:
        parity: stored features compared with their recomputation.
        limit: largest number of features reported one by one.
    """
    findings = [_differing(parity, column) for column in parity.columns[:limit] if column.differing]
    findings += [_absent(parity, name) for name in parity.absent[:limit]]
    if parity.failed:
        findings.append(_failed(parity))
    return findings or [_equal(parity)]


def _finding(
    parity: FeatureParity,
    severity: Severity,
    summary: str,
    numbers: dict[str, object],
    subject: str = "",
    remedy: str = "",
) -> Finding:
    return Finding(
        "leakage.parity",
        Cause.TRAIN_SERVE_SKEW,
        severity,
        summary,
        subject=subject,
        numbers=numbers,
        remedy=remedy,
        evidence=parity,
    )


def _differing(parity: FeatureParity, column: ColumnParity) -> Finding:
    low, high = column.interval()
    row, stored, again = column.first[0]
    name = column.column
    numbers = {
        "rows": column.rows,
        "differing": column.differing,
        "share": column.share,
        "low": low,
        "high": high,
        "largest": column.largest,
        "first_rows": [row for row, _, _ in column.first],
        "stored": stored,
        "recomputed": again,
    }
    text = (
        f"{name} differs in {column.differing:,} of {column.rows:,} records "
        f"({share_text(column.share, low, high)}) when it is computed one record at a time. The "
        f"first is row {row}: stored {_short(stored)}, recomputed {_short(again)}."
    )
    remedy = (
        f"Check whether {name} depends on anything beyond its own record (later rows, the batch, "
        "the target). Compute it from what is available at prediction time, rebuild the training "
        "table and retrain."
    )
    return _finding(parity, share_severity(column.share), text, numbers, name, remedy)


def _absent(parity: FeatureParity, name: str) -> Finding:
    text = f"The pipeline does not return {name}, which is stored as a feature."
    remedy = f"Compute {name} in the serving pipeline, or retrain without it."
    return _finding(parity, Severity.FAIL, text, {"absent": True}, name, remedy)


def _failed(parity: FeatureParity) -> Finding:
    row, error = parity.failed[0]
    numbers = {
        "failed": len(parity.failed),
        "rows": parity.rows,
        "first_rows": [row for row, _ in parity.failed[:_ROWS_LISTED]],
    }
    text = (
        f"The pipeline raised an error on {len(parity.failed):,} of {parity.rows:,} records, "
        f"first in row {row}: {error}."
    )
    remedy = "Fix the pipeline for such records: in serving they would get no prediction."
    return _finding(parity, Severity.FAIL, text, numbers, remedy=remedy)


def _equal(parity: FeatureParity) -> Finding:
    numbers = {"columns": len(parity.columns), "rows": parity.rows, "added": list(parity.added)}
    text = (
        f"All {len(parity.columns)} features of {parity.rows:,} records were reproduced when "
        "computed one record at a time."
    )
    severity = Severity.OK if parity.rows and parity.columns else Severity.NOTE
    return _finding(parity, severity, text, numbers)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:60]
