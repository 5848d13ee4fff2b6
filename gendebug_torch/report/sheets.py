"""Tables for a person to fill in, as CSV for spreadsheets or as an HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path

import pandas as pd

from gendebug_torch.data.files import write_whole
from gendebug_torch.errors import reject

_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ddd;padding:.3em "
    ".6em;text-align:left;vertical-align:top}th{background:#f5f5f5;position:sticky;top:0}"
)
# A spreadsheet runs text that begins with one of these as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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
    text = _csv(sheet) if target.suffix == ".csv" else _html(sheet, title)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text)
    except OSError as error:
        reject("path", "a writable path", f"{target}: {error.strerror}", "Choose another path.")
    return target


def _csv(sheet: pd.DataFrame) -> str:
    return sheet.map(
        lambda value: (
            f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
        )
    ).to_csv(index=False)


def _html(sheet: pd.DataFrame, title: str) -> str:
    table = sheet.to_html(
        index=False, escape=True, na_rep="", border=0, float_format=lambda value: f"{value:.4g}"
    )
    heading = escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta '
        f'charset="utf-8"><title>{heading}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{heading}</h1>{table}</body></html>\n"
    )
