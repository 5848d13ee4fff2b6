"""`network.modes`: Dropout and BatchNorm in the right mode, with enough rows."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence

_FEW = 3


@check("network.modes", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def dropout_and_batch_norm_are_in_their_mode(
    network: NetworkEvidence, *, max_gap: float = 1.5, max_single: float = 0.5
) -> Iterator[Finding]:
    """Training runs in training mode, evaluation in evaluation mode, and BatchNorm has statistics.

    Calls with gradients are training, calls without are evaluation. The gap of a BatchNorm is
    `|m - M| / S + |log(s / S)|`, batch against running statistics, in the median of the second
    half.

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167, sections 3.1 and 3.2; Wu and Johnson (2021),
    Rethinking "batch" in BatchNorm, arXiv:2105.07576.

    Args:
        network: evidence of a training.
        max_gap: largest gap of batch and running statistics.
        max_single: largest share of BatchNorm's calls with a single row.
    """
    this = dropout_and_batch_norm_are_in_their_mode
    if short := list(unjudged(this, network, steps=2)):
        yield from short
        return
    alarms = [
        *_wrong_modes(network),
        *_single_rows(network, max_single),
        *_gaps(network, max_gap),
    ]
    yield from alarms
    if not alarms:
        yield fine(this, "Dropout and BatchNorm run in their modes.")


def _wrong_modes(network: NetworkEvidence) -> Iterator[Finding]:
    this = dropout_and_batch_norm_are_in_their_mode
    trains, trains_wrongly = network.facts.training_calls
    evaluates_wrongly, evaluates = network.facts.evaluation_calls
    # Checkpointing, a teacher or a generator call modules without gradients in every step.
    inferred, steps = network.facts.inference
    if evaluates_wrongly >= _FEW and not evaluates and inferred <= 0.5 * steps:
        summary = (
            f"The network is evaluated in training mode: Dropout and BatchNorm were called "
            f"{evaluates_wrongly} times without gradients, never in evaluation mode."
        )
        remedy = "Call model.eval() before an evaluation and model.train() after it."
        yield fault(this, "evaluated_in_training_mode", summary, remedy, severity=Severity.FAIL)
    if trains_wrongly >= _FEW and not trains:
        summary = (
            "The network trains in evaluation mode: Dropout is off and BatchNorm keeps its running "
            "statistics."
        )
        remedy = "Call model.train() after each evaluation."
        yield fault(this, "trained_in_evaluation_mode", summary, remedy, severity=Severity.FAIL)


def _single_rows(network: NetworkEvidence, max_single: float) -> Iterator[Finding]:
    single, calls = network.facts.single_rows
    if calls >= _FEW and single > max_single * calls:
        summary = f"BatchNorm normalizes batches of one row in {single} of {calls} calls."
        remedy = (
            "Use larger batches or drop_last=True, or GroupNorm or LayerNorm in place of BatchNorm."
        )
        this = dropout_and_batch_norm_are_in_their_mode
        yield fault(this, "single_row_batch_norm", summary, remedy, severity=Severity.FAIL)


def _gaps(network: NetworkEvidence, max_gap: float) -> Iterator[Finding]:
    gaps = network.median(network.measure("statistics_gap"), since=0.5).tolist()
    wide = [at for at, gap in enumerate(gaps) if gap > max_gap]
    if not wide or network.steps < 50:
        return
    worst = max(wide, key=lambda at: gaps[at])
    name = network.layers[worst].name
    summary = (
        f"The running statistics of {name} differ from those of its batches by {gaps[worst]:.2g} "
        f"standard deviations ({len(wide)} layers do): evaluation sees another network."
    )
    remedy = (
        "Set its momentum to about 0.1, shuffle the rows so that batches are alike, use larger "
        "ones, or estimate the statistics anew with torch.optim.swa_utils.update_bn."
    )
    yield fault(
        dropout_and_batch_norm_are_in_their_mode,
        "batch_norm_gap",
        summary,
        remedy,
        subject=name,
        evidence=network,
        gap=gaps[worst],
        step=network.steps,
    )
