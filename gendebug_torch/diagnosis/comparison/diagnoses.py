"""Two diagnoses: findings that are new, gone, worse or better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.diagnosis.apportioning.bill import Bill
from gendebug_torch.diagnosis.comparison.comparison import Comparison

# Severities that judge nothing.
_UNJUDGED = (Severity.SKIPPED, Severity.ERRORED)
_ORDER = ("new", "worse", "no longer judged", "better", "gone", "same")


def compared_findings(before: Sequence[Finding], after: Sequence[Finding]) -> Comparison:
    """What two lists of findings say differently, by check and subject.

    A finding is one that warns or fails. One that is gone because its check did not run any more is
    no longer judged.

    Args:
        before: findings of the earlier diagnosis.
        after: findings of the later one.
    """
    old, new = _alarms(before), _alarms(after)
    unjudged = {finding.check for finding in after if finding.severity in _UNJUDGED}
    rows, findings = [], []
    for key in sorted(old.keys() | new.keys()):
        change = _change(old.get(key), new.get(key), key[0] in unjudged)
        rows.append((change, *key, *(_severity(side.get(key)) for side in (old, new))))
        findings.append(_finding(change, old.get(key), new.get(key)))
    columns = ["change", "check", "subject", "before", "after"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.sort_values("change", key=lambda c: c.map(_ORDER.index), kind="stable")
    ranked = sorted(findings, key=lambda finding: -finding.severity.level)
    context = {"findings before": str(len(old)), "findings after": str(len(new))}
    return Comparison("diagnoses", frame.reset_index(drop=True), tuple(ranked), context=context)


def compared_bills(before: Bill | None, after: Bill | None) -> pd.DataFrame | None:
    """Points that each cause carries in two bills; None where one is missing or counts otherwise.

    Args:
        before: bill of the earlier diagnosis.
        after: bill of the later one.
    """
    if before is None or after is None or before.metric != after.metric:
        return None
    keys = ["cause", "subject"]
    sides = [bill.table()[[*keys, "points", "low", "high"]] for bill in (before, after)]
    return sides[0].merge(sides[1], on=keys, how="outer", suffixes=("_before", "_after"))


def bill_notes(before: Bill | None, after: Bill | None) -> tuple[Finding, ...]:
    """Both bills in words; nothing where neither diagnosis has one.

    Args:
        before: bill of the earlier diagnosis.
        after: bill of the later one.
    """
    if before is None and after is None:
        return ()
    sides = {"before": before, "after": after}
    text = " ".join(f"{name.capitalize()}: {_in_words(bill)}" for name, bill in sides.items())
    totals = {name: bill.total for name, bill in sides.items() if bill is not None}
    note = Finding("compare.bills", Cause.UNKNOWN, Severity.NOTE, text, "", totals)
    return (note,)


def _in_words(bill: Bill | None) -> str:
    """The total of a bill and the points of its lines."""
    if bill is None:
        return "no bill of the quality that was lost."
    total, *_ = bill.sentences()
    lines = [f"{line.name} {line.points:.3g}" for line in bill.lines if line.points == line.points]
    return f"{total.removesuffix('.')}: {', '.join(lines)}."


def _alarms(findings: Sequence[Finding]) -> dict[tuple[str, str], Finding]:
    """The findings that warn or fail, the worst of each check and subject."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity.level):
        if finding.severity in (Severity.WARN, Severity.FAIL):
            found[finding.check, finding.subject] = finding
    return found


def _change(old: Finding | None, new: Finding | None, unjudged: bool) -> str:
    if new is None:
        return "no longer judged" if unjudged else "gone"
    if old is None:
        return "new"
    step = new.severity.level - old.severity.level
    return "worse" if step > 0 else "better" if step < 0 else "same"


def _severity(finding: Finding | None) -> str:
    return "" if finding is None else str(finding.severity)


def _finding(change: str, old: Finding | None, new: Finding | None) -> Finding:
    """A change as a finding: new and worse ones as bad as they are now, others as notes."""
    shown = new or old
    assert shown is not None
    severity = shown.severity if change in ("new", "worse") else Severity.NOTE
    if change in ("gone", "better"):
        severity = Severity.OK
    words = f"{change.capitalize()}: {shown.summary}"
    remedy = shown.remedy if new is not None else ""
    # The decision reads the numbers and inputs of the finding itself.
    return replace(
        shown,
        check="compare.findings",
        severity=severity,
        summary=words,
        numbers={**shown.numbers, "change": change, "check": shown.check},
        remedy=remedy,
    )
