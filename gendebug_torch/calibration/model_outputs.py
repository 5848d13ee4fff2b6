"""Labeled outputs of every kind of classifier, read as chunks of rows of class logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.model.binary import two_class_logits

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

    def log_probs(self) -> Tensor:
        """Log softmax `[m, k]`, NaN in broken rows; bitwise independent of the other rows."""
        if self.logits.shape[1] >= _LANES:
            return self.logits.log_softmax(1)
        # Registers are filled across rows. The classes are added one by one, since the order in
        # which `sum(0)` adds them depends on how many rows there are.
        across = self.logits.T.contiguous()
        shifted = across - across.amax(0)
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
        logits: logits `[n, k]`, `[n]` or dense `[n, k, ...]`.
        targets: class ids `[n]` or `[n, ...]`.
        weights: weights shaped like the targets, or None.
        ignore_index: target of rows that do not count, or None.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None = None
    ignore_index: int | None = None

    @property
    def labeled(self) -> Tensor:
        """Bool shaped like the targets: the rows or positions that have a label."""
        return labeled_mask(self.targets, self.ignore_index)

    def chunks(self, *, size_factor: int = 1) -> Iterator[Chunk]:
        """All rows in order, `size_factor` cache-fulls at a time."""
        logits = self.logits
        size = _CHUNK.get(logits.device.type, 2**18) * size_factor
        step = max(1, size // max(1, logits[:1].numel() * (2 if logits.ndim == 1 else 1)))
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            weights = None if self.weights is None else self.weights[rows].reshape(-1).double()
            targets = self.targets[rows].reshape(-1).long()
            if self.ignore_index is not None:
                labeled = targets != self.ignore_index
                weights = labeled.double() if weights is None else weights * labeled
                targets = targets * labeled
            yield Chunk(_class_rows(logits[rows]), targets, weights)

    def every(self, step: int) -> LabeledOutputs:
        """Every `step`-th row; dense outputs are thinned along their positions."""
        if self.logits.ndim <= 2:
            weights = None if self.weights is None else self.weights[::step]
            rows = self.logits[::step], self.targets[::step]
            return LabeledOutputs(*rows, weights, self.ignore_index)
        weights = None if self.weights is None else self.weights.flatten(1)[:, ::step]
        rows = self.logits.flatten(2)[:, :, ::step], self.targets.flatten(1)[:, ::step]
        return LabeledOutputs(*rows, weights, self.ignore_index)


def labeled_outputs(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, ignore_index: int | None = None
) -> LabeledOutputs:
    """The outputs of a classifier with their labels, after validation.

    Args:
        logits: float `[n, k]`, `[n]` binary, or dense `[n, k, ...]`.
        targets: class ids `[n]` (dense `[n, ...]`) of an integer type.
        weights: non-negative weights shaped like the targets.
        ignore_index: target of rows that do not count.

    Raises:
        InputError: shapes or dtypes do not fit, a class id is out of range, weights are negative.
    """
    if logits.ndim == 0 or not logits.is_floating_point():
        reject(
            "logits",
            "float [n, k], [n] or [n, k, ...]",
            f"{logits.dtype} {list(logits.shape)}",
            "Pass raw model outputs before softmax.",
        )
    _validate_targets(logits, targets, ignore_index)
    if weights is not None and (weights.shape != targets.shape or bool((weights < 0).any())):
        smallest = f"{float(weights.min()):.3g}" if weights.numel() else "none"
        reject(
            "weights",
            f"{list(targets.shape)} non-negative",
            f"{list(weights.shape)}, smallest {smallest}",
            "Pass one weight per row.",
        )
    return LabeledOutputs(logits, targets, weights, ignore_index)


def labeled_mask(targets: Tensor, ignore_index: int | None) -> Tensor:
    """Bool shaped like the targets: whether each differs from `ignore_index`."""
    if ignore_index is None:
        return torch.ones_like(targets, dtype=torch.bool)
    return targets != ignore_index


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


def _validate_targets(logits: Tensor, targets: Tensor, ignore_index: int | None) -> None:
    expected = torch.Size([len(logits), *logits.shape[2:]])
    if targets.shape != expected or targets.dtype.is_floating_point:
        reject(
            "targets",
            f"{list(expected)} class ids",
            f"{targets.dtype} {list(targets.shape)}",
            "Pass one class id per row of logits.",
        )
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    labels = targets if ignore_index is None else targets.masked_fill(targets == ignore_index, 0)
    low, high = (int(bound) for bound in labels.aminmax()) if labels.numel() else (0, -1)
    if low < 0 or high >= classes:
        reject(
            "targets",
            f"class ids in 0..{classes - 1}",
            f"{low}..{high}",
            "Map labels to the columns of the logits.",
        )


def _class_rows(logits: Tensor) -> Tensor:
    """`[m, k]` float32 or float64 rows of class logits."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    if z.ndim == 1:
        return two_class_logits(z)
    return z if z.ndim == 2 else z.movedim(1, -1).reshape(-1, z.shape[1])
