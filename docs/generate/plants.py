"""The planted faults and clean inputs of the contract battery, by check."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gendebug_torch import Cause

CONTRACT = Path(__file__).resolve().parents[2] / "tests" / "contract"
Make = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Plant:
    """What the battery gives a check.

    Args:
        fault: seed -> inputs with a fault.
        clean: seed -> inputs without one.
        cause: what the fault is to be named.
        subject: regular expression of where it is to be found.
        file: module of the plant.
    """

    fault: Make
    clean: Make
    cause: Cause
    subject: str
    file: str

    @property
    def code(self) -> str:
        """Source of the function that plants the fault."""
        return inspect.getsource(self.fault).rstrip()


def plants() -> Mapping[str, Plant]:
    """Every check's plant; a new file `plants_<topic>.py` is found by its name."""
    found = {}
    for path in sorted(CONTRACT.glob("plants_*.py")):
        module = importlib.import_module(f"tests.contract.{path.stem}")
        for name, fault in module.PLANTS.items():
            cause, subject = module.EXPECTED[name]
            found[name] = Plant(fault, module.CLEAN[name], cause, subject, path.name)
    return found
