"""`Records`: n aligned rows of features, targets, logits and metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.files import check_sums, replacing_directory, sha256_of
from gendebug_torch.data.inputs.likely_groups import group_column
from gendebug_torch.data.inputs.origin import Origin
from gendebug_torch.data.inputs.table_files import read_table
from gendebug_torch.data.outputs.refusals import (
    check_embedding,
    check_ids,
    check_logits,
    check_quantities,
)
from gendebug_torch.data.outputs.summary import records_html
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.tables import read_npz, split_frame, standard_columns
from gendebug_torch.data.task import (
    Task,
    dense_outputs,
    missing_labels,
    stored_targets,
    task_of,
    warn_probabilities,
)
from gendebug_torch.errors import reading, reject


@dataclass(frozen=True, eq=False)
class Records:
    """n aligned rows: inputs of a model, its outputs, the truth, and what is known besides.

    Args:
        features: inputs of the model, a DataFrame `[n, d]` or a Tensor `[n, ...]`. Columns are
            known by their names as text; objects that are numbers become numbers.
        targets: labels in any form that torch's losses or a CSV use (ids of any integer type,
            booleans, floats 0.0 and 1.0, `[n, 1]`, one-hot rows, `[n, k]` multilabel) or
            quantities; NaN and -100 are missing. Stored as int64 ids or answers, or floats; of a
            dense head `[n, p]` for p positions.
        logits: outputs of the model: one binary logit `[n]`, or `[n, k]`, or dense `[n, k, ...]`,
            stored as `[n, k, p]`. Finite; of three and more classes some may be -inf, which masks
            a class that is not the row's target.
        metadata: columns that no model is fed (time, groups, labeler), DataFrame `[n, m]`.
        schema: meaning of the columns.
        name: name for messages, e.g. `validation`.
        task: question that the model answers; decided from the rest where it is None.
        properties: what describes each input in words (brightness, length), DataFrame `[n, p]`.
        embedding: inputs of the network's last layer, Tensor `[n, e]`.
        keys: what near duplicates are found by, e.g. small grey pictures, Tensor `[n, ...]`.
        modality: `image`, `text`, `series`, `table` or one that another package registers, of
            several parts e.g. `image + table`; None is seen from shape and type.
        origin: where inputs that are not kept can be read again.

    Raises:
        InputError: lengths or devices differ, logits are not finite, class ids fall outside the
            classes, or two columns have one name.

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
    properties: pd.DataFrame | None = None
    embedding: Tensor | None = None
    keys: Tensor | None = None
    modality: str | None = None
    origin: Origin | None = None

    # Looked for once, and only where a test asks.
    group_column = cached_property(group_column)

    def __post_init__(self) -> None:
        _store_tensors(self)
        lengths = {key: len(value) for key in _PARTS if (value := getattr(self, key)) is not None}
        if not lengths:
            reject(
                "records",
                f"at least one of {', '.join(_PARTS)}",
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
        _check_devices(self)
        check_embedding(self.embedding, self.modality, self.name)
        for key in ("features", "metadata", "properties"):
            if isinstance(table := getattr(self, key), pd.DataFrame):
                object.__setattr__(self, key, standard_columns(table, self.name))
        new = self.task is None
        _store_outputs(self)
        check_logits(self.logits, self.task, self.name)
        check_ids(self.targets, self.logits, self.task, self.name)
        check_quantities(self.targets, self.logits, self.task, self.schema, self.name)
        if new and self.logits is not None and self.task in (Task.BINARY, Task.MULTICLASS):
            warn_probabilities(self.logits, self.name)

    _repr_html_ = records_html

    def __len__(self) -> int:
        return next(len(value) for key in _PARTS if (value := getattr(self, key)) is not None)

    @property
    def probs(self) -> Tensor:
        """Probabilities, `[n]` of one binary logit (sigmoid), else `[n, k]`, float64.

        Softmax, or sigmoid if multilabel; `[n, p]` or `[n, k, p]` of p positions.
        """
        logits = _required(self, "logits").double()
        if _is_elementwise(self):
            return (logits[:, 0] if logits.ndim == 3 else logits).sigmoid()
        return logits.softmax(1)

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class, `[n]` (`[n, k]` if multilabel), float64 in [0, 1]."""
        probs = self.probs
        return torch.maximum(probs, 1 - probs) if _is_elementwise(self) else probs.amax(1)

    @property
    def predicted(self) -> Tensor:
        """Predicted class ids, `[n]` int64, or `[n, k]` of 0 and 1 if multilabel.

        A binary logit of 0 is class 0.
        """
        logits = _required(self, "logits")
        if _is_elementwise(self):
            return ((logits[:, 0] if logits.ndim == 3 else logits) > 0).long()
        return logits.argmax(1)

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
        partly = partly or self.task is Task.DENSE
        missing = missing_labels(self.targets, partly=partly).cpu()
        return self.select(~missing) if bool(missing.any()) else self

    def select(self, rows: Tensor | np.ndarray | Sequence[int]) -> Records:
        """The rows where a `[n]` bool mask is true, or at int positions, in that order."""
        index = rows.cpu() if isinstance(rows, Tensor) else torch.as_tensor(np.asarray(rows))
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
        if self.origin is not None:
            picked["origin"] = self.origin.select(positions)
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
        return dataclasses.replace(parts[0], origin=Origin.concat(parts), **joined)

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
        header |= {"modality": self.modality}
        with replacing_directory(target) as scratch:
            save_file(tensors, scratch / "tensors.safetensors")
            for key, value in parts.items():
                if isinstance(value, pd.DataFrame):
                    value.to_parquet(scratch / f"{key}.parquet")
            text = json.dumps(header, default=str)
            sums = {path.name: sha256_of(path) for path in scratch.iterdir()}
            sums["records.json"] = hashlib.sha256(text.encode()).hexdigest()
            content = json.dumps(json.loads(text) | {"sha256": sums})
            (scratch / "records.json").write_text(content)
        return target

    @classmethod
    def load(cls, directory: str | Path) -> Records:
        """Read what `save` wrote.

        Raises:
            InputError: no such directory, one of another kind, or one of which a file is damaged.
        """
        from safetensors.torch import load_file

        source, remedy = Path(directory), "Save them again."
        with reading(source, "records written by `Records.save`", "directory", remedy):
            header = json.loads((source / "records.json").read_text(encoding="utf-8"))
            check_sums(source, header, remedy)
            parts: dict[str, Any] = dict(load_file(source / "tensors.safetensors"))
            for path in source.glob("*.parquet"):
                parts[path.stem] = pd.read_parquet(path)
            schema, name, task = header["schema"], header["name"], header.get("task")
            task = None if task is None else Task(task)
            parts |= {"schema": Schema(**schema), "modality": header.get("modality")}
            return cls(**parts, name=str(name), task=task)

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
        codes = (*schema.categorical, *schema.text, *schema.ids)
        return cls.from_frame(read_table(path, codes), schema, name=label, optional=optional)


_PARTS = ("features", "targets", "logits", "metadata", "properties", "embedding", "keys")


def _store_tensors(records: Records) -> None:
    """Arrays as tensors without gradients; refuse other kinds."""
    for key in ("features", "targets", "logits", "embedding", "keys"):
        array = getattr(records, key)
        if isinstance(array, np.ndarray):
            array = torch.from_numpy(array)
        elif isinstance(array, Tensor) and array.requires_grad:
            # As `model(inputs)` returns them, logits carry the graph of their gradients.
            array = array.detach()
        elif array is not None and not isinstance(array, (Tensor, pd.DataFrame)):
            remedy = "Pass torch.as_tensor(values); texts as a table, by Records.from_frame."
            reject(key, "a Tensor or an array", type(array).__name__, remedy)
        object.__setattr__(records, key, array)


def _store_outputs(records: Records) -> None:
    """Decide the task and bring logits and targets into its form."""
    logits, targets, schema = records.logits, records.targets, records.schema
    if logits is not None and logits.ndim == 2 and logits.shape[1] == 1:
        logits = logits[:, 0]
        object.__setattr__(records, "logits", logits)
    wide = any(part is not None and part.ndim > 2 for part in (logits, targets))
    if records.task is Task.DENSE or (wide and records.task is None):
        logits, targets = dense_outputs(logits, targets, schema, records.name)
        object.__setattr__(records, "logits", logits)
        task: Task | None = Task.DENSE
    else:
        # Some rows of a regression may happen to be whole: its task is decided once.
        if records.task is Task.REGRESSION and not schema.regression:
            schema = dataclasses.replace(schema, regression=True, multilabel=False)
        if targets is not None:
            targets = stored_targets(targets, logits, schema, records.name)
        task = task_of(targets, logits, schema)
    object.__setattr__(records, "targets", targets)
    object.__setattr__(records, "task", task)


def _is_elementwise(records: Records) -> bool:
    """Whether each logit stands for a yes or no of its own."""
    logits = _required(records, "logits")
    one_map = records.task is Task.DENSE and logits.shape[1] == 1
    return logits.ndim == 1 or records.task is Task.MULTILABEL or one_map


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


def _check_devices(records: Records) -> None:
    """Refuse tensors that lie on several devices."""
    parts = {key: getattr(records, key) for key in _PARTS}
    devices = {key: str(part.device) for key, part in parts.items() if isinstance(part, Tensor)}
    if len(set(devices.values())) > 1:
        got, remedy = f"{devices} in {records.name!r}", "Move them together, e.g. all by `.cpu()`."
        reject("records", "tensors on one device", got, remedy)
