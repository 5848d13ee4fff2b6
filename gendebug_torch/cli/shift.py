"""`gendebug shift`."""

from __future__ import annotations

import sys
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.cli.inputs import load_network, load_records


def shift(
    reference: str,
    live: str,
    schema: str,
    out: str,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    fail_on: FailOn = "warn",
) -> int:
    """Compare live rows with a reference: what moved, how far, and which kind of change it is.

    Args:
        reference: table of rows before deployment (CSV or Parquet).
        live: table of rows after it; its target and logits may be absent.
        schema: YAML file that says what the columns are (target, time, categorical, logits, ...).
        out: directory for report.html and findings.json.
        model: MODULE:NAME of a network, for what it says where the tables hold no logits.
        weights: safetensors file to load into the network.
        budget: time to spend, e.g. 90s or 2m.
        options: check id to option to value, e.g. '{"shift.ks": {"min_effect": 0.05}}'.
        fail_on: exit with 1 from this severity on.
    """
    known = gd.Schema.from_file(schema)
    network = None if model is None else load_network(model, weights)
    before = load_records("validation", reference, known, computed=True)
    after = load_records("production", live, known, computed=True)
    diagnosis = gd.diagnose(
        network, validation=before, production=after, only="shift", budget=budget, options=options, progress=sys.stderr.isatty()
    )
    pictures: dict[str, Any] = {}
    tables = {}
    if before.features is not None and after.features is not None:
        kinds = gd.shift.change_kinds(after, before)
        tables = {"What moved, and what for": kinds.table()}
        pictures = {"Kinds of change": kinds}
        for finding in diagnosis.findings:
            if isinstance(finding.evidence, gd.shift.MostShifted):
                pictures["Features that moved furthest"] = finding.evidence
        if (drift := gd.shift.drift_windows(after, before)) is not None:
            tables["Drift per window of time"] = drift.table()
            pictures["Drift per window of time"] = drift
    return deliver(diagnosis, out, fail_on, title="Shift", tables=tables, pictures=pictures)
