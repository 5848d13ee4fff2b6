"""Two models on the same rows: overall, by class and by slice, corrected for all questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.calibration.checks._confidence import bins_of_rows
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.diagnosis.comparison.comparison import Comparison
from gendebug_torch.diagnosis.comparison.paired_tests import (
    PairedChange,
    paired_accuracy,
    paired_area,
    paired_mean,
)
from gendebug_torch.errors import reject
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.shift.quality.dependence import design_effects
from gendebug_torch.shift.quality.outcomes import class_names, decision_scores, row_losses
from gendebug_torch.slices.levels.binning import fit_binnings, level_codes
from gendebug_torch.stats.intervals import p_value_text
from gendebug_torch.stats.multiple_testing import holm_adjusted

MIN_ROWS = 30
# Rows on which two models disagree that are shown, and questions in a finding each.
_SHOWN, _LISTED = 50, 20


def compared_models(before: Records, after: Records, *, alpha: float = 0.02) -> Comparison:
    """Two models by their answers to the same rows.

    The metrics of the task, the recall of each class and the accuracy in each level of each column
    are compared in pairs (McNemar, DeLong, mean differences) and corrected by Holm for all of these
    questions together. Rows that depend on each other, by `schema.group` or `schema.time`, count as
    the independent rows that they are worth.

    Args:
        before: rows with targets and the outputs of the earlier model.
        after: the same rows with the outputs of the later one.
        alpha: chance that any change is claimed where there is none.

    Raises:
        InputError: other rows, targets or tasks, or outputs are missing.
    """
    before, after = _aligned(before, after)
    changes = list(_questions(before, after))
    p_values = torch.tensor([change.p_value for change in changes], dtype=torch.float64)
    adjusted = holm_adjusted(p_values).tolist()
    pairs = sorted(zip(changes, adjusted, strict=True), key=lambda pair: pair[1])
    claimed = [pair for pair in pairs if pair[1] < alpha]
    findings = [_finding(change, p) for change, p in claimed[:_LISTED]]
    findings += [_summary(changes, len(claimed), len(before), alpha)]
    rows = [asdict(change) | {"p_holm": p} for change, p in zip(changes, adjusted, strict=True)]
    ranked = sorted(findings, key=lambda finding: -finding.severity.level)
    context = {"rows": f"{len(before):,}", "questions": str(len(changes))} | _errors(before, after)
    table, disagreements = pd.DataFrame(rows), _disagreements(before, after)
    return Comparison("models", table, tuple(ranked), disagreements, context)


def _aligned(before: Records, after: Records) -> tuple[Records, Records]:
    """The labeled rows of both."""
    if any(side.logits is None or side.targets is None for side in (before, after)):
        remedy = "Collect the outputs of both models on labeled rows."
        reject("before, after", "records with logits and targets", "none on a side", remedy)
    remedy = "Compare two models on the same rows in the same order."
    if before.task is not after.task or len(before) != len(after):
        got = f"{before.task}, {len(before):,} rows against {after.task}, {len(after):,} rows"
        reject("after", "the same rows and the same task", got, remedy)
    if before.task is Task.DENSE:
        reject("before", "one answer per row", "a dense head", "Compare them position by position.")
    assert before.targets is not None
    assert after.targets is not None
    one, other = before.targets.cpu(), after.targets.cpu()
    if not torch.equal(one.nan_to_num(), other.nan_to_num()):
        reject("after", "the same targets", "others", remedy)
    labeled = ~missing_labels(one)
    if int(labeled.sum()) < MIN_ROWS:
        got = f"{int(labeled.sum())}"
        reject("before", f"at least {MIN_ROWS} labeled rows", got, "Label more rows.")
    return before.select(labeled).to("cpu"), after.select(labeled).to("cpu")


def _questions(before: Records, after: Records) -> Iterator[PairedChange]:
    """All questions that are asked of both models."""
    assert before.targets is not None
    scores = [_row_scores(side, before.schema.threshold or 0.5) for side in (before, after)]
    difference = scores[1] - scores[0]
    centered = difference - difference.mean()
    effect = design_effects(centered, centered, before, after)[0] if centered.any() else 1.0
    regression = before.task is Task.REGRESSION
    name = "squared error" if regression else "accuracy"
    yield _paired(name, scores, effect, regression)
    if before.task is Task.BINARY:
        odds = torch.stack([positive_logit(_logits(side)) for side in (before, after)], 1)
        area = paired_area("AUC", odds, before.targets == 1, effect=effect)
        yield from [] if area is None else [area]
    if not regression:
        losses = [row_losses(_logits(side), before.targets) for side in (before, after)]
        yield paired_mean("log loss", *losses, effect=effect)
    for question, member in (*_classes(before), *_levels(before, name)):
        # Too few rows would only cost the others their level.
        if int(member.sum()) >= MIN_ROWS:
            yield _paired(question, [part[member] for part in scores], effect, regression)


def _classes(records: Records) -> Iterator[tuple[str, Tensor]]:
    """The recall of each class, and its rows `[n]` bool."""
    targets = records.targets
    if targets is None or targets.ndim > 1 or records.task is Task.REGRESSION:
        return
    k = 2 if _logits(records).ndim == 1 else _logits(records).shape[1]
    for i, label in enumerate(class_names(records, k)):
        yield f"recall of {label}", targets == i


def _levels(records: Records, name: str) -> Iterator[tuple[str, Tensor]]:
    """The metric in each level of each column, and its rows `[n]` bool."""
    if isinstance(records.features, pd.DataFrame):
        binnings = fit_binnings(records.features, categorical=records.schema.categorical)
        levels, codes = level_codes(records.features, binnings)
        for i, level in enumerate(levels):
            yield f"{name} where {level}", (codes == i).any(1)


def _paired(question: str, scores: list[Tensor], effect: float, regression: bool) -> PairedChange:
    """McNemar's test of right and wrong, that of means of other scores."""
    right = all(bool(((part == 0) | (part == 1)).all()) for part in scores)
    if right and not regression:
        return paired_accuracy(question, scores[0] == 1, scores[1] == 1, effect=effect)
    return paired_mean(question, *scores, effect=effect, lower_is_better=regression)


def _row_scores(side: Records, threshold: float) -> Tensor:
    """Score of each answer, 1 at best, or the squared error of quantities, `[n]` float64."""
    z, y = _logits(side), side.targets
    assert y is not None
    if side.task is Task.REGRESSION:
        error = z.double().reshape(len(z), -1) - y.double().reshape(len(y), -1)
        return error.square().nanmean(1)
    if side.task is Task.MULTILABEL:
        return decision_scores(z, y, 0.5).nanmean(1)
    if side.task is Task.BINARY:
        return decision_scores(positive_logit(z), y, threshold)
    return (z.argmax(1) == y).double()


def _finding(change: PairedChange, p: float) -> Finding:
    severity = Severity.WARN if change.fell else Severity.OK
    word = "worse" if change.fell else "better"
    summary = f"The later model is {word}: {change}, Holm {p_value_text(p)}."
    remedy = "Look at the rows where the models disagree before you ship it." if change.fell else ""
    numbers = asdict(change) | {"p_holm": p}
    return Finding(
        "compare.models",
        Cause.BEHAVIOR_REGRESSION,
        severity,
        summary,
        change.question,
        numbers,
        remedy,
    )


def _summary(changes: list[PairedChange], claimed: int, rows: int, alpha: float) -> Finding:
    text = (
        f"{claimed} of {len(changes)} questions about {rows:,} rows show a change beyond noise "
        f"(family-wise level {alpha:g}); overall {changes[0]}."
    )
    numbers = {"claimed": claimed, "questions": len(changes), "rows": rows, "alpha": alpha}
    return Finding("compare.models", Cause.BEHAVIOR_REGRESSION, Severity.OK, text, numbers=numbers)


def _errors(before: Records, after: Records) -> dict[str, str]:
    """Calibration of both, where it is defined."""
    if before.task not in (Task.BINARY, Task.MULTICLASS):
        return {}
    errors = [f"{bins_of_rows(side, 15).ece:.1%}" for side in (before, after)]
    return {"ECE before": errors[0], "ECE after": errors[1]}


def _disagreements(before: Records, after: Records) -> pd.DataFrame | None:
    """Rows that the models answer differently, the surest mistakes of the later one first."""
    if before.task not in (Task.BINARY, Task.MULTICLASS):
        return None
    differ = (before.predicted != after.predicted).nonzero()[:, 0]
    assert before.targets is not None
    wrong = after.predicted[differ] != before.targets[differ]
    confidence = after.confidence[differ]
    order = (confidence * torch.where(wrong, 1.0, -1.0)).argsort(descending=True, stable=True)
    differ = differ[order][:_SHOWN]
    return pd.DataFrame(
        {
            "row": differ.numpy(),
            "target": before.targets[differ].numpy(),
            "before": before.predicted[differ].numpy(),
            "after": after.predicted[differ].numpy(),
            "confidence_after": after.confidence[differ].numpy(),
        }
    )


def _logits(side: Records) -> Tensor:
    assert side.logits is not None
    return side.logits
