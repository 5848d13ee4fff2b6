"""The door of this topic: outputs of every kind of head, as chunks of rows of class logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gendebug_torch.errors import reject

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
        logits: `[m, k]` float32 or float64; one binary logit z became (0, z).
        targets: `[m]` int64 class ids; 0 where a row is ignored.
        weights: `[m]` float64, 0 where a row is ignored; None where every row counts once.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor | None

    @property
    def counted(self) -> Tensor:
        """`[m]` bool, the rows that count."""
        return (
            torch.ones_like(self.targets, dtype=torch.bool)
            if self.weights is None
            else self.weights > 0
        )

    def log_probs(self) -> Tensor:
        """`[m, k]` log of the softmax, NaN in broken rows; that of a row does not depend on the
        others, to the bit.
        """
        if self.logits.shape[1] >= _LANES:
            return self.logits.log_softmax(1)
        # Registers are filled across rows. The classes are added one by one, since the order in
        # which `sum(0)` adds them depends on how many rows there are.
        across = self.logits.T.contiguous()
        shifted = across - across.amax(0)
        return shifted.sub_(reduce(torch.add, shifted.exp()).log_()).T


def validated(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, ignore_index: int | None = None
) -> None:
    """Refuse what is no output of a classifier with its labels.

    Raises:
        InputError: shapes or dtypes do not fit, a class id is out of range, weights are negative.
    """
    if logits.ndim == 0 or not logits.is_floating_point():
        remedy = "Pass raw model outputs before softmax."
        reject(
            "logits",
            "float [n, k], [n] or [n, k, ...]",
            f"{logits.dtype} {list(logits.shape)}",
            remedy,
        )
    expected = torch.Size([len(logits), *logits.shape[2:]])
    if targets.shape != expected or targets.dtype.is_floating_point:
        remedy = "Pass one class id per row of logits."
        reject(
            "targets",
            f"{list(expected)} class ids",
            f"{targets.dtype} {list(targets.shape)}",
            remedy,
        )
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    kept = targets if ignore_index is None else targets.masked_fill(targets == ignore_index, 0)
    low, high = (int(bound) for bound in kept.aminmax()) if kept.numel() else (0, -1)
    if low < 0 or high >= classes:
        reject(
            "targets",
            f"class ids in 0..{classes - 1}",
            f"{low}..{high}",
            "Map labels to the columns of the logits.",
        )
    if weights is not None and (weights.shape != targets.shape or bool((weights < 0).any())):
        smallest = f"{float(weights.min()):.3g}" if weights.numel() else "none"
        reject(
            "weights",
            f"{list(targets.shape)} non-negative",
            f"{list(weights.shape)}, smallest {smallest}",
            "Pass one weight per row.",
        )


def chunks(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    ignore_index: int | None = None,
    *,
    times: int = 1,
) -> Iterator[Chunk]:
    """Rows of validated outputs, `[n, k]`, `[n]` or dense `[n, k, ...]`, some cache-fulls at a
    time.
    """
    size = _CHUNK.get(logits.device.type, 2**18) * times
    step = max(1, size // max(1, logits[:1].numel() * (2 if logits.ndim == 1 else 1)))
    for start in range(0, len(logits), step):
        cut = slice(start, start + step)
        z, true = logits[cut], targets[cut].reshape(-1).long()
        weight = None if weights is None else weights[cut].reshape(-1).double()
        z = z if z.dtype == torch.float64 else z.float()
        if z.ndim == 1:
            z = torch.stack([torch.zeros_like(z), z], 1)
        elif z.ndim > 2:
            z = z.movedim(1, -1).reshape(-1, z.shape[1])
        if ignore_index is not None:
            kept = true != ignore_index
            weight = kept.double() if weight is None else weight * kept
            true = true * kept
        yield Chunk(z, true, weight)


def refuse_broken(rows: int) -> None:
    """Refuse rows in which a logit is NaN or +inf, or every class is masked; -inf alone is a mask.

    Raises:
        InputError: there are such rows.
    """
    if rows:
        reject(
            "logits",
            "finite values, or -inf for a masked class",
            f"NaN or infinity in {rows} rows",
            "Find the rows that break the model.",
        )
