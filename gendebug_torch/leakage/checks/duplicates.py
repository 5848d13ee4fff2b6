"""Checks of what the sides of a split share: rows, groups, times, and the rows that a
transformation was fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._splits import (
    _ROWS_NAMED,
    _SPLIT_NEEDS,
    FAIL_SHARE,
    _cost,
    _features,
    _overlap_numbers,
)
from gendebug_torch.leakage.splits.overlap import SplitOverlap, chance_share, identical_rows


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

    Rows of few coarse columns repeat without any leak. Equal rows count as copies only where
    independent columns would bring less than half as many, where most training rows are unique,
    where the labels of equal rows agree, and where production, if given, does not bring them as
    often: there the repeats belong to the world.

    Source: Barz and Denzler (2020), J. Imaging 6:41, on duplicates across splits; Wilson (1927),
    JASA 22:209 for the interval; Carter and Wegman (1979) for the hashes.

    Args:
        train: records with features.
        validation: records with features.
        production: records with features, to see how often rows repeat anyway.
        min_share: share of validation rows from which equal rows matter.
        min_agreement: share of equal rows with equal labels from which they count as copies.
        max_repeated: share of training rows that repeat within training from which repeats are the
            nature of the table.
    """
    this = splits_do_not_share_rows
    sides = _features(train=train, validation=validation, production=production)
    if not len(train) or not len(validation):
        yield this.finding(
            Severity.NOTE,
            f"No rows to compare: {len(train)} against {len(validation)}.",
            numbers={"n": len(train)},
        )
        return
    found = identical_rows(sides)
    low, high = found.interval()
    numbers = _overlap_numbers(found)
    if not len(found.rows):
        text = (
            f"None of {len(validation):,} validation rows is equal to one of {len(train):,} "
            "training rows in all features."
        )
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=found)
        return
    numbers |= {
        "first_rows": found.rows[:_ROWS_NAMED].tolist(),
        "their_training_rows": found.partners[:_ROWS_NAMED].tolist(),
    }
    agreement = _agreement(train, validation, found)
    chance = chance_share(sides["train"], sides["validation"]) if found.share >= min_share else 0.0
    numbers |= {
        "label_agreement": agreement,
        "share_by_chance": chance,
        "repeated_in_train": float(found.shared[0, 0]) / len(train),
    }
    numbers |= _quality(validation, found)
    text = (
        f"{len(found.rows):,} of {len(validation):,} validation rows ({found.share:.1%}, 95 % "
        f"interval {low:.1%} to {high:.1%}) "
        f"are equal to a training row in all features, first row {int(found.rows[0])} (training "
        f"row {int(found.partners[0])})"
    )
    if agreement is not None:
        text += f"; {agreement:.0%} of them have the label of their like"
    reasons = _why_natural(found, numbers, min_share, min_agreement, max_repeated)
    if reasons:
        yield this.finding(Severity.NOTE, f"{text}: {reasons[0]}.", numbers=numbers, evidence=found)
        return
    if "accuracy" in numbers:
        text += (
            f"; accuracy {numbers['accuracy']:.3f} on all rows, "
            f"{numbers['accuracy_without']:.3f} without them"
        )
    remedy = (
        "Drop the repeated rows from the table, split what is left (all copies of a row on "
        "one side), and judge the model again."
    )
    severity = Severity.FAIL if found.share >= FAIL_SHARE else Severity.WARN
    yield this.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=found)


def _agreement(train: Records, validation: Records, found: SplitOverlap) -> float | None:
    if (
        train.targets is None
        or validation.targets is None
        or train.targets.shape[1:] != validation.targets.shape[1:]
    ):
        return None
    if train.targets.is_floating_point():
        return None
    same = train.targets.cpu()[found.partners] == validation.targets.cpu()[found.rows]
    return float(same.reshape(len(same), -1).all(1).double().mean())


def _quality(validation: Records, found: SplitOverlap) -> dict[str, float]:
    """Accuracy with and without the shared rows, where the model's logits and classes are there."""
    targets = validation.targets
    if (
        validation.logits is None
        or targets is None
        or targets.dtype != torch.int64
        or len(found.rows) == len(validation)
    ):
        return {}
    right = validation.correct.cpu().double().reshape(len(validation), -1).mean(1)
    others = torch.ones(len(validation), dtype=torch.bool)
    others[found.rows] = False
    return {"accuracy": float(right.mean()), "accuracy_without": float(right[others].mean())}


def _why_natural(
    found: SplitOverlap,
    numbers: Mapping[str, Any],
    min_share: float,
    min_agreement: float,
    max_repeated: float,
) -> list[str]:
    """Reasons for which equal rows are no leak."""
    reasons = []
    if found.share < min_share:
        reasons.append("too few to change what validation says")
    if numbers["share_by_chance"] > found.share / 2:
        reasons.append(
            f"columns as coarse as these bring {numbers['share_by_chance']:.1%} by chance"
        )
    if numbers["label_agreement"] is not None and numbers["label_agreement"] < min_agreement:
        reasons.append(
            "with labels that differ they are coincidences of coarse columns, not copies"
        )
    if numbers["repeated_in_train"] > max_repeated:
        reasons.append(
            f"{numbers['repeated_in_train']:.0%} of the training rows repeat within training: "
            "rows are no individuals in this table"
        )
    if (
        len(found.sides) > 2
        and float(found.shared[2, 0]) / max(int(found.sizes[2]), 1) > found.share / 2
    ):
        reasons.append("production rows repeat training rows as often")
    return reasons
