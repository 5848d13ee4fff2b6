"""`Comparison`: what changed between two runs, and whether something got worse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gendebug_torch.checks.evidence import notebook_html
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.diagnosis.diagnose import Diagnosis

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changed between two runs.

    Args:
        kind: what was compared: `diagnoses`, `models` or `profiles`.
        changes: one row per question with its answer before and after.
        findings: what is worse, beyond noise, as warnings and failures; the rest as notes.
        disagreements: rows that two models answer differently, the surest mistakes first; None
            where no models were compared.
        context: what went in.
        bills: one row per cause with the points that it carries before and after; None where a
            diagnosis has no bill.
    """

    kind: str
    changes: pd.DataFrame
    findings: tuple[Finding, ...]
    disagreements: pd.DataFrame | None = None
    context: dict[str, str] = field(default_factory=dict)
    bills: pd.DataFrame | None = None

    _repr_html_ = notebook_html

    @property
    def worse(self) -> bool:
        """Whether something got worse beyond noise."""
        return any(finding.severity.level >= Severity.WARN.level for finding in self.findings)

    def table(self) -> pd.DataFrame:
        """One row per question with its answer before and after."""
        return self.changes

    def report(self) -> Diagnosis:
        """The findings as a diagnosis, which can be written, drawn and judged by severity."""
        return Diagnosis(self.findings, self.context)

    def __str__(self) -> str:
        verdict = "Something got worse." if self.worse else "Nothing got worse beyond noise."
        lines = [f"[{f.severity}] {f.summary}" for f in self.findings]
        return "\n".join([verdict, *lines])
