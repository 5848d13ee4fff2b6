"""`gendebug profile`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Literal

import gendebug_torch as gd
from gendebug_torch.cli.deliver import say
from gendebug_torch.cli.exit_codes import CLEAN
from gendebug_torch.cli.inputs import at_least, load_schema, option_of

Engine = Literal["local", "ray", "dask", "spark", "duckdb"]


def profile(
    data: str,
    schema: str,
    out: str,
    engine: Engine = "local",
    reference: str | None = None,
    sample: int = 16_384,
) -> int:
    """Sum up a data set of any size in one file, which diagnose, compare and history read.

    Args:
        data: file, folder, glob or address of Parquet or CSV.
        schema: YAML file that says what the columns are (target, time, logits, ...).
        out: file of the profile, e.g. week47.profile.
        engine: what reads the partitions: local, ray, dask, spark or duckdb.
        reference: profile whose columns say by which levels slices are counted, so that diagnose
            and compare judge slices on all rows.
        sample: number of rows that are kept.
    """
    at_least(1, sample=sample)
    columns = load_schema(schema)
    options: dict[str, Any] = {"sample": sample}
    if reference is not None:
        with option_of("--reference"):
            options["reference"] = gd.Profile.load(reference)
    with option_of("data"):
        if engine == "local":
            found = gd.profile(data, columns, progress=sys.stderr.isatty(), **options)
        else:
            module = import_module(f"gendebug_torch.profiles.engines.{engine}")
            found = module.profile_of(data, columns, **options)
    found.save(out)
    say(found.table().to_string(index=False), f"{found.rows:,} rows: {out}")
    return CLEAN
