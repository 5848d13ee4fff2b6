"""`report.html` and `findings.json` in one directory, each whole or not at all."""

from __future__ import annotations

from pathlib import Path

from gendebug_torch.data.files import write_whole
from gendebug_torch.errors import reject


def write_report(directory: str | Path, html: str, findings_json: str) -> Path:
    """Write both files and return the path of the page.

    Raises:
        InputError: the directory cannot be written.
    """
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / "findings.json", findings_json)
        write_whole(target / "report.html", html)
    except OSError as error:
        reject(
            "out",
            "a directory that can be written",
            f"{target}: {error.strerror}",
            "Choose another directory.",
        )
    return target / "report.html"
