"""Why a network that looks great in validation falls apart in production, with the evidence and what to do next.

Importing this module loads nothing but the standard library; each name below is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gendebug_torch.attribution import attribute as attribute
    from gendebug_torch.calibration import recalibrate as recalibrate
    from gendebug_torch.finding import Cause as Cause
    from gendebug_torch.finding import Finding as Finding
    from gendebug_torch.finding import Severity as Severity
    from gendebug_torch.records import Records as Records
    from gendebug_torch.records import Schema as Schema
    from gendebug_torch.runner import collect as collect
    from gendebug_torch.suite import Diagnosis as Diagnosis
    from gendebug_torch.suite import diagnose as diagnose

__version__ = "0.1.0"

_HOME = {
    "Cause": "finding",
    "Diagnosis": "suite",
    "Finding": "finding",
    "Records": "records",
    "Schema": "records",
    "Severity": "finding",
    "attribute": "attribution",
    "collect": "runner",
    "diagnose": "suite",
    "recalibrate": "calibration",
}
_TOPICS = ("attribution", "behavior", "calibration", "callbacks", "curves", "labels", "leakage", "shift", "slices")

__all__ = sorted([*_HOME, *_TOPICS])


def __getattr__(name: str) -> Any:
    if name in _TOPICS:
        return import_module(f"gendebug_torch.{name}")
    if name in _HOME:
        return getattr(import_module(f"gendebug_torch.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gendebug_torch' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
