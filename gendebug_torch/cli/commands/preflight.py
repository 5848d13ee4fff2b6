"""`gendebug preflight`."""

from __future__ import annotations

import time
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import (
    at_least,
    is_name,
    load_model,
    load_pictures,
    load_records,
    load_schema,
    option_of,
)
from gendebug_torch.errors import brief, reading, reject
from gendebug_torch.model.batches import sample_rows
from gendebug_torch.model.formats import import_name
from gendebug_torch.model.runner import as_model_takes


def preflight(
    model: str,
    data: str,
    out: str,
    schema: str | None = None,
    loss: str | None = None,
    weights: str | None = None,
    rows: int = 64,
    steps: int = 60,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Try a network and one batch of its data before a training, in seconds.

    Can it fit the batch, does every parameter get a gradient, does the loss start at chance, do
    rows influence each other, is evaluation deterministic, do training and evaluation mode agree,
    are inputs and targets on a usual scale? A step of a pipeline fails on the exit code.

    Args:
        model: network as MODULE:NAME.
        data: training rows: MODULE:NAME of a loader or data set of (inputs, targets), a table (CSV
            or Parquet), an .npz, or a folder of pictures by class.
        out: directory for report.html and findings.json.
        schema: YAML file that says what the columns of a table are.
        loss: MODULE:NAME of the loss of outputs and targets; default cross-entropy of classes and
            the squared error of quantities.
        weights: weights of the network, safetensors or a checkpoint of tensors.
        rows: largest number of rows of the batch.
        steps: steps of a fit to the batch; at most three are tried.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    at_least(2, rows=rows)
    at_least(1, steps=steps)
    network = load_model(model, weights)
    if not isinstance(network, nn.Module):
        remedy = "Name a module, or a function that returns one."
        reject("--model", "a torch.nn.Module", f"{model}, {brief(network)}", remedy)
    started = time.perf_counter()
    loader = _loader(data, schema, network, rows)
    criterion = None if loss is None else import_name(loss, "--loss")
    if criterion is not None and not callable(criterion):
        remedy = "Name a function of outputs and targets."
        reject("--loss", "a callable", f"{loss}, {brief(criterion)}", remedy)
    found = gd.network.preflight(network, loader, loss=criterion, rows=rows, steps=steps)
    context = {"network": model, "seconds": f"{time.perf_counter() - started:.1f}"}
    diagnosis = gd.Diagnosis(tuple(found), context)
    return deliver(diagnosis, out, fail_on, also=also or (), title="Before the training")


def _loader(data: str, schema: str | None, network: nn.Module, rows: int) -> Any:
    """Batches (inputs, targets) of what an option names."""
    if not is_name(data):
        columns = gd.Schema() if schema is None else load_schema(schema)
        if Path(data).is_dir():
            with option_of("--data"):
                return _shuffled(load_pictures(data, columns), rows)
        records = load_records("train", data, columns, computed=True, option="--data")
        inputs, targets = sample_rows(records, rows)
        return [(as_model_takes(inputs, network, inputs.device), targets)]
    found = import_name(data, "--data")
    if isinstance(found, FunctionType):
        expected = "a loader or data set, or a function that returns one"
        with reading(data, expected, "--data", "Correct the function."):
            found = found()
    if isinstance(found, Dataset) and not isinstance(found, IterableDataset):
        return _shuffled(found, rows)
    if not hasattr(found, "__iter__"):
        remedy = "Name a DataLoader or a data set."
        reject("--data", "batches (inputs, targets)", f"{data}, {brief(found)}", remedy)
    return found


def _shuffled(rows: Dataset[Any], size: int) -> DataLoader[Any]:
    """Random batches: rows in a file often stand by class."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(rows, batch_size=size, shuffle=True, generator=generator)
