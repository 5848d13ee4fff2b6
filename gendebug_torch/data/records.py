"""`Records`: n aligned rows of features, targets, logits and metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.files import replacing_directory
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import read_npz, read_table, split_frame, standard_columns
from gendebug_torch.data.task import Task, missing_labels, stored_targets, task_of
from gendebug_torch.errors import InputError, reject


@dataclass(frozen=True, eq=False)
class Records:
    """n aligned rows: inputs of a model, its outputs, the truth, and what is known besides.

    Args:
        features: inputs of the model, a DataFrame `[n, d]` or a Tensor `[n, ...]`. Columns are
            known by their names as text; objects that are numbers become numbers.
        targets: labels in any form that torch's losses or a CSV use (ids of any integer type,
            booleans, floats 0.0 and 1.0, `[n, 1]`, one-hot rows, `[n, k]` multilabel) or
            quantities; NaN and -100 are missing. Stored as int64 ids or answers, or floats.
        logits: outputs of the model: one binary logit `[n]`, or `[n, k]`. Finite; of three and more
            classes some may be -inf, which masks a class that is not the row's target.
        metadata: columns that no model is fed (time, groups, labeler), DataFrame `[n, m]`.
        schema: meaning of the columns.
        name: name for messages, e.g. `validation`.
        task: question that the model answers; decided from the rest where it is None.

    Raises:
        InputError: lengths differ, logits are not finite, class ids fall outside the classes, or
            two columns have one name.

    Example:
        >>> import torch
        >>> targets = torch.tensor([[1.0], [0.0]])
        >>> records = Records(logits=torch.tensor([2.0, -1.0]), targets=targets)
        >>> records.targets.tolist(), records.correct.tolist(), str(records.task)
        ([1, 0], [True, True], 'binary')
    """

    features: pd.DataFrame | Tensor | None = None
    targets: Tensor | None = None
    logits: Tensor | None = None
    metadata: pd.DataFrame | None = None
    schema: Schema = field(default_factory=Schema)
    name: str = "records"
    task: Task | None = None

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
        targets, schema = self.targets, self.schema
        if targets is not None:
            # Some rows of a regression may happen to be whole: its task is decided once.
            if self.task is Task.REGRESSION and not schema.regression:
                schema = dataclasses.replace(schema, regression=True, multilabel=False)
            targets = stored_targets(targets, self.logits, schema, self.name)
            object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "task", task_of(targets, self.logits, schema))
        for key in ("features", "metadata"):
            if isinstance(table := getattr(self, key), pd.DataFrame):
                object.__setattr__(self, key, standard_columns(table, self.name))
        _check_logits(self.logits, self.task is Task.MULTILABEL, self.name)
        _check_ids(self, missing_labels(targets) if targets is not None else None)

    def __len__(self) -> int:
        return next(len(value) for key in _PARTS if (value := getattr(self, key)) is not None)

    @property
    def probs(self) -> Tensor:
        """Probabilities, `[n]` of one binary logit (sigmoid), else `[n, k]`, float64.

        Softmax, or sigmoid if multilabel.
        """
        logits = _required(self, "logits").double()
        return (
            logits.sigmoid()
            if logits.ndim == 1 or self.task is Task.MULTILABEL
            else logits.softmax(-1)
        )

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, `[n]` (`[n, k]` if multilabel), float64 in [0, 1]."""
        probs = self.probs
        return (
            torch.maximum(probs, 1 - probs)
            if probs.ndim == 1 or self.task is Task.MULTILABEL
            else probs.amax(-1)
        )

    @property
    def predicted(self) -> Tensor:
        """Predicted class ids, `[n]` int64, or `[n, k]` of 0 and 1 if multilabel.

        A binary logit of 0 is class 0.
        """
        logits = _required(self, "logits")
        return (
            (logits > 0).long()
            if logits.ndim == 1 or self.task is Task.MULTILABEL
            else logits.argmax(-1)
        )

    @property
    def correct(self) -> Tensor:
        """Whether the prediction equals the target, bool, shaped like `predicted`."""
        return self.predicted == _required(self, "targets")

    def labeled(self, *, partly: bool = False) -> Records:
        """The rows that have a label; these records themselves where all rows have one.

        Args:
            partly: whether rows that lack some of several labels are kept.
        """
        if self.targets is None:
            return self
        missing = missing_labels(self.targets, partly=partly).cpu()
        return self.select(~missing) if bool(missing.any()) else self

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
            expected = "a new directory or saved records"
            reject("directory", expected, f"{target} with other content", "Choose another path.")
        parts = {key: value for key in _PARTS if (value := getattr(self, key)) is not None}
        tensors = {
            key: value.detach().cpu().contiguous()
            for key, value in parts.items()
            if isinstance(value, Tensor)
        }
        schema = dataclasses.asdict(self.schema)
        header = {"name": self.name, "schema": schema, "task": self.task}
        with replacing_directory(target) as scratch:
            save_file(tensors, scratch / "tensors.safetensors")
            for key, value in parts.items():
                if isinstance(value, pd.DataFrame):
                    value.to_parquet(scratch / f"{key}.parquet")
            (scratch / "records.json").write_text(json.dumps(header, default=str))
        return target

    @classmethod
    def load(cls, directory: str | Path) -> Records:
        """Read what `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        source = Path(directory)
        try:
            header = json.loads((source / "records.json").read_text(encoding="utf-8"))
            parts: dict[str, Any] = dict(load_file(source / "tensors.safetensors"))
            for path in source.glob("*.parquet"):
                parts[path.stem] = pd.read_parquet(path)
            schema, name, task = header["schema"], header["name"], header.get("task")
            task = None if task is None else Task(task)
            return cls(**parts, schema=Schema(**schema), name=str(name), task=task)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            expected = "records written by `Records.save`"
            reject("directory", expected, f"{source}: {error}", "Save them again.")

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
        codes = (*schema.categorical, *schema.ids)
        return cls.from_frame(read_table(path, codes), schema, name=label, optional=optional)


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


def _check_ids(records: Records, missing: Tensor | None) -> None:
    """Refuse class ids that the logits have no place for, or that they mask."""
    targets, logits, name = records.targets, records.logits, records.name
    if targets is None or missing is None or targets.is_floating_point():
        return
    rows = (~missing).nonzero()[:, 0]
    ids = targets[rows]
    if not len(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    multilabel = targets.ndim == 2
    classes = 2 if multilabel or (logits is not None and logits.ndim == 1) else None
    if classes is None and logits is not None:
        classes = logits.shape[1]
    if low < 0 or (classes is not None and high >= classes):
        expected = "class ids from 0" if classes is None else f"class ids in 0..{classes - 1}"
        remedy = "Map labels to 0..k-1, or declare `classes` in the schema."
        reject("targets", expected, f"{low}..{high} in {name!r}", remedy)
    if multilabel or logits is None or logits.ndim == 1:
        return
    own = logits[rows.to(logits.device)].gather(1, ids.to(logits.device)[:, None])
    if masked := int(own.isneginf().sum()):
        got = f"{masked} of {len(targets)} rows of {name!r} whose class has logit -inf"
        expected = "classes that the model does not mask"
        reject("targets", expected, got, "Unmask the class, or drop the rows.")
