"""A uniform sample of the rows of a stream of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.model.batches import (
    joined_rows,
    known_rows,
    numbered_batches,
    rows_at,
)
from gendebug_torch.model.collection.unpacking import Unpack, unpacked
from gendebug_torch.model.devices import world_size

# Rows of a sample: as many as fit into so many bytes, within these bounds.
_BYTES, _MIN_ROWS, _MAX_ROWS = 2**24, 64, 2000


class RowSample:
    """A uniform sample without repetition of rows that arrive in batches, of unknown number.

    Every row gets a random key, and the rows with the smallest keys stay.

    Source: Fan, Muller and Rezucha (1962), JASA 57:387.

    Args:
        seed: seed of the random keys.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.keys = torch.empty(0, dtype=torch.float64)
        self.positions = torch.empty(0, dtype=torch.int64)
        self.inputs: Any = None
        self.targets: Any = None
        self.rows_seen = 0
        self.capacity = 0

    def __len__(self) -> int:
        return len(self.positions)

    def add(self, inputs: Any, targets: Any) -> None:
        """Sample from one more batch."""
        tensors = _tensors(inputs)
        n = len(tensors[0]) if tensors else 0
        if not self.capacity and n:
            row_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) // n
            self.capacity = max(_MIN_ROWS, min(_MAX_ROWS, _BYTES // max(1, row_bytes)))
        keys = torch.cat([self.keys, torch.rand(n, generator=self.generator, dtype=torch.float64)])
        order, before = keys.argsort()[: self.capacity], len(self.keys)
        stay, enter = order[order < before], order[order >= before] - before
        if len(enter) or self.inputs is None:
            self.inputs = _merge(self.inputs, inputs, stay, enter, n)
            self.targets = _merge(self.targets, targets, stay, enter, n)
            self.keys = torch.cat([self.keys[stay], keys[before:][enter]])
            self.positions = torch.cat([self.positions[stay], self.rows_seen + enter])
        self.rows_seen += n

    @property
    def order(self) -> Tensor:
        """Positions in the sample in random order, so that any first few are a sample too."""
        return self.keys.argsort()


def row_sample(loader: Any, unpack: Unpack | None, *, shared: bool) -> RowSample:
    """An empty sample for the run to fill, or a full one where several processes read the rows.

    Rows that can be found by their number are read alone, others by one more pass.

    Args:
        loader: rows.
        unpack: function from a batch to (inputs, targets).
        shared: whether other processes read the rows, beyond a process group.
    """
    sample, n = RowSample(), known_rows(loader)
    if not shared and world_size() == 1:
        return sample
    generator = torch.Generator().manual_seed(0)
    positions = torch.randperm(n or 0, generator=generator)[:_MAX_ROWS].sort().values
    rows = rows_at(loader, positions, unpack)
    if rows is not None:
        sample.add(*rows)
        sample.positions = positions[sample.positions]
    elif shared:
        for _, batch in numbered_batches(loader, None):
            sample.add(*(unpack or unpacked)(batch))
    return sample


def select_rows(structure: Any, positions: Tensor, n: int) -> Any:
    """The rows at these positions of every Tensor that has `n` rows."""
    return _merge(None, structure, positions, positions, n)


def _tensors(inputs: Any) -> list[Tensor]:
    """Every Tensor of a structure that has an axis of rows."""
    if isinstance(inputs, Tensor):
        return [inputs] if inputs.ndim else []
    if isinstance(inputs, Mapping):
        return _tensors(tuple(inputs.values()))
    parts = inputs if isinstance(inputs, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _merge(sample: Any, batch: Any, stay: Tensor, enter: Tensor, n: int) -> Any:
    """Rows of a sample and of a batch of `n`, joined; what has no rows comes from the batch."""
    if isinstance(batch, Tensor):
        if not batch.ndim or len(batch) != n:
            return batch
        rows = batch[enter.to(batch.device)]
        if sample is None:
            return rows
        return joined_rows("inputs", [sample[stay.to(sample.device)], rows])
    if isinstance(batch, Mapping):
        return {
            key: _merge(sample and sample[key], part, stay, enter, n) for key, part in batch.items()
        }
    if isinstance(batch, (tuple, list)):
        return type(batch)(
            _merge(sample and sample[at], part, stay, enter, n) for at, part in enumerate(batch)
        )
    return batch
