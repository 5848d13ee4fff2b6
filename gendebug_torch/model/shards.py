"""Finished batches on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.files import replacing, write_whole
from gendebug_torch.errors import reject
from gendebug_torch.version import __version__

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
    go on for each other. Each batch is kept with a fingerprint of its inputs, each file with a
    checksum of its outputs.
    """

    def __init__(
        self, directory: str | Path | None, model: object, run: dict[str, Any], *, keep: bool = True
    ) -> None:
        self.directory = None if directory is None else Path(directory)
        self.keep = keep
        self.fingerprints: dict[int, str] = {}
        if self.directory is not None:
            version = {"gendebug_torch": __version__}
            self._claim(self.directory, version | run | {"model": _fingerprint(model)})

    def load(self, rank: int, world: int) -> dict[int, dict[str, Tensor]]:
        """Finished batches of this rank; their numbers alone if the batches stay on disk.

        A damaged shard is removed with a warning, so that its batches are computed again.
        """
        parts: dict[int, dict[str, Tensor]] = {}
        if self.directory is None:
            return parts
        from safetensors import SafetensorError

        for path in sorted(self.directory.glob("batches-*.safetensors")):
            try:
                batches, fingerprints = _read_shard(path)
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                RecursionError,
                SafetensorError,
            ) as error:
                warnings.warn(f"{path} is damaged and is made again: {error}", stacklevel=4)
                path.unlink(missing_ok=True)
                continue
            self.fingerprints.update(fingerprints)
            for number, outputs in batches.items():
                if number % world == rank:
                    parts[number] = outputs if self.keep else {}
        return parts

    def check(self, number: int, fingerprint: str) -> None:
        """Refuse shards that were made of other rows.

        Raises:
            InputError: the batch of this number had other inputs or targets.
        """
        if self.fingerprints.get(number) != fingerprint:
            reject(
                "checkpoint",
                "shards of these rows",
                f"{self.directory}, whose batch {number} was made of other rows",
                "Choose an empty directory for each data set.",
            )

    def save(
        self,
        parts: dict[int, dict[str, Tensor]],
        notes: dict[str, Any],
        fingerprints: Mapping[int, str],
    ) -> dict[int, dict[str, Tensor]]:
        """Write finished batches, their fingerprints and the notes on all rows.

        Returns the batches, or their numbers if they stay on disk.

        Raises:
            InputError: the directory cannot be written, e.g. because the disk is full.
        """
        if self.directory is not None and parts:
            from safetensors.torch import save

            flat = {
                f"{number}/{key}": tensor.contiguous()
                for number, outputs in parts.items()
                for key, tensor in outputs.items()
            }
            made_of = {str(number): fingerprints[number] for number in parts}
            metadata = {"fingerprints": json.dumps(made_of), "checksum": _checksum(flat)}
            name = f"batches-{min(parts):09d}.safetensors"
            write_whole(self.directory / "notes.json", json.dumps(notes), "checkpoint")
            write_whole(self.directory / name, save(flat, metadata), "checkpoint")
        return parts if self.keep else {number: {} for number in parts}

    def load_notes(self) -> dict[str, Any]:
        """Notes of an earlier run on all rows."""
        path = None if self.directory is None else self.directory / "notes.json"
        if path is None or not path.exists():
            return {}
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            notes = error
        if not isinstance(notes, dict):
            reject("checkpoint", "notes of a run", f"{path}: {notes}", "Choose an empty directory.")
        return notes

    @staticmethod
    def _claim(directory: Path, run: dict[str, Any]) -> None:
        header = directory / "run.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            previous = json.loads(header.read_text(encoding="utf-8")) if header.exists() else None
            if previous is None:
                write_whole(header, json.dumps(run), "checkpoint")
        except (OSError, ValueError, RecursionError) as error:
            reject(
                "checkpoint",
                "a directory that can be written",
                f"{directory}: {error}",
                "Choose another directory.",
            )
        if previous not in (None, run):
            changed = [key for key in run if not isinstance(previous, dict)]
            changed = changed or sorted(key for key in run if previous.get(key) != run[key])
            reject(
                "checkpoint",
                "shards of this run",
                f"{directory} of another run ({', '.join(changed)})",
                "Choose an empty directory.",
            )


def batch_fingerprint(inputs: Any, targets: Tensor | None) -> str:
    """A digest of a batch: shapes, dtypes and all values.

    Cost: one pass over the bytes, about 3 GB per second, and a copy of what lies on a device.
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in _leaves((inputs, targets)):
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            digest.update(zlib.crc32(_bytes_of(value.detach())).to_bytes(4, "little"))
        else:
            # The repr of a long array leaves out its middle.
            digest.update(repr(value.tolist() if hasattr(value, "tolist") else value).encode())
    return digest.hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _read_shard(path: Path) -> tuple[dict[int, dict[str, Tensor]], dict[int, str]]:
    """Batches and fingerprints of one shard.

    Raises:
        ValueError: its checksum is that of other outputs.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as shard:
        metadata = shard.metadata() or {}
        names = shard.keys()
        flat = {name: shard.get_tensor(name) for name in names}
    if metadata["checksum"] != _checksum(flat):
        raise ValueError("its checksum does not fit its contents")
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        number, _, key = name.partition("/")
        parts.setdefault(int(number), {})[key] = tensor
    prints = json.loads(metadata["fingerprints"])
    if not isinstance(prints, dict) or not all(isinstance(one, str) for one in prints.values()):
        raise ValueError("its fingerprints are not texts by number of batch")
    return parts, {int(number): text for number, text in prints.items()}


def _checksum(flat: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(flat):
        tensor = flat[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def join_shards(directory: Path, target: Path) -> None:
    """Write all shards into one safetensors file, batch after batch, one Tensor in memory.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors import safe_open

    places = _batches_by_name(directory)
    header, offset = {}, 0
    for name, batches in places.items():
        number, path, first = batches[0]
        shape = [sum(batch_shape[0] for _, _, batch_shape in batches), *first[1:]]
        with safe_open(path, framework="pt") as shard:
            dtype = shard.get_tensor(f"{number}/{name}").dtype
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(target, "checkpoint") as scratch, scratch.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, batches in places.items():
            for number, path, _ in batches:
                with safe_open(path, framework="pt") as shard:
                    file.write(_bytes_of(shard.get_tensor(f"{number}/{name}")))


def _batches_by_name(directory: Path) -> dict[str, list[tuple[int, Path, list[int]]]]:
    """(number, file, shape) of every batch in order, by name of the tensor."""
    from safetensors import safe_open

    places: dict[str, list[tuple[int, Path, list[int]]]] = {}
    for path in sorted(directory.glob("batches-*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            keys = shard.keys()
            for key in keys:
                number, _, name = key.partition("/")
                shape = shard.get_slice(key).get_shape()
                places.setdefault(name, []).append((int(number), path, shape))
    for batches in places.values():
        batches.sort(key=lambda batch: batch[0])
    return places


def read_rows(path: Path, rows: Tensor) -> dict[str, Tensor]:
    """Some rows of every Tensor of a joined file, by plain reads.

    A memory map would hold whole pages of other rows.
    """
    dtypes = {name: dtype for dtype, name in _DTYPES.items()}
    result = {}
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        for name, entry in header.items():
            tensor = torch.empty(len(rows), *entry["shape"][1:], dtype=dtypes[entry["dtype"]])
            size = math.prod(tensor.shape[1:]) * tensor.element_size()
            buffer = tensor.view(-1).view(torch.uint8).numpy()
            for i, row in enumerate(rows.tolist()):
                file.seek(start + entry["data_offsets"][0] + row * size)
                file.readinto(buffer[i * size : (i + 1) * size].data)
            result[name] = tensor
    return result


def _fingerprint(model: object) -> str:
    """A digest of the weights, so that shards of another network are never mixed in."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if isinstance(model, nn.Module):
        for key, tensor in model.state_dict().items():
            digest.update(key.encode())
            if isinstance(tensor, Tensor):
                digest.update(_bytes_of(tensor.detach()))
    return digest.hexdigest()
