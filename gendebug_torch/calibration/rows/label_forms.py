"""Labels of any form as class ids, and refusals that name both readings where two are possible."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from gendebug_torch.data.task import IGNORED, warn_classes_last
from gendebug_torch.errors import reject

# In fewer rows it may be chance that each has exactly one label.
_MIN_ONE_HOT_ROWS = 20


def without_column(values: Tensor, shape: torch.Size) -> Tensor:
    """Values `[n, 1, h, w]` as `[n, h, w]`, where that is the expected `shape`."""
    has_column = values.shape != shape and values.shape == (*shape[:1], 1, *shape[1:])
    return values[:, 0] if has_column else values


def class_ids(targets: Tensor, logits: Tensor, ignore_index: int | None = None) -> Tensor:
    """Int64 class ids of labels that fit the logits, `IGNORED` for NaN, -100 and `ignore_index`.

    Args:
        targets: labels `[n]` (dense `[n, ...]`) of any integer type, bool, or for one logit float.
        logits: logits `[n, k]`, `[n]`, `[n, 1]` or dense `[n, k, ...]`.
        ignore_index: label of rows that do not count.

    Raises:
        InputError: another shape, or floats that are not labels; the message names the readings.

    Warns:
        UserWarning: logits `[b, t, t]` fit better with the classes last.
    """
    expected = torch.Size([len(logits), *logits.shape[2:]])
    if targets.shape != expected:
        _reject_shape(targets, logits, expected)
    if logits.ndim >= 3 and targets.shape == logits.shape[:-1]:
        warn_classes_last(targets, logits)
    if not targets.is_floating_point():
        ids = targets.long()
        if ignore_index is None or ignore_index == IGNORED:
            return ids
        return ids.masked_fill(ids == ignore_index, IGNORED)
    if logits.ndim == 1 or logits.shape[1] == 1:
        return binary_labels(targets, ignore_index)
    present = targets[~targets.isnan()]
    whole = bool((present == present.round()).all())
    reject(
        "targets",
        f"{list(expected)} class ids",
        f"{targets.dtype} {list(targets.shape)}" + (", all whole numbers" if whole else ""),
        "If they are class ids, pass `targets.long()`, with -100 for a missing one; quantities and "
        "probabilities have no calibration of this kind.",
    )


def binary_labels(targets: Tensor, ignore_index: int | None = None) -> Tensor:
    """Int64 labels of 0 and 1, `IGNORED` where they are NaN, -100 or `ignore_index`.

    Raises:
        InputError: other values.
    """
    missing = (targets == IGNORED) | (targets != targets)
    if ignore_index is not None:
        missing = missing | (targets == ignore_index)
    present = targets[~missing]
    if bool(((present != 0) & (present != 1)).any()):
        reject(
            "targets",
            "0 or 1 for each label",
            f"{float(present.min()):.3g}..{float(present.max()):.3g}",
            "Pass hard labels; a missing one is NaN or -100, or pass `ignore_index`.",
        )
    return targets.masked_fill(missing, 0).long().masked_fill(missing, IGNORED)


def are_one_hot(labels: Tensor) -> bool:
    """Whether every row of labels `[n, k]` of 0 and 1 has exactly one 1, beyond chance."""
    present = labels[(labels != IGNORED).all(1)]
    enough = len(present) >= _MIN_ONE_HOT_ROWS and labels.shape[1] > 1
    return enough and bool((present.sum(1) == 1).all())


def _reject_shape(targets: Tensor, logits: Tensor, expected: torch.Size) -> NoReturn:
    remedy = "Pass one class id per row of logits."
    if logits.ndim >= 3 and targets.shape == logits.shape[:-1]:
        remedy = (
            f"Logits {list(logits.shape)} are read as [n, k, ...] with the classes second. If the "
            "classes are last, pass `logits.movedim(-1, 1)`."
        )
    elif targets.shape == logits.shape and logits.ndim >= 3:
        remedy = (
            "If there is one binary logit per position, pass `logits[:, None]`; if there are k "
            "labels per position, flatten the positions into rows [n, k]."
        )
    elif targets.shape == logits.shape:
        remedy = (
            "If they are one-hot rows, pass `targets.argmax(1)`; if a row may have several labels, "
            "use `classwise_bins` or `recalibrate`."
        )
    got = f"{targets.dtype} {list(targets.shape)}"
    reject("targets", f"{list(expected)} class ids", got, remedy)
