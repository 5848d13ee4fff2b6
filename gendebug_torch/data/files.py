"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gendebug_torch.errors import reject


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to write to, which takes its place in one step.

    Permissions and symbolic links are kept. After a failure it is gone, and what was at `path`
    before is untouched.

    Raises:
        OSError: the directory cannot be written.
    """
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(mode)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace `path` with `text` (UTF-8, line ends as they are) in one step.

    Raises:
        OSError: the directory cannot be written.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def writing(argument: str, path: str | Path) -> Iterator[None]:
    """A block that writes; where the system refuses, an InputError says where and why.

    Args:
        argument: name of the argument that gave the path.
        path: file or directory that is written.

    Raises:
        InputError: the disk is full, the path is not writable, and so on.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        reject(
            argument,
            "a place that can be written",
            f"{path}: {reason}",
            "Free some space, or choose another path.",
        )
