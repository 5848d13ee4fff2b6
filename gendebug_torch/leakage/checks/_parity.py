"""Findings about features that serving would compute otherwise than they are stored."""

from __future__ import annotations

from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.leakage.preprocessing.parity import ColumnParity, Parity

NAME = "leakage.parity"
FAIL_SHARE = 0.1
_ROWS_NAMED = 20


def parity_findings(parity: Parity, *, limit: int = 20) -> list[Finding]:
    """What `parity` found, one finding for each column that differs, and one for what could not be
    compared.

    Args:
        parity: the comparison.
        limit: most columns reported one by one.
    """
    findings = [_differing(parity, column) for column in parity.columns[:limit] if column.differing]
    findings += [
        Finding(
            NAME,
            Cause.TRAIN_SERVE_SKEW,
            Severity.FAIL,
            f"The pipeline does not return {name}, which is stored.",
            subject=name,
            numbers={"absent": True},
            remedy=f"Compute {name} in the pipeline that serves, or retrain without it.",
            evidence=parity,
        )
        for name in parity.lacking[:limit]
    ]
    if parity.broken:
        row, error = parity.broken[0]
        numbers = {
            "broken": len(parity.broken),
            "rows": parity.rows,
            "first_rows": [row for row, _ in parity.broken[:_ROWS_NAMED]],
        }
        text = (
            f"The pipeline raised on {len(parity.broken):,} of {parity.rows:,} records, first "
            f"in row {row}: {error}."
        )
        remedy = (
            "Mend the pipeline for such records: in serving each of them is a request "
            "without an answer."
        )
        findings.append(
            Finding(
                NAME,
                Cause.TRAIN_SERVE_SKEW,
                Severity.FAIL,
                text,
                numbers=numbers,
                remedy=remedy,
                evidence=parity,
            )
        )
    if not findings:
        text = (
            f"All {len(parity.columns)} features came back as stored for {parity.rows:,} "
            "records, one at a time."
        )
        severity = Severity.OK if parity.rows and parity.columns else Severity.NOTE
        numbers = {"columns": len(parity.columns), "rows": parity.rows, "added": list(parity.added)}
        findings.append(
            Finding(NAME, Cause.TRAIN_SERVE_SKEW, severity, text, numbers=numbers, evidence=parity)
        )
    return findings


def _differing(parity: Parity, column: ColumnParity) -> Finding:
    low, high = column.interval()
    row, stored, again = column.first[0]
    numbers: dict[str, Any] = {
        "rows": column.rows,
        "differing": column.differing,
        "share": column.share,
        "low": low,
        "high": high,
    }
    numbers |= {
        "largest": column.largest,
        "first_rows": [row for row, _, _ in column.first],
        "stored": stored,
        "recomputed": again,
    }
    text = (
        f"{column.column} differs in {column.differing:,} of {column.rows:,} records "
        f"({column.share:.1%}, 95 % interval {low:.1%} to "
        f"{high:.1%}) when it is computed one record at a time, first in row {row}: stored "
        f"{_short(stored)}, recomputed {_short(again)}."
    )
    remedy = (
        f"Find what {column.column} looks at beyond its own record (later rows, the batch, the "
        "target), compute it from what is known "
        "when the model is asked, rebuild the training table and retrain."
    )
    severity = Severity.FAIL if column.share >= FAIL_SHARE else Severity.WARN
    return Finding(
        NAME,
        Cause.TRAIN_SERVE_SKEW,
        severity,
        text,
        subject=column.column,
        numbers=numbers,
        remedy=remedy,
        evidence=parity,
    )


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:60]
