"""`gendebug parity`."""

from __future__ import annotations

import sys
import time

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import at_least, load_table
from gendebug_torch.errors import brief, reject
from gendebug_torch.leakage.checks._parity import parity_findings
from gendebug_torch.model.formats import import_name


def parity(
    pipeline: str,
    raw: str,
    stored: str,
    out: str,
    key: str | None = None,
    tolerance: float = 1e-6,
    max_rows: int | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Recompute features one record at a time, as in serving, and compare with the stored ones.

    Args:
        pipeline: MODULE:NAME of a callable from a one-row table to its features, importable from
            here.
        raw: table of the records as they arrive (CSV or Parquet).
        stored: table of the features stored for them.
        out: directory for report.html and findings.json.
        key: column of both tables that identifies the row; without it rows are compared in order.
        tolerance: largest difference that counts as equal, relative to 1 + |stored|.
        max_rows: number of records to recompute, evenly spaced.
        fail_on: exit with 1 from this severity on.
        also: further files to write, junit (findings.xml) and markdown (findings.md).
    """
    at_least(1, max_rows=max_rows)
    at_least(0, tolerance=tolerance)
    records, features = load_table(raw, "--raw"), load_table(stored, "--stored")
    if key is not None:
        for name, table in (("--raw", records), ("--stored", features)):
            if key not in table or table[key].duplicated().any():
                reject(
                    name,
                    f"one row per value of {key!r}",
                    "no such column, or repeated values",
                    "Pass another key.",
                )
        features = features.set_index(key).reindex(records[key]).reset_index(drop=True)
    started = time.perf_counter()
    call = import_name(pipeline, "--pipeline")
    if not callable(call):
        reject(
            "--pipeline",
            "a callable",
            f"{pipeline}, {brief(call)}",
            "Name a function from a one-row table to its features.",
        )
    found = gd.leakage.feature_parity(
        call,
        records,
        features,
        tolerance=tolerance,
        max_rows=max_rows,
        progress=sys.stderr.isatty(),
    )
    context = {"records": f"{found.rows:,}", "seconds": f"{time.perf_counter() - started:.1f}"}
    diagnosis = gd.Diagnosis(tuple(parity_findings(found)), context)
    tables = {"Every feature": found.table(), "First differences": found.differences().astype(str)}
    return deliver(
        diagnosis, out, fail_on, also=also or (), pictures={"Parity": found}, tables=tables
    )
