"""What the checks of this topic share: columns to slice by, classes, and losses of the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.slices.levels.binning import Binning, class_binning, fit_binnings
from gendebug_torch.slices.levels.counting import most_paired
from gendebug_torch.slices.search.row_losses import RowLosses, label_losses, quantity_losses

TRUE, PREDICTED = "true class", "predicted class"
# A slice with this share of the rows is no subgroup.
MAX_SHARE = 0.5
# Tensor features with more columns than this are not sliced.
_MAX_TENSOR_COLUMNS = 64
# Values by which a column of texts is judged to hold dates.
_DATE_SAMPLE = 20
_DATE = re.compile(
    r"(19|20)\d\d[-/.]\d{1,2}([-/.]\d{1,2})?([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](19|20)\d\d([T ].*)?"
    r"|(19|20)\d\d[- ]?[WQ]\d{1,2}",
    re.IGNORECASE,
)


def slicing_cost(given: Mapping[str, Any]) -> Cost:
    """Cost of coding columns, counting pairs of levels, as many as are counted, and testing them.

    The constants are measured; a column costs something however few its rows are.
    """
    elements = 0.0
    for name in ("validation", "production"):
        records = given.get(name)
        if records is not None:
            columns = sum(
                part.shape[1]
                for part in (records.features, records.metadata)
                if isinstance(part, pd.DataFrame)
            )
            pairs = min(5.0 * columns, most_paired(len(records))) ** 2
            elements += len(records) * (160.0 * columns + 0.15 * pairs)
            elements += 1.5e6 * columns + 500.0 * pairs
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
    columns = [name for name in joined if name not in excluded and not _are_times(joined[name])]
    return joined[columns] if columns else None


def _are_times(values: pd.Series[Any]) -> bool:
    """Whether a column holds timestamps, or texts that are dates, weeks or quarters of a year."""
    if values.dtype.kind in "Mfiub":
        return values.dtype.kind == "M"
    sample = values.dropna().head(_DATE_SAMPLE).astype(str)
    return bool(len(sample)) and all(_DATE.fullmatch(text.strip()) for text in sample)


def with_classes(
    columns: pd.DataFrame | None, ids: Tensor, name: str, records: Records
) -> tuple[pd.DataFrame, tuple[Binning, ...]]:
    """The columns behind one that holds classes, and the levels of all.

    Of two slices with the same rows the class then names them.

    Args:
        columns: columns to slice by, or None.
        ids: class of each row, `[n]` int64.
        name: name of the new column.
        records: records whose schema names classes and categorical columns.
    """
    column = pd.DataFrame({name: pd.Series(class_names(records, ids))})
    binning = class_binning(column[name])
    if columns is None:
        return column, (binning,)
    rest = columns.drop(columns=name, errors="ignore")
    others = fit_binnings(rest, categorical=records.schema.categorical)
    return pd.concat([column, rest], axis=1), (binning, *others)


def class_names(records: Records, ids: Tensor) -> list[str]:
    """Name of each class id: that of the schema, or the id.

    Args:
        records: records with or without `classes` in their schema.
        ids: class ids, `[n]` int64.
    """
    classes = list(map(str, records.schema.classes))
    return [classes[i] if i < len(classes) else str(i) for i in ids.tolist()]


def cap_note(levels: int, *tables: Records) -> str:
    """Sentence that says which levels were paired; empty where all were.

    Args:
        levels: number of levels of all columns.
        tables: records whose rows were counted.
    """
    most = most_paired(max(map(len, tables)))
    if levels <= most:
        return ""
    return f" Pairs were formed of the {most:,} most significant of {levels:,} levels."


def class_outputs(records: Records) -> tuple[Tensor, Tensor] | None:
    """Logits and class ids, or None where the rows have no single class label.

    Args:
        records: records with or without logits and targets.
    """
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or records.task not in (Task.BINARY, Task.MULTICLASS):
        return None
    return (logits, targets) if targets.ndim == 1 else None


def row_losses(records: Records, spread: Tensor | None = None) -> RowLosses | None:
    """Losses of quantities or of several labels; None where targets do not fit the outputs.

    Args:
        records: records with or without logits and targets.
        spread: standard deviations to divide several quantities by, `[k]`.
    """
    logits, targets = records.logits, records.targets
    if logits is None or targets is None or logits.numel() != targets.numel():
        return None
    if records.task is Task.REGRESSION:
        return quantity_losses(logits, targets, spread)
    return label_losses(logits, targets) if records.task is Task.MULTILABEL else None


def nothing_to_slice(this: Check) -> Finding:
    """Skipped, since columns or labels are missing.

    Args:
        this: check that makes the finding.
    """
    reason = (
        "Skipped: needs named columns (metadata or a feature table) and one label or quantity for "
        "each output of the model."
    )
    return this.finding(
        Severity.SKIPPED, reason, remedy="Pass records with named columns and with targets."
    )
