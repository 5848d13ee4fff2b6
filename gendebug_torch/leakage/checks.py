"""Checks of single columns against the target: too good to be true, gaps that give it away, ids, times after the outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.leakage.additive import Skill, additive_skill
from gendebug_torch.leakage.association import Association, association
from gendebug_torch.leakage.checks_columns import columns_do_not_number_the_rows as columns_do_not_number_the_rows
from gendebug_torch.leakage.checks_columns import features_are_known_before_the_label as features_are_known_before_the_label
from gendebug_torch.leakage.checks_split import groups_keep_to_one_side as groups_keep_to_one_side
from gendebug_torch.leakage.checks_split import preprocessing_is_fitted_on_training_rows as preprocessing_is_fitted_on_training_rows
from gendebug_torch.leakage.checks_split import splits_do_not_share_rows as splits_do_not_share_rows
from gendebug_torch.leakage.checks_split import validation_comes_after_training as validation_comes_after_training
from gendebug_torch.leakage.columns import coded_blocks
from gendebug_torch.leakage.gaps import Gaps, telling_gaps
from gendebug_torch.leakage.identity import ExactSum, exact_sum
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check

# A column from here on is a leak whatever the others reach.
NEARLY_ALL = 0.97
FAIL_EXPLAINED, FAIL_AUC, FAIL_GAP = 0.9, 0.975, 0.8
# The others reaching this share of what the column reaches alone make it a shortcut rather than a leak, and reaching
# this share of what all columns reach makes it one that a network needs little beside.
RIVAL, ENOUGH = 2 / 3, 0.9
FEWEST_ROWS, FEWEST_OF_CLASS = 50, 10


def cells(records: Records | None) -> float:
    """Values in the features of records."""
    return 0.0 if records is None or records.features is None else float(math.prod(records.features.shape))


def _cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=60.0 * min(cells(given.get("train")), 2e5 * cells(given.get("train")) / max(len(given.get("train") or ()), 1)))


@dataclass(frozen=True)
class Suspect:
    """A column that tells the target by itself: how much, by which measure, and the exact formula if it is part of one."""

    column: str
    place: int
    alone: float
    auc: float
    formula: ExactSum | None = None


@check("leakage.columns", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.targets"), cost=_cost)
def no_column_is_too_good_alone(
    train: Records,
    validation: Records | None = None,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    limit: int = 10,
) -> Iterator[Finding]:
    """No single column tells the target as well as a model would.

    A column is suspected where it explains as much of the target as a correlation of `max_pearson` does, in a straight
    line or not, ranks it with `max_auc`, or adds up to it exactly with others. It is a leak where all other columns
    together come nowhere near; where they do, the answer is in the data either way, and the column is a shortcut.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, on leaks as what is too good for one column;
    Pearson (1905) and Goodman and Kruskal (1954), JASA 49:732, for the explained share.

    Args:
        train: records with features and targets; `schema.causal` names columns that may follow the target closely.
        validation: records with logits and targets, for what the whole model reaches.
        max_pearson: correlation from which a column is suspected; its square is the limit of the explained share.
        max_auc: AUC from which a column is suspected, for rare classes.
        limit: most columns reported one by one.
    """
    this = no_column_is_too_good_alone
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if targets.ndim != 1:
        yield this.finding(Severity.NOTE, f"Not judged: {train.name} has several labels per row; pass one label at a time.")
        return
    if reason := _too_few(targets):
        yield this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers={"n": len(targets)})
        return
    found = association(features, targets, categorical=train.schema.categorical)
    suspects = [s for s in _suspects(train, found, max_pearson, max_auc) if s.column not in train.schema.causal]
    findings = [finding for finding in _judged(train, validation, found, suspects[:limit]) if finding is not None]
    yield from findings or [_none_suspected(train, found)]


def _judged(train: Records, validation: Records | None, found: Association, suspects: list[Suspect]) -> Iterator[Finding | None]:
    """Each suspect against what the columns that are not as good reach together, and against all."""
    if not suspects or train.features is None or train.targets is None:
        return
    skill = partial(additive_skill, train.features, train.targets, categorical=train.schema.categorical)
    everything = skill()
    model = _model_skill(validation) or _model_skill(train)
    for suspect in suspects:
        same = [other.column for other in suspects if 1 - other.alone <= 2 * (1 - suspect.alone) or other.formula is not None]
        others = skill(without={suspect.column, *same})
        yield _suspicion(found, suspect, others, everything, model)


def _too_few(targets: Tensor) -> str:
    if targets.is_floating_point():
        few = len(targets) < FEWEST_ROWS or float(targets.double().std()) == 0
        return f"{len(targets)} rows, or a constant target" if few else ""
    counts = targets.bincount() if len(targets) else targets
    enough = len(targets) >= FEWEST_ROWS and int((counts >= FEWEST_OF_CLASS).sum()) >= 2
    return "" if enough else f"{len(targets)} rows, fewer than two classes of {FEWEST_OF_CLASS} rows"


def _suspects(train: Records, found: Association, max_pearson: float, max_auc: float) -> list[Suspect]:
    """Columns that tell too much, the most telling first."""
    r, shared = found.pearson.nan_to_num(0.0).abs(), torch.maximum(found.explained, found.best_explained).nan_to_num(0.0)
    alone = torch.maximum(shared, r.square())
    auc = found.auc.nan_to_num(0.5)
    low = found.interval("auc")[0].nan_to_num(0.0)
    limit = max_pearson**2
    sure = alone - 2 * found.explained_error.nan_to_num(0.0) > 0.75 * limit
    flagged = ((alone >= limit) & sure) | ((auc >= max_auc) & (low > max_auc - 0.05))
    suspects = {int(i): Suspect(found.names[i], int(i), float(alone[i]), float(auc[i])) for i in flagged.nonzero()[:, 0].tolist()}
    formula = _formula(train)
    for name in () if formula is None else formula.names:
        place = found.names.index(name)
        suspects[place] = Suspect(name, place, float(alone[place]), float(auc[place]), formula)
    return sorted(suspects.values(), key=lambda s: (s.formula is None, -s.alone))


def _formula(train: Records) -> ExactSum | None:
    features, targets = train.features, train.targets
    if features is None or targets is None or (not targets.is_floating_point() and int(targets.max()) > 1):
        return None
    blocks = [
        block for block in coded_blocks(features, categorical=train.schema.categorical, bins=2, most_levels=2) if block.values is not None
    ]
    names = [name for block in blocks for name in block.names]
    values = [block.values for block in blocks if block.values is not None]
    return exact_sum(torch.cat(values).T, names, targets) if values else None


def _model_skill(records: Records | None) -> Skill | None:
    """Brier skill (R² of a real target) of what the model said."""
    if records is None or records.targets is None or records.targets.ndim != 1 or records.logits is None or not len(records):
        return None
    y = records.targets
    if y.is_floating_point():
        said, truth = records.logits.double().reshape(len(y), -1)[:, :1], y.double()[:, None]
    else:
        probs = records.probs
        said = torch.stack([1 - probs, probs], 1) if probs.ndim == 1 else probs
        truth = torch.nn.functional.one_hot(y, said.shape[1]).double()
    spread = float((truth - truth.mean(0)).square().sum())
    return Skill(1 - float((truth - said).square().sum()) / spread, math.nan, len(y)) if spread > 0 else None


def _suspicion(found: Association, suspect: Suspect, others: Skill, everything: Skill, model: Skill | None) -> Finding | None:
    i, name = suspect.place, suspect.column
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    measures = {"pearson": found.pearson, "explained": found.explained, "auc": found.auc, "mutual_information": found.information}
    numbers: dict[str, Any] = {key: float(value[i]) for key, value in measures.items()}
    for key, value in (("pearson", "pearson"), ("auc", "auc"), ("mutual_information", "information")):
        numbers |= {f"{key}_low": float(found.interval(value)[0][i]), f"{key}_high": float(found.interval(value)[1][i])}
    numbers |= {"low": low, "high": high, "n": found.n, "others_explained": others.explained, "others_auc": others.auc}
    numbers |= {"model_explained": None if model is None else model.explained}
    ranks = suspect.alone < 0.64 and suspect.auc >= 0.9 and math.isfinite(others.auc)
    rival = (1 - others.auc) <= 2 * (1 - suspect.auc) if ranks else others.explained >= RIVAL * suspect.alone
    leak = suspect.formula is not None or suspect.alone >= NEARLY_ALL or not rival
    if not leak and suspect.alone < ENOUGH * everything.explained and not ranks:
        return None
    r, auc = numbers["pearson"], numbers["auc"]
    beside = [f"AUC {auc:.3f}"] * math.isfinite(auc) + [f"Pearson {r:+.2f}"] * math.isfinite(r)
    if found.classes > 2:
        beside.append(f"{float(found.best_explained[i]):.0%} of class {int(found.best_class[i])}")
    text = f"{name} alone explains {numbers['explained']:.0%} of the target (95 % interval {low:.0%} to {high:.0%}"
    text += f"{', ' if beside else ''}{', '.join(beside)}); the other columns explain {others.explained:.0%} together"
    text += f"{f' (AUC {others.auc:.3f})' if math.isfinite(others.auc) else ''}"
    text += f", the whole model {model.explained:.0%}" if model is not None else ""
    if suspect.formula is not None:
        text += f"; the target is {suspect.formula} in every row"
        numbers |= {"formula": str(suspect.formula), "formula_error": suspect.formula.error}
    if leak:
        severity = Severity.FAIL if suspect.formula or suspect.alone >= FAIL_EXPLAINED or suspect.auc >= FAIL_AUC else Severity.WARN
        remedy = (
            f"Find out when {name} is written: if with or after the outcome, drop it and retrain; if it is known when the model is asked, "
            "list it under `causal` in the schema."
        )
        return no_column_is_too_good_alone.finding(
            severity, f"{text}: too good for one column.", subject=name, numbers=numbers, remedy=remedy, evidence=found
        )
    remedy = f"Train without {name} as well and compare both on later data: a network that leans on {name} alone fails with it."
    text += ": the network needs little else, and will fall with it"
    return no_column_is_too_good_alone.finding(
        Severity.WARN, f"{text}.", cause=Cause.SHORTCUT_FEATURE, subject=name, numbers=numbers, remedy=remedy, evidence=found
    )


def _none_suspected(train: Records, found: Association) -> Finding:
    this = no_column_is_too_good_alone
    judged = int(found.explained.isfinite().sum())
    if not judged:
        return this.finding(Severity.NOTE, f"None of {len(found.names)} columns could be judged.", numbers={"columns": len(found.names)})
    free = [i for i, name in enumerate(found.names) if name not in train.schema.causal] or list(range(len(found.names)))
    best = max(free, key=lambda i: float(found.explained[i].nan_to_num(-1.0)))
    low, high = (float(bound[best]) for bound in found.interval("explained"))
    numbers = {"columns": len(found.names), "judged": judged, "strongest": found.names[best], "explained": float(found.explained[best])}
    numbers |= {"low": low, "high": high, "n": found.n, "exempt": sorted(set(train.schema.causal) & set(found.names))}
    text = (
        f"None of {judged} columns tells the target alone; the strongest, {found.names[best]}, explains "
        f"{numbers['explained']:.0%} of it (95 % interval {low:.0%} to {high:.0%}, {found.n:,} rows)."
    )
    return this.finding(Severity.OK, text, numbers=numbers, evidence=found)


@check("leakage.missing", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.targets"), cost=_cost)
def gaps_do_not_tell_the_target(
    train: Records, *, min_share: float = 0.95, max_pearson: float = 0.8, alpha: float = 1e-6, limit: int = 10
) -> Iterator[Finding]:
    """Whether a value is missing does not give the target away.

    A field that is filled in only after the outcome is empty, or filled, for one class alone.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209 for the interval;
    exact binomial tails with Holm's correction (1979).

    Args:
        train: records with features and targets.
        min_share: share of one class among the missing (or the present) from which its lower bound counts as all of them.
        max_pearson: correlation of being missing with the target from which it counts, whatever the shares.
        alpha: chance of any such finding by accident, over all columns.
        limit: most columns reported one by one.
    """
    this = gaps_do_not_tell_the_target
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if targets.ndim != 1 or _too_few(targets):
        yield this.finding(Severity.NOTE, f"Not judged: {_too_few(targets) or 'several labels per row'}.", numbers={"n": len(targets)})
        return
    gaps = telling_gaps(_missing(features), targets, names=_names(features))
    places = [i for i in gaps.telling(min_share, max_pearson, alpha) if gaps.names[i] not in train.schema.causal]
    for i in places[:limit]:
        yield _gap_finding(train, gaps, i)
    if not places:
        some = int((gaps.missing > 0).sum())
        numbers = {
            "columns": len(gaps.names),
            "with_gaps": some,
            "largest_correlation": float(gaps.correlation.abs().nan_to_num(0.0).max()),
        }
        text = f"No gap tells the target: {some} of {len(gaps.names)} columns have missing values"
        text += f", largest correlation with the target {numbers['largest_correlation']:.2f}." if some else "."
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=gaps if some else None)


def _gap_finding(train: Records, gaps: Gaps, i: int) -> Finding:
    name, side = gaps.names[i], "missing" if gaps.where_missing[i] else "present"
    share, base, r, rows = float(gaps.purity[i]), float(gaps.base[i]), float(gaps.correlation[i]), int(gaps.rows[i])
    low, high = (float(bound[i]) for bound in gaps.interval())
    place = int(gaps.classes[i])
    label = f"of class {train.schema.classes[place] if place < len(train.schema.classes) else place}"
    numbers = {"missing": int(gaps.missing[i]), "n": gaps.n, "side": side, "share": share, "low": low, "high": high, "rows": rows}
    numbers |= {"class": place, "overall": base, "correlation": r, "p_holm": float(gaps.p_adjusted[i])}
    text = (
        f"Where {name} is {side} ({rows:,} of {gaps.n:,} rows), {share:.1%} are {label} (95 % interval {low:.1%} to {high:.1%}), "
        f"against {base:.1%} overall; correlation of being missing with the target {r:+.2f}."
    )
    remedy = (
        f"Find out who fills in {name} and when: if it is written after the outcome, drop it together with its missing flag, and retrain."
    )
    severity = Severity.FAIL if abs(r) >= FAIL_GAP else Severity.WARN
    return gaps_do_not_tell_the_target.finding(severity, text, subject=name, numbers=numbers, remedy=remedy, evidence=gaps)


def _names(features: pd.DataFrame | Tensor) -> tuple[str, ...]:
    if isinstance(features, Tensor):
        return tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
    return tuple(map(str, features.columns))


def _missing(features: pd.DataFrame | Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features.detach().reshape(len(features), -1).isnan()
    return torch.from_numpy(features.isna().to_numpy(dtype=bool, copy=True))
