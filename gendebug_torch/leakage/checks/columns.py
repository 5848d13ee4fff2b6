"""The check for single columns that predict the target too well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._candidates import LeakCandidate, leak_candidates
from gendebug_torch.leakage.checks._costs import screen_cost
from gendebug_torch.leakage.columns.association import Association, association, unsuitable_targets
from gendebug_torch.leakage.columns.column_ablation import (
    ColumnAblation,
    Performance,
    ablated_performance,
    performance,
    permutation_ablation,
    refit_ablation,
    target_columns,
)
from gendebug_torch.leakage.columns.column_codes import Features
from gendebug_torch.model.runner import Model, collect

# A column that explains so much is a leak whatever the others explain.
_NEARLY_ALL = 0.97
_FAIL_EXPLAINED, _FAIL_AUC = 0.9, 0.975
# If the other columns explain this part of what the column explains, it is no leak; if the column
# explains this part of what all columns explain, a model needs little besides it; and if the others
# explain less than this part, a leak is a failure.
_COMPARABLE, _SUFFICIENT, _FAR_BELOW = 2 / 3, 0.9, 1 / 4
_MIN_ROWS = 20


@dataclass(frozen=True)
class _Context:
    """What the performance of a candidate is compared with.

    Args:
        equivalent: names of the columns that predict as well as the candidate, itself included.
        others: performance of small networks without these columns.
        everything: performance of small networks with all columns.
        model: performance of the user's model, if its logits are there.
    """

    equivalent: tuple[str, ...]
    others: Performance
    everything: Performance
    model: Performance | None


@check(
    "leakage.columns",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=screen_cost,
)
def no_column_predicts_the_target_alone(
    train: Records,
    validation: Records | None = None,
    production: Records | None = None,
    model: Model | None = None,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    limit: int = 10,
) -> Iterator[Finding]:
    """No single column predicts the target as well as a model would.

    A column is a candidate if it explains as much of the target as a correlation of `max_pearson`
    does, linear or not, ranks it with `max_auc`, or adds up to it exactly with others. It is a leak
    if all other columns together predict far less; otherwise the target follows from the data
    either way, and the column is a shortcut.

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
        max_pearson: correlation from which a column is a candidate; its square is the limit of the
            explained share.
        max_auc: AUC from which a column is a candidate, for rare classes.
        limit: largest number of columns reported one by one.
    """
    this = no_column_predicts_the_target_alone
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if reason := unsuitable_targets(targets):
        numbers = {"n": len(targets)}
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers=numbers)
        return
    found = association(features, targets, categorical=train.schema.categorical)
    candidates = leak_candidates(train, found, max_pearson, max_auc)[:limit]
    splits = {"validation": validation, "production": production}
    reported = 0
    for candidate, context in _contexts(train, validation, found, candidates):
        leak = _is_leak(candidate, context)
        if leak or _is_shortcut(candidate, context):
            ablation = _ablation(context.equivalent, found, train, splits, model)
            yield _candidate_finding(found, candidate, context, ablation, leak)
            reported += 1
    yield _summary(train, found, reported)


def _contexts(
    train: Records, validation: Records | None, found: Association, candidates: list[LeakCandidate]
) -> Iterator[tuple[LeakCandidate, _Context]]:
    """Each candidate with the performance of the other columns, of all columns and of the model.

    Columns that leave at most twice as much unexplained as the candidate count as the same leak.
    """
    if not candidates or train.features is None or train.targets is None:
        return
    equivalent = [
        {c.column}
        | {
            o.column
            for o in candidates
            if 1 - o.explained <= 2 * (1 - c.explained) or (o.combination and c.combination)
        }
        for c in candidates
    ]
    everything, *others = ablated_performance(
        train.features,
        train.targets,
        [(), *equivalent],
        order=found.order,
        categorical=train.schema.categorical,
    )
    model = _model_performance(validation) or _model_performance(train)
    for candidate, columns, rest in zip(candidates, equivalent, others, strict=True):
        yield candidate, _Context(tuple(sorted(columns)), rest, everything, model)


def _model_performance(records: Records | None) -> Performance | None:
    if records is None or records.targets is None or records.logits is None or len(records) < 2:
        return None
    if records.targets.ndim != 1:
        return None
    scores = _estimates(records)
    return performance(scores, target_columns(records.targets.cpu(), max(scores.shape[1], 2)))


def _estimates(records: Records) -> Tensor:
    """`[n, r]` predictions of the model for the columns of `target_columns`."""
    assert records.logits is not None
    if records.targets is not None and records.targets.is_floating_point():
        return records.logits.double().cpu().reshape(len(records), -1)[:, :1]
    probs = records.probs.cpu()
    if probs.ndim == 1:
        return probs[:, None]
    return probs[:, 1:] if probs.shape[1] == 2 else probs


def _is_leak(candidate: LeakCandidate, context: _Context) -> bool:
    """Whether the others predict far less, the column is all there is, or it is part of a sum."""
    if candidate.combination is not None or candidate.explained >= _NEARLY_ALL:
        return True
    if _by_ranking(candidate, context):
        return 1 - context.others.auc > 2 * (1 - candidate.auc)
    return not context.others.explained >= _COMPARABLE * candidate.explained


def _is_shortcut(candidate: LeakCandidate, context: _Context) -> bool:
    """Whether a model needs little besides the column."""
    sufficient = candidate.explained >= _SUFFICIENT * context.everything.explained
    return sufficient and not _by_ranking(candidate, context)


def _by_ranking(candidate: LeakCandidate, context: _Context) -> bool:
    """Whether the column is a candidate for its AUC alone, as it is where one class is rare."""
    return candidate.explained < _FAIL_EXPLAINED / 2 and math.isfinite(context.others.auc)


def _ablation(
    columns: tuple[str, ...],
    found: Association,
    train: Records,
    splits: Mapping[str, Records | None],
    model: Model | None,
) -> ColumnAblation:
    """Performance with and without the columns of one leak.

    Through the model, by small networks on the other splits, or out of fold on train.
    """
    labeled: dict[str, tuple[Features, Tensor]] = {
        name: (split.features, split.targets)
        for name, split in splits.items()
        if split is not None
        and split.features is not None
        and split.targets is not None
        and split.targets.ndim == 1
        and len(split) >= _MIN_ROWS
    }
    assert train.features is not None
    assert train.targets is not None
    if model is not None and labeled:

        def predict(features: Features) -> Tensor:
            return _estimates(collect(model, Records(features, schema=train.schema)))

        return permutation_ablation(columns, labeled, predict)
    fitted, codes = (train.features, train.targets), train.schema.categorical
    refit = refit_ablation(columns, fitted, labeled, order=found.order, categorical=codes)
    if refit.splits:
        return refit
    everything, without = ablated_performance(
        *fitted, [(), columns], order=found.order, categorical=codes
    )
    pairs = {"train": (everything, without)}
    return ColumnAblation(columns, "small networks, out of fold", pairs)


def _candidate_finding(
    found: Association,
    candidate: LeakCandidate,
    context: _Context,
    ablation: ColumnAblation,
    leak: bool,
) -> Finding:
    name, others = candidate.column, context.others
    if leak:
        severity, cause = _leak_severity(candidate, others), Cause.TARGET_LEAKAGE
        verdict = "That is too much for a single column."
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
    exact = f" The target is {candidate.combination} in every row." if candidate.combination else ""
    text = (
        f"{_measures(found, candidate)}. The other columns together explain "
        f"{max(others.explained, 0.0):.0%}{area}{whole}.{exact} {verdict} "
        f"{_ablation_text(ablation, name)}"
    )
    return no_column_predicts_the_target_alone.finding(
        severity,
        text,
        cause=cause,
        subject=name,
        numbers=_numbers(found, candidate, context) | _ablation_numbers(ablation),
        remedy=remedy,
        evidence=ablation,
    )


def _leak_severity(candidate: LeakCandidate, others: Performance) -> Severity:
    strong = candidate.explained >= _FAIL_EXPLAINED or candidate.auc >= _FAIL_AUC
    isolated = others.explained <= _FAR_BELOW * candidate.explained
    fail = candidate.combination is not None or strong or isolated
    return Severity.FAIL if fail else Severity.WARN


def _ablation_text(ablation: ColumnAblation, name: str) -> str:
    equivalent = [column for column in ablation.columns if column != name]
    removed = f"Without it and {', '.join(equivalent)}" if equivalent else "Without it"
    changes = [
        f"from {a.value:.3f} to {b.value:.3f} on {split}"
        for split, (a, b) in ablation.splits.items()
    ]
    metric = next(iter(ablation.splits.values()))[0].metric
    return f"{removed}, {metric} changes {' and '.join(changes)}."


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


def _numbers(found: Association, candidate: LeakCandidate, context: _Context) -> dict[str, Any]:
    i = candidate.index
    numbers: dict[str, Any] = {
        "n": found.n,
        "others_explained": context.others.explained,
        "others_auc": context.others.auc,
        "all_explained": context.everything.explained,
        "model_explained": context.model.explained if context.model else None,
    }
    for measure in ("explained", "pearson", "auc", "information"):
        value: Tensor = getattr(found, measure)
        for key, bound in zip(
            (measure, f"{measure}_low", f"{measure}_high"),
            (value, *found.interval(measure)),
            strict=True,
        ):
            numbers[key] = float(bound[i])
    if candidate.combination is not None:
        numbers |= {
            "combination": str(candidate.combination),
            "combination_error": candidate.combination.error,
        }
    return numbers


def _ablation_numbers(ablation: ColumnAblation) -> dict[str, Any]:
    numbers: dict[str, Any] = {"method": ablation.method, "removed": list(ablation.columns)}
    for split, (a, b) in ablation.splits.items():
        numbers |= {
            f"{split}_with": a.value,
            f"{split}_without": b.value,
            f"{split}_difference": a.value - b.value,
            f"{split}_error": ablation.error(split),
        }
    return numbers


def _summary(train: Records, found: Association, reported: int) -> Finding:
    this = no_column_predicts_the_target_alone
    judged = int(found.explained.isfinite().sum())
    numbers: dict[str, Any] = {
        "columns": len(found.names),
        "judged": judged,
        "reported": reported,
        "n": found.n,
    }
    if not judged:
        text = f"None of {len(found.names)} columns could be compared with the target."
        return this.finding(Severity.NOTE, text, numbers=numbers)
    if reported:
        verb = "predicts" if reported == 1 else "predict"
        text = f"{reported} of {judged} columns {verb} the target alone ({found.n:,} rows)."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    exempt = sorted(set(train.schema.causal) & set(found.names))
    strongest = next((name for name in found.order if name not in exempt), found.order[0])
    i = found.names.index(strongest)
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    share = float(found.explained[i])
    numbers |= {"strongest": strongest, "explained": share, "low": low, "high": high}
    text = (
        f"None of {judged} columns predicts the target alone. The strongest, {strongest}, explains "
        f"{share:.0%} of it (95% interval {low:.0%} to {high:.0%}, {found.n:,} rows)."
    )
    numbers["exempt"] = exempt
    return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
