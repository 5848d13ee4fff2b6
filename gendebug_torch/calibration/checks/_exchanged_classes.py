"""Whether the classes of validation stand in another order than the outputs of the model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.finding import MISREAD, TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, two_class_logits
from gendebug_torch.stats.auc import rank_auc

# Least rise of the accuracy, also in standard errors, and least accuracy in the better order.
_MIN_RISE, _ERRORS, _MIN_ACCURACY = 0.2, 6.0, 0.5
_MOST_CLASSES = 200
# How far below its usual quality the model may stay in the other order, beside noise.
_AS_GOOD = 0.03
_READ = (
    "Compare `classes` in the schema, or the codes of the labels, with the order of the outputs in "
    "training. Other findings on errors and confidence rest on this order."
)
_SERVED = (
    "Compare the order of the outputs, and the codes of the labels, in serving with those of "
    "validation. Other findings on errors in production rest on this order."
)


def exchanged_finding(
    this: Check, records: Records, usual: Records | None = None
) -> Finding | None:
    """The finding that another order of the classes fits the outputs far better; None if none does.

    The order is the assignment of classes to outputs with most agreement.

    Args:
        this: the check that asks.
        records: labeled rows with logits.
        usual: labeled rows with logits that stand in the right order, where only these do not; the
            other order must make the model as good as it is on those.
    """
    served = usual is not None
    if records.task not in (Task.BINARY, Task.MULTICLASS):
        return None
    assert records.logits is not None
    assert records.targets is not None
    k = two_class_logits(records.logits[:1]).shape[1]
    if k > _MOST_CLASSES or not len(records):
        return None
    from scipy.optimize import linear_sum_assignment

    pairs = records.predicted.cpu() * k + records.targets.cpu()
    counts = torch.bincount(pairs, minlength=k * k).reshape(k, k).numpy()
    own = float(np.trace(counts)) / len(records)
    outputs, classes = linear_sum_assignment(counts, maximize=True)
    best = float(counts[outputs, classes].sum()) / len(records)
    least = max(_MIN_RISE, _ERRORS / math.sqrt(len(records)))
    if best - own < least or best < _MIN_ACCURACY:
        return None
    if usual is not None and not _as_good(records, best, usual):
        return None
    moved = [(int(a), int(b)) for a, b in zip(outputs, classes, strict=True) if a != b]
    moved.sort(key=lambda pair: -counts[pair])
    return this.finding(
        Severity.FAIL,
        f"The classes of {records.name} stand in another order than the outputs: accuracy "
        f"{own:.1%} as they are, {best:.1%} with {_said(records, moved)} ({len(records):,} rows).",
        cause=Cause.TRAIN_SERVE_SKEW if served else None,
        subject="order of the classes" if served else "",
        numbers={"accuracy": own, "accuracy_reordered": best, "rows": len(records)}
        | {"order": [list(pair) for pair in moved], TO_REPAIR: True}
        | {MISREAD: "production" if served else "everywhere"},
        remedy=_SERVED if served else _READ,
    )


def _as_good(records: Records, best: float, usual: Records) -> bool:
    """Whether the other order makes the outputs as good as usual: an input may reverse them too."""
    assert usual.targets is not None
    if records.task is Task.BINARY:
        after, before = (
            rank_auc(_margin(side), side.targets == 1).auc.item()
            for side in (records, usual)
            if side.targets is not None
        )
        best, expected = 1 - after, before
    else:
        expected = float((usual.predicted == usual.targets).double().mean())
    noise = math.sqrt(expected * (1 - expected) * (1 / len(records) + 1 / len(usual)))
    return best >= expected - _AS_GOOD - 3 * noise


def _margin(records: Records) -> Tensor:
    assert records.logits is not None
    logits = two_class_logits(records.logits)
    return logits[:, 1] - logits[:, 0]


def _said(records: Records, moved: list[tuple[int, int]]) -> str:
    """The outputs with the classes that fit them, the most frequent first."""
    names = records.schema.classes or range(max(max(pair) for pair in moved) + 1)
    said = ", ".join(f"output {a} as class {names[b]}" for a, b in moved[:3])
    return said + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
