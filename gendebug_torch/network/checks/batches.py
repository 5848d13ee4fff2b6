"""`network.batches`: batches that repeat or tell the targets, and sums that are no means."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine, unjudged
from gendebug_torch.network.evidence import NetworkEvidence
from gendebug_torch.network.measures.loss_form import FITS


@check("network.batches", cause=Cause.TRAINING_FAULT, cost=lambda given: Cost(elements=1.0))
def batches_differ_and_are_averaged(
    network: NetworkEvidence,
    *,
    max_repeated: float = 0.9,
    max_order: float = 0.5,
    small: int = 512,
) -> Iterator[Finding]:
    """Steps see different batches whose order tells no targets, and gradients are averaged.

    Batches with equal sums and norms are taken for the same. The gradient of a mean
    cross-entropy by the logits says by which factor it was multiplied; over m backward passes per
    step the factor is 1/m if they are averaged; Adam and its kin divide by the size of the
    gradient, so that it is a note there. The order tells the targets of the first batches if
    the batch, or the position in it, explains their variance.

    Source: Goyal et al. (2017), Accurate, large minibatch SGD, arXiv:1706.02677, section 2.3, for
    the scale of the loss.

    Args:
        network: evidence of a training.
        max_repeated: share of sampled steps with the batch of the sampled step before.
        max_order: share of the variance of the targets that batch or position may explain.
        small: rows below which a repeated batch is not taken for the whole data set.
    """
    this = batches_differ_and_are_averaged
    if short := list(unjudged(this, network, steps=6)):
        yield from short
        return
    alarms = [*_repeated(network, max_repeated, small), *_not_averaged(network)]
    # A batch that repeats has the same targets at the same positions.
    alarms = alarms or list(_ordered(network, max_order))
    yield from alarms
    if not alarms:
        yield fine(this, "Batches differ, and accumulated gradients are averaged.")


def _repeated(network: NetworkEvidence, max_repeated: float, small: int) -> Iterator[Finding]:
    sums, norms = network.run("input_sum"), network.run("input_norm")
    same = (sums.diff() == 0) & (norms.diff() == 0)
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
    # Without the number of batches a small one may be the whole data set.
    severity = Severity.WARN if facts.batches is None else Severity.FAIL
    severity = severity if facts.rows < small else Severity.NOTE
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
    fits = network.run("cross_entropy") > FITS
    scale = network.run("loss_scale")[fits]
    if passes < 2 or len(scale) < 3:
        return
    factor = float(scale.median())
    if abs(factor - 1) > 0.05:
        return
    summary = (
        f"Gradients of {passes} backward passes are added up, not averaged: the gradient is "
        f"{passes} times that of one batch of all rows"
    )
    summary += ", which this optimizer divides out again." if network.facts.adaptive else "."
    remedy = f"Divide the loss by {passes} before backward."
    yield fault(
        batches_differ_and_are_averaged,
        "accumulation_not_averaged",
        summary,
        remedy,
        severity=Severity.NOTE if network.facts.adaptive else Severity.FAIL,
        step=1,
        backwards=passes,
        factor=factor,
    )


def _ordered(network: NetworkEvidence, max_order: float) -> Iterator[Finding]:
    facts = network.facts
    remedy = "Shuffle the rows in each epoch, e.g. DataLoader(shuffle=True)."
    # Batches of one class each spoil a training; an order within batches needs a network that sees
    # it, as one that mixes rows does.
    orders = [
        ("ordered_batches", "batch", facts.told_by_batch, Severity.WARN),
        ("ordered_rows", "position in the batch", facts.told_by_position, Severity.NOTE),
    ]
    for kind, what, share, severity in orders:
        if share is None or share <= max_order:
            continue
        summary = (
            f"The {what} explains {share:.0%} of the variance of the first targets: the rows are "
            "not shuffled."
        )
        this = batches_differ_and_are_averaged
        yield fault(this, kind, summary, remedy, severity=severity, step=1, share=share)
