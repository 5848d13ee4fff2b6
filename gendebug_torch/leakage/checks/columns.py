"""The check of single columns that tell the target too well, with what each is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._suspects import Suspect, screen_cost, suspects_of
from gendebug_torch.leakage.columns.association import Association, association, too_few
from gendebug_torch.leakage.columns.leak_value import (
    LeakCost,
    Skill,
    permuted_cost,
    probe_cost,
    skill,
    skill_without,
    target_columns,
)
from gendebug_torch.leakage.splits.row_hashes import Features
from gendebug_torch.model.runner import Model, collect

# A column that explains so much is a leak whatever the others reach.
NEARLY_ALL = 0.97
FAIL_EXPLAINED, FAIL_AUC = 0.9, 0.975
# The others reaching this share of what the column reaches alone make it a shortcut rather than a
# leak, and reaching that share of what all columns reach makes it one beside which a network needs
# little.
RIVAL, ENOUGH, FAR_BEHIND = 2 / 3, 0.9, 1 / 4


@dataclass(frozen=True)
class Rivals:
    """The columns that are as good as the suspect (itself included), and what the others, all
    columns and the model reach.
    """

    same: tuple[str, ...]
    others: Skill
    everything: Skill
    model: Skill | None


@check(
    "leakage.columns",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=screen_cost,
)
def no_column_is_too_good_alone(
    train: Records,
    validation: Records | None = None,
    production: Records | None = None,
    model: Model | None = None,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    limit: int = 10,
) -> Iterator[Finding]:
    """No single column tells the target as well as a model would.

    A column is suspected where it explains as much of the target as a correlation of `max_pearson`
    does, in a straight line or not, ranks it with `max_auc`, or adds up to it exactly with others.
    It is a leak where all other columns together come nowhere near; where they do, the answer is in
    the data either way, and the column is a shortcut.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, on leaks as what is too
    good for one column; Pearson (1905) and Goodman and Kruskal (1954), JASA 49:732, for the
    explained share.

    Args:
        train: records with features and targets; `schema.causal` names columns that may follow the
            target closely.
        validation: records with features and targets, to see what the column is worth there.
        production: the same.
        model: to permute the column through; without it small networks are fitted with and without
            the column.
        max_pearson: correlation from which a column is suspected; its square is the limit of the
            explained share.
        max_auc: AUC from which a column is suspected, for rare classes.
        limit: most columns reported one by one.
    """
    this = no_column_is_too_good_alone
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if targets.ndim != 1:
        yield this.finding(
            Severity.NOTE,
            f"Not judged: {train.name} has several labels per row; pass one label at a time.",
        )
        return
    if reason := too_few(targets):
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers={"n": len(targets)})
        return
    found = association(features, targets, categorical=train.schema.categorical)
    suspects = [
        s
        for s in suspects_of(train, found, max_pearson, max_auc)
        if s.column not in train.schema.causal
    ]
    named = 0
    for suspect, rivals in _compared(train, validation, found, suspects[:limit]):
        leak = _is_leak(suspect, rivals)
        if leak or _is_shortcut(suspect, rivals):
            worth = _worth(
                rivals.same,
                found,
                train,
                {"validation": validation, "production": production},
                model,
            )
            yield _suspicion(found, suspect, rivals, worth, leak)
            named += 1
    yield _summary(train, found, named)


def _compared(
    train: Records, validation: Records | None, found: Association, suspects: list[Suspect]
) -> Iterator[tuple[Suspect, Rivals]]:
    """Each suspect with what the columns that are not as good reach together, and what all reach.

    Columns that leave at most twice as much unexplained as the suspect are taken for the same leak
    in other words.
    """
    if not suspects or train.features is None or train.targets is None:
        return
    same = [
        {
            o.column
            for o in suspects
            if 1 - o.alone <= 2 * (1 - s.alone) or (o.formula and s.formula)
        }
        | {s.column}
        for s in suspects
    ]
    interest = [
        found.names[i] for i in found.explained.nan_to_num(-1.0).argsort(descending=True).tolist()
    ]
    everything, *others = skill_without(
        train.features,
        train.targets,
        [(), *same],
        keep=interest,
        categorical=train.schema.categorical,
    )
    model = _model_skill(validation) or _model_skill(train)
    for suspect, family, left in zip(suspects, same, others, strict=True):
        yield suspect, Rivals(tuple(sorted(family)), left, everything, model)


def _model_skill(records: Records | None) -> Skill | None:
    if (
        records is None
        or records.targets is None
        or records.targets.ndim != 1
        or records.logits is None
        or len(records) < 2
    ):
        return None
    scores = _estimates(records)
    return skill(scores, target_columns(records.targets.cpu(), max(scores.shape[1], 2)))


def _estimates(records: Records) -> Tensor:
    """`[n, r]` what the model says of the columns of `target_columns`."""
    assert records.logits is not None
    if records.targets is not None and records.targets.is_floating_point():
        return records.logits.double().cpu().reshape(len(records), -1)[:, :1]
    probs = records.probs.cpu()
    return probs[:, None] if probs.ndim == 1 else probs[:, 1:] if probs.shape[1] == 2 else probs


def _is_leak(suspect: Suspect, rivals: Rivals) -> bool:
    """Whether the others come nowhere near, the column is all there is, or it is part of an exact
    sum.
    """
    if suspect.formula is not None or suspect.alone >= NEARLY_ALL:
        return True
    if _ranks(suspect, rivals):
        return 1 - rivals.others.auc > 2 * (1 - suspect.auc)
    return not rivals.others.explained >= RIVAL * suspect.alone


def _is_shortcut(suspect: Suspect, rivals: Rivals) -> bool:
    """Whether a network needs little beside the column."""
    return not _ranks(suspect, rivals) and suspect.alone >= ENOUGH * rivals.everything.explained


def _ranks(suspect: Suspect, rivals: Rivals) -> bool:
    """Whether the column is suspected for its ranking alone, as it is where one class is rare."""
    return suspect.alone < FAIL_EXPLAINED / 2 and math.isfinite(rivals.others.auc)


def _worth(
    columns: tuple[str, ...],
    found: Association,
    train: Records,
    sides: Mapping[str, Records | None],
    model: Model | None,
) -> LeakCost:
    """The metric with and without the columns of one leak: through the model, by small networks on
    other sides, or out of fold on train.
    """
    labeled: dict[str, tuple[Features, Tensor]] = {
        name: (side.features, side.targets)
        for name, side in sides.items()
        if side is not None
        and side.features is not None
        and side.targets is not None
        and side.targets.ndim == 1
        and len(side) >= 20
    }
    assert train.features is not None
    assert train.targets is not None
    targets = train.targets
    if model is not None and labeled:
        return permuted_cost(
            columns,
            labeled,
            lambda features: _estimates(collect(model, Records(features, schema=train.schema))),
        )
    interest = [
        found.names[i] for i in found.explained.nan_to_num(-1.0).argsort(descending=True).tolist()
    ]
    coded = train.schema.categorical
    worth = (
        probe_cost(columns, (train.features, targets), labeled, keep=interest, categorical=coded)
        if labeled
        else None
    )
    if worth is not None and worth.sides:
        return worth
    everything, without = skill_without(
        train.features, targets, [(), columns], keep=interest, categorical=coded
    )
    return LeakCost(columns, "small networks, out of fold", {"train": (everything, without)})


def _suspicion(
    found: Association, suspect: Suspect, rivals: Rivals, worth: LeakCost, leak: bool
) -> Finding:
    this, name, others = no_column_is_too_good_alone, suspect.column, rivals.others
    text = (
        f"{_measured(found, suspect)}; the other columns explain "
        f"{max(others.explained, 0.0):.0%} together"
    )
    text += f" (AUC {others.auc:.3f})" if math.isfinite(others.auc) else ""
    text += f", the whole model {rivals.model.explained:.0%}" if rivals.model is not None else ""
    text += f"; the target is {suspect.formula} in every row" if suspect.formula is not None else ""
    told = [
        f"{a.metric} {a.value:.3f} on {side} with it and {b.value:.3f} without"
        for side, (a, b) in worth.sides.items()
    ]
    beside = ", ".join(column for column in worth.columns if column != name)
    text += f"; {', '.join(told)}" + (f" (nor {beside})" if beside else "")
    numbers = _numbers(found, suspect, rivals) | {
        "cost_by": worth.how,
        "cost_of": list(worth.columns),
    }
    for side, (a, b) in worth.sides.items():
        numbers |= {
            f"{side}_with": a.value,
            f"{side}_without": b.value,
            f"{side}_cost": a.value - b.value,
            f"{side}_error": worth.error(side),
        }
    if leak:
        fail = (
            suspect.formula is not None
            or max(suspect.alone / FAIL_EXPLAINED, suspect.auc / FAIL_AUC) >= 1
        )
        fail = fail or others.explained <= FAR_BEHIND * suspect.alone
        remedy = (
            f"Find out when {name} is written: if with or after the outcome, drop it and retrain; "
            "if it is known when the model is asked, "
            "list it under `causal` in the schema."
        )
        severity, cause, verdict = (
            Severity.FAIL if fail else Severity.WARN,
            Cause.TARGET_LEAKAGE,
            "too good for one column",
        )
    else:
        remedy = (
            f"Train without {name} as well and compare both on later data: a network that "
            f"leans on {name} alone falls with it."
        )
        severity, cause, verdict = (
            Severity.WARN,
            Cause.SHORTCUT_FEATURE,
            "a network needs little beside it",
        )
    return this.finding(
        severity,
        f"{text}: {verdict}.",
        cause=cause,
        subject=name,
        numbers=numbers,
        remedy=remedy,
        evidence=worth,
    )


def _measured(found: Association, suspect: Suspect) -> str:
    i = suspect.place
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    r, auc = float(found.pearson[i]), float(found.auc[i])
    beside = [f"AUC {auc:.3f}"] * math.isfinite(auc) + [f"Pearson {r:+.2f}"] * math.isfinite(r)
    beside += [f"{float(found.best_explained[i]):.0%} of class {int(found.best_class[i])}"] * (
        found.classes > 2
    )
    known = f"95 % interval {low:.1%} to {high:.1%}"
    return (
        f"{suspect.column} alone explains {float(found.explained[i]):.1%} of the target "
        f"({', '.join([known, *beside])})"
    )


def _numbers(found: Association, suspect: Suspect, rivals: Rivals) -> dict[str, Any]:
    i = suspect.place
    numbers: dict[str, Any] = {
        "n": found.n,
        "others_explained": rivals.others.explained,
        "others_auc": rivals.others.auc,
    }
    numbers |= {
        "all_explained": rivals.everything.explained,
        "model_explained": rivals.model.explained if rivals.model else None,
    }
    for measure in ("explained", "pearson", "auc", "information"):
        low, high = found.interval(measure)
        value: Tensor = getattr(found, measure)
        numbers |= {
            measure: float(value[i]),
            f"{measure}_low": float(low[i]),
            f"{measure}_high": float(high[i]),
        }
    if suspect.formula is not None:
        numbers |= {"formula": str(suspect.formula), "formula_error": suspect.formula.error}
    return numbers


def _summary(train: Records, found: Association, named: int) -> Finding:
    this = no_column_is_too_good_alone
    judged = int(found.explained.isfinite().sum())
    numbers: dict[str, Any] = {
        "columns": len(found.names),
        "judged": judged,
        "named": named,
        "n": found.n,
    }
    if not judged:
        return this.finding(
            Severity.NOTE, f"None of {len(found.names)} columns could be judged.", numbers=numbers
        )
    if named:
        text = (
            f"{named} of {judged} columns {'tells' if named == 1 else 'tell'} the target alone "
            f"({found.n:,} rows)."
        )
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    exempt = sorted(set(train.schema.causal) & set(found.names))
    free = [i for i, name in enumerate(found.names) if name not in exempt] or list(
        range(len(found.names))
    )
    best = max(free, key=lambda i: float(found.explained[i].nan_to_num(-1.0)))
    low, high = (float(bound[best]) for bound in found.interval("explained"))
    numbers |= {
        "strongest": found.names[best],
        "explained": float(found.explained[best]),
        "low": low,
        "high": high,
        "exempt": exempt,
    }
    text = (
        f"None of {judged} columns tells the target alone; the strongest, {found.names[best]}, "
        "explains "
        f"{numbers['explained']:.0%} of it (95 % interval {low:.0%} to {high:.0%}, {found.n:,} "
        "rows)."
    )
    return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
