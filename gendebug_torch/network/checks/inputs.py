"""`network.inputs`: inputs and targets on the scale that networks start from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence


@check(
    "network.inputs",
    cause=Cause.TRAINING_FAULT,
    needs=("network.preflight",),
    cost=lambda given: Cost(elements=1.0),
)
def inputs_are_normalized(
    network: NetworkEvidence,
    *,
    max_level: float = 10.0,
    max_target: float = 30.0,
    max_preference: float = 1.5,
) -> Iterator[Finding]:
    """Inputs and quantities to predict have unit scale, and class weights even out the classes.

    Source: LeCun et al. (2012), Efficient BackProp, section 1.4.3, for the scale; King and Zeng
    (2001), Political Analysis 9:137, for weights by inverse share.

    Args:
        network: evidence of a preflight.
        max_level: largest root mean square of the inputs.
        max_target: largest root mean square of quantities to predict.
        max_preference: largest weight of the most frequent class over that of the rarest.
    """
    this, probes = inputs_are_normalized, network.preflight
    assert probes is not None
    alarms = []
    if probes.input_missing > 0:
        summary = f"{probes.input_missing:.1%} of the inputs are NaN or infinite."
        remedy = "Impute missing values before they reach the network."
        alarms.append(("missing_inputs", summary, remedy, Severity.FAIL))
    level = _level(probes.input_mean, probes.input_deviation)
    if level > max_level:
        summary = (
            f"The inputs are not normalized: their mean is {probes.input_mean:.3g}, their standard "
            f"deviation {probes.input_deviation:.3g}."
        )
        remedy = "Subtract the mean and divide by the standard deviation of the training rows."
        alarms.append(("inputs_not_normalized", summary, remedy, Severity.FAIL))
    if _level(probes.target_mean, probes.target_deviation) > max_target:
        summary = (
            f"The quantities to predict are not normalized: their mean is {probes.target_mean:.3g},"
            f" their standard deviation {probes.target_deviation:.3g}."
        )
        remedy = "Standardize the targets, and undo it on the predictions."
        alarms.append(("targets_not_normalized", summary, remedy, Severity.WARN))
    preference = _preference(probes.class_shares, probes.class_weights)
    if preference > max_preference:
        summary = (
            "The class weights favor frequent classes: the most frequent one weighs "
            f"{preference:.2g} times as much as the rarest."
        )
        remedy = "Weight classes by the inverse of their share, in the order of the class ids."
        alarms.append(("class_weights", summary, remedy, Severity.FAIL))
    for kind, summary, remedy, severity in alarms:
        yield fault(
            this, kind, summary, remedy, severity=severity, level=level, preference=preference
        )
    if not alarms:
        yield fine(this, "Inputs and targets have a usual scale.", level=level)


def _level(mean: float | None, deviation: float | None) -> float:
    """Root mean square."""
    return math.hypot(mean or 0.0, deviation or 0.0)


def _preference(shares: tuple[float, ...], weights: tuple[float, ...]) -> float:
    """Weight of the most frequent class over that of the rarest; 1 without weights."""
    seen = [at for at, share in enumerate(shares) if share > 0 and at < len(weights)]
    if len(seen) < 2:
        return 1.0
    frequent = max(seen, key=lambda at: shares[at])
    rare = min(seen, key=lambda at: shares[at])
    if shares[frequent] < 1.5 * shares[rare]:
        return 1.0
    return weights[frequent] / max(weights[rare], 1e-12)
