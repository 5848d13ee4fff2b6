"""Which modality inputs have, and their properties as a table."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.modality.image import IMAGE
from gendebug_torch.modality.modality import Modality
from gendebug_torch.modality.series import SERIES
from gendebug_torch.modality.text import TEXT

if TYPE_CHECKING:
    import pandas as pd

TABLE = "table"
_OURS: Mapping[str, Modality] = {one.name: one for one in (IMAGE, TEXT, SERIES)}
# Another package names a `Modality` of its own in this group of entry points.
_GROUP = "gendebug_torch.modalities"
_SMALLEST_SQUARE = 16
# Rows described at once: the work space of a batch of large pictures stays within this many values.
_VALUES_AT_ONCE = 2**24


def modality_of(features: Any, name: str | None = None) -> Modality | None:
    """The modality of inputs by name, else by shape and type; None of a table.

    `[n, c, h, w]` and `[n, h, w, c]` are images, and so are `[n, h, w]` of uint8 or of squares from
    16 pixels on; other `[n, t, c]` are series, `[n, t]` of int32 or int64 are token ids, and
    anything else is a table.

    Args:
        features: inputs `[n, ...]`.
        name: `image`, `text`, `series`, `table` or that of an entry point of another package in
            the group `gendebug_torch.modalities`; None and `auto` look at the inputs.

    Raises:
        InputError: an unknown name, or inputs of another shape than this modality has.

    Example:
        >>> import torch
        >>> modality_of(torch.zeros(2, 3, 8, 8)).name, modality_of(torch.zeros(2, 24, 3)).name
        ('image', 'series')
    """
    if not isinstance(features, Tensor):
        return None
    if name is not None and name != "auto":
        return _named(features, name)
    if features.ndim == 4:
        return IMAGE
    if features.ndim == 3:
        h, w = features.shape[1:]
        square = h == w >= _SMALLEST_SQUARE
        return IMAGE if square or features.dtype is torch.uint8 else SERIES
    is_tokens = features.dtype in (torch.int32, torch.int64) and features.ndim == 2
    return TEXT if is_tokens else None


def _named(features: Tensor, name: str) -> Modality | None:
    """The modality of this name, whose inputs have as many axes."""
    if name == TABLE:
        return None
    modality = _OURS.get(name) or _of_another_package(name)
    if modality.axes and features.ndim not in modality.axes:
        got, remedy = f"shape {list(features.shape)}", "Reshape them, or name another modality."
        reject("modality", f"inputs {modality.shape} of `{name}`", got, remedy)
    return modality


def _of_another_package(name: str) -> Modality:
    """The modality that another package has under this name."""
    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if name not in found:
        remedy = "Leave it out to have it seen from shape and type."
        reject("modality", f"`auto`, {', '.join([*_OURS, *found])} or {TABLE}", repr(name), remedy)
    modality = found[name].load()
    if not isinstance(modality, Modality) or modality.name != name:
        got, remedy = repr(modality), f"Mend {found[name].value}."
        reject("modality", f"a Modality of the name {name!r}", got, remedy)
    return modality


def properties_of(features: Tensor, modality: Modality) -> pd.DataFrame:
    """Properties of all rows, one column each, computed in pieces of bounded size.

    Args:
        features: inputs `[n, ...]`.
        modality: what they are.

    Example:
        >>> import torch
        >>> dark, bright = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
        >>> properties_of(torch.cat([dark, bright]), IMAGE)["brightness"].tolist()
        [0.0, 1.0]
    """
    import pandas as pd

    if not len(features):
        reject("features", "at least one row", "none", "Pass the rows to describe.")
    rows = max(1, _VALUES_AT_ONCE // max(1, features[0].numel()))
    parts = [modality.properties(piece) for piece in torch.split(features, rows)]
    joined = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    return pd.DataFrame(joined)
