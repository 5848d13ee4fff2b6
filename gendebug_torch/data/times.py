"""Time columns as numbers on one axis, and durations: the only place where times are parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
# 20260131, which is a date rather than a number.
_COMPACT_DATE = re.compile(r"(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
# 31/12/2025, 31.12.25: day and month in either order.
_SLASH_DATE = r"^\s*(\d{1,2})[/.-](\d{1,2})[/.-]\d{2,4}\b"


@dataclass(frozen=True, eq=False)
class Times:
    """Times of n rows.

    Args:
        values: times, `[n]` float64: seconds since 1970 in UTC for dates, else numbers in their
            own unit; NaN where missing.
        calendar: whether the times are dates.
        unreadable: number of values that were given but are no time; missing in `values`.
    """

    values: Tensor
    calendar: bool
    unreadable: int = 0

    @property
    def missing(self) -> int:
        """Number of rows without a time, unreadable ones included."""
        return int(self.values.isnan().sum())

    @property
    def order(self) -> Tensor:
        """Rows in the order of time, `[n]` int64: stable, rows without a time last."""
        return self.values.argsort(stable=True)


def parse_times(values: Any, argument: str = "time") -> Times:
    """Times of a column of numbers, timestamps, dates or date texts.

    Times with an offset or a zone are converted to UTC, times without one are taken as UTC, and
    both may occur in one column. Where day and month can be read either way, one value that only
    reads as day first decides for the whole column; else the month is first. Seconds are exact to
    a quarter of a microsecond.

    Args:
        values: times, `[n]`: a Series, an array, a tensor or a list; None, NaN and NaT are missing.
        argument: name of the argument or column for the message.

    Returns:
        The times. Text that is no time is missing and counted in `unreadable`.

    Raises:
        InputError: values are given and none of them is a time.

    Example:
        >>> times = parse_times(["2026-01-01T00:00+01:00", "2026-01-01 00:00", None])
        >>> times.values.diff()[0].item(), times.missing
        (3600.0, 1)
    """
    column = _as_series(values)
    given = column.notna().to_numpy()
    numbers = _numbers(column)
    if numbers is not None:
        return Times(torch.from_numpy(numbers), calendar=False)
    dates = _dates(column)
    seconds = dates.to_numpy(dtype="datetime64[us]").astype(np.int64) / 1e6
    absent = dates.isna().to_numpy()
    if given.any() and absent.all():
        shown = sorted({str(value) for value in column[given][:3]})
        reject(
            argument,
            "numbers, timestamps, dates or date texts",
            f"{', '.join(map(repr, shown))}",
            "Convert the column with pandas.to_datetime.",
        )
    seconds[absent] = np.nan
    return Times(torch.from_numpy(seconds), calendar=True, unreadable=int((given & absent).sum()))


def _as_series(values: Any) -> pd.Series[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    column: pd.Series[Any] = values if isinstance(values, pd.Series) else pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = pd.Series(column.dt.to_timestamp())
    return column.reset_index(drop=True)


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """`[n]` float64, NaN where missing; None where the values are dates or text."""
    if column.dtype.kind in "M":
        return None
    if column.dtype.kind == "m":
        return np.array(column.dt.total_seconds(), dtype=np.float64)
    if column.dtype.kind not in "iufb":
        given = column.dropna()
        if not len(given) or given.map(_is_compact_date).all():
            return None
        if pd.to_numeric(given.astype(object), errors="coerce").isna().any():
            return None
        column = pd.to_numeric(column.astype(object), errors="coerce")
    return np.array(column.to_numpy(dtype=np.float64, na_value=np.nan), copy=True)


def _is_compact_date(value: Any) -> bool:
    return isinstance(value, str) and _COMPACT_DATE.fullmatch(value.strip()) is not None


def _text_of(value: Any) -> Any:
    """Bytes as text, what is none marked, so that it is no date; other values as they are."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _dates(column: pd.Series[Any]) -> pd.Series[Any]:
    """`[n]` naive timestamps in UTC, NaT where a value is missing or no date."""
    if column.dtype.kind == "M":
        dates = pd.to_datetime(column, utc=True)
    else:
        text = column.astype(object).map(_text_of)
        parts = text.astype(str).str.extract(_SLASH_DATE).astype(float)
        either, day_first = parts[0].notna(), bool((parts[0] > 12).any())
        dates = pd.to_datetime(text, utc=True, format="mixed", errors="coerce")
        if day_first:
            again = pd.to_datetime(
                text[either], utc=True, format="mixed", errors="coerce", dayfirst=True
            )
            dates = dates.where(~either, again.reindex(dates.index))
    return dates.dt.tz_localize(None)


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
