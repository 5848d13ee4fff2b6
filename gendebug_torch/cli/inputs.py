"""Tables of the command line as Records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import pandas as pd

import gendebug_torch as gd
from gendebug_torch.cli.arguments import PROFILE
from gendebug_torch.cli.main import BEGAN
from gendebug_torch.data.inputs.image_folder import ImageFolder, class_folders, read_image_folder
from gendebug_torch.data.inputs.table_files import read_table
from gendebug_torch.data.times import seconds_of
from gendebug_torch.errors import Deadline, InputError, brief, reading, reject
from gendebug_torch.model.formats import import_name, load_network

# Seconds that are kept for the report and its first pictures.
WRITING = 1.6
_RESIZE = (
    "If what feeds the network resizes pictures, declare to what, e.g. `image_size: [224, 224]` in "
    "the file of --schema; else pass them as the network is fed them."
)


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
        return _of_pictures(name, load_pictures(path, schema), schema, network)


def load_pictures(path: str, schema: gd.Schema) -> ImageFolder:
    """The pictures of a folder, in the size that the schema declares.

    Args:
        path: the folder.
        schema: names of the classes and the size.
    """
    return read_image_folder(path, schema.classes, schema.image_size)


def _of_pictures(name: str, pictures: ImageFolder, schema: gd.Schema, network: Any) -> gd.Records:
    """Records of pictures, fed to the network where there is one."""
    import torch

    try:
        found = gd.collect(network, pictures, metadata=pictures.metadata, name=name)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        got = f"{pictures.shape}, at which it raises {type(error).__name__}: {brief(error)}"
        floats = "Pictures are fed as floats from 0 to 1: export the network with such inputs."
        reject(
            name,
            "pictures that the network takes",
            got,
            floats if "type" in brief(error) else _RESIZE,
        )
    schema = replace(schema, classes=pictures.classes, ids=(*schema.ids, "file"))
    return replace(found, schema=schema)


def load_sides(
    paths: Mapping[str, str | None],
    schema: gd.Schema,
    network: Any = None,
    option: str | None = None,
) -> dict[str, gd.Records | gd.Profile]:
    """Records or profiles of all sides; pictures of all folders are numbered and sized alike.

    A class that one side lacks would otherwise number those behind it differently, and pictures
    of another size would be other inputs.

    Args:
        paths: file, folder or MODULE:NAME of each side; None where there is none.
        schema: what is declared.
        network: network that computes the logits, if there is one.
        option: how the command line names them; default `--` and the name.

    Raises:
        InputError: folders whose pictures have different sizes or channels.
    """
    given = {name: path for name, path in paths.items() if path is not None}
    folders = [path for path in given.values() if is_picture_folder(path)]
    names = sorted({name for path in folders for name in class_folders(path)})
    if names and not schema.classes:
        schema = replace(schema, classes=tuple(names))
    pictures = {}
    for name, path in given.items():
        if is_picture_folder(path):
            with option_of(option or f"--{name}"):
                pictures[name] = load_pictures(path, schema)
    shapes = {name: folder.shape for name, folder in pictures.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{shape} in {given[name]}" for name, shape in shapes.items())
        expected = "pictures of one size and as many channels"
        reject(option or ", ".join(f"--{name}" for name in shapes), expected, got, _RESIZE)
    found: dict[str, gd.Records | gd.Profile] = {}
    for name, path in given.items():
        if name in pictures:
            with option_of(option or f"--{name}"):
                found[name] = _of_pictures(name, pictures[name], schema, network)
        else:
            found[name] = load_side(name, path, schema, network, option)
    return found


def is_picture_folder(path: str) -> bool:
    """Whether this is a folder of pictures, and not one of saved records or partitions."""
    return Path(path).is_dir() and not (Path(path) / "records.json").exists()


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


def load_side(
    name: str, path: str, schema: gd.Schema, network: Any = None, option: str | None = None
) -> gd.Records | gd.Profile:
    """Records of one side, or the profile in a file `*.profile`.

    Args:
        name: name of the records.
        path: the file.
        schema: what the columns are.
        network: network that computes the logits, if there is one.
        option: how the command line names it; default `--` and the name.
    """
    if not path.endswith(PROFILE):
        return load_records(name, path, schema, network is not None, option, network)
    with option_of(option or f"--{name}"):
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
