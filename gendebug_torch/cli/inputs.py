"""From the command line to values: tables become Records, names become networks."""

from __future__ import annotations

from typing import Any

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
    """The network that MODULE:NAME names, or that the function there returns, with weights from a safetensors file."""
    network = import_name(name, "--model")
    from torch import nn

    if not isinstance(network, nn.Module) and callable(network):
        network = network()
    if weights is not None:
        load_weights(network, weights)
    return network


def load_weights(network: Any, path: str) -> None:
    """The state of a network from a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reject("--weights", "a safetensors file of this network's state", f"{path}: {error}", "Write it with safetensors.torch.save_model.")
