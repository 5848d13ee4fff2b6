"""Columns of times as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject


def time_values(values: pd.Series[Any], argument: str) -> tuple[Tensor, bool]:
    """`[n]` float64 times (NaN where missing) and whether they are seconds since 1970.

    Numbers keep their unit; dates, with or without a zone, and text are read as UTC.

    Args:
        values: numbers, dates or text, `[n]`.
        argument: name of the column for messages.

    Raises:
        InputError: text that is no date, or times of which some have a zone and some have none.
    """
    if values.dtype.kind in "iufb":
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return torch.from_numpy(np.array(numbers, copy=True)), False
    dated = values.dtype.kind == "M"
    try:
        dates = pd.to_datetime(values, utc=not dated, format=None if dated else "mixed")
    except (ValueError, TypeError) as error:
        reject(
            argument,
            "numbers, dates or text that reads as dates",
            str(error).partition("\n")[0][:200],
            "Correct the time column.",
        )
    if dates.dt.tz is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    seconds = dates.to_numpy().astype("datetime64[us]").astype("int64") / 1e6
    return torch.from_numpy(np.where(dates.isna(), np.nan, seconds)), True
