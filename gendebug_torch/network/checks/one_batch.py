"""`network.one_batch`: the network can be fitted to one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence


@check(
    "network.one_batch",
    cause=Cause.TRAINING_FAULT,
    needs=("network.preflight",),
    cost=lambda given: Cost(elements=1.0),
)
def one_batch_can_be_fitted(
    network: NetworkEvidence, *, max_left: float = 0.5, min_gain: float = 0.1
) -> Iterator[Finding]:
    """A copy of the network can be fitted to one batch.

    Source: Karpathy (2019), A recipe for training neural networks: overfit one batch.

    Args:
        network: evidence of a preflight.
        max_left: share of the loss at the start that may be left.
        min_gain: share from which the loss fell at all.
    """
    this, probes = one_batch_can_be_fitted, network.preflight
    assert probes is not None
    if len(probes.losses) < 2:
        summary = "Not judged: the batch has no targets, or the loss was not finite."
        yield this.finding(Severity.NOTE, summary, numbers={"steps": len(probes.losses)})
        return
    start, end = probes.losses[0], min(probes.losses[-10:])
    left = end / start if start > 0 else 0.0
    numbers: dict[str, Any] = {
        "start": start,
        "end": end,
        "steps": len(probes.losses),
        "rows": probes.rows,
    }
    course = f"{start:.4g} to {end:.4g} in {len(probes.losses)} steps on {probes.rows} rows"
    if left <= max_left:
        yield fine(this, f"One batch can be fitted: the loss went from {course}.", **numbers)
        return
    remedy = (
        "Check that the loss gets logits (no softmax before it), that inputs reach the outputs, "
        "and that targets have the scale and order of the outputs."
    )
    word = "cannot be fitted" if left > 1 - min_gain else "is fitted slowly"
    summary = f"One batch {word}: the loss went from {course}."
    severity = Severity.FAIL if left > 1 - min_gain else Severity.WARN
    yield fault(
        this, "batch_not_fitted", summary, remedy, severity=severity, evidence=probes, **numbers
    )
