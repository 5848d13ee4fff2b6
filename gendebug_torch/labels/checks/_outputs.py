"""Findings about each label of a multilabel task, and about each quantity of a regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.labels.checks._estimate import AVERAGED, CERTAIN, CONFIRMED, Sample
from gendebug_torch.labels.checks._findings import FAIL_RATE, IN_SAMPLE_NOTE
from gendebug_torch.labels.noise.noise_model import LabelNoise
from gendebug_torch.labels.prediction.cross_fitting import cross_fitted
from gendebug_torch.labels.prediction.small_networks import Truth
from gendebug_torch.labels.quantities.quantity_errors import QuantityErrors
from gendebug_torch.labels.review.ranking import IN_SAMPLE

Result = LabelNoise | QuantityErrors
# Results of each output, None where too few rows have the label, from outputs `[n, k]` and answers
# `[n, k]` float, where NaN is unknown.
Judge = Callable[[Tensor, Tensor], list[Result | None]]


@dataclass(frozen=True)
class OutputEstimates:
    """Wrong labels or values of each output.

    Args:
        names: names of the outputs, `k`.
        results: estimate of each output, `k`; None where too few rows have the label.
        rows: rows of the records that each result is about, `k` times `[m]` int64.
        basis: whether the predictions are in-sample or out-of-sample.
        source: model that predicts the labels, as a phrase.
        missing: number of missing labels among the rows that were judged or have none.
        total: number of rows from which some were drawn; 0 where all were used.
    """

    names: tuple[str, ...]
    results: tuple[Result | None, ...]
    rows: tuple[Tensor, ...]
    basis: str
    source: str
    missing: int
    total: int


def estimates_of(
    records: Records,
    sample: Sample,
    results: list[Result | None],
    known: Tensor,
    basis: str,
    source: str,
) -> OutputEstimates:
    """Results of each output with its name and rows.

    Args:
        records: records that the sample was drawn from.
        sample: rows that were judged.
        results: estimate of each output.
        known: whether a row of the sample has a label, `[m, k]` bool.
        basis: whether the predictions are in-sample or out-of-sample.
        source: model that predicts the labels, as a phrase.
    """
    k = known.shape[1]
    names = tuple(map(str, records.schema.classes)) or tuple(f"output {i}" for i in range(k))
    if k == 1:
        names = (str(records.schema.target or "the target"),)
    rows = tuple(sample.rows[column.cpu()] for column in known.T)
    unknown = len(records) - sample.labeled
    missing = int((~known).sum()) + unknown * k
    drawn = len(sample.rows) < sample.labeled
    total = sample.labeled if drawn else 0
    return OutputEstimates(names, tuple(results), rows, basis, source, missing, total)


def network_results(
    inputs: Tensor, truth: Truth, judge: Judge, seed: int, deadline: Deadline = NO_DEADLINE
) -> list[Result | None]:
    """Results by cross-fitted networks; what is significant has to persist with other folds.

    As for classes: outputs over up to four partitions are averaged, and of each output the larger
    p-value of the first and of the average counts.

    Args:
        inputs: inputs of the networks, `[n, p]`.
        truth: what they are to answer.
        judge: function of their outputs and the answers.
        seed: seed of the networks.
        deadline: end of the time.
    """
    total = torch.zeros(len(inputs), truth.outputs, dtype=torch.float64, device=inputs.device)
    found: list[list[Result | None]] = []
    for run in range(AVERAGED):
        total += cross_fitted(inputs.float(), truth, seed=seed + run, deadline=deadline)
        found.append(judge(total / (run + 1), truth.values))
        p_values = [result.p_value * truth.outputs for result in found[-1] if result is not None]
        if not any(CERTAIN * run <= p <= CONFIRMED for p in p_values):
            break
    return [
        b if a is None or b is None else replace(b, p_value=max(a.p_value, b.p_value))
        for a, b in zip(found[0], found[-1], strict=True)
    ]


def output_findings(
    this: Check,
    records: Records,
    estimates: OutputEstimates | str,
    *,
    alpha: float,
    min_rate: float,
    limit: int,
) -> Iterator[Finding]:
    """The share of wrong labels of the worst outputs, or a sentence about all of them.

    Args:
        this: check that makes the findings.
        records: records that the estimates are about.
        estimates: wrong labels by output, or the reason why there are none.
        alpha: significance level, corrected for the number of outputs.
        min_rate: smallest share of wrong labels that matters.
        limit: most outputs reported.
    """
    if isinstance(estimates, str):
        yield this.finding(Severity.NOTE, estimates, numbers={"n": len(records)})
        return
    judged = {i: result for i, result in enumerate(estimates.results) if result is not None}
    if not judged:
        text = f"Too few labels in {records.name} to estimate how many are wrong."
        yield this.finding(Severity.NOTE, text, numbers={"n": len(records)})
        return
    alarms = [
        i
        for i, result in judged.items()
        if result.p_value * len(judged) <= alpha
        and result.rate >= min_rate
        and result.low >= min_rate / 2
        and int(result.suspicious.sum()) >= _MIN_SUSPICIOUS
    ]
    alarms.sort(key=lambda i: -judged[i].rate)
    for i in alarms[:limit]:
        yield _alarm(this, records, estimates, i, judged[i])
    if len(alarms) > limit:
        others = ", ".join(estimates.names[i] for i in alarms[limit:])
        text = f"Labels are wrong in {len(alarms) - limit} more of {records.name}: {others}."
        yield this.finding(Severity.WARN, text, remedy="Have them reviewed likewise.")
    if not alarms:
        yield _clean(this, records, estimates, judged)


# With fewer suspicious rows there is nothing to review.
_MIN_SUSPICIOUS = 5


def _alarm(
    this: Check, records: Records, estimates: OutputEstimates, i: int, result: Result
) -> Finding:
    name, n = estimates.names[i], len(result.targets)
    count = int(result.suspicious.sum())
    order = result.error_probability.argsort(descending=True, stable=True)[:10].cpu()
    first = estimates.rows[i][order].tolist()
    quantity = isinstance(result, QuantityErrors)
    factor = result.factor if isinstance(result, QuantityErrors) else None
    beyond_what = "heavy tails" if quantity else "ambiguous rows"
    what = "values" if quantity else "labels"
    text = (
        f"About {_share(result)} of {n:,} {what} of {name} in {records.name} are wrong, beyond "
        f"what {beyond_what} explain, by {estimates.source}. {count:,} are more likely wrong than "
        f"right, first rows {', '.join(map(str, first))}."
    )
    numbers = {
        "n": n,
        "rate": result.rate,
        "low": result.low,
        "high": result.high,
        "p_value": result.p_value,
        "suspicious": count,
        "rows": first,
        "basis": estimates.basis,
        "in_sample": estimates.basis == IN_SAMPLE,
        "missing": estimates.missing,
    }
    remedy = f"Have a person review these {count:,} {what}, and correct or drop the wrong ones."
    if factor is not None:
        numbers["factor"] = factor
        text += f" They are about {factor:.3g} times what is predicted: another unit?"
        remedy = f"Check the unit of these {count:,} values where they are recorded."
    elif quantity:
        text += " They are as far from the prediction as values of other rows: swapped rows?"
        remedy = f"Check how values were joined to rows. {remedy}"
    if estimates.basis == IN_SAMPLE:
        text += IN_SAMPLE_NOTE
    return this.finding(
        Severity.FAIL if result.low >= FAIL_RATE else Severity.WARN,
        text,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=replace(result, rows=estimates.rows[i]),
    )


def _share(result: Result) -> str:
    return f"{result.rate:.1%} (95 % interval {result.low:.1%} to {result.high:.1%})"


def _clean(
    this: Check, records: Records, estimates: OutputEstimates, judged: dict[int, Result]
) -> Finding:
    """One sentence about all outputs, the most doubtful one in numbers."""
    most = max(judged, key=lambda i: (judged[i].rate, -judged[i].p_value))
    result, total = judged[most], sum(len(each.targets) for each in judged.values())
    quantity = isinstance(result, QuantityErrors)
    what, beyond_what = ("values", "heavy tails") if quantity else ("labels", "ambiguous rows")
    of = f" of {len(judged)} outputs" if len(estimates.names) > 1 else ""
    text = (
        f"No sign of wrong {what} in {records.name} beyond {beyond_what}: {total:,} {what}{of}, by "
        f"{estimates.source}; at most {result.rate:.1%} (up to {result.high:.1%}) in "
        f"{estimates.names[most]}."
    )
    if estimates.missing:
        text += f" {estimates.missing:,} are missing."
    if estimates.total:
        text += f" The rows are a random part of {estimates.total:,}."
    numbers: dict[str, float] = {"n": total, "judged": len(judged), "missing": estimates.missing}
    numbers |= {"rate": result.rate, "low": result.low, "high": result.high}
    evidence = _bars(estimates, judged, what)
    return this.finding(Severity.OK, text, numbers=numbers, evidence=evidence)


def _bars(estimates: OutputEstimates, judged: dict[int, Result], what: str) -> BarEvidence:
    """Share of wrong labels of each output, largest first."""
    frame = pd.DataFrame(
        {
            "output": [estimates.names[i] for i in judged],
            "wrong_share": [each.rate for each in judged.values()],
            "low": [each.low for each in judged.values()],
            "high": [each.high for each in judged.values()],
            "p_value": [each.p_value for each in judged.values()],
        }
    ).sort_values("wrong_share", ascending=False, kind="stable")
    return BarEvidence(
        frame,
        "output",
        "wrong_share",
        title=f"Wrong {what} of each output",
        xlabel="estimated share (95 % interval)",
        interval=("low", "high"),
    )
