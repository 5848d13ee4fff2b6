"""What every command ends with: the report, the printed findings and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gendebug_torch as gd
from gendebug_torch.cli.exit_codes import BROKEN, CLEAN, FINDINGS
from gendebug_torch.cli.main import WARNED
from gendebug_torch.diagnosis.budget import OVERRUN, overrun
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.report import bill_files, render_junit, render_sarif, write_report
from gendebug_torch.report.text import printable

FailOn = Literal["note", "warn", "fail", "never"]
Format = Literal["junit", "markdown", "sarif"]


def deliver(
    diagnosis: gd.Diagnosis,
    out: str,
    fail_on: FailOn,
    *,
    also: Sequence[Format] = (),
    deadline: Deadline | None = None,
    **extras: Any,
) -> int:
    """Write the report, print the findings, and turn the worst one into an exit code.

    Args:
        diagnosis: what to report.
        out: directory of `report.html` and `findings.json`.
        fail_on: severity from which findings give exit code 1.
        also: further formats: `findings.xml` (JUnit), `findings.md` (Markdown), `findings.sarif`.
        deadline: end of the command's budget; pictures end with it, and what is late is said.
        extras: tables and pictures of the page.
    """
    if warned := WARNED.get([]):
        # Rows that were left out are no part of the verdict.
        context = {**diagnosis.context, "warnings": "; ".join(dict.fromkeys(warned))}
        diagnosis = replace(diagnosis, context=context)
    others = bill_files(diagnosis.bill) | further_files(diagnosis, out, also)
    budget = NO_DEADLINE if deadline is None else deadline.whole
    html = diagnosis.to_html(**extras, deadline=budget.with_progress(sys.stderr.isatty()))
    write_report(out, html, diagnosis.to_json(), others)
    say(f"{diagnosis}\n\nReport: {Path(out) / 'report.html'}")
    if (late := overrun(budget.seconds, budget.spent, diagnosis.costs)) and not _says(diagnosis):
        say(late[0].summary)
    return exit_code(diagnosis, fail_on)


def further_files(diagnosis: gd.Diagnosis, out: str, also: Sequence[Format]) -> dict[str, str]:
    """Contents of the files of further formats, by name."""
    made: dict[Format, tuple[str, Callable[[], str]]] = {
        "junit": ("findings.xml", lambda: render_junit(diagnosis.findings)),
        "markdown": ("findings.md", diagnosis.to_markdown),
        "sarif": ("findings.sarif", lambda: render_sarif(diagnosis.findings, page=page)),
    }
    page = (Path(out) / "report.html").as_posix()
    return {made[name][0]: made[name][1]() for name in also}


def _says(diagnosis: gd.Diagnosis) -> bool:
    """Whether it says itself that a budget was exceeded."""
    return any(finding.check == OVERRUN for finding in diagnosis.findings)


def say(*texts: object) -> None:
    """Print paragraphs, harmless to a terminal, with an empty line between them.

    Whoever reads along, as `head` does, may have seen enough; the verdict is the same.

    Args:
        texts: what to print.
    """
    try:
        print(*map(printable, texts), sep="\n\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(diagnosis: gd.Diagnosis, fail_on: FailOn) -> int:
    """What the worst finding means for a shell."""
    severity = gd.Severity
    if diagnosis.worst is severity.ERRORED:
        return BROKEN
    return (
        FINDINGS
        if fail_on != "never" and diagnosis.worst.level >= severity(fail_on).level
        else CLEAN
    )
