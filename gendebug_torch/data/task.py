"""The task of a model and its labels, decided once where rows enter: one form for every storage.

Labels come as ids of any integer type, booleans, floats 0.0 and 1.0 (as BCEWithLogitsLoss wants
them), columns `[n, 1]`, one-hot rows, or texts. They are stored as int64 class ids `[n]`, as int64
answers of 0 and 1 `[n, k]` for a multilabel head, or as float quantities `[n]` or `[n, k]`; of a
dense head as one of these for each position, `[n, p]`.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.errors import reject
from gendebug_torch.version import StrEnum

IGNORED = -100
"""Class id of a row that has no label, as `ignore_index` of torch's losses."""

# Whole numbers stored as floats are read as class ids up to this many classes.
_MOST_CLASSES = 100
# In fewer rows it may be chance that each has exactly one label.
_MIN_ONE_HOT_ROWS = 20
# Rounding of the sum of float16 probabilities; rows in which logits may lie in [0, 1] by chance.
_SUM_TOLERANCE, _MIN_PROBABILITY_ROWS = 5e-3, 30
# Range of single outputs in [0, 1]; those of a network that knows little may be logits.
_MIN_PROBABILITY_RANGE = 0.5


class Task(StrEnum):
    """The question that a model answers."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    DENSE = "dense"


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
        # Beside other negative numbers -100 is a quantity like them.
        missing = (targets == IGNORED) & ~((targets < 0) & (targets != IGNORED)).any()
        return targets.double().masked_fill(missing, torch.nan)
    ids = targets.long()
    return _ids_of_one_hot(ids, logits, schema, name) if ids.ndim == 2 else ids


def dense_outputs(
    logits: Tensor | None, targets: Tensor | None, schema: Schema, name: str
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs and targets of a dense head with their positions flattened.

    Args:
        logits: `[n, k, ...]`, or `[n, 1, ...]` of one binary logit or quantity per position.
        targets: `[n, ...]` or `[n, 1, ...]`, in any form that `stored_targets` takes.
        schema: columns and what is declared of them.
        name: name of the records, for messages.

    Returns:
        Logits `[n, k, p]` and targets `[n, p]`.

    Raises:
        InputError: the shapes do not fit; the message names the readings.

    Warns:
        UserWarning: logits `[n, t, t]` fit better with the classes last.
    """
    flat = None
    if logits is not None:
        if logits.ndim < 3 or not logits.is_floating_point():
            got = f"{logits.dtype} {list(logits.shape)} in {name!r}"
            reject("logits", "float [n, k, ...]", got, "Pass one row of logits per position.")
        flat = logits.flatten(2)
    if targets is None:
        return flat, None
    if logits is not None:
        targets = _position_targets(logits, targets, name)
    shape_only = None if flat is None else flat.new_empty(0, flat.shape[1])
    if shape_only is not None and shape_only.shape[1] == 1:
        shape_only = shape_only[:, 0]
    stored = stored_targets(targets.reshape(-1), shape_only, schema, name)
    return flat, stored.reshape(len(targets), -1)


def sampled_positions(
    logits: Tensor, targets: Tensor | None, keys: Tensor, most: int
) -> dict[str, Tensor]:
    """A random sample of at most `most` labeled positions of each row.

    The sample of a row depends on its key and its labels alone, not on the batch it came in.

    Args:
        logits: `[n, k, p]`.
        targets: `[n, p]`, or None, where every position counts.
        keys: `[n]` int64, as `row_keys` returns them.
        most: number of positions kept.

    Returns:
        `logits` `[n, k, most]`, `targets` `[n, most]` if there are any, and `valid` `[n, most]`
        bool; positions beyond those of a row are not valid.
    """
    n, k, p = logits.shape
    valid = torch.ones(n, p, dtype=torch.bool, device=logits.device)
    if targets is not None:
        valid = ~missing_values(targets)
    places = torch.arange(1, p + 1, device=logits.device)
    order = _mixed(keys.to(logits.device)[:, None] + places)
    order = order.masked_fill(~valid, torch.iinfo(torch.int64).max)
    at = order.topk(min(most, p), dim=1, largest=False).indices
    # In their order, those that are not valid last.
    at = (at + p * ~valid.gather(1, at)).sort(1).values % p
    drawn = {
        "logits": logits.gather(2, at[:, None].expand(-1, k, -1)),
        "valid": valid.gather(1, at),
    }
    if targets is not None:
        drawn["targets"] = targets.gather(1, at)
    pad = (0, most - at.shape[1])
    return {key: torch.nn.functional.pad(value, pad) for key, value in drawn.items()}


def row_keys(values: Tensor) -> Tensor:
    """`[n]` int64 hashes of the rows of a tensor, whatever the order of the rows."""
    flat = values.detach().reshape(len(values), -1).contiguous()
    if flat.is_floating_point():
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        flat = flat.view(whole[flat.element_size()])
    return _mixed(flat.long().sum(1))


def _mixed(keys: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014, OOPSLA), int64 to int64."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1)):
        shifted = (keys >> shift) & ((1 << (64 - shift)) - 1)
        keys = (keys ^ shifted) * factor
    return keys


def _position_targets(logits: Tensor, targets: Tensor, name: str) -> Tensor:
    """Targets `[n, ...]` that fit dense logits `[n, k, ...]`."""
    expected = torch.Size([len(logits), *logits.shape[2:]])
    if targets.shape == (*expected[:1], 1, *expected[1:]) and targets.shape != expected:
        targets = targets[:, 0]
    if targets.shape != expected:
        remedy = "Pass one target per position."
        if targets.shape == logits.shape[:-1]:
            remedy = (
                f"Logits {list(logits.shape)} are read as [n, k, ...] with the classes second. If "
                "the classes are last, pass `logits.movedim(-1, 1)`."
            )
        elif targets.shape == logits.shape:
            remedy = (
                "If there is one binary logit per position, pass `logits[:, None]`; if there are k "
                "labels per position, flatten the positions into rows [n, k]."
            )
        got = f"{list(targets.shape)} in {name!r}"
        reject("targets", f"{list(expected)} class ids or quantities", got, remedy)
    if not targets.is_floating_point() and targets.shape == logits.shape[:-1]:
        warn_classes_last(targets, logits)
    return targets


def warn_classes_last(targets: Tensor, logits: Tensor) -> None:
    """Warn if logits whose last axis could be the classes agree better with the targets so."""
    second, last = (
        float((logits.argmax(axis) == targets).double().mean()) if targets.numel() else 0.0
        for axis in (1, -1)
    )
    if last > second:
        warnings.warn(
            f"Logits {list(logits.shape)} are read as [n, k, ...] with the classes second "
            f"(accuracy {second:.1%}); with the classes last the accuracy would be {last:.1%}. "
            "Pass `logits.movedim(-1, 1)` if the classes are last.",
            stacklevel=6,
        )


def are_probabilities(logits: Tensor) -> bool:
    """Whether logits `[n, k]`, `[n]` or dense are what a softmax or a sigmoid returns."""
    if len(logits) < _MIN_PROBABILITY_ROWS or not bool(((logits >= 0) & (logits <= 1)).all()):
        return False
    if logits.ndim == 1 or logits.shape[1] == 1:
        return float(logits.max() - logits.min()) >= _MIN_PROBABILITY_RANGE
    return bool(((logits.sum(1) - 1).abs() <= _SUM_TOLERANCE).all())


def warn_probabilities(logits: Tensor, name: str) -> None:
    """Warn if the logits of a classification look like probabilities."""
    if are_probabilities(logits):
        sums = " and sums to 1" if logits.ndim > 1 and logits.shape[1] > 1 else ""
        warnings.warn(
            f"The logits of {name!r} look like probabilities: every row lies in [0, 1]{sums}. They "
            "are read as logits. If the network ends in a softmax or sigmoid, pass the values "
            "before it, or declare the columns as `probs` in the schema.",
            stacklevel=4,
        )


def missing_labels(targets: Tensor, *, partly: bool = False) -> Tensor:
    """Rows without a label, or without one of their labels, `[n]` bool.

    Args:
        targets: as `stored_targets` returns them.
        partly: whether rows with some of their labels count as labeled.
    """
    missing = missing_values(targets)
    if missing.ndim < 2:
        return missing
    return missing.all(1) if partly else missing.any(1)


def missing_values(targets: Tensor) -> Tensor:
    """Where a label is missing, bool shaped like the targets."""
    return targets.isnan() if targets.is_floating_point() else targets == IGNORED


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
    present = targets[~targets.isnan() & (targets != IGNORED)]
    if not bool((present == present.round()).all()):
        return False
    if not len(present):
        # Other records say what the labels would be, see `of_one_task`.
        return True
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
        stacklevel=6,
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
        stacklevel=7,
    )
    return torch.where(missing_labels(ids), IGNORED, ids.argmax(1))
