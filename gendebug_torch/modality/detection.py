"""Which modality inputs have, and their properties as a table."""

from __future__ import annotations

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

# Rows described at once: the work space of a batch of large pictures stays within this many values.
_VALUES_AT_ONCE = 2**24


def modality_of(features: Any) -> Modality | None:
    """The modality of inputs by shape and type; None of a table.

    `[n, c, h, w]` and `[n, h, w, c]` are images, `[n, t, c]` is a series, `[n, t]` of integers are
    token ids, anything else is a table.

    Example:
        >>> import torch
        >>> modality_of(torch.zeros(2, 3, 8, 8)).name, modality_of(torch.zeros(2, 24, 3)).name
        ('image', 'series')
    """
    if not isinstance(features, Tensor):
        return None
    if features.ndim == 4 and {features.shape[1], features.shape[3]} & {1, 3, 4}:
        return IMAGE
    if features.ndim == 3:
        return SERIES
    is_tokens = features.dtype in (torch.int32, torch.int64) and features.ndim == 2
    return TEXT if is_tokens else None


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
