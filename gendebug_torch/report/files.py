"""`report.html` and `findings.json` in one directory, both replaced or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gendebug_torch.data.files import replacing_files

if TYPE_CHECKING:
    from gendebug_torch.diagnosis.apportioning.bill import Bill

# What a report has only at times: the one of an earlier report does not stay beside a later one.
_AT_TIMES = ("bill.json",)


def bill_files(bill: Bill | None) -> dict[str, str]:
    """Content of `bill.json` by its name; nothing without a bill."""
    return {} if bill is None else {"bill.json": bill.to_json()}


def write_report(
    directory: str | Path, html: str, findings_json: str, others: Mapping[str, str] | None = None
) -> Path:
    """Write the files of a report, all or none, and return the path of the page.

    Args:
        directory: path of the directory, made if needed; other files in it stay.
        html: content of `report.html`.
        findings_json: content of `findings.json`.
        others: further files by name.

    Raises:
        InputError: the directory cannot be written; all old files are then whole.
    """
    contents = {**(others or {}), "findings.json": findings_json, "report.html": html}
    with replacing_files(directory, list(contents), "out") as scratch:
        for name, text in contents.items():
            (scratch / name).write_text(text, encoding="utf-8", newline="")
    for name in set(_AT_TIMES) - set(contents):
        (Path(directory) / name).unlink(missing_ok=True)
    return Path(directory) / "report.html"
