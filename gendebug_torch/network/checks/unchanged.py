"""`network.unchanged`: layers and parameters that the training does not change."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence

_MOST_NAMED = 8
# A step of less than this part of the weights is lost in float32 too.
_ROUNDING = 1e-6


@check("network.unchanged", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def every_layer_changes(network: NetworkEvidence, *, max_frozen: float = 0.34) -> Iterator[Finding]:
    """Every layer gets a gradient, is in the optimizer and changes.

    Frozen layers are a fault only where a few of them stand behind layers that train: a frozen
    backbone stands in front, and adapters train between frozen layers.

    Source: Breck et al. (2017), The ML Test Score, IEEE Big Data, for tests of the training.

    Args:
        network: evidence of a training.
        max_frozen: share of the layers up to which frozen ones are taken for a mistake.
    """
    this = every_layer_changes
    if short := list(unjudged(this, network, steps=2, preflight=True)):
        yield from short
        return
    alarms = [
        *_detached(network),
        *_not_optimized(network),
        *_frozen(network, max_frozen),
        *_single_parameters(network),
    ]
    yield from alarms
    if not alarms:
        yield fine(this, f"Every trainable one of {len(_layers(network))} layers changes.")


def _layers(network: NetworkEvidence) -> list[int]:
    """Positions of the layers that have parameters."""
    return [at for at, layer in enumerate(network.layers) if layer.elements]


def _names(network: NetworkEvidence, positions: list[int]) -> str:
    names = [network.layers[at].name for at in positions]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _reached(network: NetworkEvidence) -> list[bool]:
    """Whether a gradient ever arrived at each layer."""
    return network.measure("gradient_norm").isfinite().any(0).tolist()


def _detached(network: NetworkEvidence) -> Iterator[Finding]:
    """Layers in an optimizer that no gradient reaches: not called, or cut off from the loss."""
    this, reached = every_layer_changes, _reached(network)
    cut = [
        at
        for at in _layers(network)
        if network.layers[at].without_gradient and network.layers[at].optimized and not reached[at]
    ]
    unused = [at for at in cut if not network.layers[at].called]
    called = [at for at in cut if network.layers[at].called and not _only_holds(network, at)]
    if called:
        summary = f"No gradient reaches {_names(network, called)}: cut off behind the last of them."
        remedy = (
            "Look for detach, no_grad, item, numpy, argmax or rounding behind it; freeze it with "
            "requires_grad_(False) if that is meant."
        )
        subject = network.layers[called[-1]].name
        yield fault(
            this,
            "detached",
            summary,
            remedy,
            severity=Severity.FAIL,
            subject=subject,
            step=1,
            evidence=network,
            layers=[network.layers[at].name for at in called],
        )
    for at in unused[:_MOST_NAMED]:
        name = network.layers[at].name
        summary = f"{name} is never called, and its parameters get no gradient."
        remedy = "Call it in forward, or remove it; DistributedDataParallel fails on it."
        yield fault(this, "unused", summary, remedy, subject=name, step=1)


def _only_holds(network: NetworkEvidence, at: int) -> bool:
    """Whether a layer was called for others in it: its own parameters may then be unused."""
    layer, reached = network.layers[at], _reached(network)
    within = [
        reached[other]
        for other, one in enumerate(network.layers)
        if other != at and (layer.name == layer.kind or one.name.startswith(f"{layer.name}."))
    ]
    return layer.called and layer.name in network.holders and any(within)


def _not_optimized(network: NetworkEvidence) -> Iterator[Finding]:
    """Layers with a gradient that no optimizer holds, or whose learning rate is zero."""
    this, reached = every_layer_changes, _reached(network)
    moved = network.measure("update_norm").nan_to_num(0.0).amax(0).tolist()
    weights = network.median(network.measure("weight_norm")).nan_to_num(0.0).tolist()
    pulled = network.measure("gradient_norm").nan_to_num(0.0).amax(0).tolist()
    rounded = network.measure("lost_updates").isfinite().any(0).tolist()
    for at in _layers(network):
        layer = network.layers[at]
        if not layer.trainable or not reached[at] or moved[at] or not pulled[at]:
            continue
        step = (layer.rate or 0.0) * pulled[at] / max(weights[at], 1e-30)
        if layer.optimized and layer.rate and (step < _ROUNDING or rounded[at]):
            # The gradient has vanished, or half precision loses the update.
            continue
        kind, why = "not_in_optimizer", "it is in no optimizer"
        remedy = "Pass its parameters to the optimizer; build the optimizer after the layer."
        if layer.optimized:
            kind, why = "no_update", "its learning rate is zero or its update is lost to rounding"
            remedy = "Raise the learning rate of its group, or keep its weights in float32."
        summary = f"{layer.name} never changes, though it gets a gradient: {why}."
        severity = Severity.FAIL
        yield fault(
            this,
            kind,
            summary,
            remedy,
            severity=severity,
            subject=layer.name,
            step=1,
            evidence=network,
            rate=layer.rate,
        )


def _frozen(network: NetworkEvidence, max_frozen: float) -> Iterator[Finding]:
    """Frozen layers behind layers that train."""
    positions = _layers(network)
    frozen = [at for at in positions if not network.layers[at].trainable]
    trained = [at for at in positions if network.layers[at].trainable]
    behind = [at for at in frozen if trained and at > trained[0]]
    if not behind or len(frozen) > max_frozen * len(positions):
        return
    for at in behind:
        name = network.layers[at].name
        summary = f"{name} is frozen (requires_grad is False), though layers before it train."
        remedy = "Set requires_grad_(True) unless it is meant to stay as it is."
        yield fault(every_layer_changes, "frozen", summary, remedy, subject=name, step=1)


def _single_parameters(network: NetworkEvidence) -> Iterator[Finding]:
    """Parameters without a gradient in a layer that has one."""
    reached = _reached(network)
    for at in _layers(network):
        layer = network.layers[at]
        if not layer.optimized or not (reached[at] or _only_holds(network, at)):
            continue
        for name in layer.without_gradient[:_MOST_NAMED]:
            summary = f"{name} never gets a gradient, though the rest of its module does."
            remedy = "Use it in forward, or remove it."
            yield fault(every_layer_changes, "no_gradient", summary, remedy, subject=name, step=1)
