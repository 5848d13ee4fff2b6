"""Columns of a profile as tensors and JSON, for its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.profiles.sums.columns import Column, Moments
from gendebug_torch.profiles.sums.outcomes import sketch_of, sketch_tensors
from gendebug_torch.profiles.sums.sketch import Distinct
from gendebug_torch.profiles.sums.targets import CellSums, TargetSums

_COUNTS = ("kind", "rows", "missing", "whole", "single", "levels")
_GRIDS, _ARRAYS = ("cells", "lost"), ("levels", "moments", "missing")


def column_header(name: str, part: Column) -> dict[str, Any]:
    """What is no tensor of a column, as JSON.

    Args:
        name: name of the column.
        part: the column.
    """
    moments = dataclasses.astuple(part.moments)
    level = None if part.sketch is None else part.sketch.level
    target = None if part.target is None else _target_header(part.target)
    return {"name": name, "moments": moments, "level": level, "target": target} | {
        key: getattr(part, key) for key in _COUNTS
    }


def column_tensors(prefix: str, part: Column) -> dict[str, Tensor]:
    """The arrays of a column by name.

    Args:
        prefix: beginning of the names.
        part: the column.
    """
    tensors = {} if part.sketch is None else sketch_tensors(f"{prefix}.sketch", part.sketch)
    if part.distinct is not None:
        tensors[f"{prefix}.hashes"] = torch.tensor(part.distinct.hashes)
        tensors[f"{prefix}.counts"] = torch.tensor(part.distinct.counts)
    if part.target is not None:
        tensors |= _target_tensors(f"{prefix}.target", part.target)
    return tensors


def column_from(tensors: Mapping[str, Tensor], prefix: str, entry: Mapping[str, Any]) -> Column:
    """The inverse of `column_header` and `column_tensors`.

    Args:
        tensors: tensors by name.
        prefix: beginning of the names.
        entry: the header.
    """
    level, seen = entry["level"], None
    cells = None if level is None else sketch_of(tensors, f"{prefix}.sketch", level)
    if f"{prefix}.hashes" in tensors:
        seen = Distinct(*(tensors[f"{prefix}.{key}"].numpy() for key in ("hashes", "counts")))
    counts = {key: entry[key] for key in _COUNTS}
    # Absent in files of earlier versions.
    known = entry.get("target")
    target = None if known is None else _target_from(tensors, f"{prefix}.target", known)
    moments = Moments(*entry["moments"])
    return Column(sketch=cells, moments=moments, distinct=seen, target=target, **counts)


def _target_header(part: TargetSums) -> dict[str, Any]:
    grids = {key: getattr(part, key) for key in _GRIDS}
    levels = {key: grid.level for key, grid in grids.items() if grid is not None}
    return {"real": part.real, "names": part.names, "grids": levels}


def _target_tensors(prefix: str, part: TargetSums) -> dict[str, Tensor]:
    tensors = {f"{prefix}.{key}": torch.tensor(getattr(part, key)) for key in _ARRAYS}
    for key in _GRIDS:
        grid = getattr(part, key)
        if grid is not None:
            tensors[f"{prefix}.{key}.keys"] = torch.tensor(grid.keys)
            tensors[f"{prefix}.{key}.sums"] = torch.tensor(grid.sums)
    return tensors


def _target_from(
    tensors: Mapping[str, Tensor], prefix: str, entry: Mapping[str, Any]
) -> TargetSums:
    def array(key: str) -> Any:
        return tensors[f"{prefix}.{key}"].numpy()

    grids = {
        key: CellSums(array(f"{key}.keys"), array(f"{key}.sums"), level)
        for key, level in entry["grids"].items()
    }
    levels, moments, missing = map(array, _ARRAYS)
    names = None if entry["names"] is None else tuple(entry["names"])
    cells, lost = map(grids.get, _GRIDS)
    return TargetSums(bool(entry["real"]), cells, names, levels, moments, missing, lost)
