"""Findings for people and machines: a self-contained page, text, Markdown, JUnit, SARIF, JSON."""

from gendebug_torch.report.files import bill_files as bill_files
from gendebug_torch.report.files import write_report as write_report
from gendebug_torch.report.page import render_html as render_html
from gendebug_torch.report.sarif import render_sarif as render_sarif
from gendebug_torch.report.text import render_junit as render_junit
from gendebug_torch.report.text import render_markdown as render_markdown
from gendebug_torch.report.text import render_text as render_text

__all__ = [
    "bill_files",
    "render_html",
    "render_junit",
    "render_markdown",
    "render_sarif",
    "render_text",
    "write_report",
]
