"""`network.evaluation`: a row has one answer in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.network.checks._findings import fault, fine
from gendebug_torch.network.evidence import NetworkEvidence


@check(
    "network.evaluation",
    cause=Cause.TRAINING_FAULT,
    needs=("network.preflight",),
    cost=lambda given: Cost(elements=1.0),
)
def a_row_has_one_answer(
    network: NetworkEvidence,
    *,
    max_change: float = 0.01,
    max_mode_gap: float = 0.5,
    max_cost: float = 0.25,
) -> Iterator[Finding]:
    """In evaluation mode a row has one answer, whatever is asked beside it and in training mode.

    Changes are in standard deviations of the outputs. Between the modes Dropout is off and
    BatchNorm has settled on the batch. What its running statistics cost is the loss in evaluation
    mode less that with the statistics of the batch.

    Source: Breck et al. (2017), The ML Test Score, IEEE Big Data; Karpathy (2019), A recipe for
    training neural networks, for rows that mix.

    Args:
        network: evidence of a preflight.
        max_change: largest change between two calls, or by other rows.
        max_mode_gap: largest change between the modes.
        max_cost: share of the loss of chance that the running statistics of BatchNorm may cost.
    """
    this, probes = a_row_has_one_answer, network.preflight
    assert probes is not None
    alarms = []
    if probes.again > max_change:
        summary = (
            "The network is random in evaluation mode: two calls change its outputs by "
            f"{probes.again:.2g} standard deviations."
        )
        remedy = "Use nn.Dropout, or F.dropout with training=self.training."
        alarms.append(("random_evaluation", summary, remedy, "", probes.again))
    elif probes.mixing > max_change:
        where = f", first in {probes.mixing_module}" if probes.mixing_module else ""
        summary = (
            f"Rows of a batch influence each other{where}: with other rows beside them outputs "
            f"change by {probes.mixing:.2g} standard deviations."
        )
        remedy = (
            "Look for a reshape, view or transpose that mixes the batch axis, a softmax or "
            "normalization over axis 0, and attention with batch_first set wrongly."
        )
        alarms.append(("rows_mix", summary, remedy, probes.mixing_module, probes.mixing))
    if probes.mode_gap > max_mode_gap:
        summary = (
            f"Training and evaluation mode disagree on one batch by {probes.mode_gap:.2g} standard "
            "deviations, though BatchNorm had settled on it."
        )
        remedy = "Look at the momentum of BatchNorm, and for code that asks self.training."
        alarms.append(("modes_disagree", summary, remedy, "", probes.mode_gap))
    alarms += _norms(network, max_cost)
    for kind, summary, remedy, subject, change in alarms:
        yield fault(
            this, kind, summary, remedy, severity=Severity.FAIL, subject=subject, change=change
        )
    if not alarms:
        yield fine(this, "A row has one answer in evaluation mode.", mode_gap=probes.mode_gap)


def _norms(network: NetworkEvidence, max_cost: float) -> list[tuple[str, str, str, str, float]]:
    probes, chance = network.preflight, network.facts.uniform_loss
    if probes is None or probes.norm_losses is None or chance is None:
        return []
    own, running = probes.norm_losses
    if not running - own > max_cost * chance:
        return []
    summary = (
        f"Running statistics of BatchNorm cost {running - own:.3g} of the loss: in evaluation mode "
        f"the batch loses {running:.4g}, with its own statistics {own:.4g}."
    )
    remedy = (
        "Estimate them anew with torch.optim.swa_utils.update_bn, set the momentum to about 0.1, "
        "and shuffle the rows so that batches are alike."
    )
    return [("running_statistics", summary, remedy, "", running - own)]
