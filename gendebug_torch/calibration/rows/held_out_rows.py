"""Held-out labeled rows for recalibration, and which of them are not independent of each other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.calibration.maps.temperature import validate_loss
from gendebug_torch.calibration.rows.label_forms import (
    are_one_hot,
    binary_labels,
)
from gendebug_torch.calibration.rows.model_outputs import (
    LabeledOutputs,
    is_binary,
    labeled_outputs,
    warn_missing,
)
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import reject
from gendebug_torch.model.collection.callables import as_model
from gendebug_torch.model.devices import device_of
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_of, map_rows
from gendebug_torch.stats.logit_scaling import masked_below

_SAMPLE = "sample"
_PROBE_ROWS = 16


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """The labeled rows that a map is fitted to; positions of a dense output are rows.

    Args:
        logits: logits `[n, k]` or `[n]`.
        targets: class ids `[n]` int64, or `[n, k]` of 0 and 1 (multilabel).
        weights: row weights `[n]` float64, or None.
        groups: ids `[n]` int64 of independent groups of rows, or None where rows are independent.
        probe: a few inputs of the network; None without one.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None
    groups: Tensor | None
    probe: Any

    @property
    def independent(self) -> int:
        """Number of independent rows or groups."""
        if self.groups is None:
            return len(self.logits)
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    def to(self, device: torch.device | None) -> HeldOutRows:
        """The same rows on a device; None leaves them where they are."""
        if device is None:
            return self
        weights, groups = (
            None if part is None else part.to(device) for part in (self.weights, self.groups)
        )
        tensors = self.logits.to(device), self.targets.to(device), weights, groups
        return HeldOutRows(*tensors, self.probe)


def dense_records(
    logits: Tensor, targets: Tensor, *, ignore_index: int | None = None, name: str = "records"
) -> Records:
    """The labeled positions of dense outputs as records, one row each, grouped by sample.

    The positions of one image are not independent, so that checks and `recalibrate` evaluate these
    rows by whole samples.

    Args:
        logits: float `[b, k, ...]`, e.g. `[b, k, h, w]` of a segmentation.
        targets: class ids `[b, ...]` int64.
        ignore_index: target of positions that do not count.
        name: name of the records in messages.

    Returns:
        Logits `[m, k]` and targets `[m]` in the order of the samples, with the metadata column
        `sample`, 0..b-1.

    Raises:
        InputError: shapes or dtypes do not fit.

    Example:
        >>> logits = torch.zeros(2, 3, 4, 4)  # two images, three classes
        >>> targets = torch.zeros(2, 4, 4, dtype=torch.int64)
        >>> targets[0, 0, 0] = 255
        >>> records = dense_records(logits, targets, ignore_index=255)
        >>> len(records), records.metadata["sample"].nunique()
        (31, 2)
    """
    rows, labels, counts, _ = _flattened(logits, targets, ignore_index)
    sample = torch.arange(len(counts)).repeat_interleave(counts.cpu())
    frame = pd.DataFrame({_SAMPLE: sample.numpy()})
    return Records(None, labels, rows, frame, Schema(group=_SAMPLE), name)


def group_ids(records: Records) -> Tensor | None:
    """`[n]` int64 ids of the groups that the schema names; None where rows are independent."""
    column = records.schema.group
    if column is None or records.metadata is None or column not in records.metadata:
        return None
    codes, names = pd.factorize(records.metadata[column], use_na_sentinel=False)
    return None if len(names) == len(records) else torch.from_numpy(codes.astype("int64"))


def held_out_rows(
    model: Model | None,
    loader: Any,
    *,
    weights: Tensor | None,
    ignore_index: int | None,
    multilabel: bool | None,
    how: dict[str, Any],
) -> HeldOutRows:
    """The rows of a loader with the logits of a model, or of records that hold logits.

    Args:
        model: network to logits, or None with records that hold logits.
        loader: labeled batches, or records.
        weights: weights `[n]` of the rows (samples).
        ignore_index: target of rows or positions that do not count.
        multilabel: whether targets `[n, k]` are k labels per row or one-hot rows; None decides.
        how: further options of `map_rows`.

    Raises:
        InputError: there are no logits or no labels, or they do not fit together.

    Warns:
        UserWarning: labels are missing, or rows are read as one-hot.
    """
    model = None if model is None else as_model(model)
    if model is None:
        rows, probe = _labeled_rows(*_given_logits(loader), ignore_index), None
    else:
        rows, probe = _computed_rows(model, loader, ignore_index, how)
    if multilabel is None and isinstance(loader, Records) and loader.schema.multilabel:
        multilabel = True
    counts, missing = rows["counts"], int(rows["missing"].sum())
    targets = _decided_targets(rows["targets"], multilabel)
    validate_loss(LabeledOutputs(*as_binary_rows(rows["logits"], targets), None, missing > 0))
    if ignore_index is None:
        warn_missing(missing, missing + int((targets != IGNORED).sum()), stacklevel=4)
    groups = group_ids(loader) if isinstance(loader, Records) else None
    if groups is None and len(counts) and int(counts.max()) > 1:
        groups = torch.arange(len(counts))
    if weights is not None:
        _validate_row_weights(weights, len(counts))
    return HeldOutRows(
        rows["logits"],
        targets,
        None if weights is None else _repeated(weights.double(), counts),
        None if groups is None else _renumbered(_repeated(groups, counts)),
        probe,
    )


def fit_device(model: Model | None, device: str | torch.device) -> torch.device | None:
    """The CUDA device of the forward passes, where maps are fitted too; else None."""
    if model is None:
        return None
    chosen = device_of(device)
    return chosen if chosen.type == "cuda" else None


def as_binary_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Multilabel outputs `[n, k]` and their targets as `[n k]` binary rows; others as they are."""
    return (logits.reshape(-1), targets.reshape(-1)) if targets.ndim == 2 else (logits, targets)


def _given_logits(loader: Any) -> tuple[Tensor, Tensor | None]:
    if not isinstance(loader, Records):
        reject(
            "model",
            "a network, or Records that hold logits",
            "neither",
            "Pass the network whose logits are to be scaled.",
        )
    if loader.logits is None:
        reject("loader", "records with logits", "none", "Pass the network that makes them too.")
    return loader.logits, loader.targets


def _computed_rows(
    model: Model, loader: Any, ignore_index: int | None, how: dict[str, Any]
) -> tuple[dict[str, Tensor], Any]:
    """The labeled rows of all batches, and the first inputs."""
    probes: list[Any] = []

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        if not probes:
            probes.append(_first_rows(inputs))
        return _labeled_rows(logits_of(model, inputs), targets, ignore_index)

    rows = map_rows(step, loader, model=model, **how)
    return rows, probes[0] if probes else None


def _labeled_rows(
    logits: Tensor, targets: Tensor | None, ignore_index: int | None
) -> dict[str, Tensor]:
    """The labeled rows of a batch.

    Returns:
        `logits` and `targets` of the labeled rows; `counts` of them and of `missing` labels in each
        row or sample of the batch.
    """
    if targets is None:
        reject(
            "loader",
            "rows with logits and class targets",
            "no targets",
            "Pass held-out rows with their labels.",
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if targets.ndim == 2 and targets.shape == logits.shape and not is_binary(logits):
        labels = binary_labels(targets, ignore_index)
        present = (labels != IGNORED).sum(1)
        rows = present > 0
        missing = labels.shape[1] - present
        counts = rows.long()
        return {
            "logits": logits[rows],
            "targets": labels[rows],
            "counts": counts,
            "missing": missing,
        }
    rows, labels, counts, missing = _flattened(logits, targets, ignore_index)
    return {"logits": rows, "targets": labels, "counts": counts, "missing": missing}


def _flattened(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits and class ids of the labeled rows or positions; labeled and missing per sample."""
    declared = IGNORED if ignore_index is None else ignore_index
    outputs = labeled_outputs(logits, targets, None, declared)
    labeled = outputs.labeled
    rows = outputs.logits
    if outputs.mask_gap is not None:
        rows = masked_below(rows, outputs.mask_gap)
    rows = rows if rows.ndim == 1 else rows.movedim(1, -1)
    rows = rows[..., 0] if logits.ndim > 1 and is_binary(logits) else rows
    counts = labeled.flatten(1).sum(1) if labeled.ndim > 1 else labeled.long()
    missing = labeled[:1].numel() - counts
    return rows[labeled], outputs.targets[labeled], counts, missing


def _decided_targets(targets: Tensor, multilabel: bool | None) -> Tensor:
    """Class ids `[n]`, or labels `[n, k]`; one-hot rows become class ids."""
    if targets.ndim == 1:
        if multilabel:
            reject(
                "multilabel",
                "targets [n, k] of 0 and 1",
                f"class ids {list(targets.shape)}",
                "Leave it out for class ids.",
            )
        return targets
    if multilabel is None and are_one_hot(targets):
        warnings.warn(
            f"Every row of the targets has exactly one of {targets.shape[1]} labels. They are read "
            "as one-hot classes; if a row may have several labels, pass `multilabel=True`.",
            stacklevel=4,
        )
        multilabel = False
    if multilabel is not False:
        return targets
    if not bool((targets.sum(1) == 1).all()):
        reject(
            "multilabel",
            "one label per row where it is False",
            "rows with none or several",
            "Pass `multilabel=True`.",
        )
    return targets.argmax(1)


def _validate_row_weights(weights: Tensor, n: int) -> None:
    valid = weights.shape == (n,) and bool(((weights >= 0) & weights.isfinite()).all())
    if not valid or not float(weights.sum()) > 0:
        reject(
            "weights",
            f"[{n}] non-negative, not all 0",
            f"{weights.dtype} {list(weights.shape)}",
            "Pass one weight per row or sample.",
        )


def _repeated(values: Tensor, counts: Tensor) -> Tensor:
    """Values `[b]` of samples for each of their rows."""
    return values.to(counts.device).repeat_interleave(counts)


def _renumbered(groups: Tensor) -> Tensor:
    """Ids 0..g-1 of the groups that have rows, in their order."""
    numbers: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbers


def _first_rows(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[:_PROBE_ROWS].detach().cpu()
    if isinstance(inputs, dict):
        return {key: _first_rows(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_first_rows(value) for value in inputs)
    return inputs
