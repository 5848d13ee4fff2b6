"""`network.loss`: a loss that does not fall, though the network changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence


@check("network.loss", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def loss_falls_below_a_constant(
    network: NetworkEvidence,
    *,
    min_steps: int = 100,
    min_gain: float = 0.03,
    min_ratio: float = 1e-5,
) -> Iterator[Finding]:
    """The loss falls below that of the best constant prediction while the weights change.

    If it stays there though updates have a usual size, the network learns nothing from its inputs:
    labels do not belong to them, or they do not reach the network.

    Source: Zhang et al. (2017), Understanding deep learning requires rethinking generalization,
    ICLR, for labels that are shuffled; Karpathy (2019), A recipe for training neural networks.

    Args:
        network: evidence of a training.
        min_steps: steps below which nothing is said.
        min_ratio: median ratio of updates and weights below which the learning rate is to blame.
        min_gain: share of the loss of a constant from which something was learned.
    """
    this = loss_falls_below_a_constant
    if short := list(unjudged(this, network, steps=12)):
        yield from short
        return
    change, constant = network.change, network.facts.constant_loss
    if change is None or network.steps < min_steps:
        summary = f"Not judged: too few losses in {network.steps} steps."
        yield this.finding(Severity.NOTE, summary, numbers={"steps": network.steps})
        return
    if constant is None and not network.whole:
        summary = "Not judged: the record begins after the start of the training."
        yield this.finding(Severity.NOTE, summary, numbers={"steps": network.steps})
        return
    level = change.start if constant is None else constant
    error = 3 * change.error
    numbers: dict[str, Any] = {
        "start": change.start,
        "end": change.end,
        "constant": constant,
        "error": error,
    }
    if not network.typical_ratio.nanmedian().item() > min_ratio:
        yield fine(this, "Updates are too small to judge by the loss.", **numbers)
        return
    stays = change.end > level - max(min_gain * abs(level), error)
    falling = change.end < change.middle - max(error, 0.01 * abs(level))
    if not stays or falling:
        yield fine(this, f"The loss went from {change.start:.4g} to {change.end:.4g}.", **numbers)
        return
    what = (
        "has not fallen"
        if constant is None
        else f"is not below that of a constant prediction, {constant:.4g}"
    )
    summary = (
        f"After {network.steps} steps the loss ({change.end:.4g}) {what}: the network learns "
        "nothing from its inputs."
    )
    remedy = (
        "Check on a few rows that inputs and labels belong together, also after shuffling, and "
        "that the inputs reach the network; then its capacity and the learning rate."
    )
    yield fault(this, "no_signal", summary, remedy, evidence=network, **numbers)
