"""`shift` in time: rows that depend on their neighbours, windows with one error rate, and a clock
that slipped."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity
from gendebug_torch.checks.evidence import axes, png
from gendebug_torch.errors import InputError
from gendebug_torch.shift import change_kinds, change_point, drift_windows, ks_two_sample
from gendebug_torch.shift.checks.categories import categories_keep_their_shares
from gendebug_torch.shift.checks.confidence import confidence_keeps_its_distribution
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.missing import values_are_missing_as_often
from gendebug_torch.shift.checks.serving_skew import inputs_are_computed_as_before
from gendebug_torch.shift.transforms.cycles import clock_offset_hours
from gendebug_torch.shift.two_sample.feature_shift import most_shifted
from gendebug_torch.stats.dependence.effective_sample_size import autocorrelation_time
from tests.contract.plants_shift import PLANTS
from tests.sequential import assert_rate

WARN = Severity.WARN.level


def memory(rng, n, d, rho):
    """`[n, d]` autoregressive columns of unit variance; `rho` is a number or one per column."""
    noise = rng.normal(size=(n, d))
    values = noise.copy()
    for i in range(1, n):
        values[i] = rho * values[i - 1] + np.sqrt(1 - np.square(rho)) * noise[i]
    return values


def in_time(values, name, *, start=0, shuffled=None):
    """Records whose rows are in the order of time, or shuffled with their time."""
    frame = pd.DataFrame(values, columns=[f"x{i}" for i in range(values.shape[1])])
    time = pd.DataFrame({"time": start + np.arange(len(values), dtype=float)})
    if shuffled is not None:
        order = shuffled.permutation(len(values))
        frame, time = (
            frame.iloc[order].reset_index(drop=True),
            time.iloc[order].reset_index(drop=True),
        )
    return Records(frame, metadata=time, schema=Schema(time="time"), name=name)


@pytest.mark.parametrize(("rho", "tolerance"), [(0.0, 0.1), (0.5, 0.15), (0.9, 0.2), (0.97, 0.3)])
def test_the_time_of_an_autoregression_is_its_formula(rho, tolerance):
    values = torch.from_numpy(memory(np.random.default_rng(0), 4000, 30, rho))
    expected = (1 + rho) / (1 - rho)
    assert float(autocorrelation_time(values).mean()) == pytest.approx(expected, rel=tolerance)
    assert torch.allclose(autocorrelation_time(values.exp()), autocorrelation_time(values))
    assert float(autocorrelation_time(values, parts=4).mean()) == pytest.approx(
        expected, rel=2 * tolerance
    )


def test_the_time_of_odd_columns():
    rng = np.random.default_rng(0)
    spread = torch.from_numpy(rng.normal(size=4000) * np.exp(memory(rng, 4000, 1, 0.98)[:, 0]))
    assert float(autocorrelation_time(spread)) > 5, "a slow spread is a dependence too"
    gaps = torch.from_numpy(memory(rng, 4000, 20, 0.8))
    whole = float(autocorrelation_time(gaps).mean())
    gaps[torch.from_numpy(rng.random((4000, 20)) < 0.5)] = torch.nan
    assert float(autocorrelation_time(gaps).mean()) == pytest.approx(1 + (whole - 1) / 2, rel=0.2)
    broken = torch.from_numpy(rng.normal(size=2000))
    broken[1000:] += 3.0
    assert float(autocorrelation_time(broken)) > 50
    assert float(autocorrelation_time(broken, parts=4)) < 2
    for odd in (
        torch.zeros(0, 2),
        torch.zeros(1, 2),
        torch.full((300, 2), 3.0),
        torch.full((300, 2), torch.nan),
    ):
        assert autocorrelation_time(odd).tolist() == [1.0, 1.0]
    assert autocorrelation_time(torch.zeros(5, 0)).shape == (0,)
    with pytest.raises(InputError, match=r"^`values`"):
        autocorrelation_time(torch.zeros(2, 2, 2))


def test_a_slow_swing_below_much_noise_is_seen_and_a_cycle_is_none():
    """As the risk of the merchant of each payment: neighbours hardly resemble each other."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(5000, 200))
    assert (autocorrelation_time(torch.from_numpy(noise)) < 1.5).double().mean() > 0.98
    slow = 0.35 * memory(rng, 5000, 200, 0.999) + noise
    times = autocorrelation_time(torch.from_numpy(slow))
    assert float((times > 5).double().mean()) > 0.8
    for cycles, size in ((4.3, 0.3), (30.3, 1.0)):
        cycle = size * np.sin(2 * np.pi * cycles * np.arange(5000) / 5000)[:, None] + noise
        assert float(autocorrelation_time(torch.from_numpy(cycle)).median()) < 15, cycles


def alarms(findings):
    return {finding.subject for finding in findings if finding.severity.level >= WARN}


def test_slow_columns_do_not_alarm_and_moved_ones_do():
    rhos = np.array([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95])
    alone, moved = [], []

    def outcome(seed):
        rng = np.random.default_rng(seed)
        series = memory(rng, 2500, 10, rhos)
        before, after = (
            in_time(series[:1500], "validation"),
            in_time(series[1500:], "production", start=1500, shuffled=rng),
        )
        alarmed = alarms(features_keep_their_distribution(after, before))
        plain = [Records(records.features, name=records.name) for records in (before, after)]
        alone.append(bool(alarms(features_keep_their_distribution(plain[1], plain[0]))))
        x = after.features
        moved[:] = features_keep_their_distribution(
            replace(after, features=x.assign(x0=x["x0"] + 0.5, x2=x["x2"] + 0.7)), before
        )
        return not alarmed and {"x0", "x2"} <= alarms(moved), alarmed

    assert_rate(outcome, itertools.count(), 0.97, 0.75)
    assert sum(alone) > 0.6 * len(alone), "without a time column most runs alarm"
    told = next(finding for finding in moved if finding.subject == "x2")
    assert told.numbers["independent_m"] < told.numbers["m"] == 1000
    assert "independent" in told.summary


def test_a_reference_too_short_for_the_swings_of_a_feature_is_said_to_be():
    walk = memory(np.random.default_rng(3), 3000, 1, 1 - 1e-6) * 30
    first, summary = features_keep_their_distribution(
        in_time(walk[2000:], "production", start=2000), in_time(walk[:2000], "validation")
    )
    assert first.severity is Severity.NOTE
    assert first.numbers["independent_n"] < 10
    assert "too short to tell a shift" in first.summary
    assert "long enough" in first.remedy
    assert summary.severity is Severity.NOTE
    slow = memory(np.random.default_rng(1), 3000, 1, 0.95)
    before, after = (
        in_time(slow[:2000], "validation"),
        in_time(slow[2000:] + 0.2, "production", start=2000),
    )
    first, summary = features_keep_their_distribution(after, before)
    assert [finding.severity for finding in (first, summary)] == [Severity.NOTE, Severity.NOTE]
    assert "no more than its slow fluctuations" in first.summary


def test_values_outside_the_whole_range_of_the_reference_are_no_slow_fluctuation():
    """A model extrapolates there, however slowly the values came about."""
    slow = memory(np.random.default_rng(1), 3000, 2, 0.99)
    before = in_time(slow[:2000], "validation")
    outside = slow[2000:] + np.array([0.0, 2 * np.ptp(slow[:, 1])])
    findings = features_keep_their_distribution(
        in_time(outside, "production", start=2000), before, min_independent_rows=1000
    )
    assert alarms(findings) == {"x1"}
    (finding,) = [f for f in findings if f.subject == "x1"]
    assert finding.severity is Severity.WARN
    assert "100% of the production values lie outside the whole range" in finding.summary
    assert finding.cause is Cause.COVARIATE_SHIFT


def test_a_break_inside_production_is_still_a_shift():
    rng = np.random.default_rng(0)
    after = rng.normal(size=(2000, 3))
    after[900:, 1] += 1.0
    before = in_time(rng.normal(size=(2000, 3)), "validation")
    assert alarms(
        features_keep_their_distribution(in_time(after, "production", start=2000), before)
    ) == {"x1"}


@pytest.mark.parametrize(
    ("n", "rho", "step"), [(600, 0.0, 1.0), (1500, 0.5, 1.0), (4000, 0.9, 1.5), (4000, 0.0, 4.0)]
)
def test_the_interval_holds_the_place_of_a_break_also_among_dependent_rows(n, rho, step):
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values, place = memory(rng, n, 1, rho)[:, 0], int(n * rng.uniform(0.3, 0.7))
        values[place:] += step
        found = change_point(torch.from_numpy(values))
        assert found.p_value < 0.05
        assert found.sudden is not False
        covered += found.low <= place <= found.high
        assert found.high - found.low < n / 3
    assert covered >= 36, "P(fewer than 36 of 40 at 95 %) is under 4 %"


def test_what_is_neither_clearly_a_step_nor_clearly_a_trend_is_called_a_change():
    shapes = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        slow = memory(rng, 600, 1, 0.9)[:, 0] + np.linspace(0, 2, 600)
        clear = rng.normal(size=4000) + np.linspace(0, 2, 4000)
        shapes.append(
            (
                change_point(torch.from_numpy(slow)).shape,
                change_point(torch.from_numpy(clear)).shape,
            )
        )
    assert [shape for _, shape in shapes] == ["trend"] * 20
    assert sum(shape == "step" for shape, _ in shapes) <= 3
    assert sum(shape == "change" for shape, _ in shapes) >= 10


def levels_in_time(rng, n, stay):
    """A category that stays what it is with a probability, and a column that is missing in such
    stretches."""
    drawn, fresh = rng.integers(0, 3, n), rng.random(n) > stay
    fresh[0] = True
    level = drawn[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]
    return pd.DataFrame({"level": level.astype(str), "gap": np.where(level == 0, np.nan, 1.0)})


def test_levels_and_gaps_that_last_do_not_alarm_and_moved_ones_do():
    alone = alarmed = found = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        frame = levels_in_time(rng, 3000, 0.98)
        frame["fast"] = rng.choice(["a", "b"], 3000)
        sides = frame[:1800].reset_index(drop=True), frame[1800:].reset_index(drop=True)
        timed = [
            Records(
                side,
                metadata=pd.DataFrame({"time": start + np.arange(len(side))}),
                schema=Schema(time="time"),
            )
            for side, start in zip(sides, (0, 1800), strict=True)
        ]
        for check in (categories_keep_their_shares, values_are_missing_as_often):
            alone += bool(alarms(check(*(Records(side) for side in sides[::-1]))))
            alarmed += bool(alarms(check(*timed[::-1])))
        moved = timed[1].features.assign(fast="b")
        told = categories_keep_their_shares(
            Records(moved, metadata=timed[1].metadata, schema=timed[1].schema), timed[0]
        )
        found += alarms(told) == {"fast"}
    assert alone >= 25, "rows taken as independent alarm in most runs"
    assert alarmed <= 1
    assert found >= 24


def test_confidence_that_swings_slowly_does_not_alarm():
    alone = alarmed = found = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        logits = torch.from_numpy(1.5 * memory(rng, 3000, 1, 0.97)[:, 0])
        parts = [
            {"metadata": pd.DataFrame({"time": np.arange(size)}), "schema": Schema(time="time")}
            for size in (1800, 1200)
        ]
        bare = Records(logits=logits[:1800]), Records(logits=logits[1800:])
        timed = [
            Records(logits=side.logits, **part) for side, part in zip(bare, parts, strict=True)
        ]
        alone += bool(
            [f for f in confidence_keeps_its_distribution(*bare) if f.severity.level >= WARN]
        )
        alarmed += bool(
            [f for f in confidence_keeps_its_distribution(*timed) if f.severity.level >= WARN]
        )
        moved = Records(logits=timed[1].logits + 4.0, **parts[1])
        found += bool(
            [
                f
                for f in confidence_keeps_its_distribution(timed[0], moved)
                if f.severity.level >= WARN
            ]
        )
    assert alone >= 15, "rows taken as independent alarm in most runs"
    assert alarmed <= 1
    assert found >= 20


def test_the_furthest_features_are_drawn_together():
    *_, summary = features_keep_their_distribution.run(PLANTS["shift.ks"](0))
    assert summary.evidence.features[0].name == "percentile"
    assert summary.evidence.table()["feature"].iloc[0] == "percentile"
    rng = np.random.default_rng(0)
    for d in (0, 1, 4, 9):
        before, after = (torch.from_numpy(rng.normal(shift, 1.0, (200, d))) for shift in (0.0, 0.3))
        shown = most_shifted(ks_two_sample(before, after), before, after)
        assert len(shown.features) == min(d, 6)
        png(shown)
        assert len(shown.plot(axes()).child_axes) == min(d, 6)


def test_windows_alarm_where_production_changed_and_name_the_moment():
    rng = np.random.default_rng(0)
    series = memory(rng, 4000, 4, np.array([0.0, 0.3, 0.6, 0.9]))
    quiet = drift_windows(
        in_time(series[2000:], "production", start=2000, shuffled=rng),
        in_time(series[:2000], "validation"),
    )
    assert not any(step.alarm for step in quiet.steps)
    assert len(quiet.steps) == 20
    series[3000:, 0] += 1.0
    drift = drift_windows(
        in_time(series[2000:], "production", start=2000, shuffled=rng),
        in_time(series[:2000], "validation"),
    )
    alarm = next(step for step in drift.steps if step.alarm)
    assert (alarm.feature, alarm.moment) == ("x0", "3000.0")
    png(drift)
    bare = Records(drift_frame := pd.DataFrame({"x0": series[2000:, 0]}))
    assert drift_windows(bare, Records(drift_frame)) is None
    assert (
        drift_windows(in_time(series[:40], "production"), in_time(series[:2000], "validation"))
        is None
    )


def hours(rng, n, slip=0):
    """Hours of the day with a morning and an evening, of a clock that is off by `slip`."""
    rush = np.where(rng.random(n) < 0.6, rng.normal(8.5, 1.2, n), rng.normal(18.5, 2.0, n))
    chosen = np.where(rng.random(n) < 0.2, rng.uniform(0.0, 24.0, n), rush)
    return (np.floor(chosen).astype(int) + slip) % 24


@pytest.mark.parametrize("slip", [1, -1, 2, -5, 8, 12])
def test_a_slipped_clock_is_recognised(slip):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        before, after = (
            pd.DataFrame({"hour": hours(rng, 3000, by), "x": rng.normal(size=3000)})
            for by in (0, slip)
        )
        assert (
            clock_offset_hours(before["hour"].to_numpy(float), after["hour"].to_numpy(float))
            == slip
        )
        sides = {
            "production": Records(after, name="production"),
            "validation": Records(before, name="validation"),
        }
        kinds = change_kinds(sides["production"], sides["validation"])
        assert kinds.kinds == ("train_serve_skew",)
        assert f"{slip:+d} hours" in kinds.feature("hour").description
        told = [
            finding
            for finding in inputs_are_computed_as_before.run(sides)
            if finding.severity.level >= WARN
        ]
        assert [(finding.subject, finding.cause) for finding in told] == [
            ("hour", Cause.TRAIN_SERVE_SKEW)
        ]
        assert f"{slip:+d} hours" in told[0].summary


def test_what_is_no_slipped_clock():
    rng = np.random.default_rng(0)
    before = hours(rng, 3000).astype(float)
    flat = [rng.integers(0, 24, 3000).astype(float) for _ in range(2)]
    longer = np.where(rng.random(3000) < 0.4, 13.0, hours(rng, 3000))
    cases = [
        (before, hours(rng, 3000).astype(float)),
        flat,
        (before, longer),
        (before, before + 0.5),
        (before, before[:0]),
        ([], []),
    ]
    for one, other in cases:
        assert clock_offset_hours(np.asarray(one, dtype=float), np.asarray(other, dtype=float)) == 0


def _clocked(hours: int, weekdays: int = 0, rows: int = 1500) -> pd.DataFrame:
    clock = pd.Series(pd.date_range("2026-02-01", periods=rows, freq="h"))
    return pd.DataFrame(
        {
            "when": clock,
            "hour": (clock.dt.hour + hours) % 24,
            "weekday": (clock + pd.Timedelta(days=weekdays)).dt.day_name(),
            "night": (clock.dt.hour + hours) % 24 < 6,
            "load": np.random.default_rng(hours % 24).normal(size=rows),
        }
    )


def _clock_findings(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, str]:
    schema = Schema(time="when")
    sides = {
        name: Records.from_frame(table, schema, name=name)
        for name, table in (("validation", before), ("production", after))
    }
    found = inputs_are_computed_as_before(sides["production"], sides["validation"])
    return {f.subject: f.summary for f in found if f.severity is Severity.FAIL}


def test_an_hour_that_is_no_longer_that_of_the_clock_is_named_without_labels() -> None:
    found = _clock_findings(_clocked(0), _clocked(5))
    assert set(found) == {"hour", "night"}
    assert "in 100% of the rows it is the hour of when shifted by +5" in found["hour"]


def test_a_part_of_the_rows_on_another_clock_and_a_week_that_starts_elsewhere_are_named() -> None:
    half = pd.concat([_clocked(0)[:750], _clocked(-8)[750:]])
    found = _clock_findings(_clocked(0), half)
    assert "in 50% of the rows it is the hour of when shifted by -8" in found["hour"]
    assert set(_clock_findings(_clocked(0), _clocked(0, 1))) == {"weekday"}


def test_columns_beside_the_clock_and_daylight_saving_time_alarm_nobody() -> None:
    later = _clocked(0).assign(when=lambda t: t["when"] + pd.Timedelta(days=70))
    later["weekday"] = later["when"].dt.day_name()
    assert not _clock_findings(_clocked(0), later)
    assert "hour" not in _clock_findings(_clocked(0), _clocked(1))
    # A column that was told by the day of the month in one month only is no part of the calendar.
    week = _clocked(0, rows=24 * 20)
    campaign = week.assign(offer=week["when"].dt.day // 4)
    assert not _clock_findings(campaign, campaign.assign(offer=0, hour=campaign["hour"]))
