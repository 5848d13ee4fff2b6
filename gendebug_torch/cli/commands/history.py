"""`gendebug history`."""

from __future__ import annotations

from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import option_of
from gendebug_torch.diagnosis.comparison.history import history as history_of


def history(
    folder: str,
    out: str,
    alpha: float = 0.05,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Write one page of trends over a folder of profiles or diagnoses, the oldest first by name.

    Args:
        folder: folder of *.profile files, or of folders with a findings.json.
        out: directory for report.html and findings.json.
        alpha: chance of any false alarm over the whole stream.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    with option_of("folder"):
        found = history_of(folder, alpha=alpha)
    return deliver(
        found.report(),
        out,
        fail_on,
        also=also or (),
        title="History",
        tables=found.tables,
        pictures=found.pictures(),
    )
