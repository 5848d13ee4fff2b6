"""Which rows of given records a check gets: labeled ones, and of a dense head independent ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import (
    Task,
    missing_values,
    row_keys,
    sampled_positions,
)

ONE_PER_ROW = (
    "Skipped: the model gives one answer per position; this needs one per row. Wrap the model so "
    "that it returns the outputs of the position in question."
)


def rows_for_check(
    value: Any,
    *,
    labels: bool,
    min_share: float = 0.5,
    partly: bool | None = False,
    positions: bool = False,
) -> Any:
    """The rows that a check gets of an input; inputs that are no records are returned as they are.

    Of records whose labels are partly missing it is the labeled rows, or all rows without labels;
    records without rows are absent.

    Args:
        value: input of the check.
        labels: whether labels are wanted.
        min_share: share of labeled rows from which these are taken.
        partly: whether rows that lack some of several labels count as labeled; nothing is left out
            where no labels are wanted, or where it is None.
        positions: whether all positions of a dense head are wanted, grouped by their row, or one
            labeled position of each row.
    """
    if not isinstance(value, Records):
        return value
    if is_empty(value):
        return None
    records = position_rows(value) if positions else independent_rows(value)
    if partly is None or (partly and not labels):
        return records
    labeled = records.labeled(partly=partly)
    if labeled is records:
        return records
    if labels and len(labeled) >= min_share * len(records):
        return labeled
    return replace(records, targets=None)


def named(value: Any, name: str) -> Any:
    """Records without a name of their own under that of their split; others as they are."""
    unnamed = isinstance(value, Records) and value.name == Records.name
    return replace(value, name=name) if unnamed else value


def is_empty(value: Any) -> bool:
    """Whether an input is records without rows."""
    return isinstance(value, Records) and not len(value)


def has_positions(value: Any) -> bool:
    """Whether an input is records of a dense head."""
    return isinstance(value, Records) and value.task is Task.DENSE


def position_rows(records: Any) -> Any:
    """The labeled positions of a dense head as rows, grouped by the row that they belong to.

    Args:
        records: n rows of a dense head; anything else is returned as it is.

    Returns:
        Up to `n p` rows with the metadata of their row and its number in the column `sample`, which
        is the group of the schema unless it names one.
    """
    if not has_positions(records) or records.logits is None:
        return records
    logits, targets = records.logits, records.targets
    kept = torch.ones_like(logits[:, 0], dtype=torch.bool)
    if targets is not None:
        kept = ~missing_values(targets).to(logits.device)
        targets = targets[kept.to(targets.device)]
    sample = kept.nonzero()[:, 0].cpu().numpy()
    known = (
        records.metadata if records.metadata is not None else pd.DataFrame(index=range(len(kept)))
    )
    metadata = known.iloc[sample].reset_index(drop=True).assign(sample=sample)
    schema = replace(records.schema, group=records.schema.group or "sample")
    return _position_records(records, None, targets, logits.movedim(1, 2)[kept], metadata, schema)


def independent_rows(records: Any) -> Any:
    """One labeled position, drawn at random, of each row of a dense head; others as they are.

    The positions of a row depend on each other; these n rows do not, if the rows do not.
    """
    if not has_positions(records) or records.logits is None:
        return records
    logits, targets = records.logits, records.targets
    drawn = sampled_positions(logits, targets, row_keys(logits), 1)
    drawn_targets = drawn["targets"][:, 0] if targets is not None else None
    rest = (records.metadata, records.schema)
    return _position_records(
        records, records.features, drawn_targets, drawn["logits"][:, :, 0], *rest
    )


def _position_records(
    records: Records,
    features: pd.DataFrame | Tensor | None,
    targets: Tensor | None,
    logits: Tensor,
    metadata: pd.DataFrame | None,
    schema: Schema,
) -> Records:
    """Records with one position per row, in the task of a position."""
    quantities = schema.regression or (targets is not None and targets.is_floating_point())
    few = Task.BINARY if logits.shape[1] <= 2 else Task.MULTICLASS
    z = logits[:, 0] if logits.shape[1] == 1 else logits
    task = Task.REGRESSION if quantities else few
    return Records(features, targets, z, metadata, schema, records.name, task)
