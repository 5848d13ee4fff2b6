"""Why a network that looks great in validation falls apart in production, and what to do next.

Importing this module loads nothing but the standard library; each name below is fetched when it is
first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gendebug_torch.version import __version__ as __version__

if TYPE_CHECKING:
    from gendebug_torch.attribution import attribute as attribute
    from gendebug_torch.calibration import recalibrate as recalibrate
    from gendebug_torch.checks.finding import Cause as Cause
    from gendebug_torch.checks.finding import Finding as Finding
    from gendebug_torch.checks.finding import Severity as Severity
    from gendebug_torch.data.records import Records as Records
    from gendebug_torch.data.schema import Schema as Schema
    from gendebug_torch.diagnosis.comparison.compare import compare as compare
    from gendebug_torch.diagnosis.diagnose import Diagnosis as Diagnosis
    from gendebug_torch.diagnosis.diagnose import diagnose as diagnose
    from gendebug_torch.influences import influence as influence
    from gendebug_torch.model.collection.collect import collect as collect
    from gendebug_torch.profiles.build import profile as profile
    from gendebug_torch.profiles.profile import Profile as Profile

_HOME = {
    "Cause": "checks.finding",
    "Diagnosis": "diagnosis.diagnose",
    "Finding": "checks.finding",
    "Profile": "profiles.profile",
    "Records": "data.records",
    "Schema": "data.schema",
    "Severity": "checks.finding",
    "attribute": "attribution",
    "collect": "model.collection.collect",
    "compare": "diagnosis.comparison.compare",
    "diagnose": "diagnosis.diagnose",
    "influence": "influences",
    "profile": "profiles.build",
    "recalibrate": "calibration",
}
_TOPICS = (
    "attribution",
    "behavior",
    "calibration",
    "callbacks",
    "curves",
    "diagnosis",
    "labels",
    "leakage",
    "network",
    "shift",
    "slices",
)

__all__ = sorted([*_HOME, *_TOPICS])


def __getattr__(name: str) -> Any:
    if name in _TOPICS:
        return import_module(f"gendebug_torch.{name}")
    if name in _HOME:
        return getattr(import_module(f"gendebug_torch.{_HOME[name]}"), name)
    raise AttributeError(
        f"module 'gendebug_torch' has no attribute {name!r}; it has {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return __all__
