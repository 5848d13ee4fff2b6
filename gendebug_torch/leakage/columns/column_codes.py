"""Columns of features as level codes, block by block, so that every column is counted against the
target in one way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

# Cells of one block: the working memory of a screen, whatever the table.
BLOCK_CELLS = 2**22
# Quantiles are taken from so many rows; their own error moves no row by more than a fraction of a
# bin.
QUANTILE_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class CodedBlock:
    """Some columns as level codes; the last level holds the missing values.

    Args:
        names: of the c columns.
        codes: `[c, n]` int64 in 0..levels-1; ascending with the value where the columns are
            quantities.
        levels: number of levels, the missing one included.
        values: `[c, n]` float64 of quantities; None for names.
        distinct: `[c]` int64 different values among those that were looked at.
    """

    names: tuple[str, ...]
    codes: Tensor
    levels: int
    values: Tensor | None
    distinct: Tensor


def coded_blocks(
    features: pd.DataFrame | Tensor,
    *,
    categorical: Sequence[str] = (),
    bins: int | None = None,
    most_levels: int = 256,
) -> Iterator[CodedBlock]:
    """All columns of a table, or all entries of a tensor, as blocks of level codes.

    Quantities fall into quantile bins; a value that fills a bin by itself gets a level of its own,
    so that a pile of zeros is not mixed with its neighbours. Names keep their most frequent values,
    the rest is pooled.

    Args:
        features: `[n, d]` table or `[n, ...]` tensor.
        categorical: columns that hold codes although they are numbers.
        bins: of a quantity; default: one for 25 rows, 4 to 64.
        most_levels: of a column of names.
    """
    n = len(features)
    wanted = min(max(n // 25, 4), 64) if bins is None else bins
    width = max(BLOCK_CELLS // max(n, 1), 1)
    if isinstance(features, Tensor):
        flat = features.detach().reshape(n, -1)
        for start in range(0, flat.shape[1], width):
            values = flat[:, start : start + width].T.double().contiguous()
            yield quantity_block(
                tuple(f"feature_{start + i}" for i in range(len(values))), values, wanted
            )
        return
    numeric = [
        c for c in features.columns if is_quantity(features[c]) and str(c) not in categorical
    ]
    for start in range(0, len(numeric), width):
        part = numeric[start : start + width]
        values = torch.stack([torch.from_numpy(numbers(features[c])) for c in part])
        yield quantity_block(tuple(map(str, part)), values, wanted)
    chosen = set(numeric)
    for column in features.columns:
        if column not in chosen:
            yield name_block(str(column), features[column], most_levels)


def is_quantity(values: pd.Series[Any]) -> bool:
    """Whether a column holds numbers, truth values or times."""
    return values.dtype.kind in "fiubmM"


def numbers(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n]` float64, NaN where missing; times count nanoseconds."""
    if values.dtype.kind in "mM":
        gaps = values.isna().to_numpy()
        return np.where(gaps, np.nan, values.to_numpy().astype("int64").astype(np.float64))
    return np.array(values.to_numpy(dtype=np.float64, na_value=np.nan), copy=True)


def quantity_block(names: tuple[str, ...], values: Tensor, bins: int) -> CodedBlock:
    """Quantile codes of `[c, n]` values."""
    n = values.shape[1]
    rows = torch.linspace(0, max(n - 1, 0), min(n, QUANTILE_ROWS), device=values.device).long()
    sample = values[:, rows].sort(1).values
    present = (~sample.isnan()).sum(1, keepdim=True)
    distinct = ((sample[:, 1:] != sample[:, :-1]) & ~sample[:, 1:].isnan()).sum(1) + (
        present[:, 0] > 0
    )
    share = torch.arange(1, bins + 1, device=values.device) / (bins + 1)
    edges = (
        sample.gather(1, (share * present).long().clamp(max=max(sample.shape[1] - 1, 0)))
        if n
        else values.new_zeros(len(values), bins)
    )
    edges = edges.nan_to_num(math.inf, posinf=math.inf, neginf=-math.inf).contiguous()
    same = edges[:, 1:] == edges[:, :-1]
    edge = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
    atom = torch.cat([same, edge], 1) | torch.cat([edge, same], 1)
    place = torch.searchsorted(edges, values)
    inside = place.clamp(max=bins - 1)
    on_atom = (edges.gather(1, inside) == values) & atom.gather(1, inside)
    codes = torch.where(values.isnan(), 2 * bins + 1, 2 * place + on_atom.long())
    return CodedBlock(names, codes, 2 * bins + 2, values, distinct)


def name_block(name: str, values: pd.Series[Any], most_levels: int) -> CodedBlock:
    """Codes of one column of names by falling frequency; the last but one level pools the rare
    names.
    """
    codes, uniques = pd.factorize(values)
    frequency = np.bincount(codes[codes >= 0], minlength=len(uniques))
    rank = np.empty(len(uniques), dtype=np.int64)
    rank[np.argsort(-frequency, kind="stable")] = np.arange(len(uniques))
    kept = min(len(uniques), most_levels)
    ranked = np.minimum(rank, kept)[codes] if len(uniques) else np.zeros(len(codes), dtype=np.int64)
    ranked = np.where(codes < 0, kept + 1, ranked)
    return CodedBlock(
        (name,), torch.from_numpy(ranked)[None], kept + 2, None, torch.tensor([len(uniques)])
    )
