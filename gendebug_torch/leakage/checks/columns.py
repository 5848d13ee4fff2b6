"""The check for single columns that predict the target too well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._availability import (
    NEARLY_ALL,
    accusation,
    is_property,
)
from gendebug_torch.leakage.checks._candidates import (
    SCREEN,
    ColumnScreen,
    LeakCandidate,
    leak_candidates,
    screened,
)
from gendebug_torch.leakage.checks._comparison import (
    Context,
    Predictor,
    ablation_numbers,
    ablation_text,
    candidate_numbers,
    column_ablation,
    column_contexts,
)
from gendebug_torch.leakage.checks._costs import screen_cost
from gendebug_torch.leakage.checks._sufficient import (
    SUFFICIENT,
    of_the_strongest,
    sufficient_columns,
    sufficient_findings,
)
from gendebug_torch.leakage.checks._targets import by_target
from gendebug_torch.leakage.columns.association import Association, unsuitable_targets
from gendebug_torch.leakage.columns.column_ablation import ColumnAblation, Performance
from gendebug_torch.model.evaluation import Model

_FAIL_EXPLAINED, _FAIL_AUC = 0.9, 0.975
# If the other columns explain this part of what the column explains, it is no leak; if they explain
# less than the second part, a leak is a failure.
_COMPARABLE, _FAR_BELOW = 2 / 3, 1 / 4
# Share of several classes, and of a quantity, that honest predictors often explain.
_MIN_LEAK, _MIN_LEAK_OF_QUANTITY = 0.75, 0.85
# The others predict as well if they rank this part as well (`2 AUC - 1`), and a model can do
# without a column if it keeps this part of its performance on rows that it was not fitted on.
_AS_WELL, _KEPT = 0.95, 0.8


@check(
    "leakage.columns",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=screen_cost,
    deferred=(SCREEN,),
    partial_labels=True,
)
def no_column_predicts_the_target_alone(
    train: Records,
    validation: Records | None = None,
    production: Records | None = None,
    model: Model | None = None,
    column_screen: Deferred[ColumnScreen | None] = NOTHING,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    limit: int = 10,
) -> Iterator[Finding]:
    """No single column predicts the target as well as a model would.

    A column is a candidate if it explains as much of the target as a correlation of `max_pearson`
    does, linear or not, ranks it with `max_auc`, or adds up to it exactly with others. It is a leak
    if all other columns together predict far less, adding them improves little on the column, and
    something speaks for a record of the outcome: the column is the whole target, its times, its
    missing values or its values in production, or it goes with the other columns as only what
    follows the target does. It is a shortcut if the others predict nearly as well in training and
    far less on other rows. Any other column that alone predicts nearly as well as all together is
    a note, and a warning if its times, missing values or values in production speak against it.
    A property of an image or a text is known before the answer: at most it is a shortcut.
    Of several labels or quantities each is judged by itself.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, on leaks as what is too
    good for one column; Pearson (1905) and Goodman and Kruskal (1954), JASA 49:732, for the
    explained share.

    Args:
        train: records with features and targets; `schema.causal` lists columns that may follow the
            target closely.
        validation: records with features and targets, for the performance without the column.
        production: records of the same kind.
        model: network through which the column is permuted; without it small networks are fitted
            with and without the column.
        column_screen: what single columns tell of the target, derived.
        max_pearson: correlation from which a column is a candidate; its square is the limit of the
            explained share.
        max_auc: AUC from which a column is a candidate, for rare classes.
        limit: largest number of columns reported one by one.
    """
    limits = max_pearson, max_auc, limit

    def judged(parts: Sequence[Records | None], output: int | None) -> Iterator[Finding]:
        labeled, *others = parts
        assert labeled is not None
        splits = dict(zip(("validation", "production"), others, strict=True))
        screen = column_screen if output is None else None
        return _target_findings(labeled, splits, Predictor(model, output), screen, limits)

    yield from by_target(judged, train, validation, production)


def _target_findings(
    train: Records,
    splits: Mapping[str, Records | None],
    predictor: Predictor,
    shared: Deferred[ColumnScreen | None] | None,
    limits: tuple[float, float, int],
) -> Iterator[Finding]:
    """Findings on one target of labeled records."""
    this, (max_pearson, max_auc, limit) = no_column_predicts_the_target_alone, limits
    assert train.targets is not None
    if reason := unsuitable_targets(train.targets):
        numbers = {"n": len(train)}
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers=numbers)
        return
    screen = screened(train, shared)
    found = screen.found
    candidates = leak_candidates(train, screen, max_pearson, max_auc)[:limit]
    contexts = column_contexts(train, splits["validation"], found, candidates)
    ablations: dict[tuple[tuple[str, ...], bool], ColumnAblation] = {}
    reported: list[str] = []
    for candidate, context in zip(candidates, contexts, strict=False):
        # What an input shows is known before its answer, and its properties go together.
        described = is_property(candidate.column, train)
        alone = _is_leak(found.classes, candidate, context)
        leak = alone and not described
        alone |= described and candidate.overall >= _FAIL_EXPLAINED
        if _is_honest(found, candidate) or not (alone or _is_shortcut(candidate, context)):
            continue
        reason = accusation(candidate, context, found, train, splits["production"]) if leak else ""
        if leak and not reason:
            continue
        columns = context.equivalent
        if (columns, leak) not in ablations:
            # Whether a model can do without the columns is a question to other models.
            asked = predictor if leak else Predictor(None)
            ablations[columns, leak] = column_ablation(columns, found, train, splits, asked)
        ablation = ablations[columns, leak]
        if alone or _is_missed(ablation):
            yield _candidate_finding(found, candidate, context, ablation, reason)
            reported += columns
    sufficient = sufficient_columns(train, found, contexts[-1])
    left = [name for name in sufficient if name not in reported][:limit]
    for finding in sufficient_findings(
        this, left, train, splits["production"], found, contexts[-1]
    ):
        yield finding
        reported.append(finding.subject)
    yield _summary(train, found, contexts[-1], reported, sufficient)


def _is_honest(found: Association, candidate: LeakCandidate) -> bool:
    """Whether a column explains no more than an ordinary strong predictor does.

    Two classes are left to the limits of candidates; of several classes the column must explain
    the whole target, or one class nearly completely.
    """
    if candidate.combination is not None or found.classes == 2:
        return False
    if not found.classes:
        return candidate.overall < _MIN_LEAK_OF_QUANTITY
    return candidate.overall < _MIN_LEAK and candidate.explained < _FAIL_EXPLAINED


def _is_leak(classes: int, candidate: LeakCandidate, context: Context) -> bool:
    """Whether the others predict far less, the column is all there is, or it is part of a sum."""
    if candidate.combination is not None or candidate.overall >= NEARLY_ALL:
        return True
    if _by_ranking(candidate, context):
        return 1 - context.others.auc > 2 * (1 - candidate.auc)
    if classes > 2 and candidate.explained >= _FAIL_EXPLAINED:
        # Nearly all of one class: a leak if the whole suffers without it, as it does not where
        # the class is one of many.
        return context.others.explained < _KEPT * context.everything.explained
    # A strong column among others that add to it is an honest predictor.
    limit = min(_FAIL_EXPLAINED, SUFFICIENT * context.whole)
    comparable = context.others.explained >= _COMPARABLE * candidate.overall
    # NaN where there is no AUC.
    as_well = 2 * context.others.auc - 1 >= _AS_WELL * (2 * candidate.auc - 1)
    return candidate.overall >= limit and not (comparable or as_well)


def _is_missed(ablation: ColumnAblation) -> bool:
    """Whether on some split a model without the columns keeps too little of its performance."""
    for split, (a, b) in ablation.splits.items():
        skill, left = (2 * p.auc - 1 if p.metric == "AUC" else p.explained for p in (a, b))
        certain = a.value - b.value > 2 * ablation.error(split)
        if certain and left < _KEPT * skill:
            return True
    return False


def _is_shortcut(candidate: LeakCandidate, context: Context) -> bool:
    """Whether a model needs little besides the column."""
    sufficient = candidate.overall >= SUFFICIENT * context.everything.explained
    return sufficient and not _by_ranking(candidate, context)


def _by_ranking(candidate: LeakCandidate, context: Context) -> bool:
    """Whether the column is a candidate for its AUC alone, as it is where one class is rare."""
    return candidate.explained < _FAIL_EXPLAINED / 2 and math.isfinite(context.others.auc)


def _candidate_finding(
    found: Association,
    candidate: LeakCandidate,
    context: Context,
    ablation: ColumnAblation,
    verdict: str,
) -> Finding:
    name, others = candidate.column, context.others
    if verdict:
        severity, cause = _leak_severity(found, candidate, others), Cause.TARGET_LEAKAGE
        remedy = (
            f"Find out when {name} is recorded. If that is with or after the outcome, drop it and "
            "retrain; if it is available at prediction time, list it under `causal` in the schema."
        )
    else:
        severity, cause = Severity.WARN, Cause.SHORTCUT_FEATURE
        verdict = "A model needs little besides this column."
        remedy = (
            f"Train a model without {name} as well and compare both on later data: a model that "
            f"relies on {name} alone fails with it."
        )
    area = f" (AUC {others.auc:.3f})" if math.isfinite(others.auc) else ""
    whole = f", the whole model {context.model.explained:.0%}" if context.model else ""
    text = (
        f"{_measures(found, candidate)}. The other columns{of_the_strongest(found)} together "
        f"explain {max(others.explained, 0.0):.0%}{area}{whole}. {verdict} "
        f"{ablation_text(ablation, name)}"
    )
    return no_column_predicts_the_target_alone.finding(
        severity,
        text,
        cause=cause,
        subject=name,
        numbers=candidate_numbers(found, candidate, context) | ablation_numbers(ablation),
        remedy=remedy,
        evidence=ablation,
    )


def _leak_severity(found: Association, candidate: LeakCandidate, others: Performance) -> Severity:
    strong = candidate.explained >= _FAIL_EXPLAINED or candidate.auc >= _FAIL_AUC
    isolated = found.classes > 0 and others.explained <= _FAR_BELOW * candidate.overall
    fail = candidate.combination is not None or strong or isolated
    return Severity.FAIL if fail else Severity.WARN


def _measures(found: Association, candidate: LeakCandidate) -> str:
    i = candidate.index
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    r, auc = float(found.pearson[i]), float(found.auc[i])
    parts = [f"95% interval {low:.1%} to {high:.1%}"]
    if math.isfinite(auc):
        parts.append(f"AUC {auc:.3f}")
    if math.isfinite(r):
        parts.append(f"Pearson {r:+.2f}")
    if found.classes > 2:
        parts.append(f"{float(found.best_explained[i]):.0%} of class {int(found.best_class[i])}")
    share = float(found.explained[i])
    return f"{candidate.column} alone explains {share:.1%} of the target ({', '.join(parts)})"


def _summary(
    train: Records,
    found: Association,
    context: Context,
    reported: list[str],
    sufficient: list[str],
) -> Finding:
    this = no_column_predicts_the_target_alone
    judged = int(found.explained.isfinite().sum())
    named = len(set(reported))
    numbers: dict[str, Any] = {
        "columns": len(found.names),
        "judged": judged,
        "reported": named,
        "sufficient": sufficient,
        "whole": context.whole,
        "n": found.n,
    }
    if not judged:
        text = f"None of {len(found.names)} columns could be compared with the target."
        return this.finding(Severity.NOTE, text, numbers=numbers)
    if named:
        verb = "predicts" if named == 1 else "predict"
        text = f"{named} of {judged} columns {verb} the target alone ({found.n:,} rows)."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    return _unreported(train, found, numbers)


def _unreported(train: Records, found: Association, numbers: dict[str, Any]) -> Finding:
    """The strongest column, or those that predict nearly as well as all together, as a note."""
    this, judged, whole = no_column_predicts_the_target_alone, numbers["judged"], numbers["whole"]
    exempt = sorted(set(train.schema.causal) & set(found.names))
    strongest = next((name for name in found.order if name not in exempt), found.order[0])
    i = found.names.index(strongest)
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    share = float(found.explained[i])
    numbers = numbers | {"strongest": strongest, "explained": share, "low": low, "high": high}
    numbers["exempt"] = exempt
    if not numbers["sufficient"]:
        text = (
            f"None of {judged} columns predicts the target alone. The strongest, {strongest}, "
            f"explains {share:.0%} of it (95% interval {low:.0%} to {high:.0%}, {found.n:,} rows)."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    names = ", ".join(numbers["sufficient"][:3])
    several = len(numbers["sufficient"]) > 1
    text = (
        f"{f'Each of {names}' if several else names} alone predicts nearly as well as all columns"
        f"{of_the_strongest(found)} together ({share:.0%} of the target explained by {strongest}, "
        f"{whole:.0%} by all; {found.n:,} rows). {'Are they' if several else 'Is it'} known before "
        "the answer?"
    )
    remedy = (
        f"Check when {names} {'are' if several else 'is'} recorded; what is known in time, list "
        "under `causal`."
    )
    return this.finding(Severity.NOTE, text, numbers=numbers, remedy=remedy, evidence=found)
