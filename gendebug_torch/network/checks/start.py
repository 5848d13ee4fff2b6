"""`network.start`: the loss before the first update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.measures.loss_form import FITS


@check("network.start", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def loss_starts_at_chance(
    network: NetworkEvidence, *, max_excess: float = 3.0, max_factor: float = 3.0
) -> Iterator[Finding]:
    """The loss of the untrained network is about that of equal probabilities, or of zeros.

    For k classes that is log k. A loss far above it says that the outputs of the untrained network
    are too large, that the loss is a sum, or that it is computed of something else. A loss below is
    that of a network that was trained before. Before a run, probabilities in the place of logits
    are named as well.

    Source: Karpathy (2019), A recipe for training neural networks: verify the loss at
    initialization.

    Args:
        network: evidence of a training.
        max_excess: nats above log k, at least log k itself, from which the loss is named.
        max_factor: multiple of the loss of zeros from which that of quantities is named.
    """
    this = loss_starts_at_chance
    facts = network.facts
    start, chance = facts.start_loss, facts.uniform_loss
    if start is None or chance is None:
        summary = "Not judged: no loss with targets was recorded before the first update."
        yield this.finding(Severity.NOTE, summary, numbers={"start": start})
        return
    numbers: dict[str, Any] = {"start": start, "chance": chance, "constant": facts.constant_loss}
    if network.preflight is not None and network.preflight.softmax:
        summary = "The cross-entropy is given probabilities, 0 to 1 with sum 1, instead of logits."
        remedy = "Remove the softmax before the loss: the loss makes one, and learns slowly of two."
        yield fault(this, "softmax_before_loss", summary, remedy, step=1, **numbers)
        return
    classes = facts.constant_loss is None or facts.constant_loss <= chance + 1e-9
    limit = chance + max(max_excess, chance)
    if not classes or chance > 20:
        limit = max_factor * chance
    if not start > limit:
        yield fine(this, f"The loss starts at {start:.4g}; chance loses {chance:.4g}.", **numbers)
        return
    rows = max(facts.rows, 1)
    fits = network.run("cross_entropy")[:1] > FITS
    summed = bool((network.run("loss_scale")[:1][fits] > 0.5 * rows).any())
    if rows > 1 and (summed or (not len(fits[fits]) and 0.97 < start / (rows * chance) < 1.1)):
        summary = f"The loss starts at {start:.4g}, {rows} rows times {chance:.4g}: it is a sum."
        remedy = 'Use reduction="mean", or divide the learning rate by the rows.'
        yield fault(this, "summed_loss", summary, remedy, step=1, severity=Severity.FAIL, **numbers)
        return
    summary = (
        f"The loss starts at {start:.4g}, where an untrained network loses about {chance:.4g}: its "
        "outputs are too large, or the loss is another one."
    )
    remedy = (
        "Start the last layer with smaller weights and zero bias, normalize the inputs, and check "
        "that the loss gets logits and the right targets."
    )
    yield fault(this, "wrong_start", summary, remedy, step=1, severity=Severity.FAIL, **numbers)
