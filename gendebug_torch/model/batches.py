"""Batches of whatever the user has: how they are drawn, shared, cut and moved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.model.collection.unpacking import Unpack, unpacked

T = TypeVar("T")

# Rows per batch where the data has no batches of its own: enough to fill a device, in no more bytes
# than a pinned copy may take, and halved where memory is short. Free memory is not asked for: ranks
# must agree on the batches, and so must a run that goes on.
_ROWS = {"cuda": 16384, "cpu": 2048}
_BATCH_BYTES = 256 * 2**20
_SHUFFLED = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def rows_at_once(data: Any, batch_size: int | None, device: torch.device) -> int | None:
    """Rows per batch: as given, as the loader has them, or what suits the device.

    None where only the loader knows.
    """
    if batch_size or not isinstance(data, (Tensor, Records)):
        return batch_size or getattr(data, "batch_size", None)
    rows = data if isinstance(data, Tensor) else data.features
    row = rows[:1].nbytes if isinstance(rows, Tensor) and len(rows) else 0
    return max(1, min(_ROWS.get(device.type, 2048), _BATCH_BYTES // max(1, row)))


def numbered_batches(
    data: Any, batch_size: int | None, wanted: Callable[[int], bool] = lambda number: True
) -> Iterator[tuple[int, Any]]:
    """The wanted batches with their numbers.

    A DataLoader over a data set that can be indexed reads no others.

    Raises:
        InputError: data that have no batches, or a loader that is shared out already.
    """
    if isinstance(getattr(data, "sampler", None), DistributedSampler):
        remedy = "Pass the plain loader: ranks share its batches without padding duplicates."
        reject("loader", "a loader of all rows", "one with a DistributedSampler", remedy)
    if (
        type(data) is DataLoader
        and data.batch_sampler is not None
        and not all(map(wanted, range(len(data))))
    ):
        numbers = [number for number in range(len(data)) if wanted(number)]
        yield from zip(numbers, _with_batches(data, numbers), strict=True)
        return
    for number, batch in enumerate(_batches(data, batch_size or 1)):
        if wanted(number):
            yield number, batch


def check_order(data: Any) -> None:
    """Refuse a loader whose batches differ each time where ranks or a resumed run must agree."""
    if isinstance(getattr(data, "sampler", None), _SHUFFLED):
        remedy = (
            "Build it with shuffle=False: the answers of all rows are wanted, and their "
            "numbers must mean the same in every process."
        )
        reject(
            "loader",
            "a loader that keeps its order",
            f"one with a {type(data.sampler).__name__}",
            remedy,
        )


def known_rows(data: Any) -> int | None:
    """How many rows there are, where that can be told without reading them."""
    if isinstance(data, Records):
        return len(data)
    whole: Any = (
        data.dataset if isinstance(data, DataLoader) else data if isinstance(data, Tensor) else None
    )
    return len(whole) if hasattr(whole, "__len__") else None


def sample_rows(
    data: Any, rows: int, *, unpack: Unpack | None = None, seed: int = 0
) -> tuple[Any, Tensor | None]:
    """Inputs and targets of at most `rows` rows.

    Drawn without repetition from Tensor or Records, else the first ones.

    Raises:
        InputError: an iterator that could not be started again.
    """
    if isinstance(data, Iterator):
        reject(
            "loader",
            "a loader that can be iterated again",
            f"{type(data).__name__}",
            "Pass the DataLoader or list itself.",
        )
    if isinstance(data, (Tensor, Records)):
        inputs, targets = (
            (data, None) if isinstance(data, Tensor) else (model_inputs(data), data.targets)
        )
        picked = (
            torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:rows]
            .sort()
            .values.to(inputs.device)
        )
        return inputs[picked], None if targets is None else targets[picked.to(targets.device)]
    batches: list[tuple[Any, Tensor | None]] = []
    for batch in _batches(data, rows):
        batches.append((unpack or unpacked)(batch))
        if sum(rows_of(part) for part, _ in batches) >= rows:
            break
    if not batches:
        reject(
            "loader",
            "at least one batch",
            "none",
            "Check that the loader is not empty and not used up.",
        )
    targets = (
        None
        if any(part is None for _, part in batches)
        else joined_rows("targets", [part for _, part in batches if part is not None])[:rows]
    )
    return cut(_zipped([part for part, _ in batches]), 0, rows), targets


def rows_at(data: Any, places: Tensor, unpack: Unpack | None) -> tuple[Any, Tensor | None] | None:
    """Inputs and targets of the rows with these numbers; None where rows have no numbers."""
    if isinstance(data, Tensor):
        return data[places.to(data.device)], None
    if isinstance(data, Records):
        targets = data.targets
        return model_inputs(data)[places], None if targets is None else targets[
            places.to(targets.device)
        ]
    if (
        type(data) is DataLoader
        and isinstance(data.sampler, SequentialSampler)
        and data.batch_sampler is not None
        and len(places)
    ):
        return (unpack or unpacked)(data.collate_fn([data.dataset[int(place)] for place in places]))
    return None


def rows_of(inputs: Any) -> int:
    """How many rows a batch of inputs has."""
    first = (
        inputs
        if isinstance(inputs, Tensor)
        else next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    )
    return len(first)


def leaves(inputs: Any) -> Iterator[Tensor]:
    """The Tensors of a batch of inputs."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from leaves(part)


def cut(inputs: Any, start: int, stop: int) -> Any:
    """The same structure with these rows of its Tensors."""
    return _apply(inputs, lambda tensor: tensor[start:stop])


def picked(inputs: Any, rows: Tensor) -> Any:
    """The same structure with the rows at these positions of its Tensors."""
    return _apply(inputs, lambda tensor: tensor[rows.to(tensor.device)])


def moved(inputs: T, device: torch.device) -> T:
    """The same structure with its Tensors on a device.

    To CUDA they go from pinned memory, without waiting.
    """

    def move(tensor: Tensor) -> Tensor:
        if device.type != "cuda":
            return tensor.to(device)
        return (tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()).to(
            device, non_blocking=True
        )

    there: T = _apply(inputs, move)
    return there


def copied_to_host(waiting: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """Copies in host memory; on CUDA through pinned memory, with one wait for all of them."""

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )

    host = {
        number: {key: copy(tensor) for key, tensor in out.items()}
        for number, out in waiting.items()
    }
    if any(tensor.is_cuda for out in waiting.values() for tensor in out.values()):
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        done.synchronize()
    return host


def joined_batches(parts: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The batches of each output, joined in their order.

    Raises:
        InputError: no batches, or outputs of unequal shapes.
    """
    if not parts:
        reject(
            "loader",
            "at least one batch",
            "none",
            "Check that the loader is not empty and not used up.",
        )
    ordered = [parts[number] for number in sorted(parts)]
    return {
        key: joined
        for key in ordered[0]
        if (joined := _features_or_all(key, [part[key] for part in ordered])) is not None
    }


def joined_rows(name: str, values: Sequence[Tensor]) -> Tensor:
    """Batches of rows as one tensor.

    Args:
        name: what the tensors are, for the message.
        values: tensors `[n_i, ...]`.

    Raises:
        InputError: they have unequal shapes.
    """
    if listed := _unequal_shapes(values):
        remedy = "Pad the inputs to one length, or let the model return one output per row."
        reject("loader", f"batches whose {name} have one shape", listed, remedy)
    return torch.cat(list(values))


def _unequal_shapes(values: Sequence[Tensor]) -> str:
    """Two shapes of batches that differ in more than their rows; empty where all are equal."""
    shapes = sorted({tuple(value.shape[1:]) for value in values})
    listed = " and ".join(str([len(values[0]), *shape]) for shape in shapes[:2])
    return listed if len(shapes) > 1 else ""


def _features_or_all(key: str, values: list[Tensor]) -> Tensor | None:
    """Batches as one tensor; features of unequal shapes are left out with a warning."""
    listed = _unequal_shapes(values)
    if key != "features" or not listed:
        return joined_rows(key, values)
    warnings.warn(
        f"Batches have inputs of unequal shapes, e.g. {listed}, which are not kept as features. "
        "Pad them to one length to keep them.",
        stacklevel=5,
    )
    return None


def gathered_batches(
    parts: dict[int, dict[str, Tensor]], notes: dict[str, Any], world: int
) -> dict[int, dict[str, Tensor]]:
    """The batches and notes of all ranks on every rank; the objects come from our own processes."""
    if world == 1:
        return parts
    gathered: list[tuple[dict[int, dict[str, Tensor]], dict[str, Any]]] = [
        ({}, {}) for _ in range(world)
    ]
    torch.distributed.all_gather_object(gathered, (parts, notes))
    for _, noted in gathered:
        notes.update(noted)
    return {number: out for share, _ in gathered for number, out in share.items()}


def _batches(data: Any, size: int) -> Iterator[Any]:
    """Batches of a loader as they are, or cuts of a Tensor or Records of this many rows."""
    if isinstance(data, Records):
        inputs, targets = model_inputs(data), data.targets
        for start in range(0, max(1, len(inputs)), size):
            rows = slice(start, start + size)
            yield (inputs[rows],) if targets is None else (inputs[rows], targets[rows])
    elif isinstance(data, Tensor):
        yield from torch.split(data, size)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, pd.DataFrame, Mapping)):
        yield from data
    else:
        reject(
            "loader",
            "a DataLoader, an iterable of batches, a Tensor or Records",
            type(data).__name__,
            "Wrap the data in a DataLoader.",
        )


def _with_batches(loader: DataLoader[Any], numbers: Sequence[int]) -> DataLoader[Any]:
    """The same loader with some of its batches only."""
    wanted = set(numbers)
    kept = [
        indices for number, indices in enumerate(loader.batch_sampler or ()) if number in wanted
    ]
    names = (
        "num_workers",
        "collate_fn",
        "pin_memory",
        "timeout",
        "worker_init_fn",
        "multiprocessing_context",
        "prefetch_factor",
    )
    return DataLoader(
        loader.dataset,
        batch_sampler=kept,
        generator=loader.generator,
        **{name: getattr(loader, name) for name in names},
    )


def _zipped(parts: Sequence[Any]) -> Any:
    """Batches of one structure, joined along the rows; other values are those of the first."""
    first = parts[0]
    if isinstance(first, Tensor):
        return joined_rows("inputs", parts)
    if isinstance(first, Mapping):
        return {key: _zipped([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_zipped(values) for values in zip(*parts, strict=True))
    return first


def _apply(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: _apply(value, function) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_apply(value, function) for value in inputs)
    return inputs
