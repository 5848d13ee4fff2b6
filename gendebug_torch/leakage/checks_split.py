"""Checks of what the sides of a split share: rows, groups, times, and the rows that a transformation was fitted on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch

from gendebug_torch.errors import reject
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.leakage.encodings import LISTED, VOCABULARY
from gendebug_torch.leakage.keys import Features
from gendebug_torch.leakage.likely_groups import likely_groups
from gendebug_torch.leakage.overlap import SplitOverlap, chance_share, identical_rows, shared_values
from gendebug_torch.leakage.preprocessing import FittedRows, fitted_rows
from gendebug_torch.leakage.time import TimeOverlap, moments, time_overlap
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check

FAIL_SHARE = 0.1
_ROWS_NAMED = 20
_SPLIT_NEEDS = ("train.features", "validation.features")


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("train", "validation", "production")]
    return Cost(elements=30.0 * sum(float(math.prod(r.features.shape)) for r in sides if r is not None and r.features is not None))


def _row_cost(given: Mapping[str, Any]) -> Cost:
    return Cost(elements=60.0 * sum(len(given[name]) for name in ("train", "validation") if given.get(name) is not None))


@check("leakage.duplicates", cause=Cause.SPLIT_LEAKAGE, needs=_SPLIT_NEEDS, cost=_cost)
def splits_do_not_share_rows(
    train: Records,
    validation: Records,
    production: Records | None = None,
    *,
    min_share: float = 0.01,
    min_agreement: float = 0.95,
    max_repeated: float = 0.5,
) -> Iterator[Finding]:
    """No row of validation was seen in training: equal in all features.

    Rows of few coarse columns repeat without any leak. Equal rows count as copies only where independent columns would
    bring less than half as many, where most training rows are unique, where the labels of equal rows agree, and where
    production, if given, does not bring them as often: there the repeats belong to the world.

    Source: Barz and Denzler (2020), J. Imaging 6:41, on duplicates across splits; Wilson (1927), JASA 22:209 for the
    interval; Carter and Wegman (1979) for the hashes.

    Args:
        train: records with features.
        validation: records with features.
        production: records with features, to see how often rows repeat anyway.
        min_share: share of validation rows from which equal rows matter.
        min_agreement: share of equal rows with equal labels from which they count as copies.
        max_repeated: share of training rows that repeat within training from which repeats are the nature of the table.
    """
    this = splits_do_not_share_rows
    sides = _features(train=train, validation=validation, production=production)
    if not len(train) or not len(validation):
        yield this.finding(Severity.NOTE, f"No rows to compare: {len(train)} against {len(validation)}.", numbers={"n": len(train)})
        return
    found = identical_rows(sides)
    low, high = found.interval()
    numbers = _overlap_numbers(found)
    if not len(found.rows):
        text = f"None of {len(validation):,} validation rows is equal to one of {len(train):,} training rows in all features."
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=found)
        return
    numbers |= {"first_rows": found.rows[:_ROWS_NAMED].tolist(), "their_training_rows": found.partners[:_ROWS_NAMED].tolist()}
    agreement = _agreement(train, validation, found)
    chance = chance_share(sides["train"], sides["validation"]) if found.share >= min_share else 0.0
    numbers |= {"label_agreement": agreement, "share_by_chance": chance, "repeated_in_train": float(found.shared[0, 0]) / len(train)}
    numbers |= _quality(validation, found)
    text = (
        f"{len(found.rows):,} of {len(validation):,} validation rows ({found.share:.1%}, 95 % interval {low:.1%} to {high:.1%}) "
        f"are equal to a training row in all features, first row {int(found.rows[0])} (training row {int(found.partners[0])})"
    )
    if agreement is not None:
        text += f"; {agreement:.0%} of them have the label of their like"
    reasons = _why_natural(found, numbers, min_share, min_agreement, max_repeated)
    if reasons:
        yield this.finding(Severity.NOTE, f"{text}: {reasons[0]}.", numbers=numbers, evidence=found)
        return
    if "accuracy" in numbers:
        text += f"; accuracy {numbers['accuracy']:.3f} on all rows, {numbers['accuracy_without']:.3f} without them"
    remedy = "Drop the repeated rows from the table, split what is left (all copies of a row on one side), and judge the model again."
    severity = Severity.FAIL if found.share >= FAIL_SHARE else Severity.WARN
    yield this.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=found)


def _features(**sides: Records | None) -> dict[str, Features]:
    return {name: records.features for name, records in sides.items() if records is not None and records.features is not None}


def _agreement(train: Records, validation: Records, found: SplitOverlap) -> float | None:
    if train.targets is None or validation.targets is None or train.targets.shape[1:] != validation.targets.shape[1:]:
        return None
    if train.targets.is_floating_point():
        return None
    same = train.targets.cpu()[found.partners] == validation.targets.cpu()[found.rows]
    return float(same.reshape(len(same), -1).all(1).double().mean())


def _quality(validation: Records, found: SplitOverlap) -> dict[str, float]:
    """Accuracy with and without the shared rows, where the model's logits and classes are there."""
    targets = validation.targets
    if validation.logits is None or targets is None or targets.dtype != torch.int64 or len(found.rows) == len(validation):
        return {}
    right = validation.correct.cpu().double().reshape(len(validation), -1).mean(1)
    others = torch.ones(len(validation), dtype=torch.bool)
    others[found.rows] = False
    return {"accuracy": float(right.mean()), "accuracy_without": float(right[others].mean())}


def _why_natural(found: SplitOverlap, numbers: Mapping[str, Any], min_share: float, min_agreement: float, max_repeated: float) -> list[str]:
    """Reasons for which equal rows are no leak."""
    reasons = []
    if found.share < min_share:
        reasons.append("too few to change what validation says")
    if numbers["share_by_chance"] > found.share / 2:
        reasons.append(f"columns as coarse as these bring {numbers['share_by_chance']:.1%} by chance")
    if numbers["label_agreement"] is not None and numbers["label_agreement"] < min_agreement:
        reasons.append("with labels that differ they are coincidences of coarse columns, not copies")
    if numbers["repeated_in_train"] > max_repeated:
        reasons.append(
            f"{numbers['repeated_in_train']:.0%} of the training rows repeat within training: rows are no individuals in this table"
        )
    if len(found.sides) > 2 and float(found.shared[2, 0]) / max(int(found.sizes[2]), 1) > found.share / 2:
        reasons.append("production rows repeat training rows as often")
    return reasons


@check("leakage.groups", cause=Cause.SPLIT_LEAKAGE, needs=("train", "validation"), cost=_row_cost)
def groups_keep_to_one_side(train: Records, validation: Records, *, min_share: float = 0.01, limit: int = 10) -> Iterator[Finding]:
    """No group (customer, patient, session) and no id has rows on both sides of the split.

    Without `schema.group` or `schema.ids`, columns that look like a group and that both sides share are a note: their
    values repeat, and many other columns hold still within a value.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209 for the interval.

    Args:
        train: records with `schema.group` or `schema.ids` among the metadata, or with a table to look for groups in.
        validation: records with the same.
        min_share: share of validation rows from which shared values matter; fewer are a note.
        limit: most shared values named.
    """
    this = groups_keep_to_one_side
    sides = [_table(side) for side in (train, validation)]
    shared = [str(column) for column in sides[0] if column in sides[1]]
    declared = [column for column in dict.fromkeys([train.schema.group, *train.schema.ids]) if column is not None]
    present = [column for column in declared if all(side.metadata is not None and column in side.metadata for side in (train, validation))]
    for column in present:
        what = "group" if column == train.schema.group else "id"
        found = shared_values({"train": sides[0][column], "validation": sides[1][column]}, kind=f"{what}s ({column})")
        if not len(found.rows):
            text = f"No {what} in {column} has rows on both sides."
            yield this.finding(Severity.OK, text, subject=column, numbers=_overlap_numbers(found), evidence=found)
            continue
        remedy = f"Split by {column}, all rows of one value on one side (`shift.group_split`), and judge the model again."
        severity = Severity.NOTE if found.share < min_share else Severity.FAIL if found.share >= FAIL_SHARE else Severity.WARN
        text, numbers = _shared_text(found, column), _overlap_numbers(found) | _shared_numbers(found, limit)
        yield this.finding(severity, f"{text}.", subject=column, numbers=numbers, remedy=remedy, evidence=found)
    likely = [] if present else likely_groups(sides[0][shared])
    for group in likely[:1]:
        column = group.column
        found = shared_values({"train": sides[0][column], "validation": sides[1][column]}, kind=f"values of {column}")
        text = (
            f"{column} looks like a group: rows of one value agree in {', '.join(group.fixed[:3])}"
            f"{f' and {len(group.fixed) - 3} more' if len(group.fixed) > 3 else ''}, and {_shared_text(found, column)}"
        )
        numbers = _overlap_numbers(found) | _shared_numbers(found, limit) | {"fixed": list(group.fixed)}
        remedy = f"If {column} names a customer, a patient or a session, declare it as `group` in the schema and split by it."
        yield this.finding(Severity.NOTE, f"{text}.", subject=column, numbers=numbers, remedy=remedy, evidence=found)
    if not present and not likely:
        lacks = {"lacks": ["schema.group"]}
        yield this.finding(Severity.SKIPPED, "Skipped: needs schema.group or schema.ids.", numbers=lacks, remedy="Declare `group`.")


def _table(side: Records) -> pd.DataFrame:
    """Features and metadata side by side, without what says how and when a row was labeled."""
    parts = [part for part in (side.features, side.metadata) if isinstance(part, pd.DataFrame)]
    whole = pd.concat([part.reset_index(drop=True) for part in parts], axis=1) if parts else pd.DataFrame(index=range(len(side)))
    kept = ~whole.columns.duplicated() & ~whole.columns.isin([side.schema.source, side.schema.time, side.schema.label_time])
    return whole.loc[:, kept]


def _overlap_numbers(found: SplitOverlap) -> dict[str, Any]:
    low, high = found.interval()
    sizes = {"n": int(found.sizes[0]), "m": int(found.sizes[1])}
    return {"shared": len(found.rows), "share": found.share, "low": low, "high": high} | sizes


def _shared_numbers(found: SplitOverlap, limit: int) -> dict[str, Any]:
    first = found.rows[:_ROWS_NAMED].tolist()
    return {"values": list(found.values[:limit]), "shared_values": len(found.values), "first_rows": first}


def _shared_text(found: SplitOverlap, column: str) -> str:
    low, high = found.interval()
    return (
        f"{len(found.rows):,} of {int(found.sizes[1]):,} validation rows ({found.share:.1%}, 95 % interval {low:.1%} to {high:.1%}) "
        f"have a value of {column} that training has as well: {len(found.values):,} shared, e.g. {', '.join(found.values[:3])}"
    )


@check("leakage.time", cause=Cause.SPLIT_LEAKAGE, needs=("train.metadata", "validation.metadata"), cost=_row_cost)
def validation_comes_after_training(
    train: Records, validation: Records, *, min_inside: float = 0.05, min_likeness: float = 0.2, alpha: float = 1e-3
) -> Iterator[Finding]:
    """Validation lies after training in time, or labels do not repeat from one moment to the next.

    A random split of a series puts each validation row between two training rows that nearly are it. Overlap alone is a
    note; it is a leak where neighbours in time across the split share their label.

    Source: Bergmeir and Benítez (2012), Inf. Sci. 191:192; Cohen (1960), Educ. Psychol. Meas. 20:37 for kappa;
    Hoeffding (1951), Ann. Math. Stat. 22:558 for its distribution under permuted labels.

    Args:
        train: records with `schema.time` among the metadata.
        validation: records with the same.
        min_inside: share of validation rows before the last training row that counts as overlap.
        min_likeness: kappa, or correlation of a real target, of neighbours in time that counts as a leak.
        alpha: chance of it by accident.
    """
    this = validation_comes_after_training
    column = train.schema.time
    if (
        column is None
        or train.metadata is None
        or validation.metadata is None
        or column not in train.metadata
        or column not in validation.metadata
    ):
        yield this.finding(Severity.SKIPPED, "Skipped: needs schema.time.", numbers={"lacks": ["schema.time"]}, remedy="Declare `time`.")
        return
    (before, calendar), (after, dated) = (
        moments(side.metadata[column], f"{side.name}.{column}") for side in (train, validation) if side.metadata is not None
    )
    if calendar != dated:
        reject(column, "times of one kind on both sides", "numbers on one and dates on the other", "Store the time alike on both sides.")
    labels = [side.targets if side.targets is not None and side.targets.ndim == 1 else None for side in (train, validation)]
    found = time_overlap(before, after, *labels, calendar=calendar)
    yield _time_finding(found, column, min_inside, min_likeness, alpha)


def _time_finding(found: TimeOverlap, column: str, min_inside: float, min_likeness: float, alpha: float) -> Finding:
    this = validation_comes_after_training
    numbers = {"inside": found.inside, "likeness": found.likeness, "p_value": found.p_value, "between": found.between}
    alike = math.isfinite(found.likeness)
    p = "p < 1e-16" if found.p_value < 1e-16 else f"p = {found.p_value:.2g}"
    neighbours = f"labels of neighbours in time agree by {found.likeness:.2f} (0 is chance, 1 is always; {p})"
    overlap = f"{found.inside:.0%} of the validation rows are not later in {column} than the last training row"
    if found.inside < min_inside:
        return this.finding(Severity.OK, f"{overlap}.", subject=column, numbers=numbers, evidence=found)
    if not alike or found.p_value >= alpha or found.likeness < min_likeness:
        rest = f"but {neighbours}" if alike else "and whether labels repeat in time is not known"
        rest = rest if found.between else "but none lies between training rows: validation is older than training"
        return this.finding(Severity.NOTE, f"{overlap}, {rest}.", subject=column, numbers=numbers, evidence=found)
    remedy = f"Split by {column}: train on what comes first, leave a gap as long as labels repeat, validate on what comes last."
    severity = Severity.FAIL if found.likeness >= 2 * min_likeness else Severity.WARN
    return this.finding(severity, f"{overlap}, and {neighbours}.", subject=column, numbers=numbers, remedy=remedy, evidence=found)


@check("leakage.preprocessing", cause=Cause.PREPROCESSING_LEAKAGE, needs=_SPLIT_NEEDS, cost=_cost)
def preprocessing_is_fitted_on_training_rows(
    train: Records, validation: Records, *, alpha: float = 1e-4, limit: int = 10
) -> Iterator[Finding]:
    """No stored feature betrays that its scaling, filling or encoding was fitted on validation rows.

    Only values that are exact to rounding (or as evenly spread, or as complete a list) over training with validation, or
    over validation alone, and not over training are evidence; anything else is not decidable from the stored values, and the
    finding says so: a mapping of quantiles that was rounded, a smoothed encoding, a weight of terms, a fixed catalogue.

    Source: Moscovich and Rosset (2022), JRSS B 84:1474, on the bias; Kaufman et al. (2012), ACM TKDD 6:15.

    Args:
        train: records with the stored features.
        validation: records with the stored features.
        alpha: chance of such values by accident, over all columns.
        limit: most columns named.
    """
    sides = _features(train=train, validation=validation)
    labels = [side.targets for side in (train, validation) if side.targets is not None and side.targets.ndim == 1]
    pair = (labels[0], labels[1]) if len(labels) == 2 else None
    found = fitted_rows(sides["train"], sides["validation"], targets=pair, alpha=alpha)
    yield _fitted_finding(found, limit)


def _fitted_finding(found: FittedRows, limit: int) -> Finding:
    this = preprocessing_is_fitted_on_training_rows
    numbers: dict[str, Any] = {"found": len(found.found), "clean": len(found.clean), "undecidable": len(found.undecidable)}
    if not found.found:
        told = [f"{len(found.clean)} columns were fitted on training alone"] * bool(found.clean)
        told += [f"of {len(found.undecidable)} columns it cannot be told from their values"] * bool(found.undecidable or not found.clean)
        return this.finding(Severity.OK, f"No column betrays a fit on validation rows: {'; '.join(told)}.", numbers=numbers, evidence=found)
    first = found.found[0]
    numbers |= {"columns": [entry.column for entry in found.found[:limit]], "kinds": sorted({entry.kind for entry in found.found})}
    numbers |= {
        "p_value": first.p_value,
        "offset": first.offset,
        "train_offset": first.train_offset,
        "fitted_on": " + ".join(first.fitted_on),
    }
    more = f" (and {len(found.found) - 1} more)" if len(found.found) > 1 else ""
    exact = f"exact there to {first.offset:.0e}, over training alone only to {first.train_offset:.0e}"
    if first.kind in (LISTED, VOCABULARY):
        exact = f"training leaves {first.train_offset:.0%} of its places empty, both sides together none"
    text = (
        f"{first.column}{more} was {first.kind} over {' and '.join(first.fitted_on)}: {exact}; "
        f"chance of that by accident {first.p_value:.0e}."
    )
    remedy = "Fit every transformation on training rows alone, apply it to all others as it is, and judge the model again."
    subject = first.column if len(found.found) == 1 else ""
    return this.finding(Severity.FAIL, text, subject=subject, numbers=numbers, remedy=remedy, evidence=found)
