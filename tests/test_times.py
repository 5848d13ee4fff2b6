"""`data.times`: one reader of times, whatever a column holds."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError

START = 1_767_225_600.0  # 2026-01-01 in UTC


@pytest.mark.parametrize(
    "column",
    [
        ["2026-01-01", "2026-01-02"],
        ["2026-01-01T00:00Z", "2026-01-02T01:00+01:00"],
        ["2026-01-01 00:00", "2026-01-01T19:00:00-05:00"],
        ["20260101", "20260102"],
        ["01/01/2026", "01/02/2026"],
        [dt.date(2026, 1, 1), dt.date(2026, 1, 2)],
        [dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)],
        pd.date_range("2026-01-01", periods=2),
        pd.Series(pd.date_range("2026-01-01 01:00", periods=2, tz="Europe/Berlin")),
        pd.Series(pd.period_range("2026-01-01", periods=2, freq="D")),
        pd.Series(["2026-01-01", "2026-01-02"], dtype="category"),
        pd.Series(["2026-01-01", "2026-01-02"], dtype=pd.ArrowDtype(pa.string())),
        pd.Series([dt.date(2026, 1, 1), dt.date(2026, 1, 2)], dtype=pd.ArrowDtype(pa.date32())),
        np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"),
    ],
    ids=str,
)
def test_dates_of_every_kind_are_seconds_in_utc(column):
    times = parse_times(column)
    assert times.values.tolist() == [START, START + 86400]
    assert (times.calendar, times.missing, times.unreadable) == (True, 0, 0)


@pytest.mark.parametrize(
    "column",
    [
        [3, 5],
        torch.tensor([3.0, 5.0]),
        np.array([3, 5], dtype=np.uint8),
        pd.Series([3, 5], dtype="Int64"),
        pd.Series([3, 5], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        ["3", "5.0"],
        pd.Series(pd.to_timedelta([3, 5], unit="s")),
    ],
    ids=str,
)
def test_numbers_keep_their_unit(column):
    times = parse_times(column)
    assert (times.values.tolist(), times.calendar) == ([3.0, 5.0], False)


@pytest.mark.parametrize(
    "column",
    [
        ["2026-01-02", None, "2026-01-01"],
        pd.Series(pd.to_datetime(["2026-01-02", None, "2026-01-01"])),
        pd.Series([2, None, 1], dtype="Int64"),
        [2.0, np.nan, 1.0],
    ],
    ids=str,
)
def test_missing_times_stay_missing_and_come_last(column):
    times = parse_times(column)
    assert times.values.isnan().tolist() == [False, True, False]
    assert times.order.tolist() == [2, 0, 1]
    assert (times.missing, times.unreadable) == (1, 0)


def test_a_local_clock_that_is_set_back_keeps_the_order_of_time():
    utc = pd.date_range("2026-10-24", periods=72, freq="h", tz="UTC")
    local = [str(moment) for moment in utc.tz_convert("America/New_York")]
    assert torch.equal(parse_times(local).order, torch.arange(72))
    assert parse_times(local).values.diff().unique().tolist() == [3600.0]


def test_text_that_is_no_time_is_counted_and_never_a_number():
    times = parse_times(["2026-01-01", "soon", "2026-01-03", None])
    assert (times.unreadable, times.missing) == (1, 2)
    assert float(times.values[~times.values.isnan()].min()) == START
    with pytest.raises(InputError, match=r"^`when`: expected numbers, timestamps"):
        parse_times(["soon", "later"], "when")


def test_one_value_decides_whether_the_day_is_first():
    assert parse_times(["31.12.2025", "01.01.2026"]).values.diff().tolist() == [86400.0]
    assert parse_times(["12/31/2025", "01/01/2026"]).values.diff().tolist() == [86400.0]
    mixed = parse_times(["31/12/2025", "2026-01-01"])
    assert mixed.values.diff().tolist() == [86400.0]


@pytest.mark.parametrize("column", [[], [None, None], pd.Series([], dtype=object)], ids=str)
def test_no_times_are_no_error(column):
    times = parse_times(column)
    assert (len(times.values), times.missing) == (len(column), len(column))
    assert len(times.order) == len(column)


def test_bytes_are_dates_where_they_are_text_and_unreadable_where_not():
    column = pd.Series([b"2026-01-01", b"2026-01\xb0", None, "2026-01-02"], dtype=object)
    times = parse_times(column)
    assert times.unreadable == 1
    assert times.values[[0, 3]].diff().item() == 86_400
