"""What the checks of this topic share: columns to slice by, and which records have classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check, Cost
from gendebug_torch.data.records import Records

# A slice with this share of the rows is no subgroup.
MAX_SHARE = 0.5
# Tensor features with more columns than this are not sliced.
_MAX_TENSOR_COLUMNS = 64


def slicing_cost(given: Mapping[str, Any]) -> Cost:
    """Cost of counting all pairs of levels in the given records."""
    elements = 1.0
    for name in ("validation", "production"):
        records = given.get(name)
        if records is not None:
            columns = sum(
                part.shape[1]
                for part in (records.features, records.metadata)
                if isinstance(part, pd.DataFrame)
            )
            elements += len(records) * (8.0 * columns) ** 2
    return Cost(elements=elements)


def slicing_columns(records: Records) -> pd.DataFrame | None:
    """Metadata and features to slice by, without ids and times; None if there are none.

    A period of time is no subgroup: what changed in time is a matter of shift. Columns of tensor
    features are named `feature_0` etc.

    Args:
        records: records with metadata or features.
    """
    features = records.features
    if isinstance(features, Tensor):
        few = features.ndim == 2 and features.shape[1] <= _MAX_TENSOR_COLUMNS
        features = pd.DataFrame(features.cpu().numpy()).add_prefix("feature_") if few else None
    parts = [
        part.reset_index(drop=True) for part in (records.metadata, features) if part is not None
    ]
    if not parts:
        return None
    joined = pd.concat(parts, axis=1)
    joined = joined.loc[:, ~joined.columns.duplicated()]
    schema = records.schema
    excluded = {*schema.ids, schema.time, schema.label_time}
    columns = [name for name in joined if name not in excluded and joined[name].dtype.kind != "M"]
    return joined[columns] if columns else None


def class_outputs(records: Records) -> tuple[Tensor, Tensor] | None:
    """Logits and class ids, or None where the rows have no single class label.

    Args:
        records: records with or without logits and targets.
    """
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    return logits, targets


def nothing_to_slice(this: Check) -> Finding:
    """Skipped, since columns or class labels are missing.

    Args:
        this: check that makes the finding.
    """
    reason = (
        "Skipped: needs named columns (metadata or a feature table) and one class label per row."
    )
    return this.finding(
        Severity.SKIPPED, reason, remedy="Pass records with named columns and class ids as targets."
    )
