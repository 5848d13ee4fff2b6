"""The bill within a diagnosis: where it cannot be had, a note says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.diagnosis.apportioning.apportion import apportioned, expected
from gendebug_torch.diagnosis.apportioning.bill import Bill
from gendebug_torch.diagnosis.causes import likely_causes
from gendebug_torch.errors import Deadline, InputError, OutOfTime
from gendebug_torch.shift.quality.quality_change import QualityChange

_METRICS = ("AUC", "accuracy", "RMSE")


def diagnosed_bill(
    findings: list[Finding],
    given: Mapping[str, Any],
    device: str | torch.device,
    deadline: Deadline,
    quality: QualityChange | None = None,
) -> Bill | None:
    """The bill of the causes that findings name; None, with a note among them, where there is none.

    Args:
        findings: findings of all checks, to which the note is added.
        given: inputs of the diagnosis by name.
        device: of the network.
        deadline: end of the budget.
        quality: quality of both sides, whose principal metric is billed.
    """
    validation, production = given["validation"], given["production"]
    if validation is None or production is None:
        return None
    try:
        deadline.check()
        causes = likely_causes(findings)
        sides = (given["model"], validation, production)
        metric = None if quality is None else _metric(quality.principal.name)
        billed = expected if production.targets is None else apportioned
        return billed(causes, *sides, metric=metric, device=device, deadline=deadline)
    except (InputError, OutOfTime) as error:
        late = isinstance(error, OutOfTime)
        text = f"No bill of the quality that was lost: {error}"
        remedy = "Raise the budget." if late else "Give labels and outputs of both sides."
        findings.append(
            Finding(
                "diagnose.bill",
                Cause.UNKNOWN,
                Severity.SKIPPED if late else Severity.NOTE,
                text if text.endswith(".") else f"{text}.",
                remedy=remedy,
                inputs=("validation", "production"),
            )
        )
        return None


def _metric(name: str) -> str | None:
    """The metric of a bill that a metric of the quality is, e.g. of `mean AUC of the labels`."""
    return next((metric for metric in _METRICS if metric in name), None)
