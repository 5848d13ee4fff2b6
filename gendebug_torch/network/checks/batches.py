"""`network.batches`: batches that repeat, and accumulation that is not averaged."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence


@check("network.batches", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def batches_differ_and_are_averaged(
    network: NetworkEvidence, *, max_repeated: float = 0.9, small: int = 512
) -> Iterator[Finding]:
    """Steps see different batches, and accumulated gradients are averaged.

    Batches with equal sums and sums of squares are taken for the same. The gradient of a mean
    cross-entropy by the logits says by which factor it was multiplied; over m backward passes per
    step the factor is 1/m if they are averaged.

    Source: Goyal et al. (2017), Accurate, large minibatch SGD, arXiv:1706.02677, section 2.3, for
    the scale of the loss.

    Args:
        network: evidence of a training.
        max_repeated: share of sampled steps with the batch of the sampled step before.
        small: rows below which a repeated batch is not taken for the whole data set.
    """
    this = batches_differ_and_are_averaged
    if short := list(unjudged(this, network, steps=6)):
        yield from short
        return
    alarms = [*_repeated(network, max_repeated, small), *_not_averaged(network)]
    yield from alarms
    if not alarms:
        yield fine(this, "Batches differ, and accumulated gradients are averaged.")


def _repeated(network: NetworkEvidence, max_repeated: float, small: int) -> Iterator[Finding]:
    sums, squares = network.run("input_sum"), network.run("input_squares")
    same = (sums.diff() == 0) & (squares.diff() == 0)
    known = sums.diff().isfinite()
    facts = network.facts
    if facts.batches == 1 or not bool(known.any()):
        return
    share = float(same[known].double().mean())
    if share < max_repeated:
        return
    summary = f"{share:.0%} of the steps see the same batch of {facts.rows} rows as the one before."
    remedy = (
        "Iterate over the loader anew in each step, and seed the workers and iterable data sets "
        "differently; if the batch is the whole data set, all is well."
    )
    severity = Severity.FAIL if facts.rows < small else Severity.NOTE
    yield fault(
        batches_differ_and_are_averaged,
        "repeated_batch",
        summary,
        remedy,
        severity=severity,
        step=1,
        share=share,
    )


def _not_averaged(network: NetworkEvidence) -> Iterator[Finding]:
    passes = network.facts.backwards
    fits = network.run("cross_entropy") > 0.999
    scale = network.run("loss_scale")[fits]
    if passes < 2 or len(scale) < 3:
        return
    factor = float(scale.median())
    if abs(factor - 1) > 0.05:
        return
    summary = (
        f"Gradients of {passes} backward passes are added up, not averaged: the step is {passes} "
        "times as long as with one batch of all rows."
    )
    remedy = f"Divide the loss by {passes} before backward."
    yield fault(
        batches_differ_and_are_averaged,
        "accumulation_not_averaged",
        summary,
        remedy,
        severity=Severity.FAIL,
        step=1,
        backwards=passes,
        factor=factor,
    )
