"""`report.html` and `findings.json` in one directory, both replaced or none."""

from __future__ import annotations

from pathlib import Path

from gendebug_torch.data.files import replacing_files


def write_report(directory: str | Path, html: str, findings_json: str) -> Path:
    """Write both files and return the path of the page.

    Args:
        directory: path of the directory, made if needed; other files in it stay.
        html: content of `report.html`.
        findings_json: content of `findings.json`.

    Raises:
        InputError: the directory cannot be written; both old files are then whole.
    """
    with replacing_files(directory, ["findings.json", "report.html"], "out") as scratch:
        (scratch / "findings.json").write_text(findings_json, encoding="utf-8", newline="")
        (scratch / "report.html").write_text(html, encoding="utf-8", newline="")
    return Path(directory) / "report.html"
