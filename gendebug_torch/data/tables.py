"""Reading tables and splitting them by a schema: where files become tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from gendebug_torch.data.schema import Schema


# Probabilities of exactly 0 or 1 have no finite logit; this floor keeps log(p) inside float32.
SMALLEST_PROB = 1e-38
_COLUMN_KEYS = (
    *("target", "time", "label_time", "group", "source", "categorical", "ids", "metadata"),
    *("logits", "probs", "noise", "causal", "direction"),
)


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV or Parquet file as a DataFrame.

    Raises InputError with the file's name where it cannot be read.
    """
    source = Path(path)
    readers = {
        ".csv": pd.read_csv,
        ".gz": pd.read_csv,
        ".parquet": pd.read_parquet,
        ".pq": pd.read_parquet,
    }
    reader: Any = readers.get(source.suffix.lower())
    if reader is None:
        reject(
            "path",
            "a .csv, .csv.gz or .parquet table",
            str(source),
            "Convert the table to one of them.",
        )
    try:
        return reader(source)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        reject(
            "path",
            "a readable table",
            f"{source}: {error}",
            "Check that the path is right and the file is whole.",
        )


def read_npz(path: str | Path) -> dict[str, Any]:
    """`features`, `targets` and `logits` of an npz file, read without unpickling."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {
                key: torch.from_numpy(archive[key])
                for key in archive.files
                if archive[key].dtype.kind in "fiub"
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reject(
            "path",
            "a readable npz file of numbers",
            f"{path}: {error}",
            "Check that the path is right and the file is whole.",
        )
    targets = arrays.get("targets", arrays.get("labels"))
    logits = arrays.get("logits")
    if logits is None and "probs" in arrays:
        logits = logits_of_probs(arrays["probs"])
    if logits is None and targets is None and "features" not in arrays:
        remedy = "Save with numpy.savez(path, logits=..., targets=...)."
        reject(
            "path",
            "arrays named logits, probs, targets, labels or features",
            f"{sorted(arrays)} in {path}",
            remedy,
        )
    whole = targets is not None and not targets.is_floating_point()
    return {
        "features": arrays.get("features"),
        "targets": targets.long() if whole and targets is not None else targets,
        "logits": logits,
    }


def logits_of_probs(probs: Tensor) -> Tensor:
    """Logits that give these probabilities: log-odds of `[n]`, log p of `[n, k]`.

    Zeros are floored at 1e-38.
    """
    outside = (probs < 0) | (probs > 1) | probs.isnan()
    if bool(outside.any()):
        reject(
            "probs",
            "probabilities in [0, 1]",
            f"{int(outside.sum())} values outside",
            "Pass them as `logits` if they are logits.",
        )
    if probs.ndim == 1:
        p = probs.double()
        return p.clamp(min=SMALLEST_PROB).log() - (1 - p).clamp(min=SMALLEST_PROB).log()
    return probs.clamp(min=SMALLEST_PROB).log()


def split_frame(
    frame: pd.DataFrame, schema: Schema, name: str, optional: tuple[str, ...]
) -> tuple[pd.DataFrame | None, Tensor | None, Tensor | None, pd.DataFrame | None]:
    """Features, targets, logits and metadata of one table."""
    absent = _absent_columns(frame, schema, optional)
    if absent:
        listed = ", ".join(f"{column!r} ({key})" for column, key in absent.items())
        known = ", ".join(map(str, frame.columns))
        reject(
            "schema",
            f"columns that {name!r} has: {known}",
            f"missing {listed}",
            "Correct the schema or the table.",
        )
    outside = [column for column in schema.outside_features if column in frame]
    scores = {schema.target, *schema.logits, *schema.probs}
    meta = [column for column in outside if column not in scores]
    features = frame.drop(columns=outside).reset_index(drop=True)
    targets = _targets(frame[schema.target], schema, name) if schema.target in frame else None
    metadata = frame[meta].reset_index(drop=True) if meta else None
    return (
        (features if features.shape[1] else None),
        targets,
        _logits(frame, schema, name),
        metadata,
    )


def _absent_columns(
    frame: pd.DataFrame, schema: Schema, optional: tuple[str, ...]
) -> dict[str, str]:
    absent = {}
    for key in _COLUMN_KEYS:
        value = getattr(schema, key)
        columns = (value,) if isinstance(value, str) else tuple(value or ())
        if key not in optional:
            absent.update({column: key for column in columns if column not in frame})
    return absent


def _targets(column: pd.Series[Any], schema: Schema, name: str) -> Tensor:
    label = f"column {schema.target!r} of {name!r}"
    if missing := int(column.isna().sum()):
        remedy = (
            "Drop rows whose label has not arrived, or leave the column out of unlabeled "
            "production."
        )
        reject(
            "targets",
            "a label in every row",
            f"{missing} of {len(column)} missing in {label}",
            remedy,
        )
    if schema.classes:
        ids = column.map({value: index for index, value in enumerate(schema.classes)})
        if ids.isna().any():
            strange = sorted(map(str, column[ids.isna()].unique()))[:5]
            reject(
                "targets",
                f"values among the classes {list(schema.classes)}",
                f"{strange} in {label}",
                "Add them to `classes`.",
            )
        return torch.from_numpy(np.array(ids, dtype=np.int64))
    if column.dtype.kind in "iub" and not schema.regression:
        return torch.from_numpy(np.array(column, dtype=np.int64))
    if column.dtype.kind in "iubf":
        return torch.from_numpy(np.array(column, dtype=np.float64))
    if schema.regression:
        reject(
            "targets",
            "numbers, since the schema says `regression`",
            f"text in {label}",
            "Convert the column, or declare `classes`.",
        )
    found = sorted(map(str, column.unique()))[:10]
    reject(
        "schema.classes",
        f"the order of the classes, since {label} holds text",
        f"none; found {found}",
        f"Add `classes: {found}`.",
    )


def _logits(frame: pd.DataFrame, schema: Schema, name: str) -> Tensor | None:
    columns = [*schema.logits, *schema.probs]
    if not columns or any(column not in frame for column in columns):
        return None
    if text := [c for c in columns if frame[c].dtype.kind not in "fiub"]:
        reject("logits", "numeric columns", f"{text} in {name!r}", "Convert them to numbers.")
    values = torch.from_numpy(np.array(frame[columns].to_numpy(dtype=np.float64), copy=True))
    values = values[:, 0] if len(columns) == 1 else values
    return logits_of_probs(values) if schema.probs else values
