"""Tables of the command line as Records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd

import gendebug_torch as gd
from gendebug_torch.cli.arguments import PROFILE
from gendebug_torch.cli.main import BEGAN
from gendebug_torch.data.inputs.image_folder import class_folders, read_image_folder
from gendebug_torch.data.tables import read_table
from gendebug_torch.data.times import seconds_of
from gendebug_torch.errors import Deadline, InputError, reading, reject
from gendebug_torch.model.formats import import_name, load_network

# Seconds that are kept for the report and its first pictures.
WRITING = 1.6


def load_records(
    name: str,
    path: str,
    schema: gd.Schema,
    computed: bool,
    option: str | None = None,
    network: Any = None,
) -> gd.Records:
    """Records of a table, an npz, a folder of pictures by class, saved records, or MODULE:NAME.

    Production may lack labels; logits may be absent where a network computes them. Pictures and
    loaders go through the network, where there is one, and are described without one.

    Args:
        name: name of the records.
        path: the file or folder, or MODULE:NAME of a loader, a data set or records.
        schema: what the columns are.
        computed: whether a network computes the logits.
        option: how the command line names the file; default `--name`.
        network: network that pictures and the rows of a loader are fed to.
    """
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    with option_of(option or f"--{name}"):
        if is_name(path):
            return _named_records(name, path, schema, network)
        if not Path(path).is_dir():
            return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))
        if (Path(path) / "records.json").exists():
            return replace(gd.Records.load(path), name=name)
        pictures = read_image_folder(path, schema.classes)
        found = gd.collect(network, pictures, metadata=pictures.metadata, name=name)
        schema = replace(schema, classes=pictures.classes, ids=(*schema.ids, "file"))
        return replace(found, schema=schema)


def deadline_of(budget: str | None) -> Deadline | None:
    """The end of a command's budget: imports and reading had their part, writing will have its.

    Args:
        budget: time to spend, e.g. 90s; None is no end.
    """
    if budget is None:
        return None
    return Deadline(seconds_of(budget), since=BEGAN.get(None), reserved=WRITING)


def is_name(path: str) -> bool:
    """Whether this is MODULE:NAME of something in Python, and no file."""
    module, separator, name = path.partition(":")
    words = all(map(str.isidentifier, (*module.split("."), *name.split("."))))
    return bool(separator) and words and not Path(path).exists()


def needs_schema(path: str) -> bool:
    """Whether this is a table, whose columns only a schema explains."""
    described = (".npz", PROFILE)
    return not is_name(path) and not Path(path).is_dir() and not path.endswith(described)


def _named_records(name: str, path: str, schema: gd.Schema, network: Any) -> gd.Records:
    """Records that MODULE:NAME names, or those of the loader or data set there."""
    found = import_name(path, f"--{name}")
    if isinstance(found, FunctionType):
        expected = "a loader, a data set or records, or a function that returns one"
        with reading(path, expected, f"--{name}", "Correct the function."):
            found = found()
    if isinstance(found, gd.Records):
        return replace(found, name=name)
    return replace(gd.collect(network, found, name=name), schema=schema)


def with_common_classes(schema: gd.Schema, paths: Iterable[str | None]) -> gd.Schema:
    """The schema with the classes of all folders of pictures, where it names none.

    A class that one side lacks would otherwise number those behind it differently.

    Args:
        schema: what is declared.
        paths: the inputs of all sides.
    """
    folders = [path for path in paths if path is not None and Path(path).is_dir()]
    pictures = [path for path in folders if not (Path(path) / "records.json").exists()]
    names = sorted({name for path in pictures for name in class_folders(path)})
    return replace(schema, classes=tuple(names)) if names and not schema.classes else schema


def load_side(
    name: str, path: str, schema: gd.Schema, network: Any = None
) -> gd.Records | gd.Profile:
    """Records of one side, or the profile in a file `*.profile`.

    Args:
        name: name of the records.
        path: the file.
        schema: what the columns are.
        network: network that computes the logits, if there is one.
    """
    if not path.endswith(PROFILE):
        return load_records(name, path, schema, network is not None, network=network)
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
