"""The one reader of time: moments as numbers, timestamps and texts, in UTC, and durations."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_times(values: Any, *, argument: str = "time") -> Tensor:
    """Moments as numbers that sort and subtract.

    Texts and zoned timestamps become UTC, so that offsets may be mixed (as in local time around a
    change of the clocks); what has no zone is taken as UTC.

    Args:
        values: moments, `[n]`: numbers, timestamps, dates, or texts of them.
        argument: name of the argument for errors.

    Returns:
        Seconds since 1970 in UTC, or the numbers as they are, `[n]` float64; NaN where missing.

    Raises:
        InputError: a value is no moment.

    Example:
        >>> parse_times(["1970-01-01T01:00+01:00", "1970-01-01T00:00:01+00:00", None]).tolist()
        [0.0, 1.0, nan]
    """
    if isinstance(values, Tensor):
        return values.detach().double().cpu()
    column = pd.Series(values).reset_index(drop=True)
    if column.dtype.kind in "iuf" or (column.dtype.kind == "O" and _numbers(column)):
        return torch.from_numpy(column.to_numpy(dtype=np.float64, na_value=np.nan).copy())
    try:
        moments = pd.to_datetime(column, utc=True, format="mixed")
    except (ValueError, TypeError, OverflowError) as error:
        reject(
            argument,
            "numbers, timestamps or texts of dates",
            str(error).splitlines()[0],
            "Correct the value, or convert the column with pandas.to_datetime.",
        )
    seconds = (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return torch.from_numpy(seconds.to_numpy(dtype=np.float64).copy())


def _numbers(column: pd.Series[Any]) -> bool:
    present = column.dropna()
    return bool(len(present)) and all(isinstance(value, int | float) for value in present)


def seconds_of(duration: str | float, *, argument: str = "budget") -> float:
    """Seconds of `90`, `90s`, `2m` or `1.5h`.

    Args:
        duration: number of seconds, or text of a number and a unit.
        argument: name of the argument for errors.

    Raises:
        InputError: anything else, or a duration that is not positive.

    Example:
        >>> seconds_of("1.5h")
        5400.0
    """
    if isinstance(duration, int | float):
        seconds = float(duration)
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)\s*", str(duration).lower())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds > 0:
        remedy = "Write a number and a unit."
        reject(argument, "a positive time such as `90s`, `2m` or `1h`", repr(duration), remedy)
    return seconds
