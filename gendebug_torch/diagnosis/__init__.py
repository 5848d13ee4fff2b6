"""Which checks run within a budget, and what their findings add up to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gendebug_torch.diagnosis.billing import bill as bill

__all__ = ["bill"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module("gendebug_torch.diagnosis.billing").bill
    raise AttributeError(f"module 'gendebug_torch.diagnosis' has no attribute {name!r}")
