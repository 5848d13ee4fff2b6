"""Findings as plain text, Markdown and JUnit XML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.data.files import without_controls

if TYPE_CHECKING:
    from gendebug_torch.diagnosis.apportioning.bill import Bill
    from gendebug_torch.diagnosis.causes import LikelyCause
    from gendebug_torch.diagnosis.decision import Decision

_WIDTH = 100
# XML 1.0 allows no other control characters (W3C, Extensible Markup Language, section 2.2).
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST_WORD = 200


def printable(text: object) -> str:
    r"""Text that is safe to print: what would act on a terminal is escaped, long words are cut.

    Example:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """

    def cut(match: re.Match[str]) -> str:
        return f"{match[0][:_LONGEST_WORD]}… ({len(match[0]):,} characters)"

    return re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", cut, without_controls(str(text)))


def words(name: str) -> str:
    """`move_threshold` as it reads: `move threshold`; skew is between training and serving."""
    return name.replace("train_serve", "train/serve").replace("_", " ")


def render_text(
    findings: Sequence[Finding],
    *,
    title: str,
    verdict: Decision,
    causes: Sequence[LikelyCause],
    bill: Bill | None = None,
) -> str:
    """Text for the terminal, 100 columns wide: decision, likely causes, findings."""
    lines = [
        f"{title}: {words(verdict.name)}",
        *(_wrapped(f"- {reason}", "  ") for reason in verdict.reasons),
        "",
        *_bill_lines(bill, "Bill", lambda text: _wrapped(f"- {text}", "  ")),
    ]
    if causes:
        lines += [
            "Likely causes",
            *(
                _wrapped(f"{place}. {_cause(likely)}", "  ")
                for place, likely in enumerate(causes[:5], 1)
            ),
            "",
        ]
    if verdict.would_change:
        lines += [
            "What would change this",
            *(_wrapped(f"- {sentence}", "  ") for sentence in verdict.would_change),
            "",
        ]
    shown = [
        finding for finding in findings if finding.severity not in (Severity.OK, Severity.SKIPPED)
    ]
    for finding in shown:
        subject = f"  {finding.subject}" if finding.subject else ""
        lines.append(printable(f"{finding.severity.upper():8} {finding.check}{subject}"))
        lines.append(_wrapped(finding.summary, "         "))
        if finding.remedy and finding.severity.level >= Severity.WARN.level:
            lines.append(_wrapped(f"> {finding.remedy}", "         "))
    lines += _quiet(findings)
    return "\n".join(lines).rstrip()


def render_markdown(
    findings: Sequence[Finding],
    *,
    title: str,
    verdict: Decision,
    causes: Sequence[LikelyCause],
    bill: Bill | None = None,
) -> str:
    """The same as Markdown, for a pull request or a wiki."""
    lines = [
        f"# {title}: {words(verdict.name)}",
        "",
        *(f"- {_cell(reason)}" for reason in verdict.reasons),
        "",
        *_bill_lines(bill, "## Bill\n", lambda text: f"- {_cell(text)}"),
    ]
    if causes:
        lines += [
            "## Likely causes",
            "",
            *(f"{place}. {_cell(_cause(likely))}" for place, likely in enumerate(causes, 1)),
            "",
        ]
    if verdict.would_change:
        lines += [
            "## What would change this",
            "",
            *(f"- {_cell(sentence)}" for sentence in verdict.would_change),
            "",
        ]
    lines += [
        "## Findings",
        "",
        "| severity | check | subject | summary | what to do |",
        "|---|---|---|---|---|",
    ]
    for finding in findings:
        cells = (finding.severity, finding.check, finding.subject, finding.summary, finding.remedy)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def finding_markdown(finding: Finding) -> str:
    """One finding as Markdown, for an issue or a chat.

    Args:
        finding: the finding.
    """
    subject = f" · {_cell(finding.subject)}" if finding.subject else ""
    lines = [f"**{finding.severity}** `{finding.check}`{subject}", _cell(finding.summary)]
    if finding.remedy:
        lines.append(f"> {_cell(finding.remedy)}")
    return "\n\n".join(lines)


def render_junit(findings: Sequence[Finding], *, name: str = "gendebug") -> str:
    """JUnit XML for a CI server: one case per finding.

    Warn and fail are failures, a check that broke is an error.
    """
    counts = {
        "tests": len(findings),
        "failures": sum(finding.severity in (Severity.WARN, Severity.FAIL) for finding in findings),
        "errors": sum(finding.severity is Severity.ERRORED for finding in findings),
        "skipped": sum(finding.severity is Severity.SKIPPED for finding in findings),
    }
    suite = ElementTree.Element(
        "testsuite", {"name": _legal(name)} | {key: str(value) for key, value in counts.items()}
    )
    for finding in findings:
        title = finding.subject or finding.check
        case = ElementTree.SubElement(
            suite, "testcase", classname=finding.check, name=_legal(title)
        )
        kind = {"warn": "failure", "fail": "failure", "errored": "error", "skipped": "skipped"}.get(
            finding.severity.value
        )
        if kind is not None:
            entry = ElementTree.SubElement(
                case, kind, message=_legal(finding.summary), type=finding.cause.value
            )
            entry.text = _legal(str(finding.numbers.get("traceback") or finding.remedy))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _bill_lines(bill: Bill | None, heading: str, line: Callable[[str], str]) -> list[str]:
    """What each cause carries of the quality that was lost; nothing where nothing was."""
    if bill is None or not (bill.fell or bill.billed):
        return []
    return [heading, *map(line, bill.sentences()), ""]


def _cause(likely: LikelyCause) -> str:
    where = f" in {likely.subject}" if likely.subject else ""
    also = f" and {len(likely.subjects) - 1} more" if len(likely.subjects) > 1 else ""
    checks = ", ".join(dict.fromkeys(finding.check for finding in likely.findings))
    symptoms = ", ".join(dict.fromkeys(_cause_words(finding.cause) for finding in likely.symptoms))
    return f"{_cause_words(likely.cause)}{where}{also} ({checks})" + (
        f"; explains {symptoms}" if symptoms else ""
    )


def _cause_words(cause: Cause) -> str:
    return "fall of the quality" if cause is Cause.UNKNOWN else words(cause)


def _quiet(findings: Sequence[Finding]) -> list[str]:
    """What was ruled out, and what did not run, one line for each reason."""
    ruled_out = sorted({finding.check for finding in findings if finding.severity is Severity.OK})
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.severity is Severity.SKIPPED:
            skipped.setdefault(finding.summary, []).append(finding.check)
    lines = [""] if ruled_out or skipped else []
    if ruled_out:
        lines.append(_wrapped(f"Ruled out by: {', '.join(ruled_out)}", ""))
    lines += [
        _wrapped(f"{reason.rstrip('.')}: {', '.join(sorted(checks))}", "  ")
        for reason, checks in sorted(skipped.items())
    ]
    return lines


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        printable(" ".join(text.split())),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
    )


def _cell(text: str) -> str:
    escaped = (
        printable(text)
        .replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return " ".join(escaped.split())


def _legal(text: str) -> str:
    return without_controls(_ILLEGAL.sub("", text))
