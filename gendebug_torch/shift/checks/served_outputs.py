"""`shift.served_outputs`: what is served answers as the network that was validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.model.evaluation import Model
from gendebug_torch.shift.serving.output_parity import OutputParity, output_parity


def _cost(given: Mapping[str, Any]) -> Cost:
    validation = given.get("validation")
    rows = 0 if validation is None else min(len(validation), 2000)
    return Cost(forwards=3.0 * rows + 2000, elements=50.0 * rows)


@check(
    "shift.served_outputs",
    cause=Cause.TRAIN_SERVE_SKEW,
    needs=("model", "served", "validation.features"),
    cost=_cost,
)
def what_is_served_answers_as_the_network(
    model: Model,
    served: Model,
    validation: Records,
    *,
    tolerance: float = 1e-3,
    max_changed: float = 0.0,
    rows: int = 2000,
) -> Iterator[Finding]:
    """What is served gives the same rows the same outputs as the network that was validated.

    The same inputs go through both. Where outputs differ, every difference that has a name (classes
    in another order, probabilities in place of logits, weights rounded to half precision, what
    serving code does to images and series) is done to the network, and the one that makes it
    answer as the served model does is named; where both are PyTorch, so is the first weight or
    module that differs.

    Source: Breck et al. (2019), Data validation for machine learning, MLSys, section 3.2; Jouppi
    et al. (2021), ISCA, for the size of rounding errors in bfloat16.

    Args:
        model: network to logits.
        served: what is served in its place: a module or callable of the same inputs.
        validation: records whose inputs both are asked for.
        tolerance: largest difference that counts as equal, relative to the largest output.
        max_changed: share of decisions that may change.
        rows: most rows that are asked for.
    """
    this = what_is_served_answers_as_the_network
    inputs = model_inputs(validation)[:rows]
    if not len(inputs):
        yield this.finding(Severity.NOTE, "Not judged: no rows.")
        return
    found = output_parity(model, served, inputs, tolerance=tolerance)
    changed = float(found.changed.double().mean())
    gap = float(found.difference.max())
    numbers = {
        "rows": len(inputs),
        "largest_difference": gap,
        "mean_difference": float(found.difference.double().mean()),
        "relative": gap / max(found.scale, 1e-12),
        "changed": changed,
        "explanation": None if found.explanation is None else found.explanation.name,
        "first_difference": found.first,
    }
    if found.again > found.limit:
        yield this.finding(
            Severity.FAIL,
            f"What is served answers the same rows differently each time: by up to "
            f"{found.again:.3g} of outputs up to {found.scale:.3g}.",
            subject="random",
            numbers=numbers | {TO_REPAIR: True},
            remedy="Export it in evaluation mode: dropout or sampling is active.",
            evidence=found,
        )
        return
    size = f"largest difference {gap:.3g} of outputs up to {found.scale:.3g}"
    if found.is_equal:
        text = f"What is served answers as the network on {len(inputs):,} rows: {size}."
        yield this.finding(Severity.OK, text, numbers=numbers)
        return
    severity = Severity.FAIL if changed > max_changed else Severity.WARN
    yield this.finding(
        severity,
        f"What is served differs from the network on {_share(found)} of {len(inputs):,} rows "
        f"({size}); {changed:.1%} of the decisions change.{_why(found)}",
        subject="" if found.explanation is None else found.explanation.name,
        numbers=numbers | {TO_REPAIR: True},
        remedy=_remedy(found),
        evidence=found,
    )


def _share(found: OutputParity) -> str:
    return f"{float((found.difference > found.limit).double().mean()):.1%}"


def _why(found: OutputParity) -> str:
    why = "" if not found.first else f" The first that differs: {found.first}."
    if found.explanation is None:
        return why
    left = f"{found.remaining:.1%} of the difference remains"
    return f" It answers as if {found.explanation.text} ({left} then).{why}"


def _remedy(found: OutputParity) -> str:
    if found.explanation is not None:
        return (
            f"Correct the export or the serving code: it answers as if {found.explanation.text}. "
            "Then compare again."
        )
    weights = torch.isfinite(found.served).all() and found.first.startswith("weights")
    if weights:
        return "Export the weights that were validated, then compare again."
    return (
        "Compare one row step by step: the inputs as serving prepares them, then the outputs; "
        "raise `tolerance` if this precision is wanted."
    )
