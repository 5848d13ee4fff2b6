"""One self-contained page: no script, no request; every name is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from gendebug_torch._plotting import png
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.report.text import Causes, words

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

# Pictures are what makes a page heavy; the worst findings get them.
_PICTURES = 40
_ROWS = 30
_CAUSES = 8
ADVICE = {
    "nothing": "All is within noise. Keep watching.",
    "recalibrate": "Ranking held, probabilities did not: fit a temperature and ship the recalibrated network.",
    "move_threshold": "The scores are sound, the operating point is not: choose the threshold again on recent labels.",
    "fix_data": "A feature, a split or the labels are broken: mend them before anything is trained again.",
    "retrain": "The world or the training went another way: retrain, as the reasons below say.",
    "redesign": "The model cannot express what is asked: change features or architecture first.",
}


def render_html(
    findings: Sequence[Finding],
    *,
    title: str,
    decision: str,
    reasons: Sequence[str],
    causes: Causes,
    tables: Mapping[str, pd.DataFrame] | None = None,
    pictures: Mapping[str, Any] | None = None,
    context: Mapping[str, str] | None = None,
) -> str:
    """The whole report as one HTML document, worst findings first.

    Args:
        findings: all of them; the first forty that alarm are drawn.
        title: of the page.
        decision: one of the decisions of a diagnosis.
        reasons: sentences behind it.
        causes: (cause, subject, findings that support it), likeliest first.
        tables: further tables by caption.
        pictures: further pictures by caption: evidence with `plot`, or PNG bytes.
        context: what went in, by name.
    """
    numbered = list(enumerate(findings))
    alarming = [i for i, finding in numbered if finding.severity.level >= Severity.NOTE.level and finding.evidence is not None]
    drawn = set(alarming[:_PICTURES])
    place = {id(finding): i for i, finding in numbered}
    return _template().render(
        title=title,
        decision=decision,
        advice=ADVICE.get(decision, ""),
        reasons=reasons,
        causes=[_cause(*likely, place) for likely in causes[:_CAUSES]],
        more_causes=max(0, len(causes) - _CAUSES),
        entries=[_entry(i, finding, i in drawn) for i, finding in numbered],
        counts=_counts(findings),
        undrawn=len(alarming) - len(drawn),
        tables={name: _table(table) for name, table in (tables or {}).items()},
        pictures={name: _picture(picture) for name, picture in (pictures or {}).items()},
        context=context or {},
        words=words,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(resources.files("gendebug_torch.report").joinpath("report.html.jinja").read_text("utf-8"))


def _cause(cause: Cause, subject: str, supported_by: Sequence[Finding], place: Mapping[int, int]) -> dict[str, Any]:
    return {
        "cause": words(cause.value),
        "subject": subject,
        "findings": [{"finding": finding, "anchor": place.get(id(finding))} for finding in supported_by],
        "remedy": next((finding.remedy for finding in supported_by if finding.remedy), ""),
    }


def _entry(number: int, finding: Finding, draw: bool) -> dict[str, Any]:
    table = finding.evidence.table() if draw and hasattr(finding.evidence, "table") else None
    numbers = {key: value for key, value in finding.numbers.items() if key != "traceback"}
    return {
        "anchor": number,
        "finding": finding,
        "cause": words(finding.cause.value),
        "numbers": {key: _number(value) for key, value in numbers.items()},
        "traceback": finding.numbers.get("traceback", ""),
        "picture": _picture(finding.evidence) if draw else None,
        "table": None if table is None else _table(table),
    }


def _picture(evidence: Any) -> dict[str, str]:
    """The picture as a data URI; a plot that breaks leaves its reason in place of the picture, not a lost report."""
    if isinstance(evidence, bytes):
        return {"source": _uri(evidence), "problem": ""}
    try:
        return {"source": _uri(png(evidence)), "problem": ""}
    except Exception as error:
        return {"source": "", "problem": f"This picture could not be drawn: {type(error).__name__}: {error}"}


def _uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def _table(table: pd.DataFrame) -> dict[str, Any]:
    head = table.head(_ROWS)
    rows = [[_number(value) for value in row] for row in head.itertuples(index=False)]
    numeric = [dtype.kind in "iuf" for dtype in head.dtypes]
    return {"columns": [str(column) for column in head.columns], "rows": rows, "numeric": numeric, "more": len(table) - len(head)}


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if value != value else f"{value:.4g}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "n/a"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return str(value)


def _counts(findings: Sequence[Finding]) -> list[tuple[str, int]]:
    order = [Severity.FAIL, Severity.WARN, Severity.NOTE, Severity.OK, Severity.SKIPPED, Severity.ERRORED]
    counted = [(severity.value, sum(finding.severity is severity for finding in findings)) for severity in order]
    return [(name, count) for name, count in counted if count]
