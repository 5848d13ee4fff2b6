"""`network.units`: units that are dead or saturated."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence

# Rows that must have passed before a unit without a gradient is called dead.
_MIN_ROWS = 160


@check("network.units", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def units_are_alive(
    network: NetworkEvidence,
    *,
    max_dead: float = 0.5,
    all_dead: float = 0.95,
    max_saturated: float = 0.7,
) -> Iterator[Finding]:
    """Few units of a layer are without a gradient for all rows, and few outputs are saturated.

    A unit is dead if no row of a sampled step of the second half gave it a gradient. Where a whole
    layer is dead the layers before it get no gradient either and are not named.

    Source: Lu et al. (2020), Dying ReLU and initialization, Commun. Comput. Phys. 28:1671; Glorot
    and Bengio (2010), AISTATS, for saturation.

    Args:
        network: evidence of a training.
        max_dead: share of dead units from which a layer is named.
        all_dead: share from which nothing passes a layer.
        max_saturated: share of the outputs of an activation in its flat parts.
    """
    this = units_are_alive
    if short := list(unjudged(this, network, steps=10)):
        yield from short
        return
    alarms = [*_dead(network, max_dead, all_dead), *_saturated(network, max_saturated)]
    yield from alarms
    if not alarms:
        shares = [layer.dead_share for layer in network.layers if layer.dead_share is not None]
        yield fine(
            this, "Units are alive in every layer.", largest_dead_share=max(shares, default=0)
        )


def _dead(network: NetworkEvidence, max_dead: float, all_dead: float) -> Iterator[Finding]:
    judged = [at for at, layer in enumerate(network.layers) if layer.dead_share is not None]
    if not judged or network.facts.rows * (len(network) // 2) < _MIN_ROWS:
        return
    share = {at: network.layers[at].dead_share or 0.0 for at in judged}
    if share[judged[-1]] >= all_dead:
        # The loss itself has no gradient.
        return
    closed = [at for at in judged if share[at] >= all_dead]
    for at in judged:
        if share[at] < max_dead or (closed and at < closed[-1]):
            continue
        layer = network.layers[at]
        since = layer.dead_since or 0
        when = f"since step {since}" if since else "from the start"
        summary = (
            f"{share[at]:.0%} of the units of {layer.name} are dead {when}: no row gives them a "
            "gradient."
        )
        remedy = (
            "Lower the learning rate, start its bias at zero and its weights by He et al., or use "
            "LeakyReLU or GELU behind it."
        )
        severity = Severity.FAIL if share[at] >= all_dead else Severity.WARN
        yield fault(
            units_are_alive,
            "dead_units",
            summary,
            remedy,
            severity=severity,
            subject=layer.name,
            step=since,
            evidence=network,
            share=share[at],
        )


def _saturated(network: NetworkEvidence, most: float) -> Iterator[Finding]:
    saturated = network.measure("saturated_share")
    medians = network.median(saturated, since=0.5).tolist()
    last = max((at for at, layer in enumerate(network.layers) if layer.elements), default=0)
    for at, share in enumerate(medians):
        # Behind the last layer it is the answer, which may well be sure.
        if not share >= most or at > last:
            continue
        name, before = network.layers[at].name, _layer_before(network, at)
        high = (saturated[:, at] >= most).tolist()
        first = len(high) - (high[::-1].index(False) if False in high else len(high))
        step = int(network.step[min(first, len(high) - 1)])
        summary = (
            f"{share:.0%} of the outputs of {name} are saturated since step {step}: their "
            f"derivative is near zero{before}."
        )
        remedy = (
            "Normalize what comes in, start the weights before it smaller (Glorot), lower the "
            "learning rate, or put a normalization before it."
        )
        yield fault(
            units_are_alive,
            "saturated_units",
            summary,
            remedy,
            severity=Severity.FAIL,
            subject=name,
            step=step,
            evidence=network,
            share=share,
        )


def _layer_before(network: NetworkEvidence, at: int) -> str:
    names = [layer.name for layer in network.layers[:at] if layer.elements]
    return f"; {names[-1]} feeds it" if names else ""
