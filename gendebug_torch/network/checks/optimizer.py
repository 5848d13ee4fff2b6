"""`network.optimizer`: clipping, weight decay and schedule."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence


@check("network.optimizer", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def optimizer_follows_the_gradient(
    network: NetworkEvidence,
    *,
    max_clipped: float = 0.9,
    max_decay: float = 0.7,
    min_rate: float = 1e-3,
    max_idle: float = 0.4,
) -> Iterator[Finding]:
    """The gradient decides the step: clipping, weight decay and the schedule leave room for it.

    A norm of the whole gradient that is the same at nearly every sampled step is that of the
    clipping. Adam and its kin divide by the size of the gradient: there it is a note.

    Source: Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, for clipping; Loshchilov and Hutter
    (2019), arXiv:1711.05101, for weight decay.

    Args:
        network: evidence of a training.
        max_clipped: share of the sampled steps with the largest norm.
        max_decay: median part of the decay in the step of a layer, while its weights shrink.
        min_rate: share of the largest learning rate below which the schedule has ended.
        max_idle: share of the steps in which it may have ended.
    """
    this = optimizer_follows_the_gradient
    if short := list(unjudged(this, network, steps=10)):
        yield from short
        return
    alarms = [
        *_clipped(network, max_clipped),
        *_decay(network, max_decay),
        *_schedule(network, min_rate, max_idle),
    ]
    yield from alarms
    if not any(finding.severity.level > 1 for finding in alarms):
        yield fine(this, "Clipping, weight decay and schedule leave room for the gradient.")


def _clipped(network: NetworkEvidence, max_clipped: float) -> Iterator[Finding]:
    norms = network.run("gradient_norm")
    norms = norms[norms.isfinite()]
    sums = network.run("input_sum")
    if len(norms) < 10 or bool((sums.diff() == 0).double().mean() > 0.5):
        return
    largest = float(norms.max())
    share = float((norms > 0.999 * largest).double().mean())
    if share < max_clipped or not largest:
        return
    summary = (
        f"Clipping cuts the gradient to a norm of {largest:.3g} in {share:.0%} of the steps: its "
        "size no longer counts."
    )
    remedy = (
        "Raise the limit to about the usual norm of the gradient, or lower the learning rate and "
        "leave the limit for outliers."
    )
    severity = Severity.NOTE if network.facts.adaptive else Severity.FAIL
    yield fault(
        optimizer_follows_the_gradient,
        "always_clipped",
        summary,
        remedy,
        severity=severity,
        step=1,
        evidence=network,
        share=share,
        norm=largest,
    )


def _decay(network: NetworkEvidence, max_decay: float) -> Iterator[Finding]:
    weights = network.measure("weight_norm")
    found = []
    for at, layer in enumerate(network.layers):
        if not layer.decay or layer.rate is None or not layer.elements:
            continue
        pull = layer.decay * weights[:, at]
        against = network.measure("gradient_norm")[:, at]
        if network.facts.decoupled:
            pull, against = pull * layer.rate, network.measure("update_norm")[:, at]
        part = (pull / (against + 1e-30))[len(network) // 2 :].nanmedian().item()
        shrunk = 1 - float(weights[-1, at] / weights[0, at].clamp(min=1e-30))
        if part > max_decay and shrunk > 0.3:
            found.append((part, shrunk, layer))
    if not found:
        return
    part, shrunk, layer = max(found, key=lambda entry: entry[0])
    summary = (
        f"Weight decay dominates: it pulls {layer.name} {part:.2g} times as hard as the gradient, "
        f"and its weights lost {shrunk:.0%} of their norm ({len(found)} layers)."
    )
    remedy = f"Lower the weight decay, now {layer.decay:g}, tenfold; leave out norms and biases."
    yield fault(
        optimizer_follows_the_gradient,
        "decay_dominates",
        summary,
        remedy,
        severity=Severity.FAIL,
        subject=layer.name,
        evidence=network,
        part=part,
        shrunk=shrunk,
    )


def _schedule(network: NetworkEvidence, min_rate: float, max_idle: float) -> Iterator[Finding]:
    rates = network.run("learning_rate").nan_to_num(0.0)
    largest = float(rates.max())
    ended = rates < min_rate * largest
    after = ended & (network.step > network.step[int(rates.argmax())])
    if not bool(after.any()) or not bool(after[-1]):
        return
    first = int(network.step[int(after.int().argmax())])
    idle = 1 - first / network.steps
    if idle < max_idle:
        return
    summary = (
        f"The learning rate is below {min_rate:g} of its largest value since step {first}: nothing "
        f"is learned in {idle:.0%} of the steps."
    )
    remedy = "Step the scheduler once per epoch, or give it the number of all steps."
    yield fault(
        optimizer_follows_the_gradient,
        "schedule_ended",
        summary,
        remedy,
        severity=Severity.FAIL,
        step=first,
        idle=idle,
    )
