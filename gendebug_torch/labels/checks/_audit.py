"""The label audit of each task: one estimate, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gendebug_torch.checks.finding import Finding
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.checks._estimate import NoiseEstimate, noise_estimate
from gendebug_torch.labels.checks._findings import noise_findings
from gendebug_torch.labels.checks._multilabel import multilabel_estimates
from gendebug_torch.labels.checks._outputs import OutputEstimates, output_findings
from gendebug_torch.labels.checks._quantities import quantity_estimates


def audit(
    records: Records,
    *,
    out_of_sample: bool,
    stacked: bool,
    max_rows: int,
    seed: int,
    held_out: Records | None = None,
    deadline: Deadline = NO_DEADLINE,
) -> NoiseEstimate | OutputEstimates | str:
    """The share of wrong labels by the task of the records, or the reason why there is none.

    Args:
        records: records with labels, and features or logits; rows without a label are left out.
        out_of_sample: whether the logits are out-of-sample.
        stacked: whether networks get the logits as inputs beside the features.
        max_rows: most rows used, drawn at random.
        seed: seed of rows and networks.
        held_out: other records with labels and out-of-sample logits, of the same columns.
        deadline: end of the time.
    """
    estimates: dict[Task, Callable[..., NoiseEstimate | OutputEstimates | str]] = {
        Task.BINARY: partial(noise_estimate, held_out=held_out),
        Task.MULTICLASS: partial(noise_estimate, held_out=held_out),
        Task.MULTILABEL: multilabel_estimates,
        Task.REGRESSION: quantity_estimates,
    }
    estimate = None if records.task is None else estimates.get(records.task)
    if records.targets is None or estimate is None:
        return f"Wrong labels are not estimated: {records.name} has no class, label or quantity."
    deadline.check()
    return estimate(
        records,
        out_of_sample=out_of_sample,
        stacked=stacked,
        max_rows=max_rows,
        seed=seed,
        deadline=deadline,
    )


def audit_findings(
    this: Check,
    records: Records,
    estimate: NoiseEstimate | OutputEstimates | str,
    *,
    alpha: float,
    min_rate: float,
    limit: int,
) -> Iterator[Finding]:
    """What is said of an estimate, by its task.

    Args:
        this: check that makes the findings.
        records: records that the estimate is about.
        estimate: wrong labels, or the reason why there is no estimate.
        alpha: significance level.
        min_rate: smallest share of wrong labels that matters.
        limit: most groups, pairs or outputs reported.
    """
    bounds = {"alpha": alpha, "min_rate": min_rate}
    if isinstance(estimate, OutputEstimates):
        yield from output_findings(this, records, estimate, **bounds, limit=limit)
    else:
        yield from noise_findings(this, records, estimate, **bounds, limit=limit)
