"""Guarded steps of a diagnosis: what breaks becomes a finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gendebug_torch.checks.finding import Finding, errored_finding

T = TypeVar("T")


def attempt(findings: list[Finding], step: str, work: Callable[[], T]) -> T | None:
    """The result of a step; where it breaks, None and an errored finding, so that the rest runs."""
    try:
        return work()
    except Exception as error:
        findings.append(errored_finding(step, error))
        return None
