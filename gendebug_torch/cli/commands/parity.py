"""`gendebug parity`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import at_least, load_model, load_schema, load_table, option_of
from gendebug_torch.errors import brief, reading, reject
from gendebug_torch.leakage.checks._parity import parity_findings
from gendebug_torch.leakage.preprocessing.feature_parity import FeatureParity
from gendebug_torch.model.formats import import_name, load_served

_CHECK = "shift.served_outputs"


def parity(
    out: str,
    model: str | None = None,
    served: str | None = None,
    data: str | None = None,
    weights: str | None = None,
    schema: str | None = None,
    pipeline: str | None = None,
    raw: str | None = None,
    stored: str | None = None,
    key: str | None = None,
    tolerance: float | None = None,
    max_rows: int | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Compare serving with training: outputs of a served model, or features computed one by one.

    With --model, --served and --data the same rows go through the network and through what is
    served; with --pipeline, --raw and --stored features are recomputed one record at a time and
    compared with the stored ones.

    Args:
        out: directory for report.html and findings.json.
        model: MODULE:NAME of the network that was validated, or of a function that returns it.
        served: what is served: an .onnx, .pt2 or TorchScript (.pt, .ts) file, or MODULE:NAME of a
            callable from a batch of inputs to outputs, e.g. one that asks an endpoint.
        data: inputs of the network: a table (CSV or Parquet), or an .npz with `features`.
        weights: safetensors file to load into the network.
        schema: YAML file that says what the columns of a table are.
        pipeline: MODULE:NAME of a callable from a one-row table to its features, importable from
            here.
        raw: table of the records as they arrive (CSV or Parquet).
        stored: table of the features stored for them.
        key: column of both tables that identifies the row; without it rows are compared in order.
        tolerance: largest difference that counts as equal: of outputs relative to the largest one,
            by default 1e-3; of features relative to 1 + |stored|, by default 1e-6.
        max_rows: number of rows to compare; records are taken evenly spaced.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    at_least(1, max_rows=max_rows)
    at_least(0, tolerance=tolerance)
    outputs = {"model": model, "served": served, "data": data}
    columns = {"pipeline": pipeline, "raw": raw, "stored": stored}
    if all(value is None for value in outputs.values()):
        _refuse_others("--pipeline", weights=weights, schema=schema)
        asked = _given(**columns)
        found, seconds = _features(*asked, key, 1e-6 if tolerance is None else tolerance, max_rows)
        context = {"records": f"{found.rows:,}", "seconds": f"{seconds:.1f}"}
        diagnosis = gd.Diagnosis(tuple(parity_findings(found)), context)
        differences = found.differences().astype(str)
        tables = {"Every feature": found.table(), "First differences": differences}
        extras: dict[str, Any] = {"pictures": {"Parity": found}, "tables": tables}
        return deliver(diagnosis, out, fail_on, also=also or (), **extras)
    _refuse_others("--served", **columns, key=key)
    name, answers, path = _given(**outputs)
    rows = _inputs(path, schema, max_rows)
    network, served_model = load_model(name, weights), load_served(answers)
    _check_taken(path, rows, {name: network, answers: served_model})
    options = {"tolerance": 1e-3 if tolerance is None else tolerance, "rows": len(rows)}
    diagnosis = gd.diagnose(
        network,
        served=served_model,
        validation=rows,
        only=_CHECK,
        options={_CHECK: options},
    )
    return deliver(diagnosis, out, fail_on, also=also or (), title="Serving parity")


def _refuse_others(asked: str, **options: str | None) -> None:
    """Refuse options of the comparison that was not asked for."""
    for name, value in options.items():
        if value is not None:
            remedy = "Compare outputs and features in calls of their own."
            reject(f"--{name}", f"nothing beside {asked}", repr(value), remedy)


def _given(**options: str | None) -> tuple[str, str, str]:
    """The values of three options that are needed together."""
    if lacking := [f"--{name}" for name, value in options.items() if value is None]:
        remedy = "Pass --model, --served and --data, or --pipeline, --raw and --stored."
        reject(", ".join(lacking), "a value", "none", remedy)
    first, second, third = (value or "" for value in options.values())
    return first, second, third


def _inputs(path: str, schema: str | None, max_rows: int | None) -> gd.Records:
    """Inputs of the network from a table, or from the array `features` of an .npz."""
    if path.endswith(".npz"):
        expected = "an .npz file with an array `features`"
        with reading(path, expected, "--data"), np.load(path, allow_pickle=False) as arrays:
            features = torch.from_numpy(arrays["features"])
        rows = gd.Records(features, name="validation")
    else:
        columns = gd.Schema() if schema is None else load_schema(schema)
        optional = ("target", "logits", "probs", "time", "label_time", "source", "group")
        with option_of("--data"):
            rows = gd.Records.from_file(path, columns, name="validation", optional=optional)
    return rows if max_rows is None else rows.select(range(min(max_rows, len(rows))))


def _check_taken(path: str, rows: gd.Records, models: Mapping[str, Any]) -> None:
    """Refuse rows that one of the networks does not take."""
    for name, model in models.items():
        remedy = "Pass rows as it is fed them, or another network."
        with reading(path, f"rows that {name} takes", "--data", remedy):
            gd.collect(model, rows.select(range(min(2, len(rows)))))


def _features(
    pipeline: str, raw: str, stored: str, key: str | None, tolerance: float, max_rows: int | None
) -> tuple[FeatureParity, float]:
    """The recomputed features against the stored ones, and the seconds that took."""
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
    return found, time.perf_counter() - started
