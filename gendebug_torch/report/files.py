"""`report.html` and `findings.json` in one directory, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gendebug_torch.errors import reject


def write_report(directory: str | Path, html: str, findings_json: str) -> Path:
    """Write both files and return the path of the page.

    Raises:
        InputError: the directory cannot be written.
    """
    target = Path(directory)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write(target / "findings.json", findings_json)
        _write(target / "report.html", html)
    except OSError as error:
        reject("out", "a directory that can be written", f"{target}: {error.strerror}", "Choose another directory.")
    return target / "report.html"


def _write(path: Path, text: str) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError:
        Path(scratch).unlink(missing_ok=True)
        raise
