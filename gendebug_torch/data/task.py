"""The task of a model and its labels, decided once where rows enter: one form for every storage.

Labels come as ids of any integer type, booleans, floats 0.0 and 1.0 (as BCEWithLogitsLoss wants
them), columns `[n, 1]`, one-hot rows, or texts. They are stored as int64 class ids `[n]`, as int64
answers of 0 and 1 `[n, k]` for a multilabel head, or as float quantities `[n]` or `[n, k]`.
"""

from __future__ import annotations

import warnings
from enum import StrEnum

import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.errors import reject

IGNORED = -100
"""Class id of a row that has no label, as `ignore_index` of torch's losses."""

# Whole numbers stored as floats are read as class ids up to this many classes.
_MOST_CLASSES = 100
# In fewer rows it may be chance that each has exactly one label.
_MIN_ONE_HOT_ROWS = 20


class Task(StrEnum):
    """The question that a model answers."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"


def task_of(targets: Tensor | None, logits: Tensor | None, schema: Schema) -> Task | None:
    """The task that stored targets and logits stand for; None where neither says.

    Args:
        targets: as `stored_targets` returns them, or None.
        logits: outputs of the model, `[n]` or `[n, k]`, or None.
        schema: columns and what is declared of them.
    """
    if schema.regression or (targets is not None and targets.is_floating_point()):
        return Task.REGRESSION
    if schema.multilabel or (targets is not None and targets.ndim == 2):
        return Task.MULTILABEL
    if logits is not None:
        binary = logits.ndim == 1 or logits.shape[1] == 2
        return Task.BINARY if binary else Task.MULTICLASS
    if schema.classes:
        return Task.BINARY if len(schema.classes) == 2 else Task.MULTICLASS
    if targets is None or not len(targets):
        return None
    return Task.BINARY if int(targets.max()) <= 1 else Task.MULTICLASS


def stored_targets(targets: Tensor, logits: Tensor | None, schema: Schema, name: str) -> Tensor:
    """Targets in the one form of their task, whatever the form they came in.

    Args:
        targets: labels, `[n]`, `[n, 1]` or `[n, k]`, of any integer, boolean or floating type; NaN
            and -100 are missing labels.
        logits: outputs of the model, `[n]` or `[n, k]`, or None.
        schema: columns and what is declared of them.
        name: name of the records, for messages.

    Returns:
        Class ids `[n]` or answers `[n, k]`, int64, where missing ones are `IGNORED`; or quantities,
        `[n]` or `[n, k]` float, where missing ones are NaN.

    Raises:
        InputError: another shape or type, infinities, or a class that does not exist.

    Warns:
        UserWarning: two readings are possible; it states both, and the argument that decides.
    """
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim not in (1, 2) or targets.is_complex():
        got = f"{targets.dtype} {list(targets.shape)} in {name!r}"
        remedy = "Pass one label, or k labels, per row."
        reject("targets", "labels [n] or [n, k]", got, remedy)
    if targets.is_floating_point():
        if bool(targets.isinf().any()):
            remedy = "Correct these rows; a label that is missing is NaN."
            reject("targets", "finite values or NaN", f"infinities in {name!r}", remedy)
        if schema.regression or not _are_ids(targets, logits, schema, name):
            return targets
        targets = targets.nan_to_num(IGNORED)
    elif schema.regression:
        return targets.double().masked_fill(targets == IGNORED, torch.nan)
    ids = targets.long()
    return _ids_of_one_hot(ids, logits, schema, name) if ids.ndim == 2 else ids


def missing_labels(targets: Tensor) -> Tensor:
    """Rows without a label, or without one of their labels, `[n]` bool."""
    missing = targets.isnan() if targets.is_floating_point() else targets == IGNORED
    return missing.any(1) if missing.ndim == 2 else missing


def two_class_logits(logits: Tensor) -> Tensor:
    """`[n, k]` logits, one per class; a single logit z becomes the two logits `[0, z]`.

    The softmax of `[0, z]` is the sigmoid of z for class 1.

    Args:
        logits: float logits, `[n]`, `[n, 1]` or `[n, k]`.

    Example:
        >>> import torch
        >>> two_class_logits(torch.tensor([2.0, -1.0])).tolist()
        [[0.0, 2.0], [0.0, -1.0]]
    """
    single = logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
    return single if single.ndim > 1 else torch.stack([torch.zeros_like(single), single], 1)


def _are_ids(targets: Tensor, logits: Tensor | None, schema: Schema, name: str) -> bool:
    """Whether floats are class ids or answers of 0 and 1 rather than quantities."""
    present = targets[~targets.isnan()]
    if not len(present) or not bool((present == present.round()).all()):
        return False
    low, high = float(present.min()), float(present.max())
    if low < 0:
        return False
    if high <= 1 or schema.classes:
        return True
    classes = logits.shape[1] if logits is not None and logits.ndim == 2 else None
    most = _MOST_CLASSES if classes is None else classes
    single = logits is not None and logits.ndim == 1
    if targets.ndim == 2 or single or high >= most:
        return False
    warnings.warn(
        f"The targets of {name!r} are whole numbers stored as floats, 0 to {high:.0f}. They are "
        "read as class ids; if they are quantities, declare `regression: true` in the schema.",
        stacklevel=5,
    )
    return True


def _ids_of_one_hot(ids: Tensor, logits: Tensor | None, schema: Schema, name: str) -> Tensor:
    """Class ids of one-hot rows; rows of several labels as they are."""
    labels = ids[~missing_labels(ids)]
    one_hot = len(labels) >= _MIN_ONE_HOT_ROWS and bool((labels.sum(1) == 1).all())
    if not one_hot or schema.multilabel or bool((labels > 1).any()):
        return ids
    warnings.warn(
        f"Every row of the targets of {name!r} has exactly one of {ids.shape[1]} labels. They are "
        "read as one-hot classes; if a row may have several labels, declare `multilabel: true`.",
        stacklevel=6,
    )
    return torch.where(missing_labels(ids), IGNORED, ids.argmax(1))
