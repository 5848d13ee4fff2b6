"""Sorted columns of a sample, whole or as quantile sketches, for repeated two-sample tests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.data.files import replacing
from gendebug_torch.errors import reading, reject

_Loaded = TypeVar("_Loaded")
# Elements sorted at once by one thread (16 MiB of float64): enough to hide the overhead.
BLOCK_ELEMENTS = 1 << 21
CUDA_BLOCK_ELEMENTS = 1 << 26


@dataclass(frozen=True, eq=False)
class PreparedReference:
    """Sorted columns of a sample, so that later tests sort only the live rows; adds over rows.

    Args:
        columns: stored values, `[d, k]` float32 or float64, each row ascending, NaN last; each
            represents equally many rows.
        n: numbers of values of the whole sample, missing ones excluded, `[d]` int64.
        missing: numbers of missing values, `[d]` int64.
        error: largest distances between the distribution functions of the stored and of all values,
            `[d]` float64.
        names: column names, `d` of them, or empty.
        size: largest number of values stored per column; None stores all.
    """

    columns: Tensor
    n: Tensor
    missing: Tensor
    error: Tensor
    names: tuple[str, ...] = ()
    size: int | None = None

    @property
    def stored(self) -> Tensor:
        """Numbers of stored values, `[d]` int64."""
        return self.n.clamp(max=self.columns.shape[1])

    def values(self, column: int) -> Tensor:
        """Stored values of one column, `[stored]` ascending."""
        return self.columns[column, : int(self.stored[column])]

    def select(self, columns: Sequence[int]) -> PreparedReference:
        """The columns with these numbers, in this order."""
        chosen = list(columns)
        parts = {name: getattr(self, name)[chosen] for name in ("columns", "n", "missing", "error")}
        return replace(
            self, **parts, names=tuple(self.names[i] for i in chosen) if self.names else ()
        )

    def sketch(self, size: int = 4096) -> PreparedReference:
        """The same sample in constant size: `size` evenly spaced quantiles of each column.

        `error` grows by `1 / (2 size)`. Columns with fewer values are stored whole. A later `+`
        reduces the sum to the same size again.

        Args:
            size: largest number of values stored per column, at least 2.
        """
        if size < 2:
            reject("size", "at least 2", str(size), "4096 keeps distances within 0.0002.")
        stored, width = self.stored, self.columns.shape[1]
        left = stored.clamp(max=size)
        rank = torch.arange(min(size, width), device=self.columns.device)[None, :]
        step = (stored / left.clamp(min=1)).double()[:, None]
        index = ((rank + 0.5) * step).long().clamp(max=max(width - 1, 0))
        columns = self.columns.gather(1, index).masked_fill(rank >= left[:, None], math.nan)
        error = self.error + (stored > size).double() * (0.5 / size)
        return replace(self, columns=columns, error=error, size=size)

    def __add__(self, other: PreparedReference) -> PreparedReference:
        """Both samples together, reduced to `size` again where there is one.

        The reduction adds `1 / (2 size)` to the mean of both errors; chunks that are added pairwise
        stay within `(1 + log2(chunks)) / (2 size)`.

        Source: Munro and Paterson (1980), Theor. Comput. Sci. 12:315; Manku, Rajagopalan and
        Lindsay (1998), SIGMOD, section 4.
        """
        if (self.names, self.size, len(self.n)) != (other.names, other.size, len(other.n)):
            reject(
                "other",
                f"the same columns, of at most {self.size} stored values",
                "another reference",
                "Build both with the same call.",
            )
        n = self.n + other.n
        error = (self.n * self.error + other.n * other.error) / n.clamp(min=1)
        if self.size is not None:
            error = error + (n > self.size).double() * (0.5 / self.size)
        columns = _merged_quantiles(self, other, self.size)
        missing = self.missing + other.missing
        return replace(self, columns=columns, n=n, missing=missing, error=error)

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        return save_tensors(path, self.tensors(), self.header())

    @classmethod
    def load(cls, path: str | Path) -> PreparedReference:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, a file of another kind, or a damaged one.
        """
        return load_tensors(path, "PreparedReference.save", cls.from_tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the file that `save` writes."""
        return {name: getattr(self, name) for name in ("columns", "n", "missing", "error")}

    def header(self) -> dict[str, Any]:
        """Header of the file that `save` writes, as JSON."""
        return {"names": self.names, "size": self.size}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> PreparedReference:
        """The inverse of `tensors` and `header`."""
        parts = {name: tensors[name] for name in ("columns", "n", "missing", "error")}
        return cls(**parts, names=tuple(header["names"]), size=header["size"])


def prepare_reference(reference: Tensor, *, names: Sequence[str] = ()) -> PreparedReference:
    """Columns sorted once, for repeated two-sample tests against the same reference.

    Args:
        reference: real numbers, `[n, d]` or `[n]`; NaN is missing; float32 stays float32, others
            become float64 (integers above 2**53 are rounded).
        names: column names, `d` of them, or empty.

    Returns:
        The sorted columns; `.sketch(size)` stores them in constant size, `.save(path)` in a file.

    Raises:
        InputError: not a real tensor of one or two axes, or another number of names than columns.

    Cost: `d n log n` time; holds `d n` values, and one block of columns beside them.

    Example:
        >>> rows = torch.arange(20_000.0)
        >>> sketch = prepare_reference(rows).sketch(size=100)
        >>> sketch.columns.shape, float(sketch.error)
        (torch.Size([1, 100]), 0.005)
    """
    values = matrix(reference, "reference")
    d = values.shape[1]
    check_names(names, d)
    columns = torch.empty(d, len(values), dtype=values.dtype, device=values.device)
    counts = torch.empty(d, dtype=torch.int64, device=values.device)

    def fill(start: int, stop: int) -> None:
        columns[start:stop], counts[start:stop] = sorted_columns(values[:, start:stop])

    over_blocks(fill, values, len(values))
    exact = torch.zeros(d, dtype=torch.float64, device=values.device)
    return PreparedReference(columns, counts, len(values) - counts, exact, tuple(map(str, names)))


def as_prepared(side: Tensor | PreparedReference) -> PreparedReference:
    """A sample with its columns sorted."""
    return side if isinstance(side, PreparedReference) else prepare_reference(side)


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Path:
    """One safetensors file with a JSON header and a checksum of all of it, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header)
    metadata = {"gendebug": text, "sha256": _checksum(text, contiguous)}
    with replacing(path) as scratch:
        save_file(contiguous, scratch, metadata)
    return Path(path)


def load_tensors(
    path: str | Path,
    writer: str,
    build: Callable[[dict[str, Tensor], dict[str, Any]], _Loaded],
) -> _Loaded:
    """What `build` makes of the tensors and the header of a file of `save_tensors`.

    Args:
        path: path of the file.
        writer: name of the method that writes such files, for the error.
        build: function of tensors and header.

    Raises:
        InputError: no such file, a file of another kind, or a damaged one.
    """
    from safetensors import safe_open

    with reading(path, f"a file written by `{writer}`", remedy="Prepare the reference anew."):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["gendebug"]
        if metadata["sha256"] != _checksum(text, tensors):
            raise ValueError("the checksum differs, so the file is damaged")
        return build(tensors, json.loads(text))


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def matrix(value: Tensor, argument: str) -> Tensor:
    """`[n, d]` float32 or float64."""
    if not isinstance(value, Tensor):
        reject(
            argument,
            "a tensor [n, d] or [n]",
            type(value).__name__,
            "Convert with torch.as_tensor.",
        )
    if value.ndim not in (1, 2) or value.is_complex():
        reject(
            argument,
            "real numbers [n, d] or [n]",
            f"{value.dtype} {list(value.shape)}",
            "Flatten the rows, or select a column.",
        )
    value = value.detach()
    value = value[:, None] if value.ndim == 1 else value
    if value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value if value.dtype in (torch.float32, torch.float64) else value.double()


def check_names(names: Sequence[str], d: int) -> None:
    """One name per column, or none."""
    if names and len(names) != d:
        reject(
            "names",
            f"one name for each of {d} columns",
            f"{len(names)} names",
            "Pass one per column, or none.",
        )


def over_blocks(work: Callable[[int, int], None], values: Tensor, rows: int) -> None:
    """Call `work(start, stop)` per block of columns, in threads on the CPU, in turn on CUDA."""
    d = values.shape[1]
    if values.device.type != "cpu":
        width = max(1, CUDA_BLOCK_ELEMENTS // max(rows, 1))
        for start in range(0, d, width):
            work(start, min(start + width, d))
        return
    threads = min(torch.get_num_threads(), max(d, 1))
    width = max(1, min(BLOCK_ELEMENTS // max(rows, 1), math.ceil(d / (2 * threads))))
    starts = range(0, d, width)
    if threads == 1:
        for start in starts:
            work(start, min(start + width, d))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: work(start, min(start + width, d)), starts))


def sorted_columns(values: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending `[c, n]` columns of `[n, c]`, NaN last, and their `[c]` numbers of values."""
    if values.device.type != "cpu":
        ascending = values.T.contiguous().sort(dim=1).values
        return ascending, len(values) - ascending.isnan().sum(1)
    block: NDArray[Any] = np.array(values.numpy().T, order="C", copy=True)
    block.sort(axis=1)
    valid = [int(np.searchsorted(row, np.nan)) for row in block]
    return torch.from_numpy(block), torch.tensor(valid, dtype=torch.int64)


def _merged_quantiles(one: PreparedReference, other: PreparedReference, size: int | None) -> Tensor:
    """`[d, k]` evenly spaced quantiles of two samples together, or all values without a size."""
    columns = torch.cat([one.columns, other.columns], 1)
    order = _merged_order(columns)
    weights = torch.cat([_weights(one), _weights(other)], 1).gather(1, order)
    n, width = one.n + other.n, columns.shape[1]
    length = min(width, size or width)
    stored = n.clamp(max=length)
    rank = torch.arange(length, device=columns.device)[None, :]
    targets = (rank + 0.5) * (n / stored.clamp(min=1)).double()[:, None]
    index = _first_reaching(weights.cumsum(1), targets).clamp(max=max(width - 1, 0))
    return columns.gather(1, order.gather(1, index)).masked_fill(rank >= stored[:, None], math.nan)


def _weights(sample: PreparedReference) -> Tensor:
    """`[d, k]` numbers of rows that each stored value represents; 0 beyond them."""
    rank = torch.arange(sample.columns.shape[1], device=sample.n.device)[None, :]
    rows = (sample.n / sample.stored.clamp(min=1)).double()[:, None]
    return (rank < sample.stored[:, None]) * rows


def _merged_order(columns: Tensor) -> Tensor:
    """`[d, k]` ascending order of two ascending runs, which a stable sort merges in one pass."""
    if columns.device.type != "cpu":
        return columns.argsort(dim=1, stable=True)
    return torch.from_numpy(np.argsort(columns.numpy(), axis=1, kind="stable"))


def _first_reaching(ascending: Tensor, targets: Tensor) -> Tensor:
    """`[d, s]` first indices where ascending rows reach the targets, which ascend too.

    NumPy goes on from the last index where torch starts anew.
    """
    if ascending.device.type != "cpu":
        return torch.searchsorted(ascending, targets)
    pairs = zip(ascending.numpy(), targets.numpy(), strict=True)
    return torch.from_numpy(
        np.array([np.searchsorted(*pair) for pair in pairs], dtype=np.int64).reshape(targets.shape)
    )
