"""Finished batches on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.errors import reject


class Shards:
    """Outputs on disk, one file per flush, written whole or not at all; absent a directory it does nothing."""

    def __init__(self, directory: str | Path | None, model: object, rank: int, run: dict[str, Any]) -> None:
        self.directory = None if directory is None else Path(directory)
        self.rank = rank
        if self.directory is not None:
            self._claim(self.directory, run | {"model": _fingerprint(model)})

    def load(self) -> dict[int, dict[str, Tensor]]:
        """Batches that an earlier run of this rank has finished."""
        parts: dict[int, dict[str, Tensor]] = {}
        if self.directory is not None:
            from safetensors.torch import load_file

            for path in sorted(self.directory.glob(f"rank{self.rank}-*.safetensors")):
                for key, tensor in load_file(path).items():
                    number, _, name = key.partition("/")
                    parts.setdefault(int(number), {})[name] = tensor
        return parts

    def save(self, parts: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """Write finished batches and hand them back."""
        if self.directory is not None and parts:
            from safetensors.torch import save_file

            path = self.directory / f"rank{self.rank}-{min(parts):09d}.safetensors"
            flat = {f"{number}/{key}": tensor.contiguous() for number, out in parts.items() for key, tensor in out.items()}
            save_file(flat, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
        return parts

    @staticmethod
    def _claim(directory: Path, run: dict[str, Any]) -> None:
        header = directory / "run.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            known = json.loads(header.read_text()) if header.exists() else None
            if known is None:
                scratch = directory / "run.part"
                scratch.write_text(json.dumps(run))
                os.replace(scratch, header)
        except (OSError, ValueError) as error:
            reject("checkpoint", "a directory that can be written", f"{directory}: {error}", "Choose another directory.")
        if known not in (None, run):
            expected = "shards of this model, batch size, precision and number of ranks"
            reject("checkpoint", expected, f"{directory} of another run", "Choose an empty directory.")


def _fingerprint(model: object) -> str:
    """A digest of the weights, so that shards of another network are never mixed in."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if isinstance(model, nn.Module):
        for key, tensor in model.state_dict().items():
            digest.update(key.encode())
            if isinstance(tensor, Tensor):
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
