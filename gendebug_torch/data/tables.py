"""Tables split by a schema, and archives of arrays: where columns become tensors."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.files import check_expansion
from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import brief, reading, reject

if TYPE_CHECKING:
    from gendebug_torch.data.records import Records
    from gendebug_torch.data.schema import Schema

# What pandas calls the numbers among objects.
_NUMBERS = ("decimal", "integer", "floating", "mixed-integer-float")
# A number as a CSV writes it, with no more digits than a float has before its point; how many
# texts are looked at first, and how many of them differ.
_NUMBER, _FIRST = r"-?(?:0|[1-9][0-9]{0,307})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,4})?", 100
_MIN_DECIMALS = 20
# Probabilities of exactly 0 or 1 have no finite logit; this floor keeps log(p) inside float32.
SMALLEST_PROB = 1e-38
_COLUMN_KEYS = (
    *("target", "time", "label_time", "group", "source", "categorical", "text", "ids"),
    *("metadata", "logits", "probs", "noise", "causal", "direction"),
)


def standard_codes(column: pd.Series[Any]) -> pd.Series[Any]:
    """Codes as they are written: whole numbers, or texts where one has a leading zero or letter.

    True and False are 1 and 0, as in a file that knows booleans; 1.0 is 1, since a gap among codes
    makes floats of them.

    Guessing by file would make 01001 a number in one file and a text in the next.
    """
    if column.dtype.kind in "iub":
        return column
    present = column.dropna().astype(str)
    if len(present) and set(present.unique()) <= {"True", "False"}:
        return standard_column(column.map({"True": True, "False": False}))
    whole = present.str.extract(r"^(0|-?[1-9][0-9]{0,17})(?:\.0*)?$")[0]
    if not len(present) or bool(whole.isna().any()):
        return column
    codes = whole.astype("int64").reindex(column.index)
    return codes.astype("Int64" if column.isna().any() else "int64")


def read_npz(path: str | Path) -> dict[str, Any]:
    """`features`, `targets` and `logits` of an npz file, read without unpickling.

    Raises:
        InputError: no such file, or arrays of other names, kinds or shapes.
    """
    with reading(path, "a readable npz file of numbers"):
        with zipfile.ZipFile(path) as entries:
            check_expansion(path, sum(entry.file_size for entry in entries.infolist()))
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: _tensor(archive[key], key, path) for key in archive.files}
    targets = arrays.get("targets", arrays.get("labels"))
    logits = arrays.get("logits")
    if logits is None and (probs := arrays.get("probs")) is not None:
        logits = logits_of_probs(probs.double())
    if logits is None and targets is None and arrays.get("features") is None:
        remedy = "Save with numpy.savez(path, logits=..., targets=...)."
        expected = "arrays named logits, probs, targets, labels or features"
        reject("path", expected, f"{sorted(arrays)} in {path}", remedy)
    return {"features": arrays.get("features"), "targets": targets, "logits": logits}


def _tensor(array: np.ndarray[Any, Any], key: str, path: str | Path) -> Tensor | None:
    """An array of numbers as a Tensor; None of another kind that no one asks for."""
    if array.dtype.kind not in "fiub":
        if key not in ("features", "targets", "labels", "logits", "probs"):
            return None
        got = f"{array.dtype} in {path}"
        reject(key, "an array of numbers", got, "Store class ids, or write the texts as a table.")
    if array.ndim == 0 or 0 in array.shape[1:]:
        got = f"shape {list(array.shape)} in {path}"
        reject(key, "an array with one row per sample", got, "Save it as [n] or [n, k].")
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    return torch.from_numpy(array.astype(np.float64 if wide else array.dtype.newbyteorder("=")))


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
    raw, frame = frame, standard_columns(frame, name)
    absent = _absent_columns(frame, schema, optional)
    if absent:
        listed = ", ".join(f"{brief(column)} ({key})" for column, key in absent.items())
        known = ", ".join(map(str, frame.columns))[:2000]
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
    # As it was stored, since classes are declared by their values there.
    by_name = dict(zip(frame.columns, range(frame.shape[1]), strict=True))
    position = None if schema.target is None else by_name.get(schema.target)
    targets = None if position is None else _targets(raw.iloc[:, position], schema, name)
    metadata = frame[meta].reset_index(drop=True) if meta else None
    return (
        (features if features.shape[1] else None),
        targets,
        _logits(frame, schema, name),
        metadata,
    )


def numeric_features(records: Records) -> tuple[tuple[str, ...], Tensor]:
    """Names and `[n, d]` float64 values of the quantities among the features.

    Codes and text are left out.

    Columns that the schema calls categorical, and text columns, are not quantities; booleans are 0
    and 1. Tensor features are flattened per row and named `feature_0` and so on. Missing values are
    NaN.
    """
    features = records.features
    if features is None:
        reject(records.name, "records with features", "none", "Pass a table with feature columns.")
    if isinstance(features, Tensor):
        flat = features.reshape(len(features), -1).double()
        return tuple(f"feature_{i}" for i in range(flat.shape[1])), flat
    numeric = features.select_dtypes(include=["number", "bool"])
    names = [column for column in numeric.columns if column not in records.schema.categorical]
    values = numeric[names].to_numpy(dtype=np.float64, na_value=np.nan)
    return tuple(map(str, names)), torch.from_numpy(np.array(values, copy=True))


def model_inputs(records: Records) -> Tensor:
    """Inputs of a model: tensor features as they are, or a table as `[n, d]` float32.

    Raises:
        InputError: a column is not numeric or has missing values, so that the table cannot be fed
            as it is.
    """
    features = records.features
    if features is None:
        reject(records.name, "records with features", "none", "Pass a table with feature columns.")
    if isinstance(features, Tensor):
        return features
    if text := [str(c) for c in features.columns if features[c].dtype.kind not in "fiub"]:
        reject(
            records.name,
            "numeric feature columns for the model",
            f"{text}",
            "Encode them, or move them to `metadata` or `ids`.",
        )
    values = torch.from_numpy(
        np.array(features.to_numpy(dtype=np.float32, na_value=np.nan), copy=True)
    )
    if bool(values.isnan().any()):
        columns = [
            str(c)
            for c, bad in zip(features.columns, values.isnan().any(0).tolist(), strict=True)
            if bad
        ]
        reject(
            records.name,
            "features without missing values for the model",
            f"NaN in {columns}",
            "Fill them as in training.",
        )
    return values


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
    """Labels of one column, float64 with NaN where one is missing, else int64 or float64."""
    label = f"column {schema.target!r} of {name!r}"
    missing = column.isna()
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if schema.classes:
        ids = _class_ids(column[~missing], schema.classes)
        if bool(ids.isna().any()):
            unknown = sorted(map(str, column[~missing][ids.isna()].unique()))[:5]
            expected = f"values among the classes {list(schema.classes)}"
            reject("targets", expected, f"{unknown} in {label}", "Add them to `classes`.")
        known = ids.reindex(column.index, fill_value=IGNORED)
        return torch.from_numpy(known.to_numpy(dtype=np.int64).copy())
    column = standard_column(column)
    if column.dtype.kind not in "iuf" and not bool(missing.all()):
        if schema.regression:
            expected = "numbers, since the schema says `regression`"
            reject("targets", expected, f"text in {label}", "Correct it, or declare `classes`.")
        found = sorted(column[~missing].map(str).unique())[:10]
        expected = f"the order of the classes, since {label} holds text"
        reject("schema.classes", expected, f"none; found {found}", f"Add `classes: {found}`.")
    if column.dtype.kind in "iu" and not bool(missing.any()):
        return torch.from_numpy(column.to_numpy(dtype=np.int64).copy())
    return torch.from_numpy(column.to_numpy(dtype=np.float64, na_value=np.nan).copy())


def _class_ids(column: pd.Series[Any], classes: tuple[Any, ...]) -> pd.Series[Any]:
    """Id of the class of each value, found by the value or by its text; NaN of other values."""
    by_value = {value: index for index, value in enumerate(classes)}
    by_text = {_text(value): index for value, index in by_value.items()}
    values = {value: by_value.get(value, by_text.get(_text(value))) for value in column.unique()}
    return column.map(values).astype("float64")


def _text(value: Any) -> str:
    """The text of a class, `1` for each of 1, 1.0, "1" and "1.0"."""
    text = str(value)
    whole, point, rest = text.partition(".")
    return whole if point and rest and not rest.strip("0") else text


def standard_columns(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with its columns known by text, each stored in one way whatever its kind.

    Numbers of every kind (Decimals, objects, nullable ones, those of Arrow) are plain integers or
    floats, booleans 0 and 1, texts of Arrow texts. A table that needs no change is returned as it
    is.

    Raises:
        InputError: two columns have one name.
    """
    names = [str(column) for column in frame.columns]
    if twice := sorted(column for column, times in Counter(names).items() if times > 1):
        got = f"several named {', '.join(twice[:5])}"
        reject(name, "one column for each name", got, "Rename or drop them.")
    table = frame if names == list(frame.columns) else frame.set_axis(names, axis=1)
    columns = {column: table[column] for column in names}
    standard = {name: standard_column(column) for name, column in columns.items()}
    changed = {name: column for name, column in standard.items() if column is not columns[name]}
    return table.assign(**changed) if changed else table


def standard_column(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column in the plain storage of its kind; one that has it is returned as it is.

    Nullable integers with gaps are `Int64`, since codes and ids are to be read as they are written.
    """
    kind = column.dtype.kind
    boolean = kind == "b" or (kind == "O" and _objects_are(column, ("boolean",)))
    if boolean and not column.isna().any():
        return column.astype("int8")
    decimal = kind == "O" and "decimal" in str(column.dtype)
    if boolean or decimal or (kind == "O" and _objects_are(column, _NUMBERS)):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(values, index=column.index, name=column.name)
    if kind == "O" and _are_written_numbers(column):
        # By floats: of whole numbers beyond 64 bits it would make objects.
        return pd.to_numeric(column.astype(object), errors="coerce")
    if not isinstance(column.dtype, pd.api.extensions.ExtensionDtype):
        return column
    if kind in "iu":
        gaps = bool(column.isna().any())
        plain = ("Int64", "UInt64") if gaps else ("int64", "uint64")
        dtype: Any = plain[kind == "u"]
        return column if str(column.dtype) in plain else column.astype(dtype)
    if kind == "f":
        return column.astype("float64")
    if kind == "U" or str(column.dtype).startswith("dictionary<"):
        return standard_column(column.astype(object).where(column.notna(), np.nan))
    return column


def _are_written_numbers(column: pd.Series[Any]) -> bool:
    """Whether texts are many decimal numbers; whole ones may be codes, and few ones versions."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    texts = column.dropna().head(_FIRST)
    if not _objects_are(texts, ("string",)) or texts.nunique() < _MIN_DECIMALS:
        return False
    written = column.dropna().astype(str)
    return bool(texts.str.contains(".", regex=False).any() and written.str.fullmatch(_NUMBER).all())


def _objects_are(column: pd.Series[Any], kinds: tuple[str, ...]) -> bool:
    """Whether a column of objects holds values of these kinds alone."""
    return pd.api.types.infer_dtype(column, skipna=True) in kinds


def _logits(frame: pd.DataFrame, schema: Schema, name: str) -> Tensor | None:
    columns = [*schema.logits, *schema.probs]
    if not columns or any(column not in frame for column in columns):
        return None
    if text := [c for c in columns if frame[c].dtype.kind not in "fiu" and len(frame)]:
        reject("logits", "numeric columns", f"{text} in {name!r}", "Convert them to numbers.")
    values = torch.from_numpy(np.array(frame[columns].to_numpy(dtype=np.float64), copy=True))
    values = values[:, 0] if len(columns) == 1 else values
    return logits_of_probs(values) if schema.probs else values
