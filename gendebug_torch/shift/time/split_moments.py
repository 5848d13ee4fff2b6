"""Harder check sets than a random split: by time, by group, and shifted, so that validation stops
being an oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from gendebug_torch.errors import reject

if TYPE_CHECKING:
    pass


def moments_of(time: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """`[n]` sortable moments; zones are taken to UTC."""
    column = pd.Series(np.asarray(time) if isinstance(time, (list, tuple, Tensor)) else time)
    if column.dtype.kind not in "iufM":
        try:
            column = pd.to_datetime(column, utc=True, format="mixed")
        except (ValueError, TypeError) as error:
            reject(
                "time",
                "numbers or timestamps",
                str(error).splitlines()[0],
                "Convert with pandas.to_datetime, in one time zone.",
            )
    if missing := int(column.isna().sum()):
        reject(
            "time",
            "a moment in every row",
            f"{missing} of {len(column)} missing",
            "Drop or fill those rows.",
        )
    moments: np.ndarray[Any, np.dtype[Any]] = column.to_numpy()
    return moments
