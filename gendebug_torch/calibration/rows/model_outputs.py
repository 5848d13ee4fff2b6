"""Labeled outputs of every kind of classifier, read as chunks of rows of class logits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gendebug_torch.calibration.rows.label_forms import class_ids, without_column
from gendebug_torch.data.task import IGNORED, two_class_logits
from gendebug_torch.errors import reject
from gendebug_torch.stats.logit_scaling import mask_gap, masked_below

# Elements of logits handled at once, so that memory does not grow with n: what the second-level
# cache of a CPU core holds, for passes that go over them again and again.
_CHUNK = {"cpu": 2**18, "cuda": 2**25}
# For a single pass: enough rows that the calls around it cost nothing, still within the shared
# cache; and for a compiled one, which leaves nothing behind but a few numbers a row.
SINGLE_PASS, COMPILED_PASS = 4, 64
# Below this many classes a row does not fill a vector register of float32.
_LANES = 16


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of class logits.

    Args:
        logits: class logits `[m, k]` float32 or float64; one binary logit z became (0, z).
        targets: class ids `[m]` int64; 0 where a row is ignored.
        weights: row weights `[m]` float64, 0 where a row is ignored; None if each row counts once.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None

    @property
    def has_weight(self) -> Tensor:
        """`[m]` bool, the rows that count."""
        if self.weights is None:
            return torch.ones_like(self.targets, dtype=torch.bool)
        return self.weights > 0

    def shifted(self) -> tuple[Tensor, int]:
        """New logits less the largest of their row, and the axis of the classes.

        That is 1, or 0 where a row is too short to fill a vector register, so that registers are
        filled across rows.
        """
        if self.logits.shape[1] >= _LANES:
            return self.logits - self.logits.amax(1, keepdim=True), 1
        across = self.logits.T.contiguous()
        return across - across.amax(0), 0

    def log_probs(self) -> Tensor:
        """Log softmax `[m, k]`, NaN in broken rows; bitwise independent of the other rows."""
        if self.logits.shape[1] >= _LANES:
            return self.logits.log_softmax(1)
        # The classes are added one by one, since the order in which `sum(0)` adds them depends on
        # how many rows there are.
        shifted, _ = self.shifted()
        return shifted.sub_(reduce(torch.add, shifted.exp()).log_()).T

    def at_target(self, values: Tensor) -> Tensor:
        """`[m]` entry of the target class in each row of `[m, k]` values."""
        return values.gather(1, self.targets[:, None])[:, 0]

    def weighted(self, values: Tensor) -> Tensor:
        """Values `[..., m]` times the row weights; 0 where the weight is 0, even if not finite."""
        if self.weights is None:
            return values
        return torch.where(self.weights > 0, values * self.weights, 0.0)


@dataclass(frozen=True, eq=False)
class LabeledOutputs:
    """Outputs of a classifier with their labels, validated by `labeled_outputs`.

    Args:
        logits: logits `[n, k]`, `[n]`, `[n, 1]` or dense `[n, k, ...]`.
        targets: class ids `[n]` or `[n, ...]` int64, `IGNORED` where there is no label.
        weights: weights shaped like the targets, or None.
        any_missing: whether some label is missing.
        mask_gap: how far below the largest logit of its row a mask lies, if there are masks. The
            chunks have -inf there; `logits` are as they came, so that they are not copied.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None = None
    any_missing: bool = False
    mask_gap: float | None = None

    @property
    def labeled(self) -> Tensor:
        """Bool shaped like the targets: the rows or positions that have a label."""
        return self.targets != IGNORED

    def chunk_rows(self, size_factor: int = 1) -> int:
        """Rows (samples, where there are positions) of a chunk."""
        size = _CHUNK.get(self.logits.device.type, 2**18) * size_factor
        return max(
            1, size // max(1, self.logits[:1].numel() * (2 if is_binary(self.logits) else 1))
        )

    def chunks(self, *, size_factor: int = 1) -> Iterator[Chunk]:
        """All rows in order, `size_factor` cache-fulls at a time."""
        logits, step = self.logits, self.chunk_rows(size_factor)
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            weights = None if self.weights is None else self.weights[rows].reshape(-1).double()
            targets = self.targets[rows].reshape(-1)
            if self.any_missing:
                labeled = targets != IGNORED
                weights = labeled.double() if weights is None else weights * labeled
                targets = targets * labeled
            class_rows = _class_rows(logits[rows])
            if self.mask_gap is not None:
                class_rows = masked_below(class_rows, self.mask_gap)
            yield Chunk(class_rows, targets, weights)

    def every(self, step: int) -> LabeledOutputs:
        """Every `step`-th row; dense outputs are thinned along their positions."""
        if self.logits.ndim <= 2:
            weights = None if self.weights is None else self.weights[::step]
            rows = self.logits[::step], self.targets[::step]
            return LabeledOutputs(*rows, weights, self.any_missing, self.mask_gap)
        weights = None if self.weights is None else self.weights.flatten(1)[:, ::step]
        rows = self.logits.flatten(2)[:, :, ::step], self.targets.flatten(1)[:, ::step]
        return LabeledOutputs(*rows, weights, self.any_missing, self.mask_gap)


def labeled_outputs(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    *,
    find_masks: bool = True,
) -> LabeledOutputs:
    """The outputs of a classifier with their labels, in one form.

    Labels are class ids of any integer type or bool, and for one logit also floats 0 and 1. A
    column `[n, 1]` of labels counts as `[n]`. Labels that are NaN, -100 or `ignore_index` are
    missing. Classes whose logit is a large negative number are masked (see
    `mask_gap`).

    Args:
        logits: float `[n, k]`, `[n]` or `[n, 1]` binary, or dense `[n, k, ...]`.
        targets: labels `[n]` (dense `[n, ...]`).
        weights: non-negative weights shaped like the targets.
        ignore_index: target of rows that do not count.
        find_masks: whether to look for masks, at the cost of a read; confidence needs none.

    Raises:
        InputError: shapes or dtypes do not fit, a class id is out of range, weights are negative.

    Warns:
        UserWarning: labels are missing and `ignore_index` does not say so, or the classes may be
            the last axis.
    """
    if logits.ndim == 0 or not logits.is_floating_point():
        reject(
            "logits",
            "float [n, k], [n] or [n, k, ...]",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass raw model outputs before softmax.",
        )
    # Those of `model(inputs)` carry the graph of their gradients.
    logits = logits.detach()
    shape = torch.Size([len(logits), *logits.shape[2:]])
    targets = class_ids(without_column(targets, shape), logits, ignore_index)
    if weights is not None:
        weights = without_column(weights, shape)
        validate_weights(weights, targets.shape)
    any_missing = _missing_labels(targets, logits, declared=ignore_index is not None)
    gap = mask_gap(logits) if find_masks and not is_binary(logits) else None
    return LabeledOutputs(logits, targets, weights, any_missing, gap)


def is_binary(logits: Tensor) -> bool:
    """Whether there is one logit per row or position, that of class 1."""
    return logits.ndim == 1 or logits.shape[1] == 1


def warn_missing(missing: int, total: int, *, stacklevel: int = 3) -> None:
    """Warn how many labels are missing, if any."""
    if missing:
        warnings.warn(
            f"{missing:,} of {total:,} labels are missing (NaN or -100) and left out. Pass "
            "`ignore_index=-100` to confirm.",
            stacklevel=stacklevel,
        )


def validate_weights(weights: Tensor, shape: torch.Size) -> None:
    """Reject weights of another shape, and negative ones.

    Raises:
        InputError: they are such.
    """
    if weights.shape != shape or bool((weights < 0).any()):
        smallest = f"{float(weights.min()):.3g}" if weights.numel() else "none"
        reject(
            "weights",
            f"{list(shape)} non-negative",
            f"{list(weights.shape)}, smallest {smallest}",
            "Pass one weight per row.",
        )


def counted_by_slot(slots: Tensor, size: int) -> Tensor:
    """`[size]` int64 numbers of entries in each slot."""
    if slots.is_cuda:
        # A bincount has to ask for the largest slot.
        counts = torch.zeros(size, dtype=torch.int64, device=slots.device)
        return counts.index_add_(0, slots, torch.ones_like(slots))
    return torch.bincount(slots, minlength=size)


def summed_by_slot(slots: Tensor, values: Tensor, size: int) -> Tensor:
    """`[size]` float64 sums of values `[m]` by their slot, int64, also in deterministic mode."""
    if slots.is_cuda:
        # A weighted bincount has no deterministic form there, and torch then raises.
        sums = torch.zeros(size, dtype=torch.float64, device=slots.device)
        return sums.index_add_(0, slots, values.double())
    return torch.bincount(slots, values.double(), size)


def reject_nonfinite(rows: int) -> None:
    """Reject rows with a logit of NaN or +inf, or with every class masked; -inf alone is a mask.

    Args:
        rows: number of such rows.

    Raises:
        InputError: the number is not 0.
    """
    if rows:
        reject(
            "logits",
            "finite values, or -inf for a masked class",
            f"NaN or infinity in {rows} rows",
            "Find the rows on which the model fails.",
        )


def _missing_labels(targets: Tensor, logits: Tensor, *, declared: bool) -> bool:
    """Whether any class id is missing; those that are not must be classes of the logits."""
    if not targets.numel():
        return False
    low, high = map(int, torch.stack(targets.aminmax()).tolist())
    any_missing = low == IGNORED
    if any_missing:
        present = targets[targets != IGNORED]
        if not declared:
            warn_missing(targets.numel() - present.numel(), targets.numel(), stacklevel=5)
        if not present.numel():
            return True
        low = int(present.min())
    classes = 2 if is_binary(logits) else logits.shape[1]
    if low < 0 or high >= classes:
        reject(
            "targets",
            f"class ids in 0..{classes - 1}",
            f"{low}..{high}",
            "Map labels to the columns of the logits, or pass `ignore_index` for rows without one.",
        )
    return any_missing


def _class_rows(logits: Tensor) -> Tensor:
    """`[m, k]` float32 or float64 rows of class logits."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    if is_binary(z):
        return two_class_logits(z.reshape(-1))
    return z if z.ndim == 2 else z.movedim(1, -1).reshape(-1, z.shape[1])
