"""From the command line to values: tables become Records, names become networks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import gendebug_torch as gd
from gendebug_torch.errors import reject


def load_records(name: str, path: str, schema: gd.Schema, computed: bool) -> gd.Records:
    """Records of one table; production may lack labels, and logits may be absent where a network computes them."""
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))


def load_network(name: str, weights: str | None) -> Any:
    """The network that MODULE:NAME names, or that the function there returns, with weights from a safetensors file."""
    module, separator, attribute = name.partition(":")
    if not separator:
        reject("--model", "MODULE:NAME", repr(name), "Write e.g. `my_package.networks:build`.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        network = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reject("--model", "something importable from here", f"{name!r}: {error}", "Run from the folder that holds the module.")
    finally:
        sys.path.pop(0)
    from torch import nn

    if not isinstance(network, nn.Module) and callable(network):
        network = network()
    if weights is not None:
        _load_weights(network, weights)
    return network


def _load_weights(network: Any, path: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reject("--weights", "a safetensors file of this network's state", f"{path}: {error}", "Write it with safetensors.torch.save_model.")
