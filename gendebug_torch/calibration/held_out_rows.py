"""Held-out labeled rows for recalibration, and which of them are not independent of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.calibration.model_outputs import labeled_mask, labeled_outputs
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, logits_of, map_rows

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
    rows, labels, counts = _flattened(logits, targets, ignore_index)
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
    how: dict[str, Any],
) -> HeldOutRows:
    """The rows of a loader with the logits of a model, or of records that hold logits.

    Args:
        model: network to logits, or None with records that hold logits.
        loader: labeled batches, or records.
        weights: weights `[n]` of the rows (samples).
        ignore_index: target of rows or positions that do not count.
        how: further options of `map_rows`.

    Raises:
        InputError: there are no logits or no labels, or they do not fit together.
    """
    if model is None:
        rows, probe = _labeled_rows(*_given_logits(loader), ignore_index), None
    else:
        rows, probe = _computed_rows(model, loader, ignore_index, how)
    # Records reject NaN, and a masked class that is the target.
    records = Records(logits=rows["logits"], targets=rows["targets"], name="loader")
    assert records.logits is not None
    assert records.targets is not None
    counts = rows["counts"]
    groups = group_ids(loader) if isinstance(loader, Records) else None
    if groups is None and len(records) and int(counts.max()) > 1:
        groups = torch.arange(len(counts))
    if weights is not None:
        _validate_weights(weights, len(counts))
    return HeldOutRows(
        records.logits,
        records.targets,
        None if weights is None else _repeated(weights.double(), counts),
        None if groups is None else _repeated(groups, counts),
        probe,
    )


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
    """`logits`, `targets` of the labeled rows, and `counts` of them in each given row or sample."""
    if targets is None:
        reject(
            "loader",
            "rows with logits and class targets",
            "no targets",
            "Pass held-out rows with their labels.",
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if targets.ndim == 2 and targets.shape == logits.shape:
        labels = _binary_labels(targets)
        return {"logits": logits, "targets": labels, "counts": torch.ones_like(labels[:, 0])}
    return dict(
        zip(("logits", "targets", "counts"), _flattened(logits, targets, ignore_index), strict=True)
    )


def _flattened(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and class ids of the labeled rows or positions, and their number per sample."""
    labeled_outputs(logits, targets, None, ignore_index)
    labeled = labeled_mask(targets, ignore_index)
    rows = logits if logits.ndim == 1 else logits.movedim(1, -1)
    counts = labeled.flatten(1).sum(1) if labeled.ndim > 1 else labeled.long()
    return rows[labeled], targets[labeled].long(), counts


def _binary_labels(targets: Tensor) -> Tensor:
    labels = targets.long()
    if bool((labels != targets).any()) or bool(((labels != 0) & (labels != 1)).any()):
        reject(
            "targets",
            "0 or 1 for each label",
            f"{float(targets.min()):.3g}..{float(targets.max()):.3g}",
            "Pass hard labels.",
        )
    return labels


def _validate_weights(weights: Tensor, n: int) -> None:
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


def _first_rows(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs[:_PROBE_ROWS].detach().cpu()
    if isinstance(inputs, dict):
        return {key: _first_rows(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_first_rows(value) for value in inputs)
    return inputs
