"""`network.updates`: the size of the updates, and with it the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import LossChange, NetworkEvidence

# A usual size of an update over its weights.
_USUAL = 1e-3


@check("network.updates", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def updates_fit_the_weights(
    network: NetworkEvidence,
    *,
    smallest: float = 1e-5,
    large: float = 0.05,
    largest: float = 1.0,
    min_fall: float = 0.05,
) -> Iterator[Finding]:
    """Updates are neither tiny nor huge beside the weights that they change.

    The ratio of the norms of update and weights is about 1e-3 in trainings that go well. A large
    one counts where the loss does not fall, or where updates exceed the weights; a small one where
    the loss does not fall.

    Source: LeCun et al. (2012), Efficient BackProp, section 1.4.6; Bengio (2012),
    arXiv:1206.5533, section 3.1, for the size 1e-3 of the ratio.

    Args:
        network: evidence of a training.
        smallest: median ratio of the layers below which the learning rate is too small.
        large: median ratio of the layers above which it is too large if the loss does not fall.
        largest: median ratio above which it is too large in any case.
        min_fall: share of the loss at the start from which a fall counts.
    """
    this = updates_fit_the_weights
    if short := list(unjudged(this, network, steps=8)):
        yield from short
        return
    ratios = network.typical_ratio
    ratios = ratios[ratios.isfinite()]
    if not len(ratios):
        summary = "Not judged: no layer with weights changed."
        yield this.finding(Severity.NOTE, summary, numbers={"layers": 0})
        return
    typical, change = float(ratios[len(ratios) // 5 :].median()), network.change
    fell = not _broke(network) and (change is None or change.fell(min_fall))
    burst = not fell and float(ratios[:5].max()) > 4 * large
    rate = network.run("learning_rate").nanmedian().item()
    first = float(ratios[:5].max())
    numbers = {"median_ratio": typical, "first_ratio": first, "learning_rate": rate}
    how: dict[str, Any] = {"evidence": network, **numbers}
    # A resumed run may be at the end of its schedule.
    if typical < smallest and not burst and network.whole and (change is None or not fell):
        summary = f"The learning rate is too small: {_size(typical, change)}."
        remedy = f"Raise it {_factor(_USUAL / typical)}-fold and look again."
        yield fault(this, "rate_too_small", summary, remedy, **how)
    elif typical > largest or (typical > large and not fell) or burst:
        size = max(typical, first if burst else 0.0)
        summary = f"The learning rate is too large: {_size(size, change)}."
        remedy = f"Lower it {_factor(max(size / _USUAL, 3.0))}-fold, or warm it up."
        yield fault(this, "rate_too_large", summary, remedy, severity=Severity.FAIL, **how)
    else:
        yield fine(this, f"Updates are {typical:.1e} of the weights in the median.", **numbers)


def _broke(network: NetworkEvidence) -> bool:
    """Whether the network itself gave a NaN or infinity."""
    first = network.facts.nonfinite
    return first is not None and first.place != "input"


def _size(ratio: float, change: LossChange | None) -> str:
    course = ""
    if change is not None:
        course = f"; the loss went from {change.start:.4g} to {change.end:.4g}"
    return f"updates are {ratio:.1e} of the weights{course}"


def _factor(times: float) -> int:
    """A power of ten, or three times one, near a factor."""
    power = 1
    while power * 10 <= times:
        power *= 10
    return power * 3 if times >= power * 3 else max(power, 3)
