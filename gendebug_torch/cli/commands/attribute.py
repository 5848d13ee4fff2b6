"""`gendebug attribute`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import gendebug_torch as gd
from gendebug_torch.attribution.plots import Beeswarm
from gendebug_torch.cli.deliver import FailOn, Format, deliver, say
from gendebug_torch.cli.inputs import at_least, load_records, load_schema
from gendebug_torch.model.devices import Precision, device_of
from gendebug_torch.model.formats import load_network, load_program

_ROWS = 256


def attribute(
    model: str,
    data: str,
    schema: str,
    out: str,
    method: str = "integrated_gradients",
    target: str = "predicted",
    baseline: str | None = None,
    weights: str | None = None,
    batch_size: int | None = None,
    precision: Precision = "32-true",
    device: str = "auto",
    devices: int = 1,
    compile: bool = False,
    checkpoint: str | None = None,
    method_options: dict[str, Any] | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Attribute the output of a network to its input columns, for every row of a table.

    Args:
        model: MODULE:NAME of a network, or of a function that returns one, importable from here; or
            a file FILE.pt2 of your own that torch.export.save wrote, with a dynamic first
            dimension.
        data: table (CSV or Parquet).
        schema: YAML file that says what the columns are.
        out: directory for attributions.parquet, report.html and findings.json.
        method: integrated_gradients, gradient_shap, kernel_shap, lime, saliency, input_x_gradient,
            smooth_grad, feature_ablation, or any method of captum.attr by name.
        target: predicted, target (the label), margin, or a class id.
        baseline: zero, mean, median, sample, or a number; default zero.
        weights: file to load into the network: safetensors, or a checkpoint of torch.save or
            Lightning that holds tensors alone.
        batch_size: rows at once.
        precision: 32-true, or autocast with 16-mixed or bf16-mixed.
        device: auto, cpu, cuda or cuda:N.
        devices: processes that share the rows, each on a device of its own.
        compile: run the network through torch.compile.
        checkpoint: directory for finished batches, so that an interrupted run goes on where it
            stopped.
        method_options: further arguments of the method.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    at_least(1, batch_size=batch_size, devices=devices)
    network = (
        load_program(model, "--model") if model.endswith(".pt2") else load_network(model, weights)
    )
    records = load_records("validation", data, load_schema(schema), True, "--data", network)
    explained: int | str = int(target) if target.lstrip("-").isdigit() else target
    show = sys.stderr.isatty()
    # Of smaller batches the bar knows earlier how long the rest takes; a CPU is no slower by them.
    size = batch_size or (_ROWS if device_of(device).type == "cpu" else None)
    how: dict[str, Any] = {
        "batch_size": size,
        "precision": precision,
        "device": device,
        "devices": devices,
        "compile": compile,
    }
    how |= {"checkpoint": checkpoint, "progress": show, "trust": True}
    started = time.perf_counter()
    start, options = _baseline(baseline), method_options or {}
    found = gd.attribute(
        network, records, method, target=explained, baseline=start, **how, **options
    )
    rate = len(found) / max(time.perf_counter() - started, 1e-9)
    assert found.trust is not None
    diagnosis = gd.diagnose(network, validation=records, only="attribution", device=device)
    pictures = {
        f"Attribution by {method}": found,
        "Row by row": Beeswarm(found),
        "How far to trust it": found.trust,
    }
    tables = {"Per feature": found.table(), "How far to trust it": found.trust.table()}
    code = deliver(diagnosis, out, fail_on, also=also or (), pictures=pictures, tables=tables)
    found.save(Path(out) / "attributions.parquet")
    card = "\n".join([*found.trust.notes, found.trust.verdict])
    say(f"{card}\n{len(found):,} rows, {rate:,.0f} per second with the card.")
    return code


def _baseline(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
