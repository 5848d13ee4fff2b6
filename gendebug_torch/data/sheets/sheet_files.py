"""Tables for a person to fill in, as CSV for spreadsheets or as an HTML page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from gendebug_torch.data.files import without_controls, write_whole
from gendebug_torch.errors import reject

_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ddd;padding:.3em "
    ".6em;text-align:left;vertical-align:top}th{background:#f5f5f5;position:sticky;top:0}"
)
# A spreadsheet runs text that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t")
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)


def write_sheet(sheet: pd.DataFrame, path: str | Path, *, title: str = "Rows to look at") -> Path:
    """Write a table as CSV or HTML by its suffix, whole or not at all; returns the path.

    The HTML page escapes every value. In CSV, text that a spreadsheet would run as a formula is
    quoted.

    Args:
        sheet: table, `[n, c]`.
        path: file to write, with the suffix .csv or .html; its directory is made.
        title: heading of the HTML page.

    Raises:
        InputError: another suffix, or a path that cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".csv", ".html"):
        reject("path", "a .csv or .html file", str(target), "Choose one of them.")
    text = csv_text(sheet) if target.suffix == ".csv" else _html(sheet, title)
    return write_whole(target, text)


def csv_text(sheet: pd.DataFrame) -> str:
    """A table as CSV whose names and texts do nothing in a spreadsheet or on a terminal.

    Text that would be run as a formula is quoted; control characters and marks of direction are
    escaped.

    Args:
        sheet: table, `[n, c]`.
    """
    return _harmless(sheet, _csv_cell).to_csv(index=False)


def _harmless(sheet: pd.DataFrame, cell: Callable[[Any], Any]) -> pd.DataFrame:
    """The table with its names and texts made harmless."""
    return sheet.map(cell).set_axis([cell(str(name)) for name in sheet.columns], axis=1)


def _csv_cell(value: Any) -> Any:
    text = _cell(value)
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text


def _cell(value: Any) -> Any:
    return without_controls(value) if isinstance(value, str) else value


def _html(sheet: pd.DataFrame, title: str) -> str:
    table = _harmless(sheet, _cell).to_html(
        index=False, escape=True, na_rep="", border=0, float_format=lambda value: f"{value:.4g}"
    )
    heading = escape(without_controls(title))
    return (
        '<!doctype html><html lang="en"><head><meta '
        f'charset="utf-8">{_POLICY}<title>{heading}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{heading}</h1>{table}</body></html>\n"
    )
