"""What every command ends with: the report, the printed findings and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gendebug_torch as gd

CLEAN, FOUND, BAD_INPUT, BROKEN = 0, 1, 2, 3
FailOn = Literal["note", "warn", "fail", "never"]


def deliver(diagnosis: gd.Diagnosis, out: str, fail_on: FailOn, **extras: Any) -> int:
    """Write the report, print the findings, and turn the worst one into an exit code."""
    diagnosis.write(out, **extras)
    print(diagnosis)
    print(f"\nReport: {Path(out) / 'report.html'}")
    return exit_code(diagnosis, fail_on)


def exit_code(diagnosis: gd.Diagnosis, fail_on: FailOn) -> int:
    """What the worst finding means for a shell."""
    severity = gd.Severity
    if diagnosis.worst is severity.ERRORED:
        return BROKEN
    return (
        FOUND if fail_on != "never" and diagnosis.worst.level >= severity(fail_on).level else CLEAN
    )
