"""`Records`: n aligned rows of features, targets, logits and metadata."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import read_npz, read_table, split_frame
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from gendebug_torch.data.schema import Schema


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


@dataclass(frozen=True, eq=False)
class Records:
    """n aligned rows: inputs of a model, its outputs, the truth, and what is known besides.

    Args:
        features: `[n, d]` DataFrame with named, possibly mixed columns, or a `[n, ...]` Tensor.
        targets: `[n]` int64 class ids, `[n, k]` multilabel, `[n]` float for regression, or None.
        logits: `[n]` one binary logit, `[n, k]`, or None. Finite; of three and more classes some
            may be -inf, which masks a class (probability 0) that is not the row's target.
        metadata: `[n, m]` DataFrame (time, groups, labeler); never fed to a model.
        schema: what the columns mean.
        name: for messages, e.g. `validation`.

    Raises:
        InputError: lengths differ, logits are not finite, class ids fall outside the classes.
    """

    features: pd.DataFrame | Tensor | None = None
    targets: Tensor | None = None
    logits: Tensor | None = None
    metadata: pd.DataFrame | None = None
    schema: Schema = field(default_factory=Schema)
    name: str = "records"

    def __post_init__(self) -> None:
        lengths = {key: len(value) for key in _PARTS if (value := getattr(self, key)) is not None}
        if not lengths:
            reject(
                "records",
                "at least one of features, targets, logits, metadata",
                "none",
                "Pass one of them.",
            )
        if len(set(lengths.values())) > 1:
            reject(
                "records",
                "parts of one length",
                str(lengths),
                f"Align the rows of {self.name!r} before building Records.",
            )
        _check_logits(self.logits, _is_multilabel(self), self.name)
        _check_targets(self.targets, self.logits, self.schema, self.name)

    def __len__(self) -> int:
        return next(len(value) for key in _PARTS if (value := getattr(self, key)) is not None)

    @property
    def probs(self) -> Tensor:
        """Probabilities, `[n]` of one binary logit (sigmoid), else `[n, k]`, float64.

        Softmax, or sigmoid if multilabel.
        """
        logits = _required(self, "logits").double()
        return logits.sigmoid() if logits.ndim == 1 or _is_multilabel(self) else logits.softmax(-1)

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, `[n]` (`[n, k]` if multilabel), float64 in [0, 1]."""
        probs = self.probs
        return (
            torch.maximum(probs, 1 - probs)
            if probs.ndim == 1 or _is_multilabel(self)
            else probs.amax(-1)
        )

    @property
    def predicted(self) -> Tensor:
        """Predicted class ids, `[n]` int64, or `[n, k]` of 0 and 1 if multilabel.

        A binary logit of 0 is class 0.
        """
        logits = _required(self, "logits")
        return (
            (logits > 0).long() if logits.ndim == 1 or _is_multilabel(self) else logits.argmax(-1)
        )

    @property
    def correct(self) -> Tensor:
        """Whether the prediction equals the target, bool, shaped like `predicted`."""
        return self.predicted == _required(self, "targets")

    def select(self, rows: Tensor | np.ndarray | Sequence[int]) -> Records:
        """The rows where a `[n]` bool mask is true, or at int positions, in that order."""
        index = torch.as_tensor(np.asarray(rows))
        if index.dtype == torch.bool:
            if len(index) != len(self):
                reject(
                    "rows",
                    f"a mask of length {len(self)}",
                    f"length {len(index)}",
                    "Build the mask from these records.",
                )
            index = index.nonzero()[:, 0]
        positions = index.long()
        picked: dict[str, Any] = {}
        for key in _PARTS:
            value = getattr(self, key)
            if isinstance(value, Tensor):
                picked[key] = value[positions.to(value.device)]
            elif value is not None:
                picked[key] = value.iloc[positions.numpy()].reset_index(drop=True)
        return dataclasses.replace(self, **picked)

    @staticmethod
    def concat(parts: Sequence[Records]) -> Records:
        """The rows of all parts, in order; all parts must have the same fields."""
        if not parts:
            reject("parts", "at least one Records", "none", "Pass the records to join.")
        joined: dict[str, Any] = {}
        for key in _PARTS:
            values = [getattr(part, key) for part in parts]
            present = [value is not None for value in values]
            if any(present) and not all(present):
                reject(
                    "parts",
                    f"`{key}` in all or in none",
                    f"{sum(present)} of {len(parts)}",
                    f"Drop or fill `{key}`.",
                )
            if all(present):
                tensors = isinstance(values[0], Tensor)
                joined[key] = torch.cat(values) if tensors else pd.concat(values, ignore_index=True)
        return dataclasses.replace(parts[0], **joined)

    def to(self, device: str | torch.device) -> Records:
        """The same records with their tensors on `device`; tables stay in host memory."""
        tensors: dict[str, Any] = {
            key: value.to(device)
            for key in _PARTS
            if isinstance(value := getattr(self, key), Tensor)
        }
        return dataclasses.replace(self, **tensors)

    def save(self, directory: str | Path) -> Path:
        """Write tensors as safetensors, tables as Parquet, the schema as JSON: all or nothing.

        An existing `directory` is replaced only if it holds saved records.
        """
        from safetensors.torch import save_file

        target = Path(directory)
        if target.exists() and not (target / "records.json").exists():
            reject(
                "directory",
                "a new directory or saved records",
                f"{target} with other content",
                "Choose another path.",
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        except OSError as error:
            reject(
                "directory",
                "a writable place",
                f"{target}: {error.strerror}",
                "Choose another path.",
            )
        try:
            parts = {key: value for key in _PARTS if (value := getattr(self, key)) is not None}
            tensors = {
                key: value.detach().cpu().contiguous()
                for key, value in parts.items()
                if isinstance(value, Tensor)
            }
            save_file(tensors, scratch / "tensors.safetensors")
            for key, value in parts.items():
                if isinstance(value, pd.DataFrame):
                    value.to_parquet(scratch / f"{key}.parquet")
            header = {"name": self.name, "schema": dataclasses.asdict(self.schema)}
            (scratch / "records.json").write_text(json.dumps(header, default=str))
            if target.exists():
                old = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
                os.replace(target, old)
                shutil.rmtree(old)
            os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    @classmethod
    def load(cls, directory: str | Path) -> Records:
        """Read what `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        source = Path(directory)
        try:
            header = json.loads((source / "records.json").read_text())
            parts: dict[str, Any] = dict(load_file(source / "tensors.safetensors"))
            for path in source.glob("*.parquet"):
                parts[path.stem] = pd.read_parquet(path)
        except (OSError, ValueError, SafetensorError) as error:
            reject(
                "directory",
                "records written by `Records.save`",
                f"{source}: {error}",
                "Check the path, or save them again.",
            )
        return cls(**parts, schema=Schema(**header["schema"]), name=header["name"])

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        schema: Schema,
        *,
        name: str = "records",
        optional: Sequence[str] = (),
    ) -> Records:
        """Split one table by its schema; columns that the schema does not name are features.

        Args:
            frame: `[n, columns]`.
            schema: what the columns are.
            name: for messages.
            optional: schema keys whose columns may be absent, e.g. `("target", "logits")`.

        Raises:
            InputError: a column is missing, a target has no class, a logit is not a number.
        """
        features, targets, logits, metadata = split_frame(frame, schema, name, tuple(optional))
        return cls(features, targets, logits, metadata, schema, name)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        schema: Schema | None = None,
        *,
        name: str = "",
        optional: Sequence[str] = (),
    ) -> Records:
        """Read a CSV or Parquet table (with its schema) or an npz of arrays.

        An npz holds `logits` or `probs`, `targets` or `labels`, `features`.
        """
        label = name or Path(path).stem
        if Path(path).suffix == ".npz":
            return cls(**read_npz(path), schema=schema or Schema(), name=label)
        if schema is None:
            reject(
                "schema",
                "a Schema for a table",
                "None",
                "Say which column is the target, e.g. Schema(target='label').",
            )
        return cls.from_frame(read_table(path), schema, name=label, optional=optional)


_PARTS = ("features", "targets", "logits", "metadata")


def _required(records: Records, key: str) -> Tensor:
    value: Tensor | None = getattr(records, key)
    if value is None:
        reject(
            records.name,
            f"records with {key}",
            "none",
            f"Build them with {key}, or collect(model, loader).",
        )
    return value


def _is_multilabel(records: Records) -> bool:
    return records.schema.multilabel or (records.targets is not None and records.targets.ndim == 2)


def _check_logits(logits: Tensor | None, multilabel: bool, name: str) -> None:
    if logits is None:
        return
    if not logits.is_floating_point() or logits.ndim not in (1, 2):
        got = f"{logits.dtype} {list(logits.shape)} in {name!r}"
        reject("logits", "float [n] or [n, k]", got, "Pass raw model outputs before softmax.")
    if not logits.numel():
        return
    masks = logits.ndim == 2 and logits.shape[1] > 2 and not multilabel
    values = logits.reshape(len(logits), -1)
    masked = values.isneginf() if masks else torch.zeros_like(values, dtype=torch.bool)
    rows = (~(values.isfinite() | masked)).any(1) | masked.all(1)
    if bad := int(rows.sum()):
        expected = (
            "finite values, or -inf for a masked class and not for all"
            if masks
            else "finite values"
        )
        got = f"NaN or infinity in {bad} of {len(logits)} rows of {name!r}"
        reject("logits", expected, got, "Find the rows that break the model, or drop them.")


def _check_targets(
    targets: Tensor | None, logits: Tensor | None, schema: Schema, name: str
) -> None:
    if targets is None:
        return
    if targets.ndim not in (1, 2) or targets.dtype not in (
        torch.int64,
        torch.float32,
        torch.float64,
    ):
        got = f"{targets.dtype} {list(targets.shape)} in {name!r}"
        reject(
            "targets",
            "int64 class ids or float values, [n] or [n, k]",
            got,
            "Convert with .long() for classes.",
        )
    if targets.is_floating_point() and not bool(targets.isfinite().all()):
        reject(
            "targets",
            "finite values",
            f"NaN or infinity in {name!r}",
            "Drop rows without a label, or leave targets out.",
        )
    if targets.dtype != torch.int64 or not len(targets) or logits is None:
        return
    classes = 2 if logits.ndim == 1 or targets.ndim == 2 else logits.shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        remedy = "Map labels to 0..k-1, or declare `classes` in the schema."
        reject("targets", f"class ids in 0..{classes - 1}", f"{low}..{high} in {name!r}", remedy)
    if (
        targets.ndim == 1
        and logits.ndim == 2
        and (masked := int(logits.gather(1, targets.to(logits.device)[:, None]).isneginf().sum()))
    ):
        got = f"{masked} of {len(targets)} rows of {name!r} whose class has logit -inf"
        reject(
            "targets",
            "classes that the model does not mask",
            got,
            "Unmask the class, or drop the rows.",
        )
