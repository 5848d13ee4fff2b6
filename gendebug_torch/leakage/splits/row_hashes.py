"""Rows as 64-bit hashes: equal rows have equal hashes, whatever the types of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import BLOCK_CELLS, Features, column_names

# The finaliser of SplitMix64 as signed integers; sums and products wrap around, as they do there.
_GOLDEN = -0x61C8864680B583EB
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_MISSING = -0x2152411021524111


def row_hashes(splits: Sequence[Features]) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """One `[n]` int64 hash per row of each split, and the names of the columns all splits have.

    `hash = sum_j mix(bits_j + j * golden) mod 2^64` with the finaliser of SplitMix64 as `mix`. Two
    different rows share a hash with chance 2^-64: about 3e-8 for any pair among a million rows.
    Integers keep all 64 bits; a column that is an integer in one split and a float in another is
    compared as float64, or as float32 where a split is float32. Zeros of either sign are equal, and
    so are missing values.

    Source: Steele, Lea and Flood (2014), OOPSLA, figure 16, for the finaliser; Carter and Wegman
    (1979), J. Comput. Syst. Sci. 18:143, for the sum of hashes per position.

    Args:
        splits: tables `[n_i, d]`, or tensors `[n_i, ...]` of one row shape.

    Raises:
        InputError: tables are mixed with tensors, row shapes differ, or no column is shared.

    Cost: one pass over the values; `n` words beside them.
    """
    tables = [split for split in splits if isinstance(split, pd.DataFrame)]
    tensors = [split for split in splits if isinstance(split, Tensor)]
    if tables and tensors:
        reject(
            "features",
            "tables in all splits, or tensors in all",
            "a mixture",
            "Build all splits in the same way.",
        )
    if tensors:
        return _tensor_hashes(tensors), column_names(tensors[0])
    names = [c for c in tables[0].columns if all(c in table.columns for table in tables[1:])]
    if not names:
        reject(
            "features",
            "at least one column that all splits have",
            "none",
            "Compare tables with the same columns.",
        )
    hashes = [torch.zeros(len(table), dtype=torch.int64) for table in tables]
    for position, name in enumerate(names, 1):
        columns = _column_bits([table[name] for table in tables])
        for total, bits in zip(hashes, columns, strict=True):
            total += splitmix64(bits.add_(position * _GOLDEN % 2**64 - 2**63))
    return tuple(hashes), tuple(map(str, names))


def splitmix64(words: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64 words, in place.

    Every input bit changes every output bit with chance one half.
    """
    words ^= (words >> 30) & (2**34 - 1)
    words *= _FIRST
    words ^= (words >> 27) & (2**37 - 1)
    words *= _SECOND
    words ^= (words >> 31) & (2**33 - 1)
    return words


def first_matches(reference: Tensor, hashes: Tensor) -> Tensor:
    """`[m]` int64: the first row of the reference that has the same hash, or -1.

    Args:
        reference: hashes, `[n]` int64.
        hashes: hashes on the same device, `[m]` int64.

    Cost: `n log n + m log n`.
    """
    if not len(reference):
        return torch.full_like(hashes, -1)
    ordered, rows = reference.sort(stable=True)
    position = torch.searchsorted(ordered, hashes).clamp(max=len(ordered) - 1)
    return torch.where(ordered[position] == hashes, rows[position], -1)


def _tensor_hashes(splits: Sequence[Tensor]) -> tuple[Tensor, ...]:
    shapes = {tuple(split.shape[1:]) for split in splits}
    if len(shapes) > 1:
        reject(
            "features",
            "rows of one shape in all splits",
            str(sorted(map(str, shapes))),
            "Build all splits with the same preprocessing.",
        )
    dtypes = {split.dtype for split in splits}
    narrow = (torch.float16, torch.bfloat16, torch.float32)
    common = next((dtype for dtype in narrow if dtype in dtypes), torch.float64)
    integer = not any(dtype.is_floating_point for dtype in dtypes)
    hashes = []
    for split in splits:
        flat = split.detach().reshape(len(split), -1)
        offset = torch.arange(1, flat.shape[1] + 1, device=flat.device) * _GOLDEN
        total = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
        step = max(BLOCK_CELLS // max(flat.shape[1], 1), 1)
        for start in range(0, len(flat), step):
            part = flat[start : start + step]
            bits = part.long() if integer else _float_bits(part.to(common))
            total[start : start + step] = splitmix64(bits + offset).sum(1)
        hashes.append(total)
    return tuple(hashes)


def _float_bits(values: Tensor) -> Tensor:
    numbers = values.double() + 0.0
    return torch.where(numbers.isnan(), _MISSING, numbers.view(torch.int64))


def _column_bits(splits: Sequence[pd.Series[Any]]) -> list[Tensor]:
    """One column of each split as int64 words that are equal where the values are."""
    kinds = {split.dtype.kind for split in splits}
    missing = [split.isna().to_numpy() for split in splits]
    if kinds <= set("iub") and not any(mask.any() for mask in missing):
        return [torch.from_numpy(split.to_numpy().astype(np.int64)) for split in splits]
    if kinds <= set("iubf"):
        single = any(str(split.dtype) in ("float32", "Float32") for split in splits)
        numbers = [split.to_numpy(dtype=np.float64, na_value=np.nan) for split in splits]
        words = [
            ((n.astype(np.float32).astype(np.float64) if single else n) + 0.0).view(np.int64)
            for n in numbers
        ]
    elif kinds == {"M"} and len({str(split.dtype) for split in splits}) == 1:
        words = [split.to_numpy().astype("int64") for split in splits]
    else:
        texts = [np.asarray(s.astype("string").fillna(""), dtype=object) for s in splits]
        words = [pd.util.hash_array(text).view(np.int64) for text in texts]
    return [
        torch.from_numpy(np.where(mask, _MISSING, word))
        for word, mask in zip(words, missing, strict=True)
    ]
