"""Profiles of Spark DataFrames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from gendebug_torch.data.schema import Schema
from gendebug_torch.profiles.build import profile, sum_of
from gendebug_torch.profiles.engines.extras import is_csv, library
from gendebug_torch.profiles.profile import Profile


def profile_of(rows: Any, schema: Schema, **options: Any) -> Profile:
    """The profile of a Spark DataFrame, partition by partition.

    Args:
        rows: pyspark.sql.DataFrame, or what Spark reads: a file, folder or address.
        schema: meaning of the columns.
        options: options of `profile`.
    """
    if isinstance(rows, str):
        reader = library("pyspark.sql", "spark").SparkSession.builder.getOrCreate().read
        if is_csv(rows):
            # Codes stay as they are written.
            found = reader.csv(rows, header=True, inferSchema=True).dtypes
            codes = {*schema.categorical, *schema.ids}
            kinds = [f"`{name}` {'string' if name in codes else kind}" for name, kind in found]
            rows = reader.csv(rows, header=True, schema=", ".join(kinds))
        else:
            rows = reader.parquet(rows)

    def part(batches: Iterator[Any]) -> Iterator[Any]:
        content = profile(batches, schema, **options).to_bytes()
        yield pa.RecordBatch.from_pydict({"content": pa.array([content], pa.binary())})

    parts = rows.mapInArrow(part, "content binary").collect()
    return sum_of(Profile.from_bytes(bytes(row.content)) for row in parts)
