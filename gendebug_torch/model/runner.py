"""Where the model meets the data: one loop over batches that leaves the model as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.records import Records
from gendebug_torch.data.times import seconds_of
from gendebug_torch.errors import reject
from gendebug_torch.model.batches import (
    check_order,
    copied_to_host,
    cut,
    gathered_batches,
    joined_batches,
    known_rows,
    leaves,
    moved,
    numbered_batches,
    rows_at_once,
    rows_of,
)
from gendebug_torch.model.collection.callables import as_tensor, call_on_arrays
from gendebug_torch.model.collection.unpacking import Unpack, unpacked
from gendebug_torch.model.devices import (
    AUTOCAST,
    Precision,
    device_context,
    device_of,
    fitting,
    rank_and_world,
)
from gendebug_torch.model.evaluation import Model, evaluating
from gendebug_torch.model.shards import Shards, batch_fingerprint
from gendebug_torch.progress import progress_bar

Step = Callable[[Any, Tensor | None], Mapping[str, Tensor]]

# Outputs wait on the device until this many bytes are together, so that a copy costs one wait per
# flush, not per batch.
_FLUSH_BYTES = 64 * 2**20
# How torch says that rows have another width: of a linear layer, and of a batch norm.
_OTHER_WIDTH = ("shapes cannot be multiplied", "should contain", "normalized_shape")


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
    every: str | float = "60s",
    identity: str = "",
    learned: dict[str, Any] | None = None,
    keep: bool = True,
    grad: bool = False,
    watch: Callable[[Any, Tensor | None], None] | None = None,
    alone: bool = False,
) -> dict[str, Tensor]:
    """`step` over all batches, its outputs joined in row order on the CPU.

    Batches go to the device from pinned memory without waiting; outputs stay there until 64 MiB are
    together or `every` has passed. A batch that does not fit in memory is halved and tried again,
    and later ones start at the size that fitted. Under torch.distributed each rank takes every
    world-size-th batch and all ranks get all rows, without duplicates.

    Args:
        step: function (inputs, targets) -> tensors that have one row per input row.
        data: DataLoader, iterable of batches, Tensor `[n, ...]`, or `Records` with features.
        model: module or callable, in evaluation mode and on the device meanwhile.
        batch_size: rows at once for a Tensor or Records.
        unpack: function batch -> (inputs, targets).
        device: `auto` takes CUDA where there is one, that of the local rank under
            torch.distributed.
        precision: `32-true`, or autocast with `16-mixed` or `bf16-mixed`.
        progress: show rows per second and the time left.
        checkpoint: directory of shards for resuming, by any number of ranks; on several machines
            one that they share. Batches that are finished are read again, to see that they are the
            same, but not computed.
        every: longest time between two shards.
        identity: anything else that must be the same for shards of an earlier run to be used.
        learned: notes that `step` fills, which JSON can hold and which are the same for all rows;
            ranks without a batch get them from those that had one.
        keep: return the outputs; if not, they stay in `checkpoint` alone, and memory does not grow
            with the rows.
        grad: whether `step` needs autograd.
        watch: function of the inputs and targets of every batch, on every rank, also of those that
            need no step.
        alone: take every batch on this rank, whatever the others do.

    Raises:
        InputError: unknown batch, precision or device, no rows, shards of another run or of other
            rows, or a shuffled loader where its batches must be the same in other processes.
    """
    if precision not in AUTOCAST:
        reject("precision", f"one of {', '.join(AUTOCAST)}", repr(precision), "Choose one of them.")
    target = device_of(device)
    rank, world = (0, 1) if alone else rank_and_world()
    if checkpoint is not None or world > 1:
        check_order(data)
    total, size = known_rows(data), rows_at_once(data, batch_size, target)
    notes = {} if learned is None else learned
    run = {"precision": precision, "batch size": size, "rows": total, "question": identity}
    shards = Shards(checkpoint, model, run, keep=keep)
    results = _Results(shards, notes, rank, world, seconds_of(every, argument="every"))
    limit, own_rows = [2**62], None if total is None else -(-total // world)
    with (
        device_context(target, precision),
        evaluating(step if model is None else model, device=target, grad=grad),
        torch.set_grad_enabled(grad),
        progress_bar(own_rows, "rows", show=progress and rank == 0) as count,
    ):
        wanted = None if watch is not None else results.is_own
        for number, batch in numbered_batches(data, size, wanted or (lambda number: True)):
            inputs, targets = (unpack or unpacked)(batch)
            if watch is not None:
                watch(inputs, targets)
            if not results.is_own(number) or results.is_finished(number, inputs, targets):
                continue
            # Batches of a loader are converted only where the network does not take them.
            own = isinstance(data, (Records, Tensor))
            inputs = as_model_takes(inputs, model, target) if own else moved(inputs, target)
            labels = moved(targets, target)
            try:
                outputs = _run_halving(step, inputs, labels, limit)
            except RuntimeError as error:
                converted = as_model_takes(inputs, model, target)
                if converted is inputs or "type" not in str(error):
                    _refuse_columns(data, str(error))
                    raise
                outputs = _run_halving(step, converted, labels, limit)
            results.add(number, outputs)
            count(rows_of(inputs))
        results.flush()
        gathered = gathered_batches(results.parts, notes, world)
    return joined_batches(gathered) if keep else {}


def _refuse_columns(data: Any, error: str) -> None:
    """Name the columns of a table, where a network fails at their number."""
    names = getattr(getattr(data, "features", None), "columns", None)
    if names is None or not any(words in error for words in _OTHER_WIDTH):
        return
    shown = ", ".join(map(str, names[:8])) + (", …" if len(names) > 8 else "")
    remedy = "Declare columns that it is not fed as `metadata` in the schema."
    got = f"{len(names)} ({shown}), at which it fails: {error.splitlines()[0]}"
    reject("features", "the columns that the network was trained on", got, remedy)


def logits_for(model: Model, inputs: Any) -> Tensor:
    """Logits of all rows, `[n]` or `[n, k]` on the CPU, in batches.

    Args:
        model: module or callable.
        inputs: Tensor `[n, ...]`, or a mapping, tuple or list of them.
    """

    def step(batch: Any, targets: Tensor | None) -> dict[str, Tensor]:
        return {"logits": logits_of(model, batch)}

    if isinstance(inputs, Tensor):
        return map_rows(step, inputs, model=model)["logits"]
    largest = max(leaves(inputs), key=lambda part: part.nbytes)
    size = rows_at_once(largest, None, device_of("auto")) or 1
    batches = [(cut(inputs, i, i + size), None) for i in range(0, len(largest), size)]
    return map_rows(step, batches, model=model)["logits"]


class _Results:
    """Outputs by number of batch: waiting on the device, then on the host and in shards."""

    def __init__(
        self, shards: Shards, notes: dict[str, Any], rank: int, world: int, every: float
    ) -> None:
        self.shards, self.notes, self.every = shards, notes, every
        self.rank, self.world = rank, world
        self.parts = shards.load(rank, world)
        notes.update(shards.load_notes())
        self.waiting: dict[int, dict[str, Tensor]] = {}
        self.fingerprints: dict[int, str] = {}
        self.flushed = time.monotonic()

    def is_own(self, number: int) -> bool:
        return number % self.world == self.rank

    def is_finished(self, number: int, inputs: Any, targets: Tensor | None) -> bool:
        """Whether a shard holds this batch; one made of other rows is refused."""
        if self.shards.directory is None:
            return False
        fingerprint = batch_fingerprint(inputs, targets)
        if number in self.parts:
            self.shards.check(number, fingerprint)
            return True
        self.fingerprints[number] = fingerprint
        return False

    def add(self, number: int, outputs: dict[str, Tensor]) -> None:
        self.waiting[number] = outputs
        size = sum(
            tensor.numel() * tensor.element_size()
            for out in self.waiting.values()
            for tensor in out.values()
        )
        late = self.shards.directory is not None and time.monotonic() - self.flushed >= self.every
        if size >= _FLUSH_BYTES or late:
            self.flush()

    def flush(self) -> None:
        host = copied_to_host(self.waiting)
        self.parts.update(self.shards.save(host, self.notes, self.fingerprints))
        self.waiting, self.fingerprints, self.flushed = {}, {}, time.monotonic()


def as_model_takes(inputs: Any, model: Model | None, device: torch.device) -> Any:
    """The inputs on the device, a floating tensor in the floating type of the weights."""
    inputs = moved(inputs, device)
    if not isinstance(model, nn.Module):
        return inputs
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) == 1 and isinstance(inputs, Tensor) and inputs.is_floating_point():
        return inputs.to(dtypes.pop())
    return inputs


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


def logits_of(model: Model, inputs: Any) -> Tensor:
    """One pass of the model: float32 logits `[n]` or `[n, k]`; a column `[n, 1]` becomes `[n]`.

    A mapping is passed as keyword arguments, a tuple or list as positional ones. Of an output with
    `logits`, as those of Hugging Face, these are taken. A function that cannot take tensors gets
    arrays. The answer to a batch of one row may lack the axis of the rows, as `squeeze` leaves it.

    Raises:
        InputError: the model returns something else.
    """
    positional = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    try:
        output = model(**inputs) if isinstance(inputs, Mapping) else model(*positional)
    except (TypeError, AttributeError, RuntimeError) as error:
        tensors = all(isinstance(x, Tensor) for x in positional)
        if isinstance(model, nn.Module) or not tensors:
            raise
        if not isinstance(error, RuntimeError):
            output = call_on_arrays(model, positional)
        elif "requires grad" in str(error):
            # It makes arrays itself, which a Tensor that requires gradients refuses.
            output = model(*(x.detach() for x in positional))
        else:
            raise
    logits = output_tensor(output)
    rows = next((len(part) for part in leaves(inputs) if part.ndim), None)
    if rows == 1 and logits.ndim < 2 and logits.shape != (1,):
        logits = logits.unsqueeze(0)
    return (logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits).float()


def output_tensor(output: Any) -> Tensor:
    """The logits in what a model returned: a Tensor, an array, or an object with `logits`.

    Raises:
        InputError: it is something else.
    """
    output = as_tensor(output)
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    output = named if isinstance(named, Tensor) else output
    if not isinstance(output, Tensor):
        keys = f" with keys {sorted(output)}" if isinstance(output, Mapping) else ""
        remedy = (
            "Wrap it in an nn.Module whose forward returns the logits, e.g. `model(x)[0]`; a "
            "lambda would hide its layers."
        )
        got = f"{type(output).__name__}{keys}"
        reject("model", "a model that returns a Tensor of logits", got, remedy)
    return output
