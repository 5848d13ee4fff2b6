"""Rows as 64-bit keys: equal rows have equal keys, whatever their types, at the cost of reading the
table once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import BLOCK_CELLS

Features = pd.DataFrame | Tensor

# The finaliser of SplitMix64 as signed integers; sums and products wrap around, as they do there.
_GOLDEN = -0x61C8864680B583EB
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_MISSING = -0x2152411021524111


def row_keys(sides: Sequence[Features]) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    """One `[n]` int64 key per row of each side, and the columns that count: those that all sides
    have.

    `key = sum_j mix(word_j + j * golden) mod 2^64` with the finaliser of SplitMix64 as `mix`. Two
    different rows share a key with chance 2^-64: about 3e-8 for any pair among a million rows.
    Integers keep all 64 bits; a column that is an integer on one side and a float on another is
    compared as float64, or as float32 where a side is float32. Zeros of either sign are equal, and
    so are missing values.

    Source: Steele, Lea and Flood (2014), OOPSLA, figure 16, for the finaliser; Carter and Wegman
    (1979), J. Comput. Syst. Sci. 18:143, for the sum of hashes per position.

    Args:
        sides: tables `[n_i, d]`, or tensors `[n_i, ...]` of one row shape.

    Raises:
        InputError: tables are mixed with tensors, row shapes differ, or no column is shared.

    Cost: one pass over the values; `n` words beside them.
    """
    tables = [side for side in sides if isinstance(side, pd.DataFrame)]
    tensors = [side for side in sides if isinstance(side, Tensor)]
    if tables and tensors:
        reject(
            "features",
            "tables on all sides, or tensors on all",
            "a mixture",
            "Build all sides in the same way.",
        )
    if tensors:
        return _tensor_keys(tensors)
    names = [c for c in tables[0].columns if all(c in side.columns for side in tables[1:])]
    if not names:
        reject(
            "features",
            "at least one column that all sides have",
            "none",
            "Compare tables with the same columns.",
        )
    keys = [torch.zeros(len(side), dtype=torch.int64) for side in tables]
    for position, name in enumerate(names):
        for key, words in zip(keys, _column_words([side[name] for side in tables]), strict=True):
            key += mixed(words.add_((position + 1) * _GOLDEN % 2**64 - 2**63))
    return tuple(keys), tuple(map(str, names))


def mixed(words: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64 words, in place: every input bit moves every output bit
    with chance one half.
    """
    words ^= (words >> 30) & (2**34 - 1)
    words *= _FIRST
    words ^= (words >> 27) & (2**37 - 1)
    words *= _SECOND
    words ^= (words >> 31) & (2**33 - 1)
    return words


def first_matches(reference: Tensor, keys: Tensor) -> Tensor:
    """`[m]` int64: the first row of the reference that has the same key, or -1.

    Args:
        reference: `[n]` int64.
        keys: `[m]` int64 on the same device.

    Cost: `n log n + m log n`.
    """
    if not len(reference):
        return torch.full_like(keys, -1)
    ordered, rows = reference.sort(stable=True)
    place = torch.searchsorted(ordered, keys).clamp(max=len(ordered) - 1)
    return torch.where(ordered[place] == keys, rows[place], -1)


def _tensor_keys(sides: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[str, ...]]:
    shapes = {tuple(side.shape[1:]) for side in sides}
    if len(shapes) > 1:
        reject(
            "features",
            "rows of one shape on all sides",
            str(sorted(map(str, shapes))),
            "Build all sides with the same preprocessing.",
        )
    kinds = {side.dtype for side in sides}
    narrow = next(
        (kind for kind in (torch.float16, torch.bfloat16, torch.float32) if kind in kinds),
        torch.float64,
    )
    whole = not any(kind.is_floating_point for kind in kinds)
    keys = []
    for side in sides:
        flat = side.detach().reshape(len(side), -1)
        offset = torch.arange(1, flat.shape[1] + 1, device=flat.device) * _GOLDEN
        step = max(BLOCK_CELLS // max(flat.shape[1], 1), 1)
        parts = [
            mixed(_tensor_words(part, whole, narrow) + offset).sum(1)
            for part in torch.split(flat, step)
        ]
        keys.append(
            torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=side.device)
        )
    return tuple(keys), tuple(f"feature_{i}" for i in range(int(np.prod(sides[0].shape[1:]))))


def _tensor_words(values: Tensor, whole: bool, narrow: torch.dtype) -> Tensor:
    if whole:
        return values.long()
    numbers = values.to(narrow).double() + 0.0
    return torch.where(numbers.isnan(), _MISSING, numbers.view(torch.int64))


def _column_words(sides: Sequence[pd.Series[Any]]) -> list[Tensor]:
    """One column of each side as int64 words that are equal where the values are."""
    kinds = {side.dtype.kind for side in sides}
    gaps = [side.isna().to_numpy() for side in sides]
    if kinds <= set("iub") and not any(gap.any() for gap in gaps):
        return [torch.from_numpy(side.to_numpy().astype(np.int64)) for side in sides]
    if kinds <= set("iubf"):
        single = any(str(side.dtype) in ("float32", "Float32") for side in sides)
        numbers = [side.to_numpy(dtype=np.float64, na_value=np.nan) for side in sides]
        numbers = [
            value.astype(np.float32).astype(np.float64) if single else value for value in numbers
        ]
        return [
            _or_missing((value + 0.0).view(np.int64), gap)
            for value, gap in zip(numbers, gaps, strict=True)
        ]
    if kinds == {"M"} and len({str(side.dtype) for side in sides}) == 1:
        return [
            _or_missing(side.to_numpy().astype("int64"), gap)
            for side, gap in zip(sides, gaps, strict=True)
        ]
    texts = [
        pd.util.hash_array(np.asarray(side.astype("string").fillna(""), dtype=object))
        for side in sides
    ]
    return [_or_missing(text.view(np.int64), gap) for text, gap in zip(texts, gaps, strict=True)]


def _or_missing(words: np.ndarray[Any, np.dtype[np.int64]], gaps: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.where(gaps, _MISSING, words))
