"""The inputs of a network, whatever their structure, as one matrix of points, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.batches import moved
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, logits_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Space:
    """All attributed inputs of a batch side by side.

    Args:
        points: `[n, d]` float.
        logits: (points `[p, d]`, rows `[p]`) -> logits; whatever is not attributed is taken from
            the row.
        names: of the features; empty where nothing better than a number is known.
        groups: `[d]` int64 feature of each column; None where each column is a feature.
        shape: of one row of the attributions; `(f,)` for anything but one Tensor.
        shown: `[n, f]` float32 values of the features, as a reader knows them.
        whole: whether the features are one Tensor of the batch as it is.
    """

    points: Tensor
    logits: Callable[[Tensor, Tensor], Tensor]
    names: tuple[str, ...]
    groups: Tensor | None
    shape: tuple[int, ...]
    shown: Tensor
    whole: bool


@dataclass(frozen=True)
class _Part:
    """One attributed block of columns: a Tensor among the inputs, or what an embedding gives for
    one.
    """

    name: str
    values: Tensor
    codes: Tensor | None = None


def space_of(
    model: Model, inputs: Any, *, gradient: bool, parts: Sequence[str] | None = None
) -> Space:
    """One batch of inputs as a `Space`.

    Float Tensors are attributed as they are. Integer Tensors have no gradient: for a gradient
    method the outputs of the embeddings that they index are attributed, one feature per token or
    categorical column; other methods replace the integers themselves. Booleans, and anything that
    is no Tensor, are handed on.

    Args:
        model: network; hooks that are set here are for its embeddings.
        inputs: Tensor, tuple, list or mapping of Tensors with one row per row.
        gradient: whether the method needs gradients.
        parts: keys (or positions) of the Tensors to attribute; default all that can be.

    Raises:
        InputError: nothing can be attributed, or an unknown part.
    """
    leaves = _leaves(inputs)
    if parts is not None and (unknown := sorted(set(map(str, parts)) - set(leaves))):
        reject(
            "parts", f"names among {sorted(leaves)}", str(unknown), "Name the Tensors of a batch."
        )
    wanted = {
        name: leaf for name, leaf in leaves.items() if parts is None or name in map(str, parts)
    }
    floats = [_Part(name, leaf) for name, leaf in wanted.items() if leaf.dtype in _FLOATS]
    whole = [
        _Part(name, leaf)
        for name, leaf in wanted.items()
        if leaf.dtype not in _FLOATS and leaf.dtype != torch.bool
    ]
    swap = _EmbeddingSwap(model) if gradient and whole else None
    coded = swap.record(inputs) if swap else [] if gradient else whole
    swap = swap if coded else None
    if not floats and not coded:
        kinds = (
            ", ".join(f"{name or 'inputs'}: {leaf.dtype}" for name, leaf in wanted.items())
            or type(inputs).__name__
        )
        remedy = (
            "Pass floats, use nn.Embedding for codes, or choose a method without gradients, "
            "e.g. `kernel_shap`."
        )
        reject(
            "inputs",
            "floating-point inputs, or integers that go into an nn.Embedding",
            kinds,
            remedy,
        )
    return _space(model, inputs, leaves, floats, coded, swap)


def _space(
    model: Model,
    inputs: Any,
    leaves: dict[str, Tensor],
    floats: list[_Part],
    coded: list[_Part],
    swap: _EmbeddingSwap | None,
) -> Space:
    blocks = [*floats, *coded]
    common = (
        torch.result_type(*[b.values for b in blocks][:2])
        if len(blocks) > 1
        else blocks[0].values.dtype
    )
    dtype = common if common in _FLOATS else torch.float32
    flat = [
        part.values.detach().flatten(1) if part.values.ndim > 1 else part.values.detach()[:, None]
        for part in blocks
    ]
    points = torch.cat([block.to(dtype) for block in flat], 1)
    widths = [block.shape[1] for block in flat]

    def logits(at: Tensor, rows: Tensor) -> Tensor:
        # A copy, because a network may change its input in place.
        whole = at.clone()
        cut = [
            whole[:, stop - width : stop]
            for stop, width in zip(itertools.accumulate(widths), widths, strict=True)
        ]
        new = {
            part.name: block.reshape(len(at), *part.values.shape[1:]).to(part.values.dtype)
            for part, block in zip(blocks, cut, strict=True)
            if swap is None or part.codes is None
        }
        made = _rebuilt(
            inputs,
            lambda name, leaf: new[name] if name in new else leaf[rows] if name in leaves else leaf,
        )
        if swap is None:
            return logits_of(model, made)
        given = [
            block.reshape(len(at), *part.values.shape[1:])
            for part, block in zip(coded, cut[len(floats) :], strict=True)
        ]
        with swap.giving(given):
            return logits_of(swap.model, made)

    features = [_features(part, len(blocks) > 1 or isinstance(inputs, Mapping)) for part in blocks]
    names = tuple(name for named, _, _ in features for name in named)
    sizes = [size for _, sizes, _ in features for size in sizes]
    columns = (
        None
        if set(sizes) <= {1}
        else torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    )
    groups = None if columns is None else moved(columns, points.device)
    shown = torch.cat([values for _, _, values in features], 1)
    whole = len(blocks) == 1 and groups is None
    shape = (
        tuple(blocks[0].values.shape[1:]) if whole and blocks[0].values.ndim > 1 else (len(sizes),)
    )
    named = len(blocks) > 1 or groups is not None or isinstance(inputs, Mapping)
    return Space(points, logits, names if named else (), groups, shape, shown, whole)


def _features(part: _Part, prefixed: bool) -> tuple[list[str], list[int], Tensor]:
    """Names of the features of a block, columns of each, and the values to show."""
    shown = part.values if part.codes is None else part.codes
    shown = shown.detach().flatten(1).float() if shown.ndim > 1 else shown.detach()[:, None].float()
    count = shown.shape[1]
    columns = part.values[0].numel() if len(part.values) else count
    label = (part.name or "input") if prefixed or part.codes is not None else "input"
    names = [label] if count == 1 and prefixed else [f"{label}_{i}" for i in range(count)]
    return names, [max(1, columns // max(count, 1))] * count, shown


def _leaves(inputs: Any) -> dict[str, Tensor]:
    """Tensors among the inputs, by key or position; one Tensor alone has the name ''."""
    found: dict[str, Tensor] = {}
    _rebuilt(inputs, lambda name, leaf: found.setdefault(name, leaf))
    lengths = {name: len(leaf) for name, leaf in found.items() if leaf.ndim}
    n = max(lengths.values(), default=0)
    return {name: leaf for name, leaf in found.items() if lengths.get(name) == n}


def _rebuilt(inputs: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """The same structure with every Tensor changed."""
    if isinstance(inputs, Tensor):
        return change(name, inputs)
    inside = f"{name}." if name else ""
    if isinstance(inputs, Mapping):
        return {key: _rebuilt(value, change, f"{inside}{key}") for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(
            _rebuilt(value, change, f"{inside}{i}") for i, value in enumerate(inputs)
        )
    return inputs


def _first_row(inputs: Any, times: int) -> Any:
    """The first row, repeated."""
    own = _leaves(inputs)
    return _rebuilt(
        inputs, lambda name, leaf: leaf[:1].expand(times, *leaf.shape[1:]) if name in own else leaf
    )


def unwrapped(model: Model) -> Model:
    """The module behind torch.compile, DataParallel or DDP, whose hooks run; a compiled one would
    ignore new hooks.
    """
    inner = getattr(model, "_orig_mod", model)
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return unwrapped(inner.module) if isinstance(inner, wrappers) else inner


class _EmbeddingSwap:
    """Hooks on the embeddings of a network that record what they give, or give something else in
    its place.
    """

    def __init__(self, model: Model) -> None:
        self.model = unwrapped(model)
        modules = self.model.named_modules() if isinstance(self.model, nn.Module) else ()
        self.embeddings = {
            name: module for name, module in modules if isinstance(module, nn.Embedding)
        }
        self.seen: list[tuple[str, Tensor, Tensor]] = []
        self.given: dict[int, Tensor] | None = None
        self.call = 0
        self.per_row: list[int] = []

    def record(self, inputs: Any) -> list[_Part]:
        """The embeddings that depend on the row, in the order of their calls."""
        n = len(next(iter(_leaves(inputs).values())))
        if not self.embeddings or not n:
            return []
        # Position embeddings and the like have one answer for all rows: their length does not
        # follow the batch.
        counts = [
            [len(output) for _, _, output in self._run(_first_row(inputs, times))]
            for times in (1, 2)
        ]
        self.per_row = [
            i for i, (one, two) in enumerate(zip(*counts, strict=True)) if two == 2 * one
        ]
        seen = self._run(inputs)
        repeated = [seen[i][0] for i in self.per_row]
        names = [
            f"{name}@{i}" if repeated.count(name) > 1 else name
            for i, name in zip(self.per_row, repeated, strict=True)
        ]
        return [
            _Part(name, seen[i][2], seen[i][1]) for i, name in zip(self.per_row, names, strict=True)
        ]

    def giving(self, blocks: list[Tensor]) -> _Hooked:
        """A context in which the embeddings give these blocks."""
        self.given = dict(zip(self.per_row, blocks, strict=True))
        return _Hooked(self)

    def _run(self, inputs: Any) -> list[tuple[str, Tensor, Tensor]]:
        self.seen, self.given = [], None
        with torch.no_grad(), _Hooked(self):
            logits_of(self.model, inputs)
        return self.seen

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        """A forward hook for the embedding of this name."""

        def act(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            number, self.call = self.call, self.call + 1
            if self.given is None:
                self.seen.append((name, arguments[0].detach(), output.detach()))
                return None
            return self.given.get(number)

        return act


class _Hooked:
    """The hooks of a swap, set on entry and removed on exit."""

    def __init__(self, swap: _EmbeddingSwap) -> None:
        self.swap = swap

    def __enter__(self) -> None:
        self.swap.call = 0
        self.handles = [
            module.register_forward_hook(self.swap.hook(name))
            for name, module in self.swap.embeddings.items()
        ]

    def __exit__(self, *failure: object) -> None:
        for handle in self.handles:
            handle.remove()
