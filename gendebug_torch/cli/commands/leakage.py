"""`gendebug leakage`."""

from __future__ import annotations

import sys
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import deadline_of, load_model, load_schema, load_sides
from gendebug_torch.errors import reject
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap

_SPLITS = ("train", "validation", "production")


def leakage(
    tables: list[str],
    schema: str,
    out: str,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Find leaks: columns that contain the target, rows that splits share, fits on validation rows.

    Args:
        tables: one to three tables (CSV or Parquet): train, then validation, then production.
        schema: YAML file that declares what the columns are.
        out: directory for report.html and findings.json.
        model: MODULE:NAME of a network, through which suspicious columns are permuted.
        weights: safetensors file to load into the network.
        budget: time for the whole command, e.g. 90s or 2m.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    if len(tables) > len(_SPLITS):
        reject(
            "tables",
            "one to three tables",
            str(len(tables)),
            "Pass train, then validation, then production.",
        )
    deadline = deadline_of(budget)
    network = load_model(model, weights)
    named = dict(zip(_SPLITS, tables, strict=False))
    records: dict[str, Any] = dict(load_sides(named, load_schema(schema), network, "tables"))
    diagnosis = gd.diagnose(
        network, only="leakage", budget=deadline, progress=sys.stderr.isatty(), **records
    )
    shared = {
        f"{finding.evidence.kind.capitalize()}, shared by the splits": finding.evidence.table()
        for finding in diagnosis.findings
        if isinstance(finding.evidence, SplitOverlap)
    }
    return deliver(diagnosis, out, fail_on, deadline=deadline, also=also or (), tables=shared)
