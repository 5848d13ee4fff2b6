"""From the command line to values: tables become Records, names become networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import gendebug_torch as gd
from gendebug_torch._importing import import_name
from gendebug_torch.errors import reject


def load_records(name: str, path: str, schema: gd.Schema, computed: bool) -> gd.Records:
    """Records of one table; production may lack labels, and logits may be absent where a network computes them."""
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))


def load_network(name: str, weights: str | None) -> Any:
    """The network that MODULE:NAME names, or that the function there returns, with weights from a file."""
    network = import_name(name, "--model")
    if not isinstance(network, nn.Module) and callable(network):
        network = network()
    if weights is not None:
        load_weights(network, weights)
    return network


def load_weights(network: Any, path: str) -> None:
    """The state of a network from a safetensors file, or from a checkpoint of torch.save or Lightning that holds tensors alone."""
    from safetensors import SafetensorError

    try:
        network.load_state_dict(_state(path, network.state_dict()))
    except Exception as error:
        # The class is not imported, so that nothing here can unpickle.
        if not isinstance(error, (OSError, RuntimeError, SafetensorError)) and type(error).__name__ != "UnpicklingError":
            raise
        remedy = "Write it with safetensors.torch.save_model."
        reject("--weights", "the state of this network, in a file that is read without unpickling", f"{path}: {error}", remedy)


def _state(path: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a file by the names of a network, which a LightningModule may have kept under one of its own, as `model.`."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    held = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Any] = held.get("state_dict", held)
    first = next(iter(own), "")
    prefix = next((name.removesuffix(first) for name in state if name.endswith("." + first)), "")
    return state if first in state else {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
