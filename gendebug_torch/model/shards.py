"""Finished batches on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.files import replacing, write_whole
from gendebug_torch.errors import reject

_DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.bool: "BOOL",
    torch.int32: "I32",
    torch.uint8: "U8",
}


class Shards:
    """Outputs on disk by number of batch, one file per flush, written whole or not at all.

    Without a directory it does nothing.

    The numbers are those of the whole run, so that any number of ranks can write side by side, and
    go on for each other.
    """

    def __init__(
        self, directory: str | Path | None, model: object, run: dict[str, Any], *, keep: bool = True
    ) -> None:
        self.directory = None if directory is None else Path(directory)
        self.keep = keep
        if self.directory is not None:
            self._claim(self.directory, run | {"model": _fingerprint(model)})

    def load(self, rank: int, world: int) -> dict[int, dict[str, Tensor]]:
        """Finished batches of this rank; their numbers alone if the batches stay on disk."""
        parts: dict[int, dict[str, Tensor]] = {}
        if self.directory is not None:
            from safetensors import safe_open

            for path in sorted(self.directory.glob("batches-*.safetensors")):
                with safe_open(path, framework="pt") as shard:
                    for key in shard.keys():  # noqa: SIM118
                        number, _, name = key.partition("/")
                        if int(number) % world != rank:
                            continue
                        part = parts.setdefault(int(number), {})
                        if self.keep:
                            part[name] = shard.get_tensor(key)
        return parts

    def save(
        self, parts: dict[int, dict[str, Tensor]], notes: dict[str, Any]
    ) -> dict[int, dict[str, Tensor]]:
        """Write finished batches and the notes on all rows.

        Returns the batches, or their numbers if they stay on disk.
        """
        if self.directory is not None and parts:
            from safetensors.torch import save_file

            write_whole(self.directory / "notes.json", json.dumps(notes))

            flat = {
                f"{number}/{key}": tensor.contiguous()
                for number, out in parts.items()
                for key, tensor in out.items()
            }
            with replacing(self.directory / f"batches-{min(parts):09d}.safetensors") as scratch:
                save_file(flat, scratch)
        return parts if self.keep else {number: {} for number in parts}

    def recall(self) -> dict[str, Any]:
        """What an earlier run noted of all rows."""
        place = None if self.directory is None else self.directory / "notes.json"
        noted: dict[str, Any] = (
            json.loads(place.read_text()) if place is not None and place.exists() else {}
        )
        return noted

    @staticmethod
    def _claim(directory: Path, run: dict[str, Any]) -> None:
        header = directory / "run.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            known = json.loads(header.read_text()) if header.exists() else None
            if known is None:
                write_whole(header, json.dumps(run))
        except (OSError, ValueError) as error:
            reject(
                "checkpoint",
                "a directory that can be written",
                f"{directory}: {error}",
                "Choose another directory.",
            )
        if known not in (None, run):
            changed = sorted(key for key in run if known.get(key) != run[key])
            reject(
                "checkpoint",
                "shards of this run",
                f"{directory} of another run ({', '.join(changed)})",
                "Choose an empty directory.",
            )


def join_shards(directory: Path, target: Path) -> None:
    """Write all shards into one safetensors file, batch after batch, one Tensor in memory."""
    from safetensors import safe_open

    where: dict[str, list[tuple[int, Path, list[int]]]] = {}
    for path in sorted(directory.glob("batches-*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118
                number, _, name = key.partition("/")
                where.setdefault(name, []).append(
                    (int(number), path, shard.get_slice(key).get_shape())
                )
    header, offset = {}, 0
    for name, entries in where.items():
        entries.sort(key=lambda entry: entry[0])
        shape = [sum(entry[2][0] for entry in entries), *entries[0][2][1:]]
        with safe_open(entries[0][1], framework="pt") as shard:
            first = shard.get_tensor(f"{entries[0][0]}/{name}")
        size = math.prod(shape) * first.element_size()
        header[name] = {
            "dtype": _DTYPES[first.dtype],
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(target) as scratch, scratch.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, entries in where.items():
            for number, path, _ in entries:
                with safe_open(path, framework="pt") as shard:
                    file.write(shard.get_tensor(f"{number}/{name}").contiguous().numpy().tobytes())


def read_rows(path: Path, rows: Tensor) -> dict[str, Tensor]:
    """Some rows of every Tensor of a joined file, by plain reads.

    A memory map would hold whole pages of other rows.
    """
    dtypes = {word: dtype for dtype, word in _DTYPES.items()}
    found = {}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        for name, told in header.items():
            made = torch.empty(len(rows), *told["shape"][1:], dtype=dtypes[told["dtype"]])
            each = math.prod(made.shape[1:]) * made.element_size()
            held = made.view(-1).view(torch.uint8).numpy()
            for at, row in enumerate(rows.tolist()):
                file.seek(start + told["data_offsets"][0] + row * each)
                file.readinto(held[at * each : (at + 1) * each].data)
            found[name] = made
    return found


def _fingerprint(model: object) -> str:
    """A digest of the weights, so that shards of another network are never mixed in."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if isinstance(model, nn.Module):
        for key, tensor in model.state_dict().items():
            digest.update(key.encode())
            if isinstance(tensor, Tensor):
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
