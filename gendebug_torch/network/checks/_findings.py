"""All findings of a `NetworkEvidence`, from root to symptom; and their common form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Finding as Finding
from gendebug_torch.checks.finding import Severity
from gendebug_torch.checks.registry import Check, all_checks
from gendebug_torch.network.evidence import NetworkEvidence

# Of findings that are equally bad, what brings about the others comes first.
_FROM_ROOT = (
    "inputs",
    "nonfinite",
    "unchanged",
    "ranks",
    "evaluation",
    "modes",
    "batches",
    "precision",
    "gradients",
    "optimizer",
    "updates",
    "units",
    "start",
    "one_batch",
    "loss",
)
# What a fit to one batch by our own optimizer says nothing about.
_OF_A_RUN = "a few steps on one batch, before the run"


def network_findings(network: NetworkEvidence, *, alarms: bool = False) -> list[Finding]:
    """What every check of the topic says of a training, worst first, then from root to symptom.

    Args:
        network: evidence of a training or of a preflight.
        alarms: leave out what was skipped for want of input.
    """
    checks = [check for check in all_checks() if check.name.startswith("network.")]
    findings = [finding for check in checks for finding in check.run({"network": network})]
    findings = [f for f in findings if not (alarms and f.severity is Severity.SKIPPED)]
    return sorted(findings, key=lambda f: (-f.severity.level, _rank(f.check)))


def _rank(check: str) -> int:
    name = check.partition(".")[2]
    return _FROM_ROOT.index(name) if name in _FROM_ROOT else len(_FROM_ROOT)


def fault(
    this: Check,
    kind: str,
    summary: str,
    remedy: str,
    *,
    severity: Severity = Severity.WARN,
    subject: str = "",
    step: int | None = None,
    evidence: Any = None,
    **numbers: Any,
) -> Finding:
    """A finding of a fault, with its kind and step among the numbers.

    Args:
        this: check that says it.
        kind: short name of the fault.
        summary: what is wrong.
        remedy: what to do.
        severity: how bad it is.
        subject: dotted name of the module.
        step: optimizer step since which, or at which.
        evidence: value behind it.
        **numbers: further numbers.
    """
    all_numbers = {"kind": kind, "step": step, **numbers}
    return this.finding(
        severity, summary, subject=subject, numbers=all_numbers, remedy=remedy, evidence=evidence
    )


def fine(this: Check, summary: str, **numbers: Any) -> Finding:
    """A finding that nothing was found."""
    return this.finding(Severity.OK, summary, numbers=numbers)


def unjudged(
    this: Check, network: NetworkEvidence, *, steps: int, preflight: bool = False
) -> Iterator[Finding]:
    """A note where a training is too short to be judged, or is a preflight.

    Args:
        this: check that says it.
        network: evidence.
        steps: sampled steps that it needs.
        preflight: whether a preflight is judged too.
    """
    if network.preflight is not None and not preflight:
        summary = f"Not judged: {_OF_A_RUN}."
        yield this.finding(Severity.NOTE, summary, numbers={"sampled": len(network)})
    elif len(network) < steps:
        summary = f"Not judged: {len(network)} sampled steps are fewer than {steps}."
        yield this.finding(Severity.NOTE, summary, numbers={"sampled": len(network)})
