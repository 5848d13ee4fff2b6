"""Columns that are a part of the calendar (an hour, a weekday): do they still follow the clock?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gendebug_torch.data.times import parse_times

# Columns of more levels are no part of the calendar.
_MAX_LEVELS = 60
# Share of the reference that has to follow the clock, of production that has to, and of the rows
# that do not from which an offset is named.
_FOLLOWS, _STILL, _OFFSET = 0.995, 0.95, 0.95
# Rows that no longer follow, and the largest share of one level: a constant follows everything.
_MIN_ROWS, _MAX_SHARE = 30, 0.95

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class CalendarChange:
    """How a column differs from the part of the calendar that it was.

    Args:
        part: `hour`, `weekday`, `day of the month` or `month`.
        offset: places of the cycle by which the rows that differ are ahead; 0 where none fits.
        share: share of the rows that differ.
    """

    part: str
    offset: int
    share: float

    def text(self, clock: str) -> str:
        """The change as part of a sentence.

        Args:
            clock: name of the time column.
        """
        if not self.offset:
            return f"in {self.share:.0%} of the rows it is no longer the {self.part} of {clock}"
        return (
            f"in {self.share:.0%} of the rows it is the {self.part} of {clock} shifted by "
            f"{self.offset:+d}"
        )


def calendar_changes(
    reference: pd.DataFrame, production: pd.DataFrame, times: tuple[pd.Series[Any], pd.Series[Any]]
) -> dict[str, CalendarChange]:
    """Columns that were the hour, weekday, day or month of the time column and are no longer.

    A column counts where a part of the calendar, in at least two of its cycles, tells its value in
    99.5 % of the reference. Nothing is said where any such part still tells 95 % of production, or
    where the column has none of its levels left. An offset of one hour is daylight saving time.

    Args:
        reference: columns, `[n, d]`.
        production: the same columns, `[m, d]`.
        times: the time column of both, `[n]` and `[m]`, as dates.

    Returns:
        What changed of each such column.

    Example:
        >>> clock = pd.Series(pd.date_range("2026-01-01", periods=500, freq="h"))
        >>> hours = pd.DataFrame({"hour": clock.dt.hour})
        >>> calendar_changes(hours, (hours + 5) % 24, (clock, clock))
        {'hour': CalendarChange(part='hour', offset=5, share=1.0)}
    """
    parsed = [parse_times(side) for side in times]
    if not all(side.calendar for side in parsed):
        return {}
    clocks = [pd.Series(pd.to_datetime(side.values.numpy(), unit="s")) for side in parsed]
    known = [clock.notna().to_numpy() for clock in clocks]
    parts = [_parts(clock[has]) for clock, has in zip(clocks, known, strict=True)]
    found = {}
    for name in reference.columns:
        before, after = reference[name][known[0]], production[name][known[1]]
        codes, levels = pd.factorize(pd.concat([before, after]), use_na_sentinel=False)
        before_codes, after_codes = codes[: len(before)], codes[len(before) :]
        if not 2 <= len(levels) <= _MAX_LEVELS or not set(before_codes) & set(after_codes):
            continue
        if np.bincount(before_codes).max() > _MAX_SHARE * len(before):
            continue
        change = _no_longer(before_codes, after_codes, *parts)
        if change is not None:
            found[str(name)] = change
    return found


Parts = dict[str, tuple[int, Codes, Codes]]


def _parts(clock: pd.Series[Any]) -> Parts:
    """Length of each cycle, the place of each row in it from 0, and the number of the cycle."""
    day = clock.to_numpy(dtype="datetime64[D]").astype(np.int64)
    date = clock.dt
    month = (12 * date.year + date.month).to_numpy(dtype=np.int64)
    places = {
        "hour": (24, date.hour, day),
        "weekday": (7, date.day_of_week, (day + 3) // 7),
        "day of the month": (31, date.day - 1, month),
        "month": (12, date.month - 1, date.year.to_numpy(dtype=np.int64)),
    }
    return {
        name: (length, place.to_numpy(dtype=np.int64), cycle)
        for name, (length, place, cycle) in places.items()
    }


def _no_longer(
    before: Codes, after: Codes, reference: Parts, production: Parts
) -> CalendarChange | None:
    """What changed of one column; None where no part told its values, or one still does."""
    change = None
    for part, (length, place, cycle) in reference.items():
        value = _told_values(before, place, cycle, length)
        if value is None:
            continue
        live = production[part][1]
        judged = value[live] >= 0
        wrong = judged & (value[live] != after)
        if wrong.sum() <= (1 - _STILL) * max(int(judged.sum()), 1):
            return None
        if change is None and wrong.sum() >= _MIN_ROWS:
            offset = _offset(value, live[wrong], after[wrong])
            # Clocks are set by an hour twice a year, and the column may well follow them.
            if part != "hour" or abs(offset) != 1:
                change = CalendarChange(part, offset, float(wrong.sum() / judged.sum()))
    return change


def _told_values(codes: Codes, place: Codes, cycle: Codes, length: int) -> Codes | None:
    """The code at each place of a cycle, -1 where not seen twice; None if places tell no codes."""
    counts = np.zeros((length, int(codes.max()) + 1), dtype=np.int64)
    np.add.at(counts, (place, codes), 1)
    visits = np.unique(np.stack([place, cycle]), axis=1)[0]
    often = np.bincount(visits, minlength=length) >= 2
    told = counts[often].max(1).sum()
    if counts[often].sum() < _FOLLOWS * len(codes) or told < _FOLLOWS * len(codes):
        return None
    return np.where(often, counts.argmax(1), -1)


def _offset(value: Codes, place: Codes, codes: Codes) -> int:
    """Places of the cycle by which rows that no longer follow are ahead; 0 where none fits."""
    length = len(value)
    right = [float((value[(place + k) % length] == codes).mean()) for k in range(length)]
    best = int(np.argmax(right))
    if right[best] < _OFFSET:
        return 0
    return best if best <= length // 2 else best - length
