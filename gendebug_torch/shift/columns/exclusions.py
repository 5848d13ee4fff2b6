"""Columns that no test of distributions fits: dates, counters, versions, calendar, identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gendebug_torch.data.inputs.written_quantities import written_units
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError

# Last word of the name of a column that counts on, and of one that runs through a cycle.
_TIMES = (
    *("year", "yr", "date", "day", "week", "month", "quarter", "time", "timestamp", "epoch", "ts"),
    *("dayofyear", "yearday", "weekofyear", "unixtime"),
)
_NUMBERS = (
    *("version", "ver", "release", "build", "revision", "rev", "batch", "lot", "run", "sequence"),
    *("serial", "wave", "cohort", "iteration", "invoice", "ticket"),
)
_COUNTERS = frozenset((*_TIMES, *_NUMBERS))
_CYCLES = {
    "quarter": 4,
    "season": 4,
    "weekday": 7,
    "dow": 7,
    "month": 12,
    "mnth": 12,
    "day": 31,
    "week": 53,
    "doy": 366,
    "dayofweek": 7,
    "dayofmonth": 31,
    "dayofyear": 366,
    "yearday": 366,
    "weekofyear": 53,
}
_SUFFIXES = frozenset(("number", "no", "num", "nr", "id", "index", "s", "ms", "us", "ns", "utc"))
_MONTHS = "january february march april may june july august september october november december"
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"
_NAMED_CYCLES = tuple(
    frozenset(form(name) for name in names.split())
    for names in (_MONTHS, _WEEKDAYS)
    for form in (str, lambda name: name[:3])
)
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}\b|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b|(19|20)\d{6}|\d{4}-?q[1-4]"
    r"|([a-z]{3,9}\.? )?\d{1,2},? [a-z]{3,9}\.? \d{4}|[a-z]{3,9}\.? (\d{1,2},? )?\d{4}",
    re.IGNORECASE,
)
_WEEK = re.compile(r"\d{4}[ -]?(w|kw|cw)\d{1,2}", re.IGNORECASE)
# Distance of numbers of rows from an even spread: what is tolerated, and that of noise.
_UNEVEN, _NOISE = 0.05, 1.2
# Numbers that may be dates by chance; smallest number of the form 20240131.
_MIN_COMPACT_DATES, _FIRST_DAY = 4, 1_000_000
# Share of the levels that have to be dates; levels and rows per level of an identifier, and the
# share of production rows whose level is new.
_MIN_DATES = 0.95
_MIN_IDS = 50
_MAX_ROWS_PER_ID = 5.0
_MIN_NEW = 0.5
# A number counts on where this share of production lies beyond the same share of the reference,
# after a gap of at most its range, or of this share of its value.
_MIN_LATER = 0.9
_MAX_GAP = 0.01

DATES = "it holds dates"
COUNTER = "it counts on, as a version or a batch number does"
CALENDAR = "it holds another part of the calendar"
IDENTIFIER = "it identifies rows or customers"
WRITTEN = "it holds numbers with their unit as text"
ABSENT = "it is absent in production"
NON_NUMERIC = "it is no longer numeric in production"
WIDE_INTEGERS = "it holds integers beyond 2^53, which are ids or hashes rather than quantities"


def dtype_reason(column: pd.Series[Any]) -> str | None:
    """Why a column cannot be compared by its type, as part of a sentence; None if it can.

    Args:
        column: values, `[n]`.

    Example:
        >>> dtype_reason(pd.Series(pd.to_timedelta([1, 2], unit="s")))
        'it holds durations'
    """
    if column.dtype.kind == "M" or isinstance(column.dtype, pd.PeriodDtype):
        return DATES
    if column.dtype.kind == "m":
        return "it holds durations"
    if column.dtype == object and column.map(_is_nested).any():
        return "it holds lists"
    return None


def arrow_reason(kind: Any) -> str | None:
    """Why a column cannot be compared by its Arrow type, as part of a sentence; None if it can.

    Args:
        kind: type of the column.

    Example:
        >>> import pyarrow as pa
        >>> arrow_reason(pa.list_(pa.int64())), arrow_reason(pa.decimal128(9, 2)) is None
        ('it holds lists', True)
    """
    from pyarrow import types

    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    texts = (types.is_boolean, types.is_string, types.is_large_string, types.is_dictionary)
    if any(is_comparable(kind) for is_comparable in (*numbers, *texts)):
        return None
    if types.is_timestamp(kind) or types.is_date(kind):
        return DATES
    if types.is_duration(kind):
        return "it holds durations"
    return "it holds lists" if types.is_nested(kind) else f"it holds {kind}"


def level_reason(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
    """Why the levels of a column change by themselves, as part of a sentence; None if they do not.

    Args:
        name: feature name.
        before: rows per level of the reference.
        after: rows per level of production.

    Example:
        >>> level_reason("signup", {"2024-01-30": 5, "2024-01-31": 4}, {"2024-02-01": 9})
        'it holds dates'
        >>> level_reason("app_version", {"1.9.0": 5, "1.10.2": 4}, {"1.12.0": 9})
        'it counts on, as a version or a batch number does'
        >>> level_reason("channel", {"web": 5, "shop": 4}, {"WEB": 5, "SHOP": 4}) is None
        True
    """
    before, after = ({k: n for k, n in side.items() if n} for side in (before, after))
    if not before or not after:
        return None
    if _are_dates([*before, *after]):
        # Dates in another format are another matter: the encoder of the model does not know them.
        return DATES if _forms(before) & _forms(after) else None
    if _named_calendar_parts(before, after):
        return CALENDAR
    if _levels_count_on(name, before, after):
        return COUNTER
    if not _are_identifiers(before, after):
        return None
    units = written_units(before), written_units(after)
    # Another unit is no change by itself.
    return IDENTIFIER if not all(units) else WRITTEN if units[0] == units[1] else None


def number_reason(name: str, before: NDArray[Any], after: NDArray[Any]) -> str | None:
    """Why a number changes by itself, by the name of its column; None if it does not.

    Args:
        name: feature name.
        before: finite values of the reference, `[n]`.
        after: finite values of production, `[m]`.

    Example:
        >>> number_reason("order_year", np.array([2022.0, 2023.0]), np.array([2024.0]))
        'it counts on, as a version or a batch number does'
        >>> number_reason("price", np.array([2022.0, 2023.0]), np.array([2024.0])) is None
        True
    """
    if not len(before) or not len(after):
        return None
    if _are_compact_dates(before, after):
        return DATES
    words = _words(name)
    if _last(words) in _COUNTERS and after.max() >= before.max():
        end, start = np.quantile(before, _MIN_LATER), np.quantile(after, 1 - _MIN_LATER)
        # A unit or a default value leaves a larger gap than time does; the reference may end in the
        # first days of the year that production is in.
        gap = max(1.0, float(np.ptp(before)), _MAX_GAP * abs(float(end)))
        if 0 <= start - end <= gap and (start > end or after.max() > before.max()):
            return COUNTER
    return _calendar_reason(words, before, after)


def is_numbering(values: NDArray[Any]) -> bool:
    """Whether distinct whole numbers fill their range evenly, as those of rows or customers do.

    An amount in cents may have no value twice either, but its values crowd somewhere.

    Args:
        values: finite numbers, `[n]`, in any order.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> is_numbering(np.arange(500.0)), is_numbering(draw.normal(9e6, 1e6, 500).round())
        (True, False)
    """
    ordered, n = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    if bool((ordered[1:] == ordered[:-1]).any() or (ordered != np.floor(ordered)).any()):
        return False
    # Beyond that size every float is whole. Too few say nothing against it.
    if n < 2 or np.abs(ordered).max() > 2.0**53:
        return n < 2
    level = (ordered - ordered[0]) / (ordered[-1] - ordered[0])
    gap = np.abs(level - (np.arange(n) + 0.5) / n).max()
    return bool(gap <= _UNEVEN + _NOISE / np.sqrt(n))


def _are_compact_dates(before: NDArray[Any], after: NDArray[Any]) -> bool:
    """Whether whole numbers are written like 20240131, or all like 202401."""
    values = [np.unique(side) for side in (before, after)]
    both = np.unique(np.concatenate(values))
    if len(both) < _MIN_COMPACT_DATES or bool((both != np.floor(both)).any()):
        return False
    days = both % 100 if both[0] >= _FIRST_DAY else np.ones_like(both)
    months = both // 100 if both[0] >= _FIRST_DAY else both
    years, month = months // 100, months % 100
    valid = (years >= 1900) & (years <= 2100) & (month >= 1) & (month <= 12) & (days >= 1)
    return bool((valid & (days <= 31)).all())


def _calendar_reason(words: list[str], before: NDArray[Any], after: NDArray[Any]) -> str | None:
    """Whether the two sides hold different parts of a cycle, such as other months."""
    cycle = _cycle(words)
    if not cycle:
        return None
    values = [np.unique(side) for side in (before, after)]
    whole = all(bool((side == np.floor(side)).all()) for side in values)
    inside = min(side[0] for side in values) >= 0 and max(side[-1] for side in values) <= cycle
    partial = min(map(len, values)) < _MIN_LATER * cycle
    differ = not np.array_equal(values[0], values[1])
    return CALENDAR if whole and inside and partial and differ else None


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set | np.ndarray)


def _words(name: str) -> list[str]:
    """The words of a name in snake or camel case, without digits."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def _last(words: list[str]) -> str:
    """The last word that is no suffix: `batch` of `batch_no`."""
    return next((word for word in reversed(words) if word not in _SUFFIXES), "")


def _cycle(words: list[str]) -> int:
    """Length of the cycle that a column is named after; 0 if it is not."""
    if words[-3:-1] == ["day", "of"]:
        return {"week": 7, "year": 366}.get(words[-1], 31)
    if len(words) > 2 and words[-2] == "of":
        words = words[:-2]
    return _CYCLES.get(_last(words), 0)


def _are_dates(levels: Iterable[str]) -> bool:
    """Whether nearly all levels are written like dates, and can be read as such, or as weeks."""
    distinct = list(dict.fromkeys(level.strip() for level in levels))
    if sum(map(bool, map(_WEEK.fullmatch, distinct))) >= _MIN_DATES * len(distinct):
        return True
    if sum(map(bool, map(_DATE.match, distinct))) < _MIN_DATES * len(distinct):
        return False
    try:
        times = parse_times(distinct)
    except InputError:
        return False
    return times.calendar and times.missing <= (1 - _MIN_DATES) * len(distinct)


def _forms(levels: Iterable[str]) -> set[str]:
    """The levels with each number as 0 and each word as a."""
    return {re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", level)) for level in levels}


def _named_calendar_parts(before: Iterable[str], after: Iterable[str]) -> bool:
    """Whether levels are names of months or weekdays, other ones on the two sides."""
    first, second = ({level.strip().casefold() for level in side} for side in (before, after))
    return first != second and any(first | second <= names for names in _NAMED_CYCLES)


def _levels_count_on(name: str, before: Iterable[str], after: Iterable[str]) -> bool:
    """Whether levels are texts of one form with numbers, and those of production are higher."""
    first, second = list(before), list(after)
    named = _last(_words(name)) in _COUNTERS
    if not named and (len(first) < 3 or all(map(str.isdigit, first))):
        return False
    forms = _forms([*first, *second])
    if len(forms) != 1 or "0" not in forms.pop():
        return False
    numbers = [[tuple(map(int, re.findall(r"\d+", x))) for x in side] for side in (first, second)]
    return min(numbers[1]) >= max(numbers[0]) and max(numbers[1]) > max(numbers[0])


def _are_identifiers(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether there are many levels of few rows each, most of production's unseen before."""
    for side in (before, after):
        if len(side) < _MIN_IDS or sum(side.values()) > _MAX_ROWS_PER_ID * len(side):
            return False
    new = sum(rows for level, rows in after.items() if level not in before)
    return new >= _MIN_NEW * sum(after.values())
