"""`report.html` and `findings.json` in one directory, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendebug_torch.errors import reject
from gendebug_torch.finding import Finding, findings_to_json
from gendebug_torch.report.page import render_html


def write_report(directory: str | Path, findings: Sequence[Finding], **page: Any) -> Path:
    """Write both files and return the path of the page; `page` goes to `render_html`.

    Raises:
        InputError: the directory cannot be written.
    """
    target = Path(directory)
    html, findings_json = render_html(findings, **page), findings_to_json(findings)
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
