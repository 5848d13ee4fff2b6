"""Where the model meets the data: one loop over batches that leaves the model as it was."""

from __future__ import annotations

import contextlib
import gc
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gendebug_torch.data.batches import (
    Unpack,
    check_order,
    cut,
    known_rows,
    moved,
    numbered_batches,
    rows_at_once,
    rows_of,
    unpacked,
)
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.model.shards import Shards

T = TypeVar("T")
Model = Callable[..., Any]
Step = Callable[[Any, Tensor | None], Mapping[str, Tensor]]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

_AUTOCAST = {"32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
# Outputs wait on the device until this many bytes are together, so that a copy costs one wait per
# flush, not per batch.
_FLUSH_BYTES = 64 * 2**20


@contextlib.contextmanager
def evaluating(model: Model, *, device: torch.device | None = None) -> Iterator[None]:
    """The model in evaluation mode with frozen parameters, restored on exit and after a failure.

    Put back: the mode of every submodule, `requires_grad`, `.grad`, hooks, the device, and the
    random states of Python, NumPy and torch (every device). A plain callable has only the random
    states.

    Args:
        model: module or callable.
        device: where the module is moved meanwhile; None leaves it where it is.

    Raises:
        InputError: weights that are not in memory, or on several devices where one is asked for.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    # The hooks of an exported program are empty lists that nothing can be added to.
    tables = [
        {key: value for key, value in vars(module).items() if key.endswith("_hooks")}
        for module in modules
    ]
    hooks = [
        {key: value.copy() for key, value in table.items() if isinstance(value, dict)}
        for table in tables
    ]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    home = parameters[0].device if parameters else None
    places = sorted({str(parameter.device) for parameter in parameters})
    if "meta" in places:
        reject(
            "model",
            "weights in memory",
            "parameters on the meta device",
            "Load them first: `to_empty`, then `load_state_dict`.",
        )
    if device is not None and len(places) > 1:
        reject(
            "model",
            f"weights on one device, to be moved to {device}",
            f"some on {', '.join(places)}",
            "Move it to one device.",
        )
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        if (
            device is not None
            and home is not None
            and device != home
            and isinstance(model, nn.Module)
        ):
            model.to(device)
        yield
    finally:
        if (
            home is not None
            and isinstance(model, nn.Module)
            and any(p.device != home for p in parameters)
        ):
            model.to(home)
        for module, mode, kept in zip(modules, modes, hooks, strict=True):
            module.training = mode
            for key, value in kept.items():
                vars(module)[key].clear()
                vars(module)[key].update(value)
        for parameter, (needs_grad, gradient) in zip(parameters, flags, strict=True):
            parameter.requires_grad_(needs_grad)
            parameter.grad = gradient
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


def collect(
    model: Model,
    loader: Any,
    *,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    keep_features: bool = True,
    name: str = "records",
) -> Records:
    """What the model says about every row, once, as `Records`.

    Args:
        model: module or callable from inputs to logits, `[n]`, `[n, 1]` or `[n, k]`.
        loader: DataLoader, iterable of batches, Tensor `[n, ...]`, or `Records` with features.
        unpack: batch -> (inputs, targets); default: a Tensor, `(inputs,)` or `(inputs, targets)`.
        device: `auto` takes CUDA where there is one; the model is moved back afterwards.
        precision: as in Lightning; logits are kept in float32.
        batch_size: rows at once for a Tensor or Records; a loader has its own.
        progress: show a bar.
        checkpoint: directory of shards, so that an interrupted run goes on where it stopped.
        keep_features: keep tensor inputs of the loader as features.
        name: of the records.

    Raises:
        InputError: the loader yields something unknown, or the model returns no such tensor.
    """

    def step(inputs: Any, targets: Tensor | None) -> dict[str, Tensor]:
        out = {"logits": logits_of(model, inputs)}
        if targets is not None:
            out["targets"] = targets.long() if not targets.is_floating_point() else targets
        if keep_features and isinstance(inputs, Tensor) and not isinstance(loader, Records):
            out["features"] = inputs
        return out

    how: dict[str, Any] = {
        "unpack": unpack,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
    }
    rows = map_rows(step, loader, model=model, progress=progress, checkpoint=checkpoint, **how)
    if isinstance(loader, Records):
        return Records(
            loader.features,
            loader.targets,
            rows["logits"],
            loader.metadata,
            loader.schema,
            loader.name,
        )
    return Records(rows.get("features"), rows.get("targets"), rows["logits"], name=name)


def map_rows(
    step: Step,
    data: Any,
    *,
    model: Model | None = None,
    batch_size: int | None = None,
    unpack: Unpack | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    progress: bool = False,
    checkpoint: str | Path | None = None,
    identity: str = "",
    learned: dict[str, Any] | None = None,
    keep: bool = True,
    grad: bool = False,
    watch: Callable[[Any, Tensor | None], None] | None = None,
    alone: bool = False,
) -> dict[str, Tensor]:
    """`step` over all batches, its outputs joined in row order on the CPU.

    Batches go to the device from pinned memory without waiting; outputs stay there until 64 MiB are
    together. A batch that does not fit in memory is halved and tried again, and later ones start at
    the size that fitted. Under torch.distributed each rank takes every world-size-th batch and all
    ranks get all rows, without duplicates.

    Args:
        step: (inputs, targets) -> tensors that have one row per input row.
        data: DataLoader, iterable of batches, Tensor `[n, ...]`, or `Records` with features.
        model: put into evaluation mode and onto the device meanwhile.
        batch_size: rows at once for a Tensor or Records.
        unpack: batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one, that of the local rank under
            torch.distributed.
        precision: `32-true`, or autocast with `16-mixed` or `bf16-mixed`.
        progress: show rows per second and the time left.
        checkpoint: directory of shards for resuming, by any number of ranks; on several machines
            one that they share.
        identity: what else must be the same for shards of an earlier run to be taken over.
        learned: filled by `step` with what JSON can hold and is the same for all rows; ranks
            without a batch, and a run that finds all of them finished, learn it from those that had
            one.
        keep: hand the outputs back; if not, they stay in `checkpoint` alone, and memory does not
            grow with the rows.
        grad: whether `step` needs autograd.
        watch: is shown the inputs and targets of every batch, on every rank, also of those that
            need no step.
        alone: take every batch on this rank, whatever the others do.

    Raises:
        InputError: unknown batch, precision or device, no rows, shards of another run, or a
            shuffled loader where its batches must be the same in other processes.
    """
    if precision not in _AUTOCAST:
        reject(
            "precision", f"one of {', '.join(_AUTOCAST)}", repr(precision), "Choose one of them."
        )
    place = device_of(device)
    rank, world = (0, 1) if alone else _rank()
    if checkpoint is not None or world > 1:
        check_order(data)
    total, size, notes = (
        known_rows(data),
        rows_at_once(data, batch_size, place),
        {} if learned is None else learned,
    )
    run = {"precision": precision, "batch size": size, "rows": total, "question": identity}
    shards = Shards(checkpoint, model, run, keep=keep)
    parts = shards.load(rank, world)
    notes.update(shards.recall())
    waiting: dict[int, dict[str, Tensor]] = {}
    limit = [2**62]
    shown = _counting(total, world, progress and rank == 0)

    def own(number: int) -> bool:
        return number % world == rank and number not in parts

    network = step if model is None else model
    with (
        _on(place, precision),
        evaluating(network, device=place),
        torch.set_grad_enabled(grad),
        shown as count,
    ):
        for number, batch in numbered_batches(
            data, size, lambda number: watch is not None or own(number)
        ):
            inputs, targets = (unpack or unpacked)(batch)
            if watch is not None:
                watch(inputs, targets)
            if not own(number):
                continue
            waiting[number] = _run_halving(step, moved(inputs, place), moved(targets, place), limit)
            count(rows_of(inputs))
            if (
                sum(t.numel() * t.element_size() for out in waiting.values() for t in out.values())
                >= _FLUSH_BYTES
            ):
                parts.update(shards.save(_to_host(waiting), notes))
                waiting = {}
        parts.update(shards.save(_to_host(waiting), notes))
        gathered = _gather(parts, notes, world)
    return _join(gathered) if keep else {}


@contextlib.contextmanager
def _on(place: torch.device, precision: Precision) -> Iterator[None]:
    """A device, whose streams and events are meant, and its autocast."""
    dtype = _AUTOCAST[precision]
    current = torch.cuda.device(place) if place.type == "cuda" else contextlib.nullcontext()
    with current, torch.autocast(place.type, dtype=dtype, enabled=dtype is not None):
        yield


def fitting(attempt: Callable[[], T], shrink: Callable[[], bool]) -> T:
    """The result of `attempt`, repeated with less after running out of memory.

    It gives up where `shrink` cannot make the next attempt smaller.
    """
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or not shrink():
                raise
        # Outside the except block, so that the traceback no longer holds the tensors of the failed
        # attempt.
        gc.collect()
        torch.cuda.empty_cache()


def _run_halving(
    step: Step, inputs: Any, targets: Tensor | None, limit: list[int]
) -> dict[str, Tensor]:
    """`step` on pieces of at most `limit[0]` rows; the limit is halved when memory runs out."""
    rows = rows_of(inputs)
    outputs: list[Mapping[str, Tensor]] = []
    done = 0

    def piece() -> Mapping[str, Tensor]:
        stop = min(rows, done + limit[0])
        if stop - done == rows:
            return step(inputs, targets)
        return step(cut(inputs, done, stop), None if targets is None else targets[done:stop])

    def halve() -> bool:
        size = min(rows - done, limit[0])
        limit[0] = max(1, size // 2)
        return size > 1

    while done < rows or not outputs:
        outputs.append(fitting(piece, halve))
        done += limit[0]
    return {key: torch.cat([out[key].detach() for out in outputs]) for key in outputs[0]}


def _out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error)


def logits_of(model: Model, inputs: Any) -> Tensor:
    """One pass of the model: float32 logits `[n]` or `[n, k]`; a column `[n, 1]` becomes `[n]`.

    A mapping is passed as keyword arguments, a tuple or list as positional ones.

    Raises:
        InputError: the model returns something else than a Tensor.
    """
    positional = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    output = model(**inputs) if isinstance(inputs, Mapping) else model(*positional)
    if not isinstance(output, Tensor):
        keys = f" with keys {sorted(output)}" if isinstance(output, Mapping) else ""
        remedy = "Wrap it so that it returns the logits, e.g. `lambda x: model(x)[0]` or `.logits`."
        reject(
            "model",
            "a model that returns a Tensor of logits",
            f"{type(output).__name__}{keys}",
            remedy,
        )
    logits: Tensor = output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output
    return logits.float()


def _to_host(waiting: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
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


def _join(parts: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    if not parts:
        reject(
            "loader",
            "at least one batch",
            "none",
            "Check that the loader is not empty and not used up.",
        )
    ordered = [parts[number] for number in sorted(parts)]
    return {key: torch.cat([part[key] for part in ordered]) for key in ordered[0]}


def _rank() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def world_size() -> int:
    """Processes that share the rows."""
    return _rank()[1]


def _gather(
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


def device_of(device: str | torch.device) -> torch.device:
    """The device that is meant, with its number; `auto` is CUDA where there is one.

    Raises:
        InputError: an unknown device, or one that this machine lacks.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        reject(
            "device",
            "`auto`, `cpu`, `cuda` or `cuda:N`",
            f"{device!r} ({error})".partition("\n")[0],
            "Choose one of them.",
        )
    if place.type == "cuda" and not torch.cuda.is_available():
        reject("device", "a device that this machine has", repr(device), "Pass `auto` or `cpu`.")
    if place.type != "cuda" or place.index is not None:
        return place
    # torchrun starts one process per device and says which, but does not choose it.
    local = os.environ.get("LOCAL_RANK") if _rank()[1] > 1 else None
    return torch.device(
        "cuda",
        torch.cuda.current_device() if local is None else int(local) % torch.cuda.device_count(),
    )


@contextlib.contextmanager
def _counting(total: int | None, world: int, show: bool) -> Iterator[Callable[[int], object]]:
    """A function that is told of finished rows, and shows rows per second and the time left."""
    if not show:
        yield lambda rows: None
        return
    from tqdm.auto import tqdm

    with tqdm(
        total=None if total is None else -(-total // world),
        unit=" rows",
        unit_scale=True,
        leave=False,
    ) as bar:
        yield bar.update
