"""One self-contained page: no request; its own script alone may run; every name is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias

from gendebug_torch.checks.evidence import png
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check, all_checks
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.progress import progress_bar
from gendebug_torch.report.text import finding_markdown, printable, words

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

    from gendebug_torch.diagnosis.apportioning.bill import Bill
    from gendebug_torch.diagnosis.causes import LikelyCause
    from gendebug_torch.diagnosis.decision import Decision

_Draw: TypeAlias = Callable[[Any], dict[str, str]]
# Pictures are what makes a page heavy; the worst findings get them.
_PICTURES = 40
_ROWS = 30
# What a command was asked for is shown in full: a sheet of fifty rows is to be read.
_MEASURED_ROWS = 60
# Seconds of the first picture, with what it imports.
_FIRST_PICTURE = 1.0
_NO_TIME = "This picture is not drawn: the budget was spent."
_CAUSES = 8
_SUPPORT = 6
ADVICE = {
    "nothing": "All is within noise. Keep watching.",
    "recalibrate": "Ranking held, probabilities did not: fit a temperature and ship the "
    "recalibrated network.",
    "move_threshold": "The scores are sound, the operating point is not: choose the threshold "
    "again on recent labels.",
    "fix_data": "A feature, a split or the labels are broken: repair it before anything is "
    "trained again.",
    "retrain": "The world or the training went another way: retrain, as the reasons below say.",
    "investigate": "Quality fell, or a remedy was tried in vain, and no check says why: look at "
    "the rows below before you act.",
    "redesign": "The model cannot express what is asked: change features or architecture first.",
}


def render_html(
    findings: Sequence[Finding],
    *,
    title: str,
    verdict: Decision,
    causes: Sequence[LikelyCause],
    tables: Mapping[str, pd.DataFrame] | None = None,
    pictures: Mapping[str, Any] | None = None,
    context: Mapping[str, str] | None = None,
    schedule: pd.DataFrame | None = None,
    bill: Bill | None = None,
    deadline: Deadline = NO_DEADLINE,
) -> str:
    """The whole report as one HTML document, worst findings first.

    Args:
        findings: all of them; the first forty that alarm are drawn.
        title: of the page.
        verdict: the decision, its reasons and what would change it.
        causes: root causes, likeliest first.
        tables: further tables by caption.
        pictures: further pictures by caption: evidence with `plot`, or PNG bytes.
        context: what went in, by name.
        schedule: row per check with its value and what it took.
        bill: what each cause carries of the quality that was lost.
        deadline: end of the time for pictures; the page says which are not drawn.
    """
    drawn = _drawn(findings, pictures or {}, bill, deadline)
    entries = drawn["entries"]
    place = {id(finding): i for i, finding in enumerate(findings)}
    shown_causes = [_cause(likely, place) for likely in causes[:_CAUSES]]
    return _template().render(
        title=title,
        decision=verdict.name,
        advice=ADVICE.get(verdict.name, ""),
        reasons=verdict.reasons,
        would_change=verdict.would_change,
        headline=_headline(shown_causes, entries),
        causes=shown_causes,
        more_causes=max(0, len(causes) - _CAUSES),
        counts=_counts(findings),
        tables={name: _table(table, _MEASURED_ROWS) for name, table in (tables or {}).items()},
        context=context or {},
        schedule=None if schedule is None else _table(schedule, rows=len(schedule)),
        words=words,
        **drawn,
        **_grouped(entries),
        **_assets(),
    )


def _drawn(
    findings: Sequence[Finding],
    pictures: Mapping[str, Any],
    bill: Bill | None,
    deadline: Deadline,
) -> dict[str, Any]:
    """All parts of the page that have pictures, which take most of its time."""
    alarming = _alarming(findings)
    evidence = set(alarming[:_PICTURES])
    total = len(evidence) + len(pictures) + (bill is not None)
    with progress_bar(total, "pictures", show=deadline.progress) as finished:
        draw = _drawn_until(deadline, finished)
        return {
            "entries": _entries(findings, draw, evidence),
            "undrawn": len(alarming) - len(evidence),
            "pictures": {name: draw(picture) for name, picture in pictures.items()},
            "bill": _bill(bill, draw),
        }


def _bill(bill: Bill | None, draw: _Draw) -> dict[str, Any] | None:
    """Picture, table and headline of a bill; None where nothing was lost."""
    if bill is None or not (bill.fell or bill.billed):
        return None
    rows = []
    for line in bill.lines:
        trial = line.remedy
        won = "" if trial is None else _with_interval(trial.points, trial.low, trial.high)
        points = _with_interval(line.points, line.low, line.high)
        tried = ("", "") if trial is None else (words(trial.remedy), trial.cost)
        rows.append([words(line.cause), line.subject, points, tried[0], won, tried[1]])
    columns = ["cause", "where", "points lost", "remedy tried", "points won back", "its cost"]
    table = {"columns": columns, "rows": rows, "numeric": [False] * len(columns), "more": 0}
    return {"picture": draw(bill), "table": table, "headline": bill.sentences()[0]}


def _with_interval(points: float, low: float, high: float) -> str:
    """`57.5 (52.8 to 62.2)`; where the points are not known, that."""
    if points != points:
        return "not known"
    return f"{points:.3g} ({low:.3g} to {high:.3g})" if low == low else f"{points:.3g}"


def _alarming(findings: Sequence[Finding]) -> list[int]:
    """Places of the findings that say something and have evidence to draw."""
    return [
        i
        for i, finding in enumerate(findings)
        if finding.severity.level >= Severity.NOTE.level and finding.evidence is not None
    ]


def _entries(findings: Sequence[Finding], draw: _Draw, drawn: set[int]) -> list[dict[str, Any]]:
    """What the page shows of every finding."""
    checks = {check.name: check for check in all_checks()}
    return [
        _entry(i, finding, draw if i in drawn else None, checks)
        for i, finding in enumerate(findings)
    ]


def _grouped(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The findings that say something, those that rule out, and what was not judged."""
    groups: dict[str, list[dict[str, Any]]] = {"loud": [], "quiet": [], "unjudged": []}
    for entry in entries:
        finding = entry["finding"]
        ok = finding.severity is Severity.OK
        groups["quiet" if ok else "unjudged" if _says_nothing(finding) else "loud"].append(entry)
    shown = {entry["finding"].severity for entry in groups["loud"]}
    ordered = sorted(shown, key=lambda severity: -severity.level)
    return {**groups, "filters": [severity.value for severity in ordered]}


def _says_nothing(finding: Finding) -> bool:
    """Whether a finding only tells that nothing was judged: no number, no evidence."""
    silent = not finding.numbers and finding.evidence is None
    note = finding.severity is Severity.NOTE and silent
    return finding.severity is Severity.SKIPPED or note


def _headline(
    causes: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The finding whose picture stands beside the decision: a cause's first one that has one."""
    shown = [entry["anchor"] for cause in causes for entry in cause["findings"]]
    candidates = [entries[anchor] for anchor in shown if anchor is not None]
    return next((entry for entry in candidates if (entry["picture"] or {}).get("source")), None)


@cache
def _assets() -> dict[str, str]:
    """Style and script of the page, and the hash by which its policy knows the script."""
    from markupsafe import Markup

    folder = resources.files("gendebug_torch.report")
    style, script = (
        folder.joinpath(f"report.{kind}").read_text("utf-8").strip() for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_hash": f"sha256-{digest}"}


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_readable,
    )
    return environment.from_string(
        resources.files("gendebug_torch.report").joinpath("report.html.jinja").read_text("utf-8")
    )


def _readable(value: Any) -> Any:
    """Names without control characters and marks of direction; markup of our own as it is."""
    return printable(value) if type(value) is str else value


def _cause(likely: LikelyCause, place: Mapping[int, int]) -> dict[str, Any]:
    def shown(findings: Sequence[Finding]) -> list[dict[str, Any]]:
        return [
            {"finding": finding, "anchor": place.get(id(finding))}
            for finding in findings[:_SUPPORT]
        ]

    return {
        "cause": words(likely.cause.value),
        "subject": likely.subject,
        "also": likely.subjects[1:_SUPPORT],
        "findings": shown(likely.findings),
        "symptoms": shown(likely.symptoms),
        "remedy": next((finding.remedy for finding in likely.findings if finding.remedy), ""),
    }


def _entry(
    number: int, finding: Finding, draw: _Draw | None, checks: Mapping[str, Check]
) -> dict[str, Any]:
    table = finding.evidence.table() if draw and hasattr(finding.evidence, "table") else None
    numbers = {key: value for key, value in finding.numbers.items() if key != "traceback"}
    return {
        "anchor": number,
        "finding": finding,
        "cause": words(finding.cause.value),
        "numbers": {key: _number(value) for key, value in numbers.items()},
        "traceback": finding.numbers.get("traceback", ""),
        "picture": None if draw is None else draw(finding.evidence),
        "table": None if table is None else _table(table),
        "about": _about(checks.get(finding.check)),
        "markdown": finding_markdown(finding),
    }


def _about(check: Check | None) -> dict[str, Any] | None:
    """What the check claims, how it is computed and its source, from its docstring."""
    if check is None:
        return None
    how = [" ".join(paragraph.split()) for paragraph in check.description.split("\n\n")]
    return {"claim": check.summary, "how": [text for text in how if text], "source": check.source}


def _drawn_until(deadline: Deadline, finished: Callable[[int], object]) -> _Draw:
    """Draws while there is time for one more picture, by what the last one took."""
    taken = [_FIRST_PICTURE]

    def draw(evidence: Any) -> dict[str, str]:
        if deadline.left < taken[-1]:
            return {"source": "", "problem": _NO_TIME}
        began = deadline.spent
        picture = _picture(evidence)
        taken.append(deadline.spent - began)
        finished(1)
        return picture

    return draw


def _picture(evidence: Any) -> dict[str, str]:
    """The picture as a data URI; a plot that breaks leaves its reason in place of the picture."""
    if isinstance(evidence, bytes):
        return {"source": _uri(evidence), "problem": ""}
    try:
        return {"source": _uri(png(evidence)), "problem": ""}
    except Exception as error:
        return {
            "source": "",
            "problem": f"This picture could not be drawn: {type(error).__name__}: {error}",
        }


def _uri(picture: bytes) -> str:
    from markupsafe import Markup

    # Markup of our own: base64 needs no escaping, and is longer than any name.
    return Markup(f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}")


def _table(table: pd.DataFrame, rows: int = _ROWS) -> dict[str, Any]:
    head = table.head(rows)
    cells = [[_number(value) for value in row] for row in head.itertuples(index=False)]
    numeric = [dtype.kind in "iuf" for dtype in head.dtypes]
    return {
        "columns": [str(column) for column in head.columns],
        "rows": cells,
        "numeric": numeric,
        "more": len(table) - len(head),
    }


def _number(value: Any) -> str:
    if isinstance(value, float):
        return (
            "n/a"
            if value != value
            else f"{value:,.0f}"
            if value.is_integer() and abs(value) < 1e15
            else f"{value:.4g}"
        )
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "n/a"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return str(value)


def _counts(findings: Sequence[Finding]) -> list[tuple[str, int]]:
    order = [
        Severity.FAIL,
        Severity.WARN,
        Severity.NOTE,
        Severity.OK,
        Severity.SKIPPED,
        Severity.ERRORED,
    ]
    counted = [
        (severity.value, sum(finding.severity is severity for finding in findings))
        for severity in order
    ]
    return [(name, count) for name, count in counted if count]
