"""Where the model meets the data: one loop over batches, and the promise to leave the model as it was."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gendebug_torch._shards import Shards
from gendebug_torch._tables import model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.records import Records

Model = Callable[..., Any]
Unpack = Callable[[Any], tuple[Any, Tensor | None]]
Step = Callable[[Any, Tensor | None], Mapping[str, Tensor]]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

_AUTOCAST = {"32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
# Outputs wait on the device until this many bytes are together, so that a copy costs one wait per flush, not per batch.
_FLUSH_BYTES = 64 * 2**20
# Rows per batch where the data has no batches of its own: enough to fill a device, halved where memory is short.
_ROWS = {"cuda": 16384, "cpu": 2048}


@contextlib.contextmanager
def evaluating(model: Model, *, device: torch.device | None = None) -> Iterator[None]:
    """The model in evaluation mode with frozen parameters; everything is put back, also after a failure.

    Put back: the mode of every submodule, `requires_grad`, `.grad`, hooks, the device, and the random
    states of Python, NumPy and torch (every device). A plain callable has only the random states.

    Args:
        model: module or callable.
        device: where the module is moved meanwhile; None leaves it where it is.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    # The hooks of an exported program are empty lists that nothing can be added to.
    tables = [{key: value for key, value in vars(module).items() if key.endswith("_hooks")} for module in modules]
    hooks = [{key: value.copy() for key, value in table.items() if isinstance(value, dict)} for table in tables]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    home = parameters[0].device if parameters else None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        if device is not None and home is not None and device != home and isinstance(model, nn.Module):
            model.to(device)
        yield
    finally:
        if home is not None and isinstance(model, nn.Module) and any(p.device != home for p in parameters):
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

    how: dict[str, Any] = {"unpack": unpack, "device": device, "precision": precision, "batch_size": batch_size}
    rows = map_rows(step, loader, model=model, progress=progress, checkpoint=checkpoint, **how)
    if isinstance(loader, Records):
        return Records(loader.features, loader.targets, rows["logits"], loader.metadata, loader.schema, loader.name)
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
        device: `auto` takes CUDA where there is one.
        precision: `32-true`, or autocast with `16-mixed` or `bf16-mixed`.
        progress: show a bar.
        checkpoint: directory of shards for resuming.
        identity: what else must be the same for shards of an earlier run to be taken over.
        keep: hand the outputs back; if not, they stay in `checkpoint` alone, and memory does not grow with the rows.
        grad: whether `step` needs autograd.
        watch: is shown the inputs and targets of every batch, on every rank, also of those that need no step.
        alone: take every batch on this rank, whatever the others do.

    Raises:
        InputError: unknown batch, precision or device, no rows, or shards of another run.
    """
    if precision not in _AUTOCAST:
        reject("precision", f"one of {', '.join(_AUTOCAST)}", repr(precision), "Choose one of them.")
    place = _device(device)
    rank, world = (0, 1) if alone else _rank()
    run = {"world": world, "precision": precision, "batch_size": batch_size} | ({"identity": identity} if identity else {})
    shards = Shards(checkpoint, model, rank, run, keep=keep)
    parts: dict[int, dict[str, Tensor]] = shards.load()
    waiting: dict[int, dict[str, Tensor]] = {}
    limit = [2**62]
    dtype = _AUTOCAST[precision]
    total = len(data) if hasattr(data, "__len__") and not isinstance(data, (Tensor, Records)) else None
    autocast = torch.autocast(place.type, dtype=dtype, enabled=dtype is not None)
    with evaluating(step if model is None else model, device=place), torch.set_grad_enabled(grad), autocast:
        for number, batch in enumerate(_progress(_batches(data, batch_size, place), total, progress)):
            own = number % world == rank and number not in parts
            if not own and watch is None:
                continue
            inputs, targets = (unpack or _unpack)(batch)
            if watch is not None:
                watch(inputs, targets)
            if not own:
                continue
            waiting[number] = _run_halving(step, moved(inputs, place), moved(targets, place), limit)
            if sum(t.numel() * t.element_size() for out in waiting.values() for t in out.values()) >= _FLUSH_BYTES:
                parts.update(shards.save(_to_host(waiting)))
                waiting = {}
        parts.update(shards.save(_to_host(waiting)))
    gathered = _gather(parts, world)
    return _join(gathered) if keep else {}


def sample_rows(data: Any, rows: int, *, unpack: Unpack | None = None, seed: int = 0) -> tuple[Any, Tensor | None]:
    """Inputs and targets of at most `rows` rows: drawn without repetition from Tensor or Records, else the first ones.

    Raises:
        InputError: an iterator that could not be started again.
    """
    if isinstance(data, Iterator):
        reject("loader", "a loader that can be iterated again", f"{type(data).__name__}", "Pass the DataLoader or list itself.")
    if isinstance(data, (Tensor, Records)):
        inputs, targets = (data, None) if isinstance(data, Tensor) else (model_inputs(data), data.targets)
        picked = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:rows].sort().values.to(inputs.device)
        return inputs[picked], None if targets is None else targets[picked.to(targets.device)]
    batches: list[tuple[Any, Tensor | None]] = []
    for batch in _batches(data, None, torch.device("cpu")):
        batches.append((unpack or _unpack)(batch))
        if sum(_rows(part) for part, _ in batches) >= rows:
            break
    if not batches:
        reject("loader", "at least one batch", "none", "Check that the loader is not empty and not used up.")
    targets = None if any(part is None for _, part in batches) else torch.cat([part for _, part in batches if part is not None])[:rows]
    return _cut(_zipped([part for part, _ in batches]), 0, rows), targets


def _zipped(parts: Sequence[Any]) -> Any:
    """Batches of one structure, joined along the rows; what is no Tensor is taken from the first."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _zipped([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_zipped(values) for values in zip(*parts, strict=True))
    return first


def _run_halving(step: Step, inputs: Any, targets: Tensor | None, limit: list[int]) -> dict[str, Tensor]:
    """`step` on pieces of at most `limit[0]` rows; the limit is halved when memory runs out."""
    rows = _rows(inputs)
    outputs: list[Mapping[str, Tensor]] = []
    start = 0
    while start < rows or not outputs:
        stop = min(rows, start + limit[0])
        size = stop - start
        whole = size == rows
        cut = targets if whole or targets is None else targets[start:stop]
        try:
            outputs.append(step(inputs if whole else _cut(inputs, start, stop), cut))
            start = stop
            failed = None
        except RuntimeError as error:
            if not _out_of_memory(error) or size <= 1:
                raise
            failed = True
        if failed:
            # Outside the except block, so that the traceback no longer holds the tensors of the failed try.
            limit[0] = max(1, size // 2)
            gc.collect()
            torch.cuda.empty_cache()
        if rows == 0:
            break
    return {key: torch.cat([out[key].detach() for out in outputs]) for key in outputs[0]}


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


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
        reject("model", "a model that returns a Tensor of logits", f"{type(output).__name__}{keys}", remedy)
    logits: Tensor = output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output
    return logits.float()


def _unpack(batch: Any) -> tuple[Any, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2) and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1] if len(batch) == 2 else None
    what = f"{type(batch).__name__} of {[type(p).__name__ for p in batch]}" if isinstance(batch, (tuple, list)) else type(batch).__name__
    reject("loader", "batches that are a Tensor, (inputs,) or (inputs, targets)", what, "Pass `unpack=lambda batch: (inputs, targets)`.")


def _batches(data: Any, batch_size: int | None, device: torch.device) -> Iterator[Any]:
    """Batches of a loader as they are, or cuts of a Tensor or Records."""
    if isinstance(data, Records):
        inputs, targets = model_inputs(data), data.targets
        size = batch_size or _ROWS.get(device.type, 2048)
        for start in range(0, max(1, len(inputs)), size):
            cut = slice(start, start + size)
            yield (inputs[cut],) if targets is None else (inputs[cut], targets[cut])
    elif isinstance(data, Tensor):
        yield from torch.split(data, batch_size or _ROWS.get(device.type, 2048))
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, pd.DataFrame, Mapping)):
        sampler = getattr(data, "sampler", None)
        if isinstance(sampler, torch.utils.data.DistributedSampler):
            remedy = "Pass the plain loader: ranks share its batches without padding duplicates."
            reject("loader", "a loader of all rows", "one with a DistributedSampler", remedy)
        yield from data
    else:
        reject("loader", "a DataLoader, an iterable of batches, a Tensor or Records", type(data).__name__, "Wrap the data in a DataLoader.")


def _rows(inputs: Any) -> int:
    first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    return len(first)


def _cut(inputs: Any, start: int, stop: int) -> Any:
    return _apply(inputs, lambda tensor: tensor[start:stop])


def moved(inputs: Any, device: torch.device) -> Any:
    """The same structure with its Tensors on a device; to CUDA from pinned memory, without waiting."""
    if device.type != "cuda":
        return _apply(inputs, lambda tensor: tensor.to(device))
    return _apply(inputs, lambda t: t if t.device == device else (t if t.is_pinned() else t.pin_memory()).to(device, non_blocking=True))


def _apply(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: _apply(value, function) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(_apply(value, function) for value in inputs)
    return inputs


def _to_host(waiting: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """Copies in host memory; on CUDA through pinned memory, with one wait for all of them."""

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    host = {number: {key: copy(tensor) for key, tensor in out.items()} for number, out in waiting.items()}
    if any(tensor.is_cuda for out in waiting.values() for tensor in out.values()):
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        done.synchronize()
    return host


def _join(parts: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    if not parts:
        reject("loader", "at least one batch", "none", "Check that the loader is not empty and not used up.")
    ordered = [parts[number] for number in sorted(parts)]
    return {key: torch.cat([part[key] for part in ordered]) for key in ordered[0]}


def _rank() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _gather(parts: dict[int, dict[str, Tensor]], world: int) -> dict[int, dict[str, Tensor]]:
    """The batches of all ranks on every rank; the objects come from our own processes."""
    if world == 1:
        return parts
    gathered: list[dict[int, dict[str, Tensor]]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(gathered, parts)
    return {number: out for share in gathered for number, out in share.items()}


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        reject("device", "`auto`, `cpu`, `cuda` or `cuda:N`", f"{device!r} ({error})".partition("\n")[0], "Choose one of them.")
    if place.type == "cuda" and not torch.cuda.is_available():
        reject("device", "a device that this machine has", repr(device), "Pass `auto` or `cpu`.")
    return place


def _progress(batches: Iterator[Any], total: int | None, show: bool) -> Iterable[Any]:
    if not show:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, total=total, unit="batch", leave=False)
