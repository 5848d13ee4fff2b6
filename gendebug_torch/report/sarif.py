"""Findings as SARIF, for code scanning and editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.version import __version__

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {
    Severity.NOTE: "note",
    Severity.WARN: "warning",
    Severity.FAIL: "error",
    Severity.ERRORED: "error",
}


def render_sarif(findings: Sequence[Finding], *, page: str = "report.html") -> str:
    """SARIF 2.1.0: one result per finding from a note on, one rule per check.

    The place of a result is the page of the report, and the subject in words; that of a finding
    over time is the same from run to run, so that code scanning follows it.

    Source: OASIS (2020), Static Analysis Results Interchange Format 2.1.0.

    Args:
        findings: the findings.
        page: path or address of the page of the report.
    """
    shown = [finding for finding in findings if finding.severity in _LEVELS]
    rules = sorted({finding.check for finding in shown})
    driver = {"name": "gendebug", "version": __version__, "rules": [{"id": name} for name in rules]}
    run = {"tool": {"driver": driver}, "results": [_result(finding, page) for finding in shown]}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _result(finding: Finding, page: str) -> dict[str, Any]:
    subject = finding.subject or finding.check
    place = {
        "physicalLocation": {"artifactLocation": {"uri": page}, "region": {"startLine": 1}},
        "logicalLocations": [{"fullyQualifiedName": subject}],
    }
    return {
        "ruleId": finding.check,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.summary} {finding.remedy}".strip()},
        "locations": [place],
        "partialFingerprints": {"finding/v1": f"{finding.check} {subject}"},
    }
