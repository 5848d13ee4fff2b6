"""Suites in files: YAML 1.2 with the line of every mistake, tensors and long texts by reference,
and Python.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.behavior.running.run import BehaviorRun
from gendebug_torch.behavior.suite.cases import ABSENT, Case, Suite
from gendebug_torch.data.files import read_text
from gendebug_torch.data.yaml import Node, compose, construct, line_of, pairs
from gendebug_torch.errors import InputError, did_you_mean, reject

_SUITE_KEYS = ("suite", "model", "features", "classes", "threshold", "tolerance", "inputs", "cases")
CASE_KEYS = (
    "id",
    "like",
    "input",
    "change",
    "expect",
    "of",
    "tolerance",
    "capability",
    "tags",
    "origin",
    "reviewed",
)


def load_suite(path: str | Path) -> Suite:
    """The suite in a `.yaml` file, or the only `Suite` that a `.py` file defines.

    Raises:
        InputError: names the file, the line and the field: an unknown field, a duplicate key or id,
            an expectation outside [0, 1], an unknown column, an unreadable file.
    """
    source = Path(path)
    if source.suffix == ".py":
        return _from_python(source)
    return parse_suite(read_text(source, "suite"), source)


def load_behavior(value: Any) -> Suite | BehaviorRun:
    """A suite or a run as it is, or from a file: `.json` holds a saved run, everything else a
    suite.

    Raises:
        InputError: something else, or a file that is neither.
    """
    if isinstance(value, (Suite, BehaviorRun)):
        return value
    if not isinstance(value, (str, Path)):
        reject(
            "behavior",
            "a Suite, a BehaviorRun or the path of one",
            type(value).__name__,
            "Pass load_suite(path) or run_suite(...).",
        )
    return BehaviorRun.load(value) if Path(value).suffix == ".json" else load_suite(value)


def parse_suite(text: str, path: Path) -> Suite:
    """The suite in a YAML text; `path` is for messages and for files that it refers to."""
    root = compose(text, path, "suite")
    entries = pairs(root, path, "suite")
    _known_keys(entries, _SUITE_KEYS, path)
    loaders = _constructors(path.parent)
    named = _named_inputs(entries["inputs"][1], path, loaders) if "inputs" in entries else {}
    cases = []
    listed = entries["cases"][1] if "cases" in entries else None
    if listed is not None and not (listed.id == "scalar" and not listed.value):
        if listed.id != "sequence":
            _refuse(
                path,
                line_of(listed),
                "cases",
                "a list of cases",
                f"a {listed.id}",
                "Start each case with `- id: ...`.",
            )
        cases = [_case(node, path, named, loaders) for node in listed.value]
    settings = {
        key: construct(entries[key][1], path, loaders)
        for key in ("model", "features", "classes", "threshold", "tolerance")
        if key in entries
    }
    for key in ("features", "classes"):
        if not isinstance(settings.get(key, []), list):
            _refuse(
                path,
                line_of(entries[key][0]),
                key,
                "a list of names",
                repr(settings[key]),
                "Write e.g. [amount, hour].",
            )
        settings[key] = tuple(map(str, settings.get(key, ())))
    given = construct(entries["suite"][1], path, loaders) if "suite" in entries else None
    name = given or path.name.removesuffix(path.suffix).removesuffix(".behavior")
    try:
        return Suite(tuple(cases), name, path=str(path), **settings)
    except InputError as error:
        key = "suite" if error.argument == "name" else error.argument
        line = line_of(entries[key][0]) if key in entries else 0
        raise InputError(f"{path}:{line}: {error}" if line else str(error)) from None


def _case(
    node: Node, path: Path, named: Mapping[str, Mapping[str, Any]], loaders: Mapping[str, Any]
) -> Case:
    entries = pairs(node, path, "case")
    _known_keys(entries, CASE_KEYS, path)
    values = {key: construct(value, path, loaders) for key, (_, value) in entries.items()}
    line = line_of(node)
    if values.get("id") is None:
        _refuse(path, line, "id", "an id in every case", "none", "Add `id: a-short-name`.")
    like = values.pop("like", None)
    if like is not None:
        if not isinstance(like, str) or like not in named:
            hint = did_you_mean(str(like), named)
            _refuse(
                path,
                line_of(entries["like"][0]),
                "like",
                f"one of the inputs {', '.join(named) or '(there are none)'}",
                repr(like),
                f"{hint}Add it.",
            )
        own = values.get("input") or {}
        if not isinstance(own, Mapping):
            _refuse(
                path,
                line_of(entries["input"][0]),
                "input",
                "field: value pairs beside `like`",
                repr(own),
                "Name the fields.",
            )
        values["input"] = {**named[like], **own}
    if values.get("input") is None:
        _refuse(
            path,
            line,
            "input",
            "an `input` or a `like` in every case",
            "neither",
            "Add `input: {field: value}`.",
        )
    if values.get("reviewed") is None:
        values.pop("reviewed", None)
    try:
        return Case(**{key: value for key, value in values.items() if value is not None}, line=line)
    except InputError as error:
        key_node = entries[error.argument][0] if error.argument in entries else node
        raise InputError(f"{path}:{line_of(key_node)}: {values['id']}: {error}") from None


def _named_inputs(
    node: Node, path: Path, loaders: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    named = {}
    for key, (_, value) in pairs(node, path, "inputs").items():
        content = construct(value, path, loaders)
        if not isinstance(content, (Mapping, str)) or not content:
            _refuse(
                path,
                line_of(value),
                f"inputs.{key}",
                "field: value pairs",
                repr(content),
                "Write e.g. {amount: 12.5, hour: 3}.",
            )
        named[key] = {"text": content} if isinstance(content, str) else content
    return named


def _known_keys(entries: Mapping[str, tuple[Node, Node]], known: Sequence[str], path: Path) -> None:
    for key, (node, _) in entries.items():
        if key not in known:
            remedy = f"{did_you_mean(key, known)}Correct or remove it."
            _refuse(path, line_of(node), key, f"fields among {', '.join(known)}", repr(key), remedy)


def _refuse(path: Path, line: int, argument: str, expected: str, got: str, remedy: str) -> None:
    try:
        reject(argument, expected, got, remedy)
    except InputError as error:
        raise InputError(f"{path}:{line}: {error}") from None


def _constructors(folder: Path) -> dict[str, Any]:
    """What the tags of a suite stand for: `!tensor FILE`, `!tensor FILE#NAME`, `!text FILE` and
    `!absent`.
    """
    return {
        "!tensor": lambda text: read_tensor(text, folder),
        "!text": lambda text: read_text(folder / text, "!text"),
        "!absent": lambda text: ABSENT,
    }


@cache
def _archive(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name; a single one has the name ''."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    if path.suffix == ".pt":
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        return loaded if isinstance(loaded, dict) else {"": loaded}
    loaded = np.load(path, allow_pickle=False)
    return (
        {"": torch.from_numpy(loaded)}
        if isinstance(loaded, np.ndarray)
        else {key: torch.from_numpy(loaded[key]) for key in loaded.files}
    )


def read_tensor(reference: str, folder: Path) -> Tensor:
    """The tensor that `FILE` or `FILE#NAME` names: .npy, .npz, .safetensors or .pt, none of them
    unpickled.

    Raises:
        InputError: no such file or name, or a format that would have to be unpickled.
    """
    name, _, key = reference.partition("#")
    path = folder / name
    if path.suffix not in (".npy", ".npz", ".safetensors", ".pt"):
        reject(
            "!tensor",
            "a .npy, .npz, .safetensors or .pt file",
            reference,
            "Convert it to one of them.",
        )
    try:
        found = _archive(path)
    except Exception as error:
        reject(
            "!tensor",
            "a readable file of tensors",
            f"{path}: {error}".partition("\n")[0],
            "Check the path and the format.",
        )
    chosen = (
        found[key]
        if key in found
        else next(iter(found.values()))
        if len(found) == 1 and not key
        else None
    )
    if not isinstance(chosen, Tensor):
        reject(
            "!tensor",
            f"one of the names {', '.join(map(str, found))}",
            repr(key),
            f"Write e.g. {name}#{next(iter(found), 'NAME')}.",
        )
    return chosen


def _from_python(path: Path) -> Suite:
    if not path.is_file():
        reject("suite", "a readable file", str(path), "Check the path.")
    found = {
        id(value): value for value in runpy.run_path(str(path)).values() if isinstance(value, Suite)
    }
    if len(found) != 1:
        reject(
            "suite",
            "exactly one Suite in a Python file",
            f"{len(found)} in {path}",
            "Keep one at the top level.",
        )
    (suite,) = found.values()
    return replace(suite, path=str(path))
