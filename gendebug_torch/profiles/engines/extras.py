"""The one door to libraries that are not installed with this one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gendebug_torch.errors import MissingExtraError


def library(name: str, extra: str) -> Any:
    """An optional library.

    Args:
        name: name of the module.
        extra: name of the extra that installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        text = f"this needs {name}: pip install 'gendebug_torch[{extra}]'"
        raise MissingExtraError(text) from error


def is_csv(path: str) -> bool:
    """Whether a path is one of CSV files, by its ending.

    Args:
        path: file, glob or address.
    """
    return path.lower().endswith((".csv", ".csv.gz", ".txt"))
