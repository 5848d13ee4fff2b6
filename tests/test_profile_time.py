"""Answers over time of profiles: judged on the sums of all rows, not on a sample of them."""

import numpy as np
import pandas as pd
import pytest
import torch

import gendebug_torch as gd
from gendebug_torch import Schema, Severity
from gendebug_torch.errors import InputError
from gendebug_torch.profiles.sums.windows import Windows
from gendebug_torch.shift import change_point
from gendebug_torch.shift.time.change_point import change_point_of_sums

ROWS = 24_000


def rows(seed, *, regression=False, fall=0.0, nights=True, labeled=1.0):
    """Two months of answers; from the 50th day on a share of them is wrong, or too large."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.uniform(0, 60, ROWS))
    if nights:
        day = np.floor(day) + 0.3 + 0.6 * (day % 1)
    late, z = day > 50, 1.5 * rng.normal(size=ROWS)
    if regression:
        label = z + rng.normal(size=ROWS) + 2 * fall * late
    else:
        truth = rng.random(ROWS) < 1 / (1 + np.exp(-z))
        label = np.where(late & (rng.random(ROWS) < fall), 1 - truth, truth).astype(float)
    label[rng.random(ROWS) > labeled] = np.nan
    at = pd.Timestamp("2026-01-01") + pd.to_timedelta(day, unit="D")
    return pd.DataFrame({"x": rng.normal(size=ROWS), "z": z, "label": label, "at": at})


def over_time(production, schema):
    found = gd.diagnose(production=production, only="shift.over_time").findings
    return next(f for f in found if f.check == "shift.over_time" and f.severity != Severity.NOTE)


@pytest.mark.parametrize(
    ("regression", "fall", "labeled"),
    [(False, 0.0, 1.0), (False, 0.25, 0.3), (True, 0.0, 1.0), (True, 0.4, 1.0)],
)
def test_a_profile_of_few_sampled_rows_answers_as_all_rows_do(regression, fall, labeled):
    schema = Schema(target="label", logits="z", time="at", regression=regression)
    table = rows(1, regression=regression, fall=fall, labeled=labeled)
    whole = over_time(gd.Records.from_frame(table, schema), schema)
    parts = [gd.profile(table.iloc[i::7], schema, sample=200) for i in range(7)]
    summed = over_time(sum(parts[1:], parts[0]), schema)
    assert (summed.severity, summed.cause) == (whole.severity, whole.cause)
    assert (summed.severity is Severity.OK) is (fall == 0)
    if fall:
        assert summed.numbers["change"] == pytest.approx(whole.numbers["change"], rel=0.05)
        assert summed.numbers["low"] <= whole.numbers["row"] <= summed.numbers["high"]
        assert summed.summary.partition(" within")[0] == whole.summary.partition(" within")[0]


def test_quiet_streams_with_nights_are_quiet():
    schema = Schema(target="label", logits="z", time="at")
    found = [over_time(gd.profile(rows(s, fall=0), schema, sample=100), schema) for s in range(20)]
    assert [f.severity for f in found] == [Severity.OK] * 20


def test_the_change_of_sums_is_that_of_their_rows():
    values = torch.randn(6000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values[4200:] += 0.4
    sizes = torch.full((200,), 30)
    whole = change_point(values)
    summed = change_point_of_sums(sizes, values.view(200, 30).sum(1))
    assert summed.p_value == pytest.approx(whole.p_value)
    assert summed.change == pytest.approx(whole.change)
    assert abs(summed.row - whole.row) <= 30
    assert summed.low <= 4200 <= summed.high
    # Windows without rows, and sizes of any kind, change nothing but the grid.
    cuts = torch.arange(6000) // 7 % 3 * 100 + torch.arange(6000) // 300 * 300
    order = torch.unique(cuts, return_inverse=True)[1].sort(stable=True)
    sums = torch.zeros(60, dtype=torch.float64).index_add_(0, order.values, values[order.indices])
    counts = order.values.bincount()
    with_gaps = torch.stack([counts, 0 * counts], 1).flatten()
    gapped = change_point_of_sums(with_gaps, torch.stack([sums, 0 * sums], 1).flatten())
    assert gapped.p_value < 1e-6
    plain = change_point_of_sums(counts, sums)
    assert (gapped.row, gapped.p_value) == (plain.row, plain.p_value)
    with pytest.raises(InputError, match="Wait for more rows"):
        change_point_of_sums(torch.full((8,), 100), torch.zeros(8))


def test_windows_of_an_earlier_version_hold_no_answers():
    schema = Schema(target="label", logits="z", time="at")
    made = gd.profile(rows(0), schema)
    windows = made.windows
    old = Windows.from_tensors(
        torch.from_numpy(windows.keys),
        torch.from_numpy(windows.sums[:, :5]),
        windows.level,
        windows.calendar,
        windows.undated,
    )
    assert old.time_sums() is None
    assert windows.time_sums() is not None
    pd.testing.assert_frame_equal(old.table(), windows.table())
