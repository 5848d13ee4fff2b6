"""`network.precision`: gradients and updates that half precision loses."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence

_SMALLEST_HALF = 2.0**-24


@check("network.precision", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def half_precision_keeps_gradients_and_updates(
    network: NetworkEvidence,
    *,
    smallest: float = 2.0**-20,
    max_lost: float = 0.9,
    max_skipped: float = 0.2,
    min_fall: float = 0.05,
) -> Iterator[Finding]:
    """Gradients in float16 stay above its smallest number, and updates move weights in half.

    The gradient is the largest of the outputs of a layer in the first quarter of the steps. An
    update is lost where an element with a gradient is the same after the step.

    Source: Micikevicius et al. (2018), Mixed precision training, arXiv:1710.03740, section 3, for
    loss scaling and for weights in float32.

    Args:
        network: evidence of a training.
        smallest: largest gradient of a layer in float16 below which it underflows.
        max_lost: median share of lost updates from which a layer is named.
        max_skipped: share of the steps before which the gradient overflowed in float16.
        min_fall: share of the loss at the start by which it fell though updates are lost.
    """
    this = half_precision_keeps_gradients_and_updates
    if short := list(unjudged(this, network, steps=8)):
        yield from short
        return
    alarms = [
        *_skipped(network, max_skipped),
        *_underflow(network, smallest),
        *_lost(network, max_lost, min_fall),
    ]
    yield from alarms
    if not alarms:
        yield fine(this, "Gradients and updates fit the precision.")


def _skipped(network: NetworkEvidence, max_skipped: float) -> Iterator[Finding]:
    """The layer whose gradient overflows first on its way back, most often."""
    largest = network.measure("half_gradient")
    # A scaler skips the step after such a pass, and the pass after it makes the step.
    shares = (largest.isinf() | (largest.isnan() & largest.isfinite().any(0))).double().mean(0)
    at = int(shares.argmax()) if len(shares) else 0
    share = float(shares[at]) if len(shares) else 0.0
    if share < max_skipped or network.facts.nonfinite is not None:
        return
    name = network.layers[at].name
    summary = (
        f"Gradients overflow in float16 at {name} before {share:.0%} of the steps: the gradient "
        "scaler skips steps."
    )
    remedy = (
        "Clip after unscaling, lengthen the growth interval of the scaler, start the weights "
        "smaller, or use bfloat16."
    )
    this = half_precision_keeps_gradients_and_updates
    severity = Severity.FAIL
    yield fault(
        this, "steps_skipped", summary, remedy, severity=severity, subject=name, share=share
    )


def _underflow(network: NetworkEvidence, smallest: float) -> Iterator[Finding]:
    """The layer nearest to the loss whose gradient is lost; what is before it gets none either."""
    early = network.measure("half_gradient")[: max(5, len(network) // 4)]
    largest = early.nanmedian(0).values.tolist()
    seen = [at for at, value in enumerate(largest) if value == value]
    low = [at for at in seen if largest[at] < smallest]
    # A gradient that ends from one layer to the next is cut off or meets dead units.
    if not low or (not largest[low[-1]] and low[-1] != seen[-1]):
        return
    name, value = network.layers[low[-1]].name, largest[low[-1]]
    summary = (
        f"Gradients underflow in float16: the largest one at {name} is {value:.1e}, and the "
        f"smallest number is {_SMALLEST_HALF:.1e} ({len(low)} layers)."
    )
    remedy = (
        "Scale the loss with torch.amp.GradScaler, average it over fewer rows, or use bfloat16."
    )
    yield fault(
        half_precision_keeps_gradients_and_updates,
        "gradient_underflow",
        summary,
        remedy,
        severity=Severity.FAIL,
        subject=name,
        step=1,
        evidence=network,
        largest=value,
    )


def _lost(network: NetworkEvidence, max_lost: float, min_fall: float) -> Iterator[Finding]:
    shares = network.median(network.measure("lost_updates")).nan_to_num(0.0).tolist()
    lost = [at for at, share in enumerate(shares) if share > max_lost]
    if not lost:
        return
    worst = max(lost, key=lambda at: shares[at])
    name = network.layers[worst].name
    summary = (
        f"Rounding in half precision loses {shares[worst]:.0%} of the updates of {name} "
        f"({len(lost)} layers): a step is smaller than half the distance of its weights to the "
        "next number."
    )
    remedy = (
        "Keep the weights in float32 and use autocast, or an optimizer with stochastic rounding or "
        "compensated sums."
    )
    # With stochastic rounding few weights move at a step as well, and the loss falls.
    falls = network.change is not None and network.change.fell(min_fall)
    yield fault(
        half_precision_keeps_gradients_and_updates,
        "updates_lost",
        summary,
        remedy,
        severity=Severity.NOTE if falls else Severity.WARN,
        subject=name,
        step=1,
        evidence=network,
        share=shares[worst],
    )
