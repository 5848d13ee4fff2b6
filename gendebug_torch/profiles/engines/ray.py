"""Profiles of Ray data sets."""

from __future__ import annotations

from typing import Any

from gendebug_torch.data.schema import Schema
from gendebug_torch.profiles.build import profile, sum_of
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.profiles.sources import CHUNK_ROWS, files_of
from gendebug_torch.shift.columns.chunks import csv_options


def profile_of(rows: Any, schema: Schema, **options: Any) -> Profile:
    """The profile of a Ray data set, block by block.

    Args:
        rows: ray.data.Dataset, or a file, folder, glob or address.
        schema: meaning of the columns.
        options: options of `profile`.
    """
    data = library("ray.data", "ray")
    if isinstance(rows, str):
        files, system = files_of(rows)
        codes = csv_options((*schema.categorical, *schema.ids))
        csv = {"convert_options": codes} if is_csv(files[0]) else {}
        rows = (data.read_csv if csv else data.read_parquet)(files, filesystem=system, **csv)

    def part(block: Any) -> dict[str, Any]:
        return {"content": [profile(block, schema, **options).to_bytes()]}

    parts = rows.map_batches(part, batch_format="pyarrow", batch_size=CHUNK_ROWS)
    return sum_of(Profile.from_bytes(bytes(row["content"])) for row in parts.take_all())
