"""MODULE:NAME as it is written on a command line or in a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from gendebug_torch.errors import reject


def import_name(name: str, argument: str) -> Any:
    """What MODULE:NAME names, importable from the current folder.

    Raises:
        InputError: it is not written so, or cannot be imported.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        reject(argument, "MODULE:NAME", repr(name), "Write e.g. `my_package.networks:build`.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reject(argument, "something importable from here", f"{name!r}: {error}", "Run from the folder that holds the module.")
    finally:
        sys.path.pop(0)
