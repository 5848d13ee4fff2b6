import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import pandas as pd
import pytest

from gendebug_torch import Cause, Diagnosis, Finding, Severity
from gendebug_torch.checks.evidence import axes
from gendebug_torch.diagnosis.causes import likely_causes
from gendebug_torch.diagnosis.decision import decide
from gendebug_torch.errors import InputError
from gendebug_torch.report import (
    render_html,
    render_junit,
    render_markdown,
    render_text,
    write_report,
)
from gendebug_torch.report.text import finding_markdown

EVIL = "<script>alert('x')</script>|`\\"


@dataclass(frozen=True)
class Bars:
    name: str = "amount"

    def table(self):
        return pd.DataFrame({self.name: range(50), "share": 0.123456})

    def plot(self, ax=None):
        ax = axes(ax)
        ax.bar([0, 1], [1, 2])
        ax.set_title("t")
        return ax


class Broken(Bars):
    def plot(self, ax=None):
        raise ValueError("no picture today")


def finding(severity=Severity.FAIL, subject="amount", evidence=None, **numbers):
    told = f"{subject} moved by 3 sd"
    return Finding(
        "shift.ks", Cause.COVARIATE_SHIFT, severity, told, subject, numbers, "Look at it.", evidence
    )


FINDINGS = (
    finding(evidence=Bars(), distance=0.25, interval=[0.2, None], rows=12345),
    finding(Severity.WARN, EVIL, Bars(EVIL)),
    Finding("curves.regime", Cause.OVERFITTING, Severity.OK, "The curves are sound."),
    Finding(
        "calibration.ece",
        Cause.MISCALIBRATION,
        Severity.SKIPPED,
        "Skipped: needs validation.logits.",
    ),
    Finding(
        "slices.worst",
        Cause.SUBGROUP_FAILURE,
        Severity.ERRORED,
        "Broke with ValueError: x",
        numbers={"traceback": "Traceback: <b>"},
    ),
)


def said(findings=FINDINGS):
    causes = likely_causes(findings)
    return {"title": "Report", "verdict": decide(causes), "causes": causes}


def test_the_page_shows_every_finding_and_stands_alone():
    page = render_html(FINDINGS, **said(), context={"train": "5 rows"})
    assert len(set(re.findall(r'id="finding-(\d+)"', page))) == len(FINDINGS)
    for piece in (
        "retrain",
        "Look at it.",
        "12,345",
        "data:image/png;base64,",
        "train: 5 rows",
        "20 further rows",
    ):
        assert piece in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in page


def test_the_policy_allows_the_own_script_alone():
    page = render_html(FINDINGS, **said())
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "unsafe-inline" not in page.partition("script-src")[2].partition('"')[0]


def test_findings_are_grouped_by_what_they_say():
    silent = Finding("shift.over_time", Cause.CONCEPT_DRIFT, Severity.NOTE, "Not judged: no time.")
    page = render_html([*FINDINGS, silent], **said())
    found, _, rest = page.partition('id="ruled-out"')
    ruled_out, _, unjudged = rest.partition('id="not-judged"')
    assert "Not judged: no time." not in found + ruled_out
    for name in ("shift.over_time", "calibration.ece"):
        assert name in unjudged
    assert "curves.regime" in ruled_out
    assert "About this check" in found
    assert "Smirnov (1939)" in found


def test_a_finding_as_markdown():
    text = finding_markdown(finding(subject=EVIL))
    assert text.startswith("**fail** `shift.ks` · &lt;script&gt;")
    assert text.endswith("> Look at it.")


def test_every_name_is_escaped():
    page = render_html(
        FINDINGS,
        **said(),
        tables={EVIL: pd.DataFrame({EVIL: [EVIL]})},
        pictures={EVIL: Bars()},
        context={EVIL: EVIL},
    )
    assert page.count("<script") == 1, "the page's own, by the hash of its policy"
    assert "&lt;script&gt;" in page
    assert "<b>" not in page


def test_a_plot_that_breaks_does_not_lose_the_report():
    page = render_html([finding(evidence=Broken())], **said())
    assert "no picture today" in page
    assert "Look at it." in page


def test_only_the_worst_findings_are_drawn(monkeypatch):
    monkeypatch.setattr("gendebug_torch.report.page.png", lambda evidence: b"a picture")
    many = [finding(subject=f"column_{i}", evidence=Bars()) for i in range(60)]
    page = render_html(many, **said(many[:3]))
    assert page.count("data:image/png") == 40 + 1, "one stands beside the decision too"
    assert "20 more have evidence that is not drawn" in page


def test_text_fits_a_terminal_and_tells_what_to_do():
    text = render_text(FINDINGS, **said())
    assert max(map(len, text.splitlines())) <= 100
    for piece in ("Report: retrain", "Likely causes", "What would change this", "> Look at it."):
        assert piece in text
    assert "Ruled out by: curves.regime" in text
    assert "needs validation.logits" in text


def test_markdown_keeps_its_table_whole():
    rows = [
        line for line in render_markdown(FINDINGS, **said()).splitlines() if line.startswith("|")
    ]
    assert len(rows) == 2 + len(FINDINGS)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert not any("<script" in row for row in rows)


def test_junit_counts_and_survives_control_characters():
    suite = ElementTree.fromstring(render_junit([*FINDINGS, finding(subject="bell\x07")]))
    assert [int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")] == [
        6,
        3,
        1,
        1,
    ]
    assert [case.get("name") for case in suite][-1] == "bell"


def test_a_long_diagnosis_is_written_whole(tmp_path):
    diagnosis = Diagnosis(FINDINGS)
    assert diagnosis.write(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "report.html"
    assert len(json.loads((tmp_path / "a" / "b" / "findings.json").read_text())) == len(FINDINGS)
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["findings.json", "report.html"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="`out`: expected a directory that can be written"):
        write_report(tmp_path / "file", "<html>", "[]")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    write_report(tmp_path, "old", "[]")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="No space left"):
        write_report(tmp_path, "new", "[]")
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["findings.json", "report.html"]


@pytest.mark.parametrize("step", range(1, 5))
def test_both_files_are_replaced_or_none(tmp_path, monkeypatch, step):
    write_report(tmp_path, "old", '["old"]')
    steps, replace = [], os.replace

    def fail_once(source, target):
        steps.append(source)
        if len(steps) == step:
            raise OSError(27, "File too large")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(InputError, match="File too large"):
        write_report(tmp_path, "new", '["new"]')
    texts = [(tmp_path / name).read_text() for name in ("report.html", "findings.json")]
    assert texts == ["old", '["old"]']


def test_an_empty_report_reads_well():
    page = render_html([], **said([]))
    assert "No check ran." in page
    assert "Nothing" in page or "nothing" in page


def test_findings_without_numbers_are_fine():
    assert "<dl>" not in render_html([replace(FINDINGS[2])], **said([]))


def test_nothing_that_acts_on_a_terminal_is_printed_or_reordered():
    hostile = "\x1b[2J\x07\r\x00\u202eevil\u2066" + "x" * 100_000
    findings = [finding(Severity.FAIL, hostile)]
    diagnosis = Diagnosis(tuple(findings))
    for text in (str(diagnosis), diagnosis.to_html(), diagnosis.to_markdown()):
        assert not set("\x1b\x07\r\x00\u202e\u2066") & set(text)
        assert len(text) < 60_000
    assert "\\x1b" in str(diagnosis)
