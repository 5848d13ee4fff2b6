"""Tables of the command line as Records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pandas as pd

import gendebug_torch as gd
from gendebug_torch.cli.arguments import PROFILE
from gendebug_torch.data.tables import read_table
from gendebug_torch.errors import InputError, reject
from gendebug_torch.model.formats import load_network


def load_records(
    name: str, path: str, schema: gd.Schema, computed: bool, option: str | None = None
) -> gd.Records:
    """Records of one table.

    Production may lack labels; logits may be absent where a network computes them.

    Args:
        name: name of the records.
        path: the file.
        schema: what the columns are.
        computed: whether a network computes the logits.
        option: how the command line names the file; default `--name`.
    """
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    with option_of(option or f"--{name}"):
        return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))


def load_side(name: str, path: str, schema: gd.Schema, computed: bool) -> gd.Records | gd.Profile:
    """Records of one table, or the profile in a file `*.profile`.

    Args:
        name: name of the records.
        path: the file.
        schema: what the columns are.
        computed: whether a network computes the logits.
    """
    if not path.endswith(PROFILE):
        return load_records(name, path, schema, computed)
    with option_of(f"--{name}"):
        return gd.Profile.load(path)


def load_schema(path: str) -> gd.Schema:
    """The schema in the file that `--schema` names."""
    with option_of("--schema"):
        return gd.Schema.from_file(path)


def load_model(model: str | None, weights: str | None) -> Any:
    """The network that `--model` and `--weights` name; None without them."""
    if model is not None:
        return load_network(model, weights)
    if weights is not None:
        remedy = "Pass --model MODULE:NAME as well."
        reject("--weights", "a network to load it into", f"{weights} without --model", remedy)
    return None


def at_least(minimum: float, **values: float | None) -> None:
    """Refuse values of options below a minimum; None is none."""
    for name, value in values.items():
        if value is not None and not value >= minimum:
            option = f"--{name.replace('_', '-')}"
            reject(option, f"at least {minimum:g}", f"{value:g}", "Correct it, or leave it out.")


def checked_threshold(value: float | None) -> float | None:
    """A threshold that is a probability, or None."""
    if value is not None and not 0 < value < 1:
        remedy = "Pass it as a probability, not as a logit."
        reject("--threshold", "a probability between 0 and 1", repr(value), remedy)
    return value


def load_table(path: str, option: str) -> pd.DataFrame:
    """The table in the file that an option names."""
    with option_of(option):
        return read_table(path)


@contextlib.contextmanager
def option_of(option: str) -> Iterator[None]:
    """Name the option of the command line before what is wrong with its value."""
    try:
        yield
    except InputError as error:
        named = InputError(f"{option}: {error}")
        named.argument = option
        raise named from error
