"""Profiles of DuckDB relations."""

from __future__ import annotations

from typing import Any

from gendebug_torch.data.schema import Schema
from gendebug_torch.profiles.build import profile
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.profiles.sources import CHUNK_ROWS


def profile_of(rows: Any, schema: Schema, **options: Any) -> Profile:
    """The profile of a DuckDB relation, streamed in record batches.

    Args:
        rows: duckdb.DuckDBPyRelation, or what DuckDB reads: a file, glob or address.
        schema: meaning of the columns.
        options: options of `profile`.
    """
    if isinstance(rows, str):
        duckdb = library("duckdb", "duckdb")
        codes = dict.fromkeys((*schema.categorical, *schema.ids), "VARCHAR")
        csv = is_csv(rows)
        rows = duckdb.read_csv(rows, dtype=codes) if csv else duckdb.read_parquet(rows)
    # Its name before DuckDB 1.4 warns in later versions.
    reader = getattr(rows, "to_arrow_reader", None) or rows.fetch_record_batch
    return profile(reader(CHUNK_ROWS), schema, **options)
