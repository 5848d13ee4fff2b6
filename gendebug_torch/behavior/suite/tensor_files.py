"""Tensors that a suite refers to: `FILE` or `FILE#NAME`, read without unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reading, reject
from gendebug_torch.model.formats import load_tensors

_SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")


class TensorFiles:
    """The tensors of one suite, each file read once.

    Args:
        folder: directory that references are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._contents: dict[Path, Mapping[str, Any]] = {}

    def read(self, reference: str) -> Tensor:
        """The tensor that `FILE` or `FILE#NAME` names: .npy, .npz, .safetensors or .pt.

        Raises:
            InputError: no such file or name, or a format that would have to be unpickled.
        """
        name, _, key = reference.partition("#")
        path = self.folder / name
        if path.suffix not in _SUFFIXES:
            expected = "a .npy, .npz, .safetensors or .pt file"
            reject("!tensor", expected, reference, "Convert it to one of them.")
        if path not in self._contents:
            self._contents[path] = _tensors_of(path)
        tensors = self._contents[path]
        single = len(tensors) == 1 and not key
        tensor = next(iter(tensors.values())) if single else tensors.get(key)
        if not isinstance(tensor, Tensor):
            expected = f"one of the names {', '.join(map(str, tensors))}"
            reject(
                "!tensor", expected, repr(key), f"Write e.g. {name}#{next(iter(tensors), 'NAME')}."
            )
        return tensor


def _tensors_of(path: Path) -> Mapping[str, Any]:
    """The tensors of a file by name; a single one has the name ''."""
    with reading(path, "a readable file of tensors", "!tensor"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        if path.suffix == ".pt":
            loaded = load_tensors(path)
            return loaded if isinstance(loaded, dict) else {"": loaded}
        array = np.load(path, allow_pickle=False)
        if isinstance(array, np.ndarray):
            return {"": torch.from_numpy(array)}
        return {key: torch.from_numpy(array[key]) for key in array.files}
