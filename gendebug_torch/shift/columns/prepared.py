"""Columns sorted once, whole or in constant size: the side of a comparison that is prepared, saved
and met again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.data.files import replacing
from gendebug_torch.errors import reject

# Elements sorted at once by one thread (16 MiB of float64): enough to hide the overhead, small
# beside any table.
BLOCK = 1 << 21
CUDA_BLOCK = 1 << 26


@dataclass(frozen=True, eq=False)
class PreparedReference:
    """Sorted columns, so that every later check sorts only the live rows; all values, or so many
    that the size is constant. Adds over rows.

    Args:
        columns: `[d, k]` float32 or float64, each row ascending, NaN last; each value of a column
            stands for equally many rows.
        n: `[d]` int64 values that are not missing, of the whole sample.
        missing: `[d]` int64 missing values, excluded from every test.
        error: `[d]` float64, how far the distribution function of the values here is from that of
            all n, at most.
        names: `d` column names, or empty.
        size: most values kept of a column; None keeps all.
    """

    columns: Tensor
    n: Tensor
    missing: Tensor
    error: Tensor
    names: tuple[str, ...] = ()
    size: int | None = None

    @property
    def kept(self) -> Tensor:
        """`[d]` int64 values of each column that are here."""
        return self.n.clamp(max=self.columns.shape[1])

    def values(self, column: int) -> Tensor:
        """`[kept]` ascending values of one column."""
        return self.columns[column, : int(self.kept[column])]

    def select(self, places: Sequence[int]) -> PreparedReference:
        """Some columns, in this order."""
        chosen = list(places)
        parts = {name: getattr(self, name)[chosen] for name in ("columns", "n", "missing", "error")}
        return replace(
            self, **parts, names=tuple(self.names[place] for place in chosen) if self.names else ()
        )

    def thinned(self, size: int = 4096) -> PreparedReference:
        """The same reference in constant size: `size` evenly spaced order statistics of each
        column, `error` grown by `1 / (2 size)`.

        Columns with fewer values are kept whole. A later `+` thins to the same size again.
        """
        if size < 2:
            reject("size", "at least 2", str(size), "4096 keeps distances within 0.0002.")
        kept, width = self.kept, self.columns.shape[1]
        left = kept.clamp(max=size)
        place = torch.arange(min(size, width), device=self.columns.device)[None, :]
        index = (
            ((place + 0.5) * (kept / left.clamp(min=1)).double()[:, None])
            .long()
            .clamp(max=max(width - 1, 0))
        )
        columns = self.columns.gather(1, index).masked_fill(place >= left[:, None], math.nan)
        return replace(
            self, columns=columns, error=self.error + (kept > size) * (0.5 / size), size=size
        )

    def __add__(self, other: PreparedReference) -> PreparedReference:
        """Both samples together, thinned to `size` again where there is one.

        Thinning adds `1 / (2 size)` to the mean of both errors; chunks that are added pairwise stay
        within `(1 + log2(chunks)) / (2 size)`.

        Source: Munro and Paterson (1980), Theor. Comput. Sci. 12:315; Manku, Rajagopalan and
        Lindsay (1998), SIGMOD, section 4.
        """
        if (self.names, self.size, len(self.n)) != (other.names, other.size, len(other.n)):
            reject(
                "other",
                f"the same columns, kept to {self.size} values",
                "another reference",
                "Build both with the same call.",
            )
        columns = torch.cat([self.columns, other.columns], 1)
        order = _merged_order(columns)
        weights = torch.cat([_weights(self), _weights(other)], 1).gather(1, order)
        n, width = self.n + other.n, columns.shape[1]
        kept = n.clamp(max=min(width, self.size or width))
        place = torch.arange(min(width, self.size or width), device=columns.device)[None, :]
        ranks = (place + 0.5) * (n / kept.clamp(min=1)).double()[:, None]
        index = _first_reaching(weights.cumsum(1), ranks).clamp(max=max(width - 1, 0))
        values = columns.gather(1, order.gather(1, index)).masked_fill(
            place >= kept[:, None], math.nan
        )
        mixed = (self.n * self.error + other.n * other.error) / n.clamp(min=1)
        error = mixed if self.size is None else mixed + (n > self.size) * (0.5 / self.size)
        return replace(self, columns=values, n=n, missing=self.missing + other.missing, error=error)

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, whole or not at all."""
        return save_tensors(path, self.tensors(), self.header())

    @classmethod
    def load(cls, path: str | Path) -> PreparedReference:
        """Read what `save` wrote."""
        return cls.from_tensors(*load_tensors(path, "PreparedReference.save"))

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds as tensors."""
        return {name: getattr(self, name) for name in ("columns", "n", "missing", "error")}

    def header(self) -> dict[str, Any]:
        """What a file holds as JSON."""
        return {"names": self.names, "size": self.size}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> PreparedReference:
        """The inverse of `tensors` and `header`."""
        parts = {name: tensors[name] for name in ("columns", "n", "missing", "error")}
        return cls(**parts, names=tuple(header["names"]), size=header["size"])


def prepare_reference(reference: Tensor, *, names: Sequence[str] = ()) -> PreparedReference:
    """The reference with every column sorted once, for repeated checks against it.

    Args:
        reference: `[n, d]` or `[n]` real numbers; NaN is missing; float32 stays float32, others
            become float64 (integers above 2**53 are rounded).
        names: `d` column names, or empty.

    Raises:
        InputError: not a real tensor of one or two axes, or another number of names than columns.

    Cost: `d n log n` time; holds `d n` values, and one block of columns beside them.
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
    """A side of a comparison with its columns sorted."""
    return side if isinstance(side, PreparedReference) else prepare_reference(side)


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> Path:
    """One safetensors file with a JSON header, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = Path(path)
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(target) as scratch:
            save_file(held, scratch, {"gendebug": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        reject("path", "a writable file", f"{target}: {error}", "Choose another path.")
    return target


def load_tensors(path: str | Path, writer: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header that `save_tensors` wrote; `writer` is named where the file is
    something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})["gendebug"])
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, header
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        reject(
            "path",
            f"a file written by `{writer}`",
            f"{path}: {error}",
            "Prepare the reference anew.",
        )


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
    """Call `work(start, stop)` over blocks of columns: in threads on the CPU, one after another on
    CUDA.
    """
    d = values.shape[1]
    if values.device.type != "cpu":
        width = max(1, CUDA_BLOCK // max(rows, 1))
        for start in range(0, d, width):
            work(start, min(start + width, d))
        return
    threads = min(torch.get_num_threads(), max(d, 1))
    width = max(1, min(BLOCK // max(rows, 1), math.ceil(d / (2 * threads))))
    starts = range(0, d, width)
    if threads == 1:
        for start in starts:
            work(start, min(start + width, d))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: work(start, min(start + width, d)), starts))


def sorted_columns(values: Tensor) -> tuple[Tensor, Tensor]:
    """`[n, c]` to ascending `[c, n]` with NaN last, and the `[c]` numbers of values that are not
    NaN.
    """
    if values.device.type != "cpu":
        ascending = values.T.contiguous().sort(dim=1).values
        return ascending, len(values) - ascending.isnan().sum(1)
    block: NDArray[Any] = np.array(values.numpy().T, order="C", copy=True)
    block.sort(axis=1)
    valid = [int(np.searchsorted(row, np.nan)) for row in block]
    return torch.from_numpy(block), torch.tensor(valid, dtype=torch.int64)


def _weights(sample: PreparedReference) -> Tensor:
    """`[d, k]` rows that each value stands for; 0 where there is none."""
    held = (
        torch.arange(sample.columns.shape[1], device=sample.n.device)[None, :]
        < sample.kept[:, None]
    )
    return held * (sample.n / sample.kept.clamp(min=1)).double()[:, None]


def _merged_order(columns: Tensor) -> Tensor:
    """`[d, k]` places in ascending order, of rows that are two ascending runs, which a stable sort
    merges in one pass.
    """
    if columns.device.type != "cpu":
        return columns.argsort(dim=1, stable=True)
    return torch.from_numpy(np.argsort(columns.numpy(), axis=1, kind="stable"))


def _first_reaching(ascending: Tensor, asked: Tensor) -> Tensor:
    """`[d, s]` first places of ascending rows that reach the values asked, ascending too: numpy
    walks on where torch starts anew.
    """
    if ascending.device.type != "cpu":
        return torch.searchsorted(ascending, asked)
    pairs = zip(ascending.numpy(), asked.numpy(), strict=True)
    return torch.from_numpy(
        np.array([np.searchsorted(*pair) for pair in pairs], dtype=np.int64).reshape(asked.shape)
    )
