"""`gendebug attribute`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.cli.inputs import load_network, load_records


def attribute(
    model: str,
    data: str,
    schema: str,
    out: str,
    method: str = "integrated_gradients",
    target: str = "predicted",
    weights: str | None = None,
    device: str = "auto",
    method_options: dict[str, Any] | None = None,
    fail_on: FailOn = "warn",
) -> int:
    """Attribute the output of a network to its input columns, for every row of a table.

    Args:
        model: MODULE:NAME of a network, or of a function that returns one, importable from here.
        data: table (CSV or Parquet).
        schema: YAML file that says what the columns are.
        out: directory for attributions.parquet, report.html and findings.json.
        method: integrated_gradients, or any method of captum.attr by name.
        target: predicted, target, or a class id.
        weights: safetensors file to load into the network.
        device: auto, cpu, cuda or cuda:N.
        method_options: further arguments of the method.
        fail_on: exit with 1 from this severity on.
    """
    network = load_network(model, weights)
    records = load_records("validation", data, gd.Schema.from_file(schema), computed=True)
    explained: int | str = int(target) if target.lstrip("-").isdigit() else target
    show = sys.stderr.isatty()
    found = gd.attribute(network, records, method, target=explained, device=device, progress=show, **(method_options or {}))
    diagnosis = gd.diagnose(network, validation=records, only="attribution.convergence", device=device)
    code = deliver(diagnosis, out, fail_on, pictures={f"Attribution by {method}": found}, tables={"Per feature": found.table()})
    found.save(Path(out) / "attributions.parquet")
    return code
