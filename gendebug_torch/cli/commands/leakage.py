"""`gendebug leakage`."""

from __future__ import annotations

import sys
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.cli.inputs import load_records
from gendebug_torch.errors import reject
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap
from gendebug_torch.model.formats import load_network

_SIDES = ("train", "validation", "production")


def leakage(
    tables: list[str],
    schema: str,
    out: str,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    fail_on: FailOn = "warn",
) -> int:
    """Say what a model was given that it cannot know: columns that leak the target, splits that
    share rows, early fits.

    Args:
        tables: one to three tables (CSV or Parquet): train, then validation, then production.
        schema: YAML file that says what the columns are.
        out: directory for report.html and findings.json.
        model: MODULE:NAME of a network, to permute leaked columns through it.
        weights: safetensors file to load into the network.
        budget: time to spend, e.g. 90s or 2m.
        fail_on: exit with 1 from this severity on.
    """
    if len(tables) > len(_SIDES):
        reject(
            "tables",
            "one to three tables",
            str(len(tables)),
            "Pass train, then validation, then production.",
        )
    known = gd.Schema.from_file(schema)
    network = None if model is None else load_network(model, weights)
    sides: dict[str, Any] = {
        side: load_records(side, path, known, network is not None)
        for side, path in zip(_SIDES, tables, strict=False)
    }
    diagnosis = gd.diagnose(
        network, only="leakage", budget=budget, progress=sys.stderr.isatty(), **sides
    )
    shared = {
        finding.check: finding.evidence
        for finding in diagnosis.findings
        if isinstance(finding.evidence, SplitOverlap)
    }
    named = {evidence.kind.capitalize(): evidence for evidence in shared.values()}
    return deliver(
        diagnosis,
        out,
        fail_on,
        tables={
            f"{kind}, shared by the splits": evidence.table() for kind, evidence in named.items()
        },
    )
