"""The check for validation rows that are nearly identical to training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._costs import neighbour_cost
from gendebug_torch.leakage.checks._splits import (
    SPLIT_NEEDS,
    accuracy_numbers,
    accuracy_text,
    share_numbers,
    share_severity,
    share_text,
    without_effect,
)
from gendebug_torch.leakage.columns.column_codes import Features, column_names
from gendebug_torch.leakage.pictures.near_duplicate_images import near_duplicate_images
from gendebug_torch.leakage.splits.near_duplicate_rows import near_duplicate_rows
from gendebug_torch.leakage.splits.near_duplicate_texts import near_duplicate_texts
from gendebug_torch.leakage.splits.near_duplicates import IMAGES, TEXTS, NearDuplicates
from gendebug_torch.modality.strings import text_columns

# Mean number of characters from which a column holds texts; shorter ones are names and codes, whose
# similarity is no evidence.
_TEXT_LENGTH = 20


@check(
    "leakage.near_duplicates",
    cause=Cause.SPLIT_LEAKAGE,
    needs=SPLIT_NEEDS,
    cost=neighbour_cost,
    partial_labels=True,
)
def splits_share_no_near_duplicates(
    train: Records,
    validation: Records,
    *,
    min_similarity: float = 0.8,
    max_distance: float = 0.02,
    min_share: float = 0.01,
    max_rows: int = 1000,
    seed: int = 0,
) -> Iterator[Finding]:
    """No validation row is nearly a training row: an edited text, or the same case with noise.

    Texts count from a Jaccard similarity of their shingles, rows of numbers if the nearest training
    row is much closer than the sixth nearest; in few dimensions that occurs by itself, and its
    expected share is stated. Pictures are compared as small grey ones and by the embedding, shifted
    and zoomed to fit: noise, another encoding or size, a shift or a crop hide no copy. How near
    different pictures come is measured between those of training. Identical rows are left to
    `leakage.duplicates`.

    Source: Broder (1997), SEQUENCES, for texts; Facco et al. (2017), Sci. Rep. 7:12140, for
    distances; Barz and Denzler (2020), J. Imaging 6:41, on near duplicates across splits; Zauner
    (2010), for perceptual keys of pictures.

    Args:
        train: records with features.
        validation: records with features.
        min_similarity: Jaccard index from which texts are near duplicates.
        max_distance: ratio of the distances to the nearest and the sixth nearest training row
            within which a row is a near duplicate.
        min_share: share of validation rows from which near duplicates matter.
        max_rows: number of validation rows of numbers that are compared.
        seed: seed of their choice.
    """
    this = splits_share_no_near_duplicates
    if not len(train) or not len(validation):
        text = f"No rows to compare: {len(train)} training and {len(validation)} validation rows."
        yield this.finding(Severity.NOTE, text, numbers={"n": len(train)})
        return
    if train.keys is not None and validation.keys is not None:
        yield _near_finding(_near_images(train, validation, max_rows, seed), validation, min_share)
        return
    assert train.features is not None
    assert validation.features is not None
    texts = _text_columns(train, validation)
    for tables in _text_tables(train, validation, texts):
        near = near_duplicate_texts(*map(_joined, tables), threshold=min_similarity)
        yield _near_finding(near, validation, min_share)
    rows, other = (_without(split.features, texts) for split in (train, validation))
    if column_names(rows):
        found = near_duplicate_rows(
            rows, other, threshold=max_distance, max_rows=max_rows, seed=seed
        )
        yield _near_finding(found, validation, min_share)


def _near_images(train: Records, validation: Records, rows: int, seed: int) -> NearDuplicates:
    """Near duplicates among pictures, by their keys and by the embedding of one network."""
    assert train.keys is not None
    assert validation.keys is not None
    own, other = train.embedding, validation.embedding
    both = None if own is None or other is None else (own, other)
    if both is not None and both[0].shape[1] != both[1].shape[1]:
        both = None
    return near_duplicate_images(
        train.keys, validation.keys, embeddings=both, max_rows=rows, seed=seed
    )


def _text_tables(
    train: Records, validation: Records, texts: list[Any]
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The texts of both splits: those among the features, and those kept beside properties."""
    if texts:
        assert isinstance(train.features, pd.DataFrame)
        assert isinstance(validation.features, pd.DataFrame)
        yield train.features[texts], validation.features[texts]
    if train.metadata is not None and validation.metadata is not None:
        named = text_columns(train.metadata, train.schema.text)
        kept = [c for c in named if c not in train.schema.ids and c in validation.metadata]
        if kept:
            yield train.metadata[kept], validation.metadata[kept]


def _text_columns(train: Records, validation: Records) -> list[Any]:
    """Columns of long texts that both splits have."""
    own, other = train.features, validation.features
    if not isinstance(own, pd.DataFrame) or not isinstance(other, pd.DataFrame):
        return []
    columns = own.select_dtypes(include=["object", "string"]).columns
    long = [c for c in columns if _mean_length(own[c]) >= _TEXT_LENGTH or c in train.schema.text]
    return [c for c in long if c in other]


def _mean_length(values: pd.Series[Any]) -> float:
    return float(values.dropna().astype(str).head(1000).str.len().mean())


def _joined(table: pd.DataFrame) -> list[str]:
    """The texts of each row, joined."""
    texts = table.astype("string").fillna("").agg(" ".join, axis=1).tolist()
    return [str(text) for text in texts]


def _without(features: Any, columns: list[Any]) -> Features:
    rest: Features = features.drop(columns=columns) if columns else features
    return rest


def _near_finding(found: NearDuplicates, validation: Records, min_share: float) -> Finding:
    this, compared = splits_share_no_near_duplicates, len(found.values)
    numbers: dict[str, Any] = {
        "near": len(found.rows),
        "compared": compared,
        "threshold": found.threshold,
        "expected": found.expected,
        "dimension": found.dimension,
    }
    if not compared:
        return this.finding(Severity.NOTE, f"Too few {found.kind} to compare.", numbers=numbers)
    numbers |= share_numbers(found) | accuracy_numbers(validation, found.rows)
    if not len(found.rows):
        text = (
            f"None of {compared:,} validation {found.kind} is a near duplicate of a training row."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    low, high = found.interval()
    definition = (
        f"a Jaccard similarity of at least {found.threshold:g}"
        if found.kind == TEXTS
        else "a distance after alignment that different training images do not have"
        if found.kind == IMAGES
        else f"a distance of at most {found.threshold:.0%} of that to the sixth nearest row"
    )
    text = (
        f"{len(found.rows):,} of {compared:,} validation {found.kind} "
        f"({share_text(found.share, low, high)}) are near duplicates of a training row, with "
        f"{definition}. The first is row {int(found.rows[0])} (training row "
        f"{int(found.partners[0])}).{accuracy_text(numbers)}"
    )
    if low < min_share:
        text += " They are too few to change the validation result."
    elif low < 2 * found.expected:
        text += f" {found.expected:.1%} would be expected without any copy."
    elif without_effect(numbers):
        text += " The validation result is nearly the same without them."
    else:
        remedy = (
            "Look at the listed pairs, put all copies of one case (document, session) in the same "
            "split, and evaluate the model again."
        )
        severity = share_severity(found.share)
        return this.finding(severity, text, numbers=numbers, remedy=remedy, evidence=found)
    return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
