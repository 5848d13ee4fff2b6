"""Columns of features as level codes, so that all are counted against the target in one way."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.inputs.nested_values import hashable_values, is_nested

Features = pd.DataFrame | Tensor

# Cells of one block: the working memory of a screen, whatever the size of the table.
BLOCK_CELLS = 2**22
# Rows from which quantiles are taken; their own error moves no row by more than a part of a bin.
QUANTILE_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class CodedBlock:
    """Some columns as level codes; the last level holds the missing values.

    Args:
        names: c column names.
        codes: levels, `[c, n]` int64; ascending with the value where the columns are quantities.
        levels: number of levels, the missing one included.
        values: quantities, `[c, n]` float64; None for names.
        distinct: number of different values in the rows inspected, `[c]` int64.
    """

    names: tuple[str, ...]
    codes: Tensor
    levels: int
    values: Tensor | None
    distinct: Tensor


def column_names(features: Features) -> tuple[str, ...]:
    """Names of the columns; the entries of a tensor's rows are `feature_0`, `feature_1`, ..."""
    if isinstance(features, Tensor):
        return tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
    return tuple(map(str, features.columns))


def feature_table(features: Features, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Features as a table with text names, all columns or those of the given names that exist.

    Args:
        features: table `[n, d]`, or tensor `[n, ...]`, which is copied to the host.
        columns: names to select, in their order in the features; None for all.
    """
    names = column_names(features)
    chosen = [i for i, name in enumerate(names) if columns is None or name in columns]
    if isinstance(features, Tensor):
        flat = features.detach().reshape(len(features), -1)
        part = (flat if columns is None else flat[:, chosen]).cpu()
        values = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
        return pd.DataFrame(values, columns=[names[i] for i in chosen])
    table = features if columns is None else features.iloc[:, chosen]
    table = table.set_axis([names[i] for i in chosen], axis=1)
    nested = [name for name in table.columns if is_nested(table[name])]
    return table.assign(**{name: hashable_values(table[name]) for name in nested})


def coded_blocks(
    features: Features,
    *,
    categorical: Sequence[str] = (),
    bins: int | None = None,
    max_levels: int = 256,
) -> Iterator[CodedBlock]:
    """All columns of a table, or all entries of a tensor, as blocks of level codes.

    Quantities fall into quantile bins; a value that fills a bin by itself gets a level of its own,
    so that a concentration at zero is not mixed with its neighbours. Names keep their most frequent
    values, the rest is pooled.

    Args:
        features: table `[n, d]` or tensor `[n, ...]`.
        categorical: numeric columns that hold codes.
        bins: number of bins of a quantity; default: one for 25 rows, 4 to 64.
        max_levels: largest number of levels of a column of names.
    """
    n = len(features)
    count = quantile_bins(n) if bins is None else bins
    numeric: set[str] = set()
    for names, values in quantities(features, categorical=categorical):
        yield quantity_block(names, values, count)
        numeric.update(names)
    if not isinstance(features, Tensor):
        for column in features.columns:
            if str(column) not in numeric:
                yield name_block(str(column), features[column], max_levels)


def quantile_bins(n: int) -> int:
    """Number of bins of a quantity by the number of rows: one for 25 rows, 4 to 64."""
    return min(max(n // 25, 4), 64)


def is_quantity(values: pd.Series[Any]) -> bool:
    """Whether a column holds numbers, truth values or times."""
    return values.dtype.kind in "fiubmM"


def numeric_values(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n]` float64 copy, NaN where missing; times count nanoseconds."""
    if values.dtype.kind in "mM":
        missing = values.isna().to_numpy()
        return np.where(missing, np.nan, values.to_numpy().astype("int64").astype(np.float64))
    return np.array(values.to_numpy(dtype=np.float64, na_value=np.nan), copy=True)


def quantity_block(names: tuple[str, ...], values: Tensor, bins: int) -> CodedBlock:
    """Quantile codes of `[c, n]` float64 values."""
    n = values.shape[1]
    rows = torch.linspace(0, max(n - 1, 0), min(n, QUANTILE_ROWS), device=values.device).long()
    sample = _sorted(values[:, rows])
    present = ~sample.isnan()
    steps = ((sample[:, 1:] != sample[:, :-1]) & present[:, 1:]).sum(1)
    edges = _quantile_edges(sample, present.sum(1, keepdim=True), bins)
    repeated = edges[:, 1:] == edges[:, :-1]
    border = torch.zeros(len(values), 1, dtype=torch.bool, device=values.device)
    atom = torch.cat([repeated, border], 1) | torch.cat([border, repeated], 1)
    position = torch.searchsorted(edges, values)
    edge = position.clamp(max=bins - 1)
    on_atom = (edges.gather(1, edge) == values) & atom.gather(1, edge)
    codes = torch.where(values.isnan(), 2 * bins + 1, 2 * position + on_atom.long())
    return CodedBlock(names, codes, 2 * bins + 2, values, steps + present.any(1).long())


def _sorted(values: Tensor) -> Tensor:
    """Ascending rows, missing values last; NumPy sorts several times faster than torch on a CPU."""
    if values.device.type != "cpu":
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def quantities(
    features: Features, *, categorical: Sequence[str] = ()
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Names and `[c, n]` float64 values of the columns that are quantities, block by block.

    Args:
        features: table `[n, d]` or tensor `[n, ...]`.
        categorical: numeric columns that hold codes.
    """
    n = len(features)
    width = max(BLOCK_CELLS // max(n, 1), 1)
    if isinstance(features, Tensor):
        flat, names = features.detach().reshape(n, -1), column_names(features)
        for start in range(0, flat.shape[1], width):
            values = flat[:, start : start + width].T.double().contiguous()
            yield names[start : start + width], values
        return
    numeric = [
        c for c in features.columns if is_quantity(features[c]) and str(c) not in categorical
    ]
    for start in range(0, len(numeric), width):
        part = numeric[start : start + width]
        columns = [torch.from_numpy(numeric_values(features[c])) for c in part]
        yield tuple(map(str, part)), torch.stack(columns)


def _quantile_edges(sample: Tensor, present: Tensor, bins: int) -> Tensor:
    """`[c, bins]` quantiles of `[c, m]` sorted values, of which `[c, 1]` are present."""
    if not sample.shape[1]:
        return sample.new_zeros(len(sample), bins)
    share = torch.arange(1, bins + 1, device=sample.device) / (bins + 1)
    edges = sample.gather(1, (share * present).long().clamp(max=sample.shape[1] - 1))
    return edges.nan_to_num(math.inf, posinf=math.inf, neginf=-math.inf).contiguous()


def name_block(name: str, values: pd.Series[Any], max_levels: int) -> CodedBlock:
    """Codes of one column of names by falling frequency; the last but one level pools the rest."""
    codes, uniques = pd.factorize(hashable_values(values))
    frequency = np.bincount(codes[codes >= 0], minlength=len(uniques))
    rank = np.empty(len(uniques), dtype=np.int64)
    rank[np.argsort(-frequency, kind="stable")] = np.arange(len(uniques))
    levels = min(len(uniques), max_levels)
    ranks = np.minimum(rank, levels)[codes] if len(uniques) else np.zeros(len(codes), np.int64)
    ranks = np.where(codes < 0, levels + 1, ranks)
    distinct = torch.tensor([len(uniques)])
    return CodedBlock((name,), torch.from_numpy(ranks)[None], levels + 2, None, distinct)


def cell_codes(rows: Tensor, bins: int) -> Tensor:
    """`[b]` codes of ascending cells in quantile bins, as `quantity_block` codes values.

    A cell that fills a bin by itself gets a level of its own.

    Args:
        rows: number of rows of each cell, `[b]` float64.
        bins: number of bins.
    """
    total = rows.cumsum(0)
    share = torch.arange(1, bins + 1, dtype=torch.float64) / (bins + 1)
    ranks = (share * total[-1]).floor()
    edges = torch.searchsorted(total, ranks, right=True).clamp(max=len(rows) - 1)
    repeated = edges[1:] == edges[:-1]
    border = torch.zeros(1, dtype=torch.bool)
    atom = torch.cat([repeated, border]) | torch.cat([border, repeated])
    cells = torch.arange(len(rows))
    position = torch.searchsorted(edges, cells)
    edge = position.clamp(max=bins - 1)
    return 2 * position + ((edges[edge] == cells) & atom[edge]).long()


def frequency_codes(rows: Tensor, max_levels: int = 256) -> Tensor:
    """`[b]` codes of levels by falling frequency, the rest pooled, as `name_block` codes names.

    Args:
        rows: number of rows of each level, `[b]` float64.
        max_levels: largest number of levels.
    """
    rank = torch.empty(len(rows), dtype=torch.int64)
    rank[rows.argsort(descending=True, stable=True)] = torch.arange(len(rows))
    return rank.clamp(max=max_levels)
