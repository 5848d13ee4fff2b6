"""The check of rows that are nearly the same on both sides of a split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost, check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.splits.near_duplicates import NearDuplicates, near_rows, near_texts
from gendebug_torch.leakage.splits.row_hashes import Features

FAIL_SHARE = 0.1
# Shorter texts are names and codes, which say nothing by being alike.
LONG_TEXT = 20
_ROWS_NAMED = 20


def _cost(given: Mapping[str, Any]) -> Cost:
    train = given.get("train")
    shape = (0,) if train is None or train.features is None else train.features.shape
    return Cost(elements=200.0 * math.prod(shape))


@check(
    "leakage.near_duplicates",
    cause=Cause.SPLIT_LEAKAGE,
    needs=("train.features", "validation.features"),
    cost=_cost,
)
def splits_do_not_share_near_copies(
    train: Records,
    validation: Records,
    *,
    min_likeness: float = 0.8,
    max_distance: float = 0.02,
    min_share: float = 0.01,
    max_rows: int = 1000,
    seed: int = 0,
) -> Iterator[Finding]:
    """No validation row is nearly a training row: an edited text, a resaved picture, the same case
    with a little noise.

    Texts count from a Jaccard likeness of their shingles, rows of numbers where the nearest
    training row is much closer than the sixth nearest; where rows have few dimensions that happens
    by itself, and the share of it is stated. Equal rows are left to `leakage.duplicates`.

    Source: Broder (1997), SEQUENCES, for texts; Facco et al. (2017), Sci. Rep. 7:12140, for
    distances; Barz and Denzler (2020), J. Imaging 6:41, on near copies across splits.

    Args:
        train: records with features.
        validation: records with features.
        min_likeness: Jaccard index from which texts are near copies.
        max_distance: share of the distance to the sixth neighbour within which a row is a near
            copy.
        min_share: share of validation rows from which near copies matter.
        max_rows: so many validation rows of numbers are judged.
        seed: of their choice.
    """
    this = splits_do_not_share_near_copies
    if not len(train) or not len(validation):
        yield this.finding(
            Severity.NOTE,
            f"No rows to compare: {len(train)} against {len(validation)}.",
            numbers={"n": len(train)},
        )
        return
    assert train.features is not None
    assert validation.features is not None
    texts = _texts(train.features, validation.features)
    found = [near_texts(*texts, threshold=min_likeness)] if texts is not None else []
    before, after = (_without_long_text(side) for side in (train.features, validation.features))
    if before.ndim > 1 and int(math.prod(tuple(before.shape[1:]))):
        found.append(near_rows(before, after, threshold=max_distance, max_rows=max_rows, seed=seed))
    for kind in found:
        yield _near_finding(kind, min_share)


def _long_texts(features: Features) -> list[Any]:
    if not isinstance(features, pd.DataFrame) or not len(features):
        return []
    columns = features.select_dtypes(include=["object", "string"]).columns
    return [
        c
        for c in columns
        if features[c].dropna().astype(str).head(1000).str.len().mean() >= LONG_TEXT
    ]


def _texts(train: Features, validation: Features) -> tuple[list[str], list[str]] | None:
    """The long texts of each row of both sides, joined; None without any."""
    if not isinstance(train, pd.DataFrame) or not isinstance(validation, pd.DataFrame):
        return None
    columns = [c for c in _long_texts(train) if c in validation]
    if not columns:
        return None
    before, after = (
        side[columns].astype("string").fillna("").agg(" ".join, axis=1).tolist()
        for side in (train, validation)
    )
    return before, after


def _without_long_text(features: Features) -> Features:
    return (
        features.drop(columns=_long_texts(features))
        if isinstance(features, pd.DataFrame)
        else features
    )


def _near_finding(found: NearDuplicates, min_share: float) -> Finding:
    this = splits_do_not_share_near_copies
    low, high = found.interval()
    numbers: dict[str, Any] = {
        "near": len(found.rows),
        "judged": len(found.values),
        "share": found.share,
        "low": low,
        "high": high,
    }
    numbers |= {
        "threshold": found.threshold,
        "natural": found.natural,
        "dimension": found.dimension,
    }
    if not len(found.values):
        return this.finding(Severity.NOTE, f"Too few {found.kind} to judge.", numbers=numbers)
    measure = (
        f"a Jaccard likeness of {found.threshold:g} or more to a training text"
        if found.kind == "texts"
        else f"a training row within {found.threshold:g} of the distance to the sixth nearest"
    )
    counted = f"{len(found.rows):,} of {len(found.values):,} validation {found.kind}"
    text = f"{counted} ({found.share:.1%}, 95 % interval {low:.1%} to {high:.1%}) have {measure}"
    if not len(found.rows):
        return this.finding(Severity.OK, f"{text}.", numbers=numbers, evidence=found)
    numbers |= {
        "first_rows": found.rows[:_ROWS_NAMED].tolist(),
        "their_training_rows": found.partners[:_ROWS_NAMED].tolist(),
    }
    text += (
        f", without being equal to it, first row {int(found.rows[0])} (training row "
        f"{int(found.partners[0])})"
    )
    if low < min_share or low < 2 * found.natural:
        why = (
            f"{found.natural:.1%} would without any copy"
            if low >= min_share
            else "too few to change what validation says"
        )
        return this.finding(Severity.NOTE, f"{text}; {why}.", numbers=numbers, evidence=found)
    remedy = (
        "Look at the named pairs, put all copies of one case (document, session) on one "
        "side, and judge the model again."
    )
    severity = Severity.FAIL if found.share >= FAIL_SHARE else Severity.WARN
    return this.finding(severity, f"{text}.", numbers=numbers, remedy=remedy, evidence=found)
