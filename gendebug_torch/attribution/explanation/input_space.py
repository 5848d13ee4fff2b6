"""The inputs of a network, whatever their structure, as one matrix of points, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject
from gendebug_torch.model.batches import moved
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.runner import logits_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class InputSpace:
    """All attributed inputs of a batch side by side.

    Args:
        points: `[n, d]` float values of the attributed inputs.
        logits: function from points `[p, d]` and the row `[p]` of each point to logits; inputs that
            are not attributed are taken from that row.
        names: names of the features; empty where only numbers are known.
        groups: `[d]` int64 feature of each column; None where each column is a feature.
        shape: shape of one row of the attributions; `(f,)` for anything but one Tensor.
        feature_values: `[n, f]` float32 values of the features, such as token ids.
        single_tensor: whether the features are one Tensor of the batch as it is.
    """

    points: Tensor
    logits: Callable[[Tensor, Tensor], Tensor]
    names: tuple[str, ...]
    groups: Tensor | None
    shape: tuple[int, ...]
    feature_values: Tensor
    single_tensor: bool


@dataclass(frozen=True)
class _Block:
    """One attributed block of columns: an input Tensor, or the output of an embedding for one."""

    name: str
    values: Tensor
    codes: Tensor | None = None

    @property
    def columns(self) -> Tensor:
        """`[n, c]` the values, one row per row."""
        return _as_columns(self.values)

    def restore(self, columns: Tensor) -> Tensor:
        """Columns `[p, c]` in the shape of the block."""
        return columns.reshape(len(columns), *self.values.shape[1:])


def input_space(
    model: Model, inputs: Any, *, gradient: bool, parts: Sequence[str] | None = None
) -> InputSpace:
    """One batch of inputs as an `InputSpace`.

    Float Tensors are attributed as they are. Integer Tensors have no gradient: for a gradient
    method the outputs of the embeddings that they index are attributed, one feature per token or
    categorical column; other methods replace the integers themselves. Booleans, and anything that
    is no Tensor, are passed on.

    Args:
        model: network; hooks are set on its embeddings during a call.
        inputs: Tensor, tuple, list or mapping of Tensors with one entry per row.
        gradient: whether the method needs gradients.
        parts: keys or positions of the attributed Tensors; default all that can be.

    Raises:
        InputError: nothing can be attributed, or an unknown part.
    """
    tensors = _row_tensors(inputs)
    if parts is not None and (unknown := sorted(set(map(str, parts)) - set(tensors))):
        expected = f"names among {sorted(tensors)}"
        reject("parts", expected, str(unknown), "Name the Tensors of a batch.")
    chosen = {
        name: tensor for name, tensor in tensors.items() if parts is None or name in map(str, parts)
    }
    floats = [_Block(name, tensor) for name, tensor in chosen.items() if tensor.dtype in _FLOATS]
    integers = [
        _Block(name, tensor)
        for name, tensor in chosen.items()
        if tensor.dtype not in _FLOATS and tensor.dtype != torch.bool
    ]
    hooks = _EmbeddingHooks(model) if gradient and integers else None
    coded = hooks.record(inputs) if hooks else [] if gradient else integers
    if not floats and not coded:
        _reject_dtypes(chosen, inputs)
    forward = _Forward(model, inputs, tuple(floats), tuple(coded), hooks if coded else None)
    return _space(forward, isinstance(inputs, Mapping))


def _reject_dtypes(tensors: Mapping[str, Tensor], inputs: Any) -> None:
    dtypes = [f"{name or 'inputs'}: {tensor.dtype}" for name, tensor in tensors.items()]
    remedy = (
        "Pass floats, use nn.Embedding for codes, or choose a method without gradients, e.g. "
        "`kernel_shap`."
    )
    expected = "floating-point inputs, or integers that go into an nn.Embedding"
    reject("inputs", expected, ", ".join(dtypes) or type(inputs).__name__, remedy)


@dataclass(frozen=True, eq=False)
class _Forward:
    """The network as a function of points, everything else taken from the batch."""

    model: Model
    inputs: Any
    floats: tuple[_Block, ...]
    coded: tuple[_Block, ...]
    hooks: _EmbeddingHooks | None

    @cached_property
    def blocks(self) -> tuple[_Block, ...]:
        return self.floats + self.coded

    @cached_property
    def columns(self) -> list[slice]:
        """Columns of the points that belong to each block."""
        ends = list(itertools.accumulate(block.columns.shape[1] for block in self.blocks))
        return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def row_tensors(self) -> dict[str, Tensor]:
        return _row_tensors(self.inputs)

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Logits of points `[p, d]`, each with the other inputs of its row `[p]`."""
        # A copy, because a network may change its input in place.
        copy = points.clone()
        values = [
            block.restore(copy[:, span])
            for block, span in zip(self.blocks, self.columns, strict=True)
        ]
        inputs = self.floats if self.hooks is not None else self.blocks
        replaced = {
            block.name: value.to(block.values.dtype)
            for block, value in zip(inputs, values, strict=False)
        }

        def value_of(name: str, tensor: Tensor) -> Tensor:
            if name in replaced:
                return replaced[name]
            return tensor[rows] if name in self.row_tensors else tensor

        batch = map_tensors(self.inputs, value_of)
        if self.hooks is None:
            return logits_of(self.model, batch)
        with self.hooks.replace(values[len(self.floats) :]):
            return logits_of(self.hooks.model, batch)


def _space(forward: _Forward, mapping: bool) -> InputSpace:
    """The space of the blocks of a forward function."""
    blocks = forward.blocks
    first = [block.values for block in blocks[:2]]
    dtype = torch.result_type(*first) if len(first) > 1 else first[0].dtype
    dtype = dtype if dtype in _FLOATS else torch.float32
    points = torch.cat([block.columns.to(dtype) for block in blocks], 1)
    prefixed = len(blocks) > 1 or mapping
    features = [_features(block, prefixed) for block in blocks]
    sizes = [size for _, block_sizes, _ in features for size in block_sizes]
    groups = None
    if set(sizes) - {1}:
        columns = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        groups = moved(columns, points.device)
    single = len(blocks) == 1 and groups is None
    row = tuple(blocks[0].values.shape[1:])
    return InputSpace(
        points=points,
        logits=forward,
        names=tuple(name for names, _, _ in features for name in names)
        if prefixed or groups is not None
        else (),
        groups=groups,
        shape=row if single and row else (len(sizes),),
        feature_values=torch.cat([values for _, _, values in features], 1),
        single_tensor=single,
    )


def _features(block: _Block, prefixed: bool) -> tuple[list[str], list[int], Tensor]:
    """Names of the features of a block, columns of each, and their values `[n, f]`."""
    values = _as_columns(block.values if block.codes is None else block.codes).float()
    count = values.shape[1]
    columns = block.values[0].numel() if len(block.values) else count
    label = (block.name or "input") if prefixed or block.codes is not None else "input"
    names = [label] if count == 1 and prefixed else [f"{label}_{i}" for i in range(count)]
    return names, [max(1, columns // max(count, 1))] * count, values


def _as_columns(values: Tensor) -> Tensor:
    return values.detach().flatten(1) if values.ndim > 1 else values.detach()[:, None]


def _row_tensors(inputs: Any) -> dict[str, Tensor]:
    """Tensors with one entry per row, by key or position; one Tensor alone has the name ''."""
    tensors: dict[str, Tensor] = {}
    map_tensors(inputs, lambda name, tensor: tensors.setdefault(name, tensor))
    lengths = {name: len(tensor) for name, tensor in tensors.items() if tensor.ndim}
    n = max(lengths.values(), default=0)
    return {name: tensor for name, tensor in tensors.items() if lengths.get(name) == n}


def map_tensors(inputs: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """The same structure with every Tensor replaced by `change(name, tensor)`."""
    if isinstance(inputs, Tensor):
        return change(name, inputs)
    prefix = f"{name}." if name else ""
    if isinstance(inputs, Mapping):
        return {key: map_tensors(value, change, f"{prefix}{key}") for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(
            map_tensors(value, change, f"{prefix}{i}") for i, value in enumerate(inputs)
        )
    return inputs


def unwrapped(model: Model) -> Model:
    """The module behind torch.compile, DataParallel or DDP, which ignore new hooks."""
    inner = getattr(model, "_orig_mod", model)
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return unwrapped(inner.module) if isinstance(inner, wrappers) else inner


@dataclass(frozen=True)
class _Lookup:
    """One call of an embedding: its name, the ids, and the vectors."""

    name: str
    ids: Tensor
    vectors: Tensor


class _EmbeddingHooks:
    """Hooks on the embeddings of a network that record their outputs, or replace them.

    Args:
        model: network, possibly wrapped.
    """

    def __init__(self, model: Model) -> None:
        self.model = unwrapped(model)
        modules = self.model.named_modules() if isinstance(self.model, nn.Module) else ()
        self.embeddings = {
            name: module for name, module in modules if isinstance(module, nn.Embedding)
        }
        self.lookups: list[_Lookup] = []
        self.replacements: dict[int, Tensor] | None = None
        self.calls = 0
        self.per_row: list[int] = []

    def record(self, inputs: Any) -> list[_Block]:
        """The outputs of the embeddings that depend on the row, in the order of their calls."""
        tensors = _row_tensors(inputs)
        n = len(next(iter(tensors.values())))
        if not self.embeddings or not n:
            return []

        def first_row(times: int) -> Any:
            def repeat(name: str, tensor: Tensor) -> Tensor:
                return tensor[:1].expand(times, *tensor.shape[1:]) if name in tensors else tensor

            return map_tensors(inputs, repeat)

        # Position embeddings have one output for all rows: its length does not follow the batch.
        one, two = ([len(call.vectors) for call in self._run(first_row(k))] for k in (1, 2))
        self.per_row = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if b == 2 * a]
        lookups = self._run(inputs)
        names = [lookups[i].name for i in self.per_row]
        return [
            _Block(
                f"{name}@{i}" if names.count(name) > 1 else name,
                lookups[i].vectors,
                lookups[i].ids,
            )
            for i, name in zip(self.per_row, names, strict=True)
        ]

    def replace(self, vectors: Sequence[Tensor]) -> _HookHandles:
        """A context in which the embeddings return these vectors."""
        self.replacements = dict(zip(self.per_row, vectors, strict=True))
        return _HookHandles(self)

    def _run(self, inputs: Any) -> list[_Lookup]:
        self.lookups, self.replacements = [], None
        with torch.no_grad(), _HookHandles(self):
            logits_of(self.model, inputs)
        return self.lookups

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        """A forward hook for the embedding of this name."""

        def act(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            number, self.calls = self.calls, self.calls + 1
            if self.replacements is None:
                self.lookups.append(_Lookup(name, arguments[0].detach(), output.detach()))
                return None
            return self.replacements.get(number)

        return act


class _HookHandles:
    """The hooks of `_EmbeddingHooks`, set on entry and removed on exit."""

    def __init__(self, hooks: _EmbeddingHooks) -> None:
        self.hooks = hooks

    def __enter__(self) -> None:
        self.hooks.calls = 0
        self.handles = [
            module.register_forward_hook(self.hooks.hook(name))
            for name, module in self.hooks.embeddings.items()
        ]

    def __exit__(self, *failure: object) -> None:
        for handle in self.handles:
            handle.remove()
