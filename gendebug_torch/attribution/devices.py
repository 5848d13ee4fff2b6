"""One process per device: the ranks write shards, and the caller maps them into memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gendebug_torch.attribution.attributions import Attributions, joined_rows
from gendebug_torch.attribution.explain import explain, noted_names
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.errors import reject
from gendebug_torch.model.devices import device_of, world_size
from gendebug_torch.model.evaluation import Model

Devices = int | str | Sequence[int]
# Environment variables by which Fabric's processes meet; the next run needs another port.
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


def explain_on_devices(
    task: AttributionTask,
    model: Model,
    loader: Any,
    devices: Devices,
    *,
    checkpoint: str | Path | None,
    stream: bool,
    **run_options: Any,
) -> Attributions:
    """The same as `explain`, from one process per device, which share the batches.

    Lightning Fabric starts the processes, and they read the loader themselves, so that it, the
    model and the options must be picklable. Results come back through files, not through memory.

    Args:
        task: options of the run.
        model: network.
        loader: rows.
        devices: number of devices, their numbers, or `auto`.
        checkpoint: directory of shards; None for a temporary one.
        stream: whether the answers stay mapped into memory.
        **run_options: options of `map_rows`.

    Raises:
        InputError: a process group that exists already, or something that cannot be pickled.
    """
    if world_size() > 1:
        expected = "1 inside a process group, whose ranks share the rows anyway"
        reject("devices", expected, str(devices), "Leave it out.")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch if checkpoint is None else checkpoint)
        explain_rank = partial(_explain_rank, task, model, loader, directory, run_options)
        _launch(explain_rank, devices, device_of(task.device).type)
        rows = joined_rows(directory)
        notes = json.loads((directory / "notes.json").read_text())
        fields = rows if stream else {name: value.clone() for name, value in rows.items()}
        return Attributions.from_rows(fields, task.title, noted_names(notes))


def _explain_rank(
    task: AttributionTask,
    model: Model,
    loader: Any,
    directory: Path,
    run_options: dict[str, Any],
    fabric: Any,
) -> None:
    """The share of one process."""
    own = replace(task, device=fabric.device)
    explain(own, model, loader, checkpoint=directory, stream=True, **run_options)


def _launch(function: Callable[[Any], None], devices: Devices, accelerator: str) -> None:
    """Call a function of a Fabric in one process per device, as rank of a process group."""
    from lightning.fabric import Fabric

    numbers = devices if isinstance(devices, (int, str)) else list(devices)
    before = {name: os.environ.get(name) for name in _RENDEZVOUS}
    try:
        Fabric(accelerator=accelerator, devices=numbers, strategy="ddp_spawn").launch(function)
    except Exception as error:
        if "pickle" not in str(error):
            raise
        remedy = (
            "Define functions and classes at the top of a module, or start one process per device "
            "yourself with torchrun."
        )
        expected = "a model, loader and options that can be sent to other processes"
        reject("devices", expected, str(error), remedy)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
