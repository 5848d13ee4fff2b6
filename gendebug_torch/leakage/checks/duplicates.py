"""The check for validation rows that are identical to training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED
from gendebug_torch.leakage.checks._costs import split_cost
from gendebug_torch.leakage.checks._splits import (
    SPLIT_NEEDS,
    accuracy_numbers,
    accuracy_text,
    overlap_numbers,
    share_severity,
    share_text,
    without_effect,
)
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap, chance_share, identical_rows


@check(
    "leakage.duplicates",
    cause=Cause.SPLIT_LEAKAGE,
    needs=SPLIT_NEEDS,
    cost=split_cost,
    partial_labels=True,
)
def splits_share_no_rows(
    train: Records,
    validation: Records,
    production: Records | None = None,
    *,
    min_share: float = 0.01,
    min_agreement: float = 0.95,
    max_repeated: float = 0.5,
) -> Iterator[Finding]:
    """No validation row is identical to a training row in all features.

    Rows of few coarse columns repeat without any leak. Identical rows count as copies only if
    independent columns would give less than half as many, most training rows are unique, the labels
    of identical rows agree, production, if given, does not contain them as often, and the accuracy,
    if known, is better with them than without them.

    Source: Barz and Denzler (2020), J. Imaging 6:41, on duplicates across splits; Wilson (1927),
    JASA 22:209 for the interval; Carter and Wegman (1979) for the hashes.

    Args:
        train: records with features.
        validation: records with features.
        production: records with features, to see how often rows repeat anyway.
        min_share: share of validation rows from which identical rows matter.
        min_agreement: share of identical rows with equal labels from which they count as copies.
        max_repeated: share of training rows that repeat within training from which repeated rows
            are normal in the table.
    """
    this = splits_share_no_rows
    if not len(train) or not len(validation):
        text = f"No rows to compare: {len(train)} training and {len(validation)} validation rows."
        yield this.finding(Severity.NOTE, text, numbers={"n": len(train)})
        return
    splits = {"train": train, "validation": validation, "production": production}
    features = {
        name: records.features
        for name, records in splits.items()
        if records is not None and records.features is not None
    }
    found = identical_rows(features)
    numbers = overlap_numbers(found)
    if not len(found.rows):
        text = (
            f"None of {len(validation):,} validation rows is identical to one of {len(train):,} "
            "training rows."
        )
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=found)
        return
    common = found.share >= min_share
    numbers |= {
        "label_agreement": _label_agreement(train, validation, found),
        "share_by_chance": chance_share(*list(features.values())[:2]) if common else 0.0,
        "repeated_in_train": float(found.shared[0, 0]) / len(train),
    }
    numbers |= accuracy_numbers(validation, found.rows)
    harmless = _harmless_reason(found, numbers, min_share, min_agreement, max_repeated)
    yield _shared_finding(found, numbers, harmless)


def _shared_finding(found: SplitOverlap, numbers: dict[str, Any], harmless: str) -> Finding:
    this = splits_share_no_rows
    text = (
        f"{len(found.rows):,} of {int(found.sizes[1]):,} validation rows "
        f"({share_text(found.share, *found.interval())}) are identical to a training row; the "
        f"first is row {int(found.rows[0])} (training row {int(found.partners[0])})."
    )
    if numbers["label_agreement"] is not None:
        text += f" {numbers['label_agreement']:.0%} of them have the label of that training row."
    text += accuracy_text(numbers)
    if harmless:
        text += f" This does not count as a leak: {harmless}."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    remedy = (
        "Remove the repeated rows from the table, split the remaining rows, and evaluate the model "
        "again."
    )
    severity = share_severity(found.share)
    return this.finding(severity, text, numbers=numbers, remedy=remedy, evidence=found)


def _label_agreement(train: Records, validation: Records, found: SplitOverlap) -> float | None:
    """Share of identical rows with equal class ids; None without class ids."""
    if train.targets is None or validation.targets is None:
        return None
    if train.targets.shape[1:] != validation.targets.shape[1:] or train.targets.is_floating_point():
        return None
    first, second = train.targets.cpu()[found.partners], validation.targets.cpu()[found.rows]
    known = ((first != IGNORED) & (second != IGNORED)).reshape(len(first), -1)
    same = ((first == second).reshape(known.shape) | ~known).all(1)[known.any(1)]
    return float(same.double().mean()) if len(same) else None


def _harmless_reason(
    found: SplitOverlap,
    numbers: dict[str, Any],
    min_share: float,
    min_agreement: float,
    max_repeated: float,
) -> str:
    """Why identical rows are no leak; empty if they are one."""
    if found.share < min_share:
        return "they are too few to change the validation result"
    if without_effect(numbers):
        return "the validation result is nearly the same without them"
    if numbers["share_by_chance"] > found.share / 2:
        return f"columns as coarse as these give {numbers['share_by_chance']:.1%} by chance"
    if numbers["label_agreement"] is not None and numbers["label_agreement"] < min_agreement:
        return "their labels differ, so they are coincidences of coarse columns and not copies"
    if numbers["repeated_in_train"] > max_repeated:
        return (
            f"{numbers['repeated_in_train']:.0%} of the training rows repeat within training, so "
            "repeated rows are normal in this table"
        )
    if len(found.splits) > 2:
        production = float(found.shared[2, 0]) / max(int(found.sizes[2]), 1)
        if production > found.share / 2:
            return "production rows repeat training rows as often"
    return ""
