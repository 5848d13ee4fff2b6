"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check, Cost
from gendebug_torch.data.records import Records

# Tensor features are sliced by their columns up to this many.
_MOST_TENSOR_COLUMNS = 64


def _cost(given: Mapping[str, Any]) -> Cost:
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
    """Metadata and named features that a slice may be cut by; ids are left out, few tensor columns
    get names.
    """
    features = records.features
    if isinstance(features, Tensor):
        few = features.ndim == 2 and features.shape[1] <= _MOST_TENSOR_COLUMNS
        features = pd.DataFrame(features.cpu().numpy()).add_prefix("feature_") if few else None
    parts = [
        part.reset_index(drop=True) for part in (records.metadata, features) if part is not None
    ]
    if not parts:
        return None
    joined = pd.concat(parts, axis=1)
    joined = joined.loc[:, ~joined.columns.duplicated()]
    kept = joined.drop(columns=[name for name in records.schema.ids if name in joined])
    return kept if kept.shape[1] else None


def _has_classes(records: Records) -> bool:
    targets = records.targets
    return (
        targets is not None
        and records.logits is not None
        and targets.dtype == torch.int64
        and targets.ndim == 1
    )


def _said(records: Records) -> tuple[Tensor, Tensor]:
    assert records.logits is not None
    assert records.targets is not None
    return records.logits, records.targets


def _nothing_to_slice(this: Check) -> Finding:
    reason = (
        "Skipped: needs named columns (metadata or a feature table) and one class label per row."
    )
    return this.finding(
        Severity.SKIPPED, reason, remedy="Pass records with named columns and class ids as targets."
    )
