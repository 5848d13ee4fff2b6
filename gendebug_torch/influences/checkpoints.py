"""Weights of a network at moments of its training."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gendebug_torch.errors import UnsupportedError, reading, reject
from gendebug_torch.influences.methods.row_space import plain_module
from gendebug_torch.model.evaluation import Model
from gendebug_torch.model.formats import state_of_file

State = Mapping[str, Tensor]
Checkpoint = State | str | Path


def checkpoint_states(model: Model, checkpoints: Sequence[Checkpoint]) -> tuple[State, ...]:
    """States of a network, those of files read without unpickling.

    Args:
        model: network.
        checkpoints: states, or paths of safetensors or of checkpoints that hold tensors alone.

    Raises:
        InputError: a file that cannot be read so, or a state of another network.
        UnsupportedError: a model that shows no weights.
    """
    plain = plain_module(model)
    if not checkpoints:
        return ()
    if isinstance(checkpoints, (str, Path, Mapping)):
        got = f"a single {type(checkpoints).__name__}"
        reject("checkpoints", "a list of states or paths", got, "Put it into a list.")
    if not isinstance(plain, nn.Module) or isinstance(plain, torch.jit.ScriptModule):
        raise UnsupportedError("the network shows no weights that checkpoints could replace")
    own = plain.state_dict()
    return tuple(_state(own, checkpoint, at) for at, checkpoint in enumerate(checkpoints))


def digest_of(states: Sequence[State]) -> str:
    """What names these states, for shards of an earlier run; empty without any."""
    code = 0
    for tensor in (tensor for state in states for tensor in state.values()):
        code = zlib.crc32(tensor.detach().float().cpu().contiguous().numpy().tobytes(), code)
    return f"{len(states)}-{code:08x}" if states else ""


def _state(own: State, checkpoint: Checkpoint, at: int) -> State:
    """The tensors of one checkpoint that the network has, in its types."""
    if isinstance(checkpoint, Mapping):
        state: State = checkpoint
    else:
        remedy = "Write states with safetensors.torch.save_file(model.state_dict(), path)."
        with reading(checkpoint, "the state of this network", "checkpoints", remedy):
            state = state_of_file(str(checkpoint), own)
    for name, tensor in own.items():
        found = state.get(name)
        if not isinstance(found, Tensor) or found.shape != tensor.shape:
            got = "none" if not isinstance(found, Tensor) else f"shape {list(found.shape)}"
            expected = f"`{name}` of shape {list(tensor.shape)} in checkpoint {at}"
            reject("checkpoints", expected, got, "Pass states of the network that is asked about.")
    return {name: state[name].detach().to(tensor) for name, tensor in own.items()}
