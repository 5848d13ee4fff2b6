"""`network.ranks`: ranks that drifted apart."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence


@check("network.ranks", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def ranks_hold_the_same_weights(
    network: NetworkEvidence, *, max_spread: float = 1e-4
) -> Iterator[Finding]:
    """All ranks of a data-parallel training hold the same weights.

    Source: Li et al. (2020), PyTorch Distributed, VLDB 13:3005, section 3.2.

    Args:
        network: evidence of a training.
        max_spread: largest relative difference of the norm of a layer's weights between ranks.
    """
    this, spread = ranks_hold_the_same_weights, network.facts.rank_spread
    if spread is None:
        yield fine(this, "One rank, or ranks were not compared.")
    elif spread <= max_spread:
        yield fine(this, "All ranks hold the same weights.", spread=spread)
    else:
        summary = f"The ranks drifted apart: norms of their weights differ by {spread:.1e}."
        remedy = (
            "Call the wrapped module, not what is inside it, and step every parameter that the "
            "wrapper synchronizes; start all ranks from the same weights."
        )
        yield fault(
            this,
            "ranks_differ",
            summary,
            remedy,
            severity=Severity.FAIL,
            step=network.steps,
            spread=spread,
        )
