"""Profiles of Ray data sets."""

from __future__ import annotations

from typing import Any

from gendebug_torch.data.schema import Schema
from gendebug_torch.profiles.build import profile, sum_of
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.profiles.sources import CHUNK_ROWS


def profile_of(rows: Any, schema: Schema, **options: Any) -> Profile:
    """The profile of a Ray data set, block by block.

    Args:
        rows: ray.data.Dataset, or what Ray reads: a file, folder or address.
        schema: meaning of the columns.
        options: options of `profile`.
    """
    data = library("ray.data", "ray")
    if isinstance(rows, str):
        rows = data.read_csv(rows) if is_csv(rows) else data.read_parquet(rows)

    def part(block: Any) -> dict[str, Any]:
        return {"content": [profile(block, schema, **options).to_bytes()]}

    parts = rows.map_batches(part, batch_format="pyarrow", batch_size=CHUNK_ROWS)
    return sum_of(Profile.from_bytes(bytes(row["content"])) for row in parts.take_all())
