"""A few rows of a stream of batches, kept as they pass, each row as likely as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.data.batches import Unpack, known_rows, numbered_batches, rows_at, unpacked
from gendebug_torch.model.runner import world_size

# Rows that are kept: as many as fit into so many bytes, but within these bounds.
_BYTES, _FEWEST, _MOST = 2**24, 64, 2000


class RowSample:
    """A uniform sample without repetition of rows that come in batches, whose number is not known
    beforehand.

    Every row gets a random number, and those with the smallest ones stay.

    Source: Fan, Muller and Rezucha (1962), JASA 57:387.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.keys = torch.empty(0, dtype=torch.float64)
        self.positions = torch.empty(0, dtype=torch.int64)
        self.inputs: Any = None
        self.targets: Any = None
        self.passed = 0
        self.most = 0

    def __len__(self) -> int:
        return len(self.positions)

    def add(self, inputs: Any, targets: Any) -> None:
        """Let a batch pass by."""
        tensors = _tensors(inputs)
        n = len(tensors[0]) if tensors else 0
        if not self.most and n:
            each = sum(tensor.numel() * tensor.element_size() for tensor in tensors) // n
            self.most = max(_FEWEST, min(_MOST, _BYTES // max(1, each)))
        keys = torch.cat([self.keys, torch.rand(n, generator=self.generator, dtype=torch.float64)])
        order = keys.argsort()[: self.most]
        stay, enter = order[order < len(self.keys)], order[order >= len(self.keys)] - len(self.keys)
        if len(enter) or self.inputs is None:
            self.inputs = _merged(self.inputs, inputs, stay, enter, n)
            self.targets = _merged(self.targets, targets, stay, enter, n)
            self.keys = torch.cat([self.keys[stay], keys[len(self.keys) :][enter]])
            self.positions = torch.cat([self.positions[stay], self.passed + enter])
        self.passed += n

    @property
    def order(self) -> Tensor:
        """Places of the kept rows, so that any first few of them are a sample themselves."""
        return self.keys.argsort()


def row_sample(loader: Any, unpack: Unpack | None, *, shared: bool) -> RowSample:
    """An empty sample for the run to fill; filled already where the rows of a run are read by
    several processes.

    Rows that can be found by their number are read alone, others by one more pass.

    Args:
        loader: rows.
        unpack: batch -> (inputs, targets).
        shared: whether other processes read them, beyond what a process group says.
    """
    sample, n = RowSample(), known_rows(loader)
    if not shared and world_size() == 1:
        return sample
    drawn = torch.randperm(n or 0, generator=torch.Generator().manual_seed(0))[:_MOST].sort().values
    read = rows_at(loader, drawn, unpack)
    if read is not None:
        sample.add(*read)
        sample.positions = drawn[sample.positions]
    elif shared:
        for _, batch in numbered_batches(loader, None):
            sample.add(*(unpack or unpacked)(batch))
    return sample


def picked(structure: Any, places: Tensor, n: int) -> Any:
    """The rows at these places of every Tensor that has `n`."""
    return _merged(None, structure, places, places, n)


def _tensors(inputs: Any) -> list[Tensor]:
    """Every Tensor of a structure that has an axis of rows."""
    if isinstance(inputs, Tensor):
        return [inputs] if inputs.ndim else []
    parts = (
        inputs.values()
        if isinstance(inputs, Mapping)
        else inputs
        if isinstance(inputs, (tuple, list))
        else ()
    )
    return [tensor for part in parts for tensor in _tensors(part)]


def _merged(held: Any, batch: Any, stay: Tensor, enter: Tensor, n: int) -> Any:
    """Rows of what is held and of a batch of `n`, one after the other; whatever has no such rows is
    taken from the batch.
    """
    if isinstance(batch, Tensor):
        if not batch.ndim or len(batch) != n:
            return batch
        picked = batch[enter.to(batch.device)]
        return picked if held is None else torch.cat([held[stay.to(held.device)], picked])
    if isinstance(batch, Mapping):
        return {
            key: _merged(held and held[key], part, stay, enter, n) for key, part in batch.items()
        }
    if isinstance(batch, (tuple, list)):
        return type(batch)(
            _merged(held and held[at], part, stay, enter, n) for at, part in enumerate(batch)
        )
    return batch
