"""`gendebug influence`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

import gendebug_torch as gd
from gendebug_torch.checks.evidence import Plottable
from gendebug_torch.cli.deliver import FailOn, Format, deliver, say
from gendebug_torch.cli.inputs import at_least, load_model, load_records, load_schema
from gendebug_torch.errors import reject
from gendebug_torch.influences.checkpoints import checkpoint_states
from gendebug_torch.influences.result.influences import Influences
from gendebug_torch.influences.scoring import Method


def influence(
    train: str,
    validation: str,
    schema: str,
    out: str,
    model: str | None = None,
    weights: str | None = None,
    checkpoints: list[str] | None = None,
    production: str | None = None,
    method: Method = "auto",
    size: int = 100,
    seed: int = 0,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Find the training rows behind the errors, and write a sheet of them for a person to review.

    Says whether training rows explain the errors at all, what those rows have in common, and what
    a refit without them changes. The reviewed sheet is read by `gendebug labels --reviewed`.

    Args:
        train: table (CSV or Parquet) that the network was fitted on, with labels.
        validation: labeled table from the same source that it was not fitted on.
        schema: YAML file that says what the columns are.
        out: directory for report.html, findings.json, influence.csv and influence.html.
        model: network as MODULE:NAME.
        weights: weights of the network, safetensors or a checkpoint of tensors.
        checkpoints: weights at moments of the training, over which gradients are averaged.
        production: labeled table whose errors are explained; default those of validation.
        method: how training rows are scored.
        size: rows of the sheet.
        seed: seed of the draws.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    at_least(1, size=size)
    description, network = load_schema(schema), load_model(model, weights)
    if network is None:
        reject("--model", "a network", "none", "Pass --model MODULE:NAME.")
    sides: dict[str, Any] = {
        name: load_records(name, path, description, computed=True)
        for name, path in (("train", train), ("validation", validation), ("production", production))
        if path is not None
    }
    states = checkpoint_states(network, checkpoints or ())
    culprits = {"method": method, "checkpoints": states, "seed": seed}
    options = {"influence.culprits": culprits}
    show = sys.stderr.isatty()
    diagnosis = gd.diagnose(network, **sides, only="influence", options=options, progress=show)
    tables: dict[str, pd.DataFrame] = {}
    pictures: dict[str, Plottable] = {}
    for finding in diagnosis.findings:
        found = finding.evidence
        if isinstance(found, Influences) and found.explains:
            _write_sheets(found, Path(out), size)
            proof = found.confirm(drop=max(2 * found.count, 20))
            tables["Training rows, most harmful first"] = found.table(limit=size)
            tables["What they have in common"] = found.common
            tables["Refit without them"] = proof.table()
            pictures["Refit without them"] = proof
    return deliver(diagnosis, out, fail_on, also=also or (), tables=tables, pictures=pictures)


def _write_sheets(found: Influences, out: Path, size: int) -> None:
    for suffix in (".csv", ".html"):
        found.sheet(out / f"influence{suffix}", size=size)
    say(
        f"Sheet: {out / 'influence.csv'}. Write right, wrong, unsure or another class "
        "into `verdict`, then pass it to gendebug labels as --reviewed."
    )
