"""`gendebug diagnose`."""

from __future__ import annotations

import sys
from typing import Any

import gendebug_torch as gd
from gendebug_torch.behavior.suite.suite_file import load_behavior
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import (
    deadline_of,
    load_model,
    load_schema,
    load_sides,
    needs_schema,
    option_of,
)
from gendebug_torch.errors import reject


def diagnose(
    out: str,
    train: str | None = None,
    validation: str | None = None,
    production: str | None = None,
    schema: str | None = None,
    curves: str | None = None,
    behavior: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    only: list[str] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    device: str = "auto",
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Run every check that the given rows allow and write one report.

    Args:
        out: directory for report.html and findings.json.
        train: rows that the model was fitted on: a table (CSV or Parquet), an npz of arrays, a
            folder of pictures with one folder for each class, MODULE:NAME of a loader, or
            a profile (.profile).
        validation: rows that it was judged on.
        production: rows that it met afterwards; target and logits may be absent.
        schema: YAML file that says what the columns are (target, time, classes, logits, ...).
        curves: CSV of epoch, train_loss, val_loss and metrics, or Lightning's metrics.csv.
        behavior: suite of cases that the model must pass (*.behavior.yaml), or the saved run of
            one.
        model: MODULE:NAME of a network, or of a function that returns one, importable from here;
            or a file: an exported program (.pt2), TorchScript (.pt, .ts) or ONNX (.onnx).
        weights: safetensors file to load into the network.
        budget: time for the whole command, e.g. 90s or 2m; what does not fit is listed with its
            cost.
        only: ids of checks or topics, e.g. shift or calibration.ece.
        options: check id to option to value, e.g. '{"shift.ks": {"alpha": 0.001}}'.
        device: auto, cpu, cuda or cuda:N.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    deadline = deadline_of(budget)
    network = load_model(model, weights)
    columns = gd.Schema() if schema is None else load_schema(schema)
    tables = {"train": train, "validation": validation, "production": production}
    if schema is None and any(path is not None and needs_schema(path) for path in tables.values()):
        reject(
            "--schema",
            "a YAML file that says what the columns are",
            "none",
            "Write one, e.g. `target: label`, and pass it.",
        )
    given: dict[str, Any] = dict(load_sides(tables, columns, network))
    if curves is not None:
        with option_of("--curves"):
            given["curves"] = gd.curves.LearningCurves.from_run(curves)
    if behavior is not None:
        with option_of("--behavior"):
            given["behavior"] = load_behavior(behavior)
    diagnosis = gd.diagnose(
        network,
        budget=deadline,
        only=only,
        options=options,
        device=device,
        progress=sys.stderr.isatty(),
        **given,
    )
    return deliver(diagnosis, out, fail_on, deadline=deadline, also=also or ())
