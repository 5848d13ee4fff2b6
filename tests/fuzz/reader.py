"""What a reader of files is to the fuzzer, and the rows, networks and texts that readers share."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gendebug_torch import Schema
from gendebug_torch.checks.finding import findings_from_json
from gendebug_torch.errors import InputError
from tests.fuzz import mutations

Files = Mapping[str, bytes]
N = 60
SCHEMA_TEXT = b"""target: label
logits: score
time: created_at
group: customer
source: labeler
categorical: [city]
ids: [row]
classes: [no, 'yes', maybe]
metadata: [note]
noise: [x3]
causal: [x1]
direction: {x2: increasing}
threshold: 0.3
"""
SUITE_TEXT = b"""suite: s
features: [amount, hour]
classes: [a, b]
threshold: 0.5
tolerance: 0.01
inputs:
  one: {amount: 32.5, hour: 17}
  two: {amount: 640, hour: 3}
cases:
  - id: c1
    like: one
    capability: everyday
    tags: [a, b]
    origin: x
    reviewed: true
    expect: {score: [0.0, 0.02]}
  - id: c2
    like: two
    input: {amount: 3.2}
    change: {hour: 8}
    expect: same
    tolerance: 0.1
  - id: c3
    input: {amount: 1, hour: !absent ''}
    expect: {class: a}
"""
TENSOR_SUITE = b"""cases:
  - id: t
    input: {x: !tensor 'tensors.npz#x', y: !tensor tensors.safetensors}
    expect: {score: [0, 1]}
  - {id: u, input: {x: !tensor 'tensors.pt#x'}, expect: {score: [0, 1]}}
"""
SCHEMA = Schema("label", time="created_at", group="customer", categorical=("city",), logits="score")


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Args:
        name: as in the table of a campaign.
        files: makes undamaged files, by name.
        read: reads them from a folder and does what their users do first.
        special: makes files of a kind of damage of their own.
        cost: time that an input takes, in units of 2 ms; a campaign reads fewer of slow ones.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], Any]
    special: Callable[[Any], Files] | None = None
    cost: int = 1

    def damaged(self, rng) -> dict[str, bytes]:
        """Files of which one is damaged."""
        if self.special is not None and rng.random() < 0.6:
            return dict(self.special(rng))
        files = dict(self.files())
        name = rng.choice(sorted(files))
        damage = DAMAGE.get(Path(name).suffix, mutations.damaged_bytes)
        files[name] = damage(files[name], rng)
        return files


DAMAGE = {
    ".yaml": mutations.damaged_yaml,
    ".json": mutations.damaged_json,
    ".safetensors": mutations.damaged_safetensors,
    ".npz": mutations.damaged_zip,
    ".pt": mutations.damaged_zip,
    ".pt2": mutations.damaged_zip,
    ".ts": mutations.damaged_zip,
    ".ckpt": mutations.damaged_zip,
}


@cache
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "label": rng.integers(0, 2, N),
            "score": rng.normal(size=N),
            "created_at": pd.date_range("2024-01-01", periods=N).astype(str),
            "customer": rng.integers(0, 20, N),
            "city": rng.choice(["a", "b", "c"], N),
            "x1": rng.normal(size=N),
            "x2": rng.integers(0, 9, N),
            "flag": rng.random(N) > 0.5,
            "text": rng.choice(["hello", "wörld", "a,b"], N),
        }
    )


@cache
def network():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


@cache
def inputs():
    return torch.randn(30, 4, generator=torch.Generator().manual_seed(1))


@cache
def written(write):
    """Files that `write(folder)` leaves, by name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


def command(name, function=None, **arguments):
    """Run a command of the command line, without what `main` makes of its errors.

    A check that breaks is a finding to `main`, and an error here; one that refuses its input is a
    refusal.
    """
    module = import_module(f"gendebug_torch.cli.commands.{name}")
    code = getattr(module, function or name)(**arguments)
    if code == 3:
        found = findings_from_json(Path(arguments["out"]) / "findings.json")
        broken = [one.summary for one in found if one.severity == "errored"]
        assert all(text.startswith("Refused its input") for text in broken), broken
        raise InputError(broken[0])
    assert code in (0, 1), f"gendebug {name} ended with {code}"
