"""`network.gradients`: gradients that vanish or explode on their way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence

# A norm that overflows is infinite; this stands for its ratio.
_OVERFLOW = torch.finfo(torch.float32).max


@check("network.gradients", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def gradients_keep_their_size(
    network: NetworkEvidence, *, smallest: float = 1e-3, largest: float = 1e3
) -> Iterator[Finding]:
    """The back-propagated gradient keeps its order of magnitude from the last layer to the first.

    It is the norm of the gradient of the loss by the outputs of a layer, over that of the last
    layer, in the median of the sampled steps.

    Source: Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward
    neural networks, AISTATS; He et al. (2015), arXiv:1502.01852.

    Args:
        network: evidence of a training.
        smallest: ratio below which the gradient vanishes.
        largest: ratio above which it explodes.
    """
    this = gradients_keep_their_size
    if short := list(unjudged(this, network, steps=5)):
        yield from short
        return
    ratios, first = _ratios(network)
    if len(ratios) < 2:
        summary = "Not judged: gradients of fewer than two layers were seen."
        yield this.finding(Severity.NOTE, summary)
        return
    names = list(ratios)
    # The gradient is lost, or too large, for everything before: the first such layer is named. A
    # layer beside the way, as the queries of an attention that is still even, loses it for itself.
    lost = _lost(network, ratios, smallest)
    huge = [name for name in names if max(ratios[name], first[name]) > largest]
    if lost:
        at, size = lost[0], ratios[lost[0]]
        kind, severity, how = "vanishing_gradient", Severity.WARN, f"vanishes: at {at} it is"
        remedy = (
            "Start the weights by He et al. or Glorot, use ReLU or GELU in place of sigmoid and "
            "tanh, or add residual connections or normalization."
        )
    elif huge:
        at, size = huge[0], max(ratios[huge[0]], first[huge[0]])
        # What explodes before any update is the network's; later a training may have diverged.
        severity = Severity.FAIL if max(first.values()) > largest else Severity.WARN
        kind, how = "exploding_gradient", f"explodes: at {at} it is"
        remedy = (
            "Start the weights smaller (He et al., Glorot), add normalization, or clip the norm of "
            "the gradient."
        )
    else:
        summary = "The gradient keeps its size through the layers."
        numbers = {"smallest": min(ratios.values()), "largest": max(ratios.values())}
        yield fine(this, summary, **numbers)
        return
    summary = f"The gradient {how} {size:.1e} times that at {names[-1]}."
    how_bad: dict[str, Any] = {"severity": severity, "ratio": size, "evidence": network, "step": 1}
    yield fault(this, kind, summary, remedy, subject=at, **how_bad)


def _lost(network: NetworkEvidence, ratios: dict[str, float], smallest: float) -> list[str]:
    """The first layer that the gradient does not reach, where it reaches none before it either."""
    # What holds other layers puts out what the last of them does.
    first = next((name for name in ratios if name not in network.holders), None)
    return [] if first is None or not ratios[first] < smallest else [first]


def _ratios(network: NetworkEvidence) -> tuple[dict[str, float], dict[str, float]]:
    """Norms of back-propagated gradients over that of the last layer, by layer.

    In the median of the steps, and before the first update.
    """
    signal = network.measure("signal_norm")
    signal = signal.where(signal > 0, float("nan"))
    seen = (signal > 0).any(0).nonzero()[:, 0].tolist()
    if not seen:
        return {}, {}
    relative = signal[:, seen] / signal[:, seen[-1] : seen[-1] + 1]
    names = [network.layers[at].name for at in seen]
    medians = network.median(relative).nan_to_num(1.0, _OVERFLOW).tolist()
    first = relative[0].nan_to_num(0.0, _OVERFLOW).tolist()
    return dict(zip(names, medians, strict=True)), dict(zip(names, first, strict=True))
