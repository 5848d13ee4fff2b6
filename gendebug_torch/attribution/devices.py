"""One process per device: the ranks write shards side by side, and the caller maps what they
wrote.
"""

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
from gendebug_torch.attribution.explanation.explainer import Explainer
from gendebug_torch.attribution.methods.captum_bridge import words
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model, device_of, world_size

Devices = int | str | Sequence[int]
# Where Fabric tells its processes of each other; its port must not be that of the next run.
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


def explained_by_devices(
    asked: Explainer,
    model: Model,
    loader: Any,
    devices: Devices,
    *,
    checkpoint: str | Path | None,
    stream: bool,
    **how: Any,
) -> Attributions:
    """What `asked.explain` gives, from one process per device, each of which takes every so many-th
    batch.

    The processes are started by Lightning Fabric and read the loader themselves, so that it, the
    model and the options must be such that they can be pickled. Results come back through files,
    not through memory.

    Raises:
        InputError: a process group that is there already, or something that cannot be sent to
            another process.
    """
    if world_size() > 1:
        reject(
            "devices",
            "1 inside a process group, whose ranks share the rows anyway",
            str(devices),
            "Leave it out.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch if checkpoint is None else checkpoint)
        _launched(
            partial(_rank, asked, model, loader, place, how), devices, device_of(asked.device).type
        )
        rows, notes = joined_rows(place), json.loads((place / "notes.json").read_text())
        kept = rows if stream else {name: value.clone() for name, value in rows.items()}
        return Attributions.from_rows(
            kept, words(asked.method), asked.names or tuple(notes.get("names", ()))
        )


def _rank(
    asked: Explainer, model: Model, loader: Any, place: Path, how: dict[str, Any], fabric: Any
) -> None:
    """The share of one process."""
    replace(asked, device=fabric.device).explain(
        model, loader, checkpoint=place, stream=True, **how
    )


def _launched(function: Callable[[Any], None], devices: Devices, accelerator: str) -> None:
    """Call with a Fabric in one process per device, as rank of a process group."""
    from lightning.fabric import Fabric

    chosen = devices if isinstance(devices, (int, str)) else list(devices)
    before = {name: os.environ.get(name) for name in _MEETING}
    try:
        Fabric(accelerator=accelerator, devices=chosen, strategy="ddp_spawn").launch(function)
    except Exception as error:
        if "pickle" not in str(error):
            raise
        remedy = (
            "Define functions and classes at the top of a module, or start one process per "
            "device yourself with torchrun."
        )
        reject(
            "devices",
            "a model, loader and options that can be sent to other processes",
            str(error),
            remedy,
        )
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
