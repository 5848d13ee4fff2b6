"""Check that no dominant feature loses its importance in production."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from gendebug_torch.attribution.checks._relations import relation_is_gone
from gendebug_torch.attribution.checks._rows import (
    SHARE_ROWS,
    SHARE_STEPS,
    output_attributions,
    reason_not_to_explain,
    row_count,
    sample_records,
)
from gendebug_torch.attribution.compare.feature_use import (
    ImportanceChange,
    attribution_shares,
    importance_change,
)
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.data.task import Task

# Share of the most frequent value from which a feature is constant, and below which it was not.
_CONSTANT, _VARIED = 0.9, 0.85


@check(
    "attribution.shortcut",
    cause=Cause.SHORTCUT_FEATURE,
    needs=(
        "model",
        "validation.features",
        "validation.targets",
        "production.features",
        "production.targets",
    ),
    cost=lambda given: Cost(
        backwards=float(SHARE_STEPS * row_count(given, "validation", SHARE_ROWS)),
        forwards=9.0
        * (row_count(given, "validation", 5000) + row_count(given, "production", 5000)),
    ),
)
def no_dominant_feature_loses_its_importance(
    model: nn.Module,
    validation: Records,
    production: Records,
    *,
    alpha: float = 0.002,
    min_skill: float = 0.4,
    max_remaining: float = 0.25,
    candidates: int = 3,
    rows: int = 5000,
    seed: int = 0,
) -> Iterator[Finding]:
    """No feature dominates the model in validation and has no importance in production.

    Permutation importance in validation and in production, by the log loss or the squared error, of
    the features with the largest share of attribution. A dominant feature whose importance lasts
    passes; so does one that is constant in production, which is a shift. A declared cause, and a
    feature whose relation to the target changed but is present, are concept drift.

    Source: Geirhos et al. (2020), Nat. Mach. Intell. 2:665, arXiv:2004.07780; Breiman (2001),
    Machine Learning 45:5.

    Args:
        model: network of classes, labels or quantities.
        validation: labeled rows.
        production: labeled rows.
        alpha: probability of any false alarm over the candidates.
        min_skill: smallest share of the skill in validation that shuffling the feature must cost.
        max_remaining: largest share of that cost, of either sign, that may remain in production.
        candidates: number of tested features, by attribution.
        rows: largest number of rows of each side.
        seed: seed of the samples.
    """
    this = no_dominant_feature_loses_its_importance
    sides = [sample_records(side, rows, seed) for side in (validation, production)]
    reasons = [_reason_not_to_judge(side) for side in sides]
    if any(reasons):
        numbers = {"rows_validation": len(validation), "rows_production": len(production)}
        summary = f"Not judged: {next(filter(None, reasons))}."
        yield this.finding(Severity.NOTE, summary, numbers=numbers)
        return
    outputs = output_attributions(model, sample_records(validation, SHARE_ROWS, seed))
    share = torch.stack([attribution_shares(output)[0] for output in outputs]).mean(0)
    order = share.argsort(descending=True, stable=True)[:candidates].tolist()
    names = [outputs[0].names[column] for column in order]
    result = importance_change(model, sides[0], sides[1], names, seed=seed)
    lost = [
        (i, column)
        for i, column in enumerate(order)
        if _importance_is_lost(result, i, alpha, min_skill, max_remaining)
        and not _is_constant_in_production(sides, column)
    ]
    for i, column in lost:
        drift = names[i] in validation.schema.causal or not relation_is_gone(
            model, sides[1], column, seed=seed
        )
        yield _lost_importance(result, i, float(share[column]), drift)
    if not lost:
        yield _lasting_importance(result, float(share[order[0]]))


def _reason_not_to_judge(records: Records) -> str:
    logits, targets = records.logits, records.targets
    unequal = logits is not None and targets is not None and logits.numel() != targets.numel()
    if unequal and records.task in (Task.REGRESSION, Task.MULTILABEL):
        return f"the targets of {records.name} do not fit its outputs"
    return reason_not_to_explain(records)


def _importance_is_lost(
    result: ImportanceChange, i: int, alpha: float, min_skill: float, max_remaining: float
) -> bool:
    """Whether a feature was important before and is not after, while the loss increased."""
    before, after = result.importance[:, i].tolist()
    worse = result.base[1] > result.base[0]
    decreased = float(result.adjusted[i]) < alpha and abs(after) <= max_remaining * before
    return worse and decreased and before > 0 and float(result.skill[0, i]) >= min_skill


def _is_constant_in_production(sides: list[Records], column: int) -> bool:
    """Whether the feature hardly varies in production, so that a shift explains the loss."""
    shares = []
    for side in sides:
        counts = torch.unique(model_inputs(side)[:, column], return_counts=True)[1]
        shares.append(float(counts.max()) / float(counts.sum()))
    return shares[1] > _CONSTANT and shares[0] < _VARIED


def _lasting_importance(result: ImportanceChange, share: float) -> Finding:
    """The finding where no importance was lost, on the most important feature."""
    name, (before, after) = result.names[0], result.skill[:, 0].tolist()
    numbers = {
        "feature": name,
        "share": share,
        "skill_validation": before,
        "skill_production": after,
    }
    summary = (
        f"No dominant feature loses its importance: {name} has {share:.0%} of the attribution; "
        f"shuffling it costs {_percent(before)} of the skill in validation and {_percent(after)} "
        "in production."
    )
    return no_dominant_feature_loses_its_importance.finding(
        Severity.OK, summary, numbers=numbers, evidence=result
    )


def _lost_importance(result: ImportanceChange, i: int, share: float, drift: bool) -> Finding:
    """The finding for one feature that lost its importance."""
    name, skill = result.names[i], result.skill[:, i].tolist()
    importance, error = result.importance[:, i].tolist(), result.standard_error[:, i].tolist()
    numbers = {
        "share": share,
        "skill_validation": skill[0],
        "skill_production": skill[1],
        "p_holm": float(result.adjusted[i]),
        "importance": importance,
        "standard_error": error,
        "loss": list(result.base),
    }
    before, after = result.labels
    summary = (
        f"{name} dominates the model ({share:.0%} of the attribution; shuffling it costs "
        f"{_percent(skill[0])} of the skill in {before}), but loses its importance in {after}: "
        f"there shuffling changes the loss by {importance[1]:+.3g} ± {1.96 * error[1]:.2g}, in "
        f"{before} by {importance[0]:+.3g}."
    )
    remedy = (
        f"Retrain without {name}, or on rows where it is not associated with the target. If it is "
        "a cause, declare it in `causal`."
    )
    if drift:
        remedy = (
            f"The relation between {name} and the target changed. Find out what changed, then "
            "retrain on recent rows."
        )
    return no_dominant_feature_loses_its_importance.finding(
        Severity.WARN if drift else Severity.FAIL,
        summary,
        cause=Cause.CONCEPT_DRIFT if drift else Cause.SHORTCUT_FEATURE,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=result,
    )


def _percent(skill: float) -> str:
    """A share of the skill as text; a network can fall below no skill."""
    return f"{max(skill, 0.0):.0%}" if skill <= 1.0 else "more than all"
