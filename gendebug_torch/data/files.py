"""Files that are read as text, and files and directories that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gendebug_torch.errors import reject

# Control characters (C0, C1) but for tab and newline, marks that change the direction of text, and
# halves of characters, which stand for bytes of a file name that are no text.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# A file may expand to this many bytes whatever its own size; beyond it, only so many times that.
_FREE_BYTES, _MAX_EXPANSION = 2**30, 1000


def without_controls(text: str) -> str:
    r"""A text whose control characters and marks of direction are written as escapes.

    They would act on a terminal, or reorder a line, instead of being read; so are bytes of a file
    name that are no text, which no file could hold. Ends of lines and tabs stay.

    Example:
        >>> print(without_controls("a\x1b[2Jb\u202ec"))
        a\x1b[2Jb\u202ec
    """
    return _ACTING.sub(lambda found: repr(found[0])[1:-1], text)


def check_expansion(path: str | Path, size: int) -> None:
    """Refuse a file whose content would not fit into memory, or is zeros packed beyond measure.

    Args:
        path: the file.
        size: bytes of its content once it is read.

    Raises:
        InputError: `size` exceeds the memory of the machine; or a GiB and a thousand times the
            size of the file, which no table of real numbers packs to.
    """
    packed, memory = Path(path).stat().st_size, _memory()
    if size > memory or size > max(_FREE_BYTES, _MAX_EXPANSION * packed):
        got = f"{path}, {packed / 2**20:,.1f} MiB that unpack to {size / 2**30:,.1f} GiB"
        limit = f"at most {memory / 2**30:,.0f} GiB, and {_MAX_EXPANSION:,} times the file"
        reject("path", f"content of {limit}", got, "Split the file, or check where it comes from.")


def _memory() -> float:
    """Bytes of memory of this machine; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def read_text(path: str | Path, argument: str = "path") -> str:
    """The text of a UTF-8 file with its line ends as they are.

    Args:
        path: the file.
        argument: name of the path as the caller wrote it, for messages.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        remedy = "Check the path and the encoding."
        reject(argument, "a readable UTF-8 file", f"{path}: {problem}", remedy)


def check_sums(directory: Path, header: dict[str, Any], remedy: str) -> None:
    """Refuse saved records of which a file is not as it was written; old ones hold no sums.

    Args:
        directory: where they are.
        header: content of `records.json`; `sha256`, file name -> sum, is taken out of it.
        remedy: what to do about a damaged file.

    Raises:
        InputError: a file is damaged.
    """
    sums = header.pop("sha256", {})
    for name, expected in sums.items():
        own = hashlib.sha256(json.dumps(header).encode()).hexdigest()
        found = own if name == "records.json" else sha256_of(directory / name)
        if found != expected:
            got = f"{directory / name}, whose SHA-256 differs, so that it is damaged"
            reject("directory", "the files that `Records.save` wrote", got, remedy)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of the content of a file, read in pieces.

    Args:
        path: the file.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: str | Path, content: str | bytes, argument: str = "path") -> Path:
    """Replace a file in one step and return its path; see `replacing`.

    Args:
        path: the file; its directory is made if needed.
        content: text (written as UTF-8, line ends as they are) or bytes.
        argument: name of the path as the caller wrote it, for messages.

    Raises:
        InputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "new" / "a.txt", "content").read_text()
        'content'
    """
    with replacing(path, argument) as scratch:
        scratch.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | Path, argument: str = "path") -> Iterator[Path]:
    """A hidden file beside `path` to write to, which replaces it in one step.

    Permissions and symbolic links are kept. After a failure the hidden file is gone, and what was
    at `path` is untouched.

    Args:
        path: the file; its directory is made if needed.
        argument: name of the path as the caller wrote it, for messages.

    Raises:
        InputError: the file cannot be written, e.g. because the disk is full.
    """
    with _write_errors(path, argument, "a file"):
        target = Path(path).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            reject(argument, "a regular file", str(path), "Choose another path.")
        scratch = _hidden(target)
        try:
            scratch.touch()
            yield scratch
            if target.exists():
                scratch.chmod(target.stat().st_mode & 0o777)
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_directory(directory: str | Path, argument: str = "directory") -> Iterator[Path]:
    """A hidden directory to write to, which replaces `directory` with all that is in it.

    After a failure the hidden directory is gone, and what was at `directory` is untouched. Whoever
    calls this makes sure that what stands there may be replaced.

    Args:
        directory: path of the directory; its parent is made if needed.
        argument: name of the path as the caller wrote it, for messages.

    Raises:
        InputError: the directory cannot be written, e.g. because the disk is full.
    """
    with _write_errors(directory, argument, "a directory"):
        target = Path(directory).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            reject(argument, "a directory", f"{directory}, a file", "Choose another path.")
        scratch, old = _hidden(target), _hidden(target)
        try:
            scratch.mkdir()
            yield scratch
            _exchange_directory(scratch, target, old)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def replacing_files(
    directory: str | Path, names: Sequence[str], argument: str = "directory"
) -> Iterator[Path]:
    """A hidden directory to write to, whose files replace those of `directory` all or none.

    Other files of `directory` stay. After a failure the old files are whole, whichever step failed.

    Args:
        directory: path of the directory, made if needed.
        names: files that belong together, replaced in this order; one that is not written is
            removed from `directory`.
        argument: name of the path as the caller wrote it, for messages.

    Raises:
        InputError: the directory cannot be written, e.g. because the disk is full.
    """
    with _write_errors(directory, argument, "a directory"):
        target = Path(directory).resolve()
        target.mkdir(parents=True, exist_ok=True)
        scratch = _hidden(target / "files")
        try:
            scratch.mkdir()
            yield scratch
            _exchange_files(scratch, target, names)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _exchange_directory(scratch: Path, target: Path, old: Path) -> None:
    """Move the old directory aside and the new one in; move the old one back if that fails."""
    try:
        if target.exists():
            scratch.chmod(target.stat().st_mode & 0o777)
            os.replace(target, old)
        os.replace(scratch, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def _exchange_files(scratch: Path, target: Path, names: Sequence[str]) -> None:
    """Move the old files aside and the new ones in; move the old ones back if a step fails."""
    old = scratch / "old"
    old.mkdir()
    removed, added = [], []
    try:
        for name in names:
            if (target / name).exists():
                os.replace(target / name, old / name)
                removed.append(name)
            if (scratch / name).exists():
                os.replace(scratch / name, target / name)
                added.append(name)
    except BaseException:
        for name in added:
            (target / name).unlink()
        for name in removed:
            os.replace(old / name, target / name)
        raise


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name[:32]}-{uuid.uuid4().hex}")


@contextlib.contextmanager
def _write_errors(path: str | Path, argument: str, kind: str) -> Iterator[None]:
    from safetensors import SafetensorError

    # A full disk is an OSError to Python and pyarrow, and a SafetensorError to safetensors.
    try:
        yield
    except (OSError, SafetensorError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        remedy = "Choose another path, or free some space."
        reject(argument, f"{kind} that can be written", f"{path}: {problem}", remedy)
