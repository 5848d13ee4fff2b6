"""What a batch of a loader is: inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gendebug_torch.errors import reject

Unpack = Callable[[Any], tuple[Any, Tensor | None]]

# Names of the targets in batches that are mappings, the first of them that is there.
_LABEL_KEYS = ("labels", "label", "targets", "target")


def unpacked(batch: Any) -> tuple[Any, Tensor | None]:
    """Inputs and targets of a batch.

    A batch is a Tensor, `(inputs,)`, `(inputs, targets)` where inputs may be a Tensor or a mapping,
    tuple or list of them, or a mapping as of Hugging Face, whose `labels` are the targets.

    Raises:
        InputError: a batch of another form.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        inputs = {key: part for key, part in batch.items() if isinstance(part, Tensor)}
        names = [key for key in _LABEL_KEYS if key in inputs]
        targets = inputs.pop(names[0]) if names else None
        if inputs:
            return inputs, targets
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        inputs, targets = batch[0], batch[1] if len(batch) == 2 else None
        if _are_tensors(inputs) and (targets is None or isinstance(targets, Tensor)):
            return inputs, targets
    what = (
        f"{type(batch).__name__} of {[type(p).__name__ for p in batch]}"
        if isinstance(batch, (tuple, list))
        else type(batch).__name__
    )
    reject(
        "loader",
        "batches that are a Tensor, (inputs,), (inputs, targets) or a dict with `labels`",
        what,
        "Pass `unpack=lambda batch: (inputs, targets)`.",
    )


def _are_tensors(inputs: Any) -> bool:
    """Whether inputs are a Tensor, or a mapping, tuple or list of Tensors."""
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs
    if isinstance(inputs, Tensor) or not isinstance(inputs, (Mapping, tuple, list)):
        return isinstance(inputs, Tensor)
    return len(inputs) > 0 and all(isinstance(part, Tensor) for part in parts)
