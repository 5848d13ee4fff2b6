"""Profiles of Dask DataFrames."""

from __future__ import annotations

from typing import Any

from gendebug_torch.data.schema import Schema
from gendebug_torch.profiles.build import profile, sum_of
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.profile import Profile

_ADDED_AT_ONCE = 8


def profile_of(rows: Any, schema: Schema, **options: Any) -> Profile:
    """The profile of a Dask DataFrame, summed up in a tree over its partitions.

    Args:
        rows: dask.dataframe.DataFrame, or what Dask reads: a file, glob or address.
        schema: meaning of the columns.
        options: options of `profile`.
    """
    dask = library("dask", "dask")
    if isinstance(rows, str):
        frames = library("dask.dataframe", "dask")
        codes = dict.fromkeys((*schema.categorical, *schema.ids), "string")
        csv = is_csv(rows)
        rows = frames.read_csv(rows, dtype=codes) if csv else frames.read_parquet(rows)
    parts = [dask.delayed(profile)(part, schema, **options) for part in rows.to_delayed()]
    add = dask.delayed(sum_of)
    while len(parts) > 1:
        starts = range(0, len(parts), _ADDED_AT_ONCE)
        parts = [add(parts[at : at + _ADDED_AT_ONCE]) for at in starts]
    found: Profile = parts[0].compute()
    return found
