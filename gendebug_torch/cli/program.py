"""Networks that torch.export.save wrote, read without unpickling."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import torch

from gendebug_torch.errors import reject

# Of these loading runs what the file brings: pickles of old layouts, of custom objects, and compiled libraries.
_RUNS = ("data/aotinductor/", "custom_obj", "opaque_obj", "serialized_")


def load_program(path: str, argument: str) -> Any:
    """The module of an exported program, its tensors taken from raw bytes.

    torch.export.load unpickles tensors of subclasses, custom objects, files of old layouts and samples of inputs that hold
    more than tensors; such a file is refused. What is left is a program all the same: PyTorch builds Python of its graph, so
    only a file that you exported yourself is to be loaded.

    Raises:
        InputError: no such file, another layout, or one that would be unpickled.
    """
    remedy = "Check the path, or export it again with torch.export.save."
    try:
        with zipfile.ZipFile(path) as archive:
            unpickled = _unpickled(archive)
        if unpickled is None:
            return _loaded(path)
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, AssertionError, zipfile.BadZipFile) as error:
        reject(argument, "a file that torch.export.save wrote", f"{path}: {error}", remedy)
    remedy = "Export a network of plain tensors, with plain tensors as sample inputs; or pass MODULE:NAME and weights."
    reject(argument, "an exported program that holds nothing pickled", f"{unpickled} in {path}", remedy)


def _loaded(path: str) -> Any:
    return torch.export.load(path).module()


def _unpickled(archive: zipfile.ZipFile) -> str | None:
    """The first entry that loading would unpickle or run."""
    # PyTorch finds entries whatever their case, and the first of two of one name, where Python finds the last.
    if twice := [name for name, times in Counter(map(str.lower, archive.namelist())).items() if times > 1]:
        return twice[0]
    for entry in archive.namelist():
        place = PurePosixPath(entry.lower())
        inner = "/".join(place.parts[1:])
        if inner.startswith(_RUNS[0]) or place.name.startswith(_RUNS[1:]) or (place.suffix == ".pt" and "sample_inputs" not in place.parts):
            return entry
        if place.suffix == ".pt" and (content := archive.read(entry)) and not _only_tensors(content):
            return entry
        if place.name.endswith("_config.json"):
            kept = json.loads(archive.read(entry)).get("config", {})
            if pickled := [name for name, payload in kept.items() if payload.get("use_pickle")]:
                return str(pickled[0])
    return None


def _only_tensors(content: bytes) -> bool:
    """Whether a file of torch.save holds tensors and plain values alone."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        return False
    return True
