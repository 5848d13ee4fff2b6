"""`shift`: columns that change by themselves, and what is said where inputs were not compared."""

import datetime
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import gendebug_torch as gd
from gendebug_torch import Records, Severity
from gendebug_torch.shift import change_kinds
from gendebug_torch.shift.columns.exclusions import level_reason, number_reason
from gendebug_torch.shift.transforms.levels import fit_level_renaming

WARN = Severity.WARN.level


def records(seed, name, n=1200, **columns):
    """Labels that follow `x`, beside columns that say when or what, and not how."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = torch.from_numpy((rng.random(n) < 1 / (1 + np.exp(-2 * x))).astype(np.int64))
    table = pd.DataFrame({"x": x, "z": rng.normal(size=n)})
    for column, values in columns.items():
        table[column] = values(rng, n)
    return Records(table, y, torch.from_numpy(2 * x), name=name)


def days(first, text=str):
    return lambda rng, n: [
        text(datetime.date(2024, 1, 1) + datetime.timedelta(int(first + d)))
        for d in rng.integers(0, 30, n)
    ]


def whole(low, high):
    return lambda rng, n: rng.integers(low, high, n)


def texts(form, low, high):
    return lambda rng, n: [form.format(int(i)) for i in rng.integers(low, high, n)]


ADVANCING = {
    "date text": ("signup", days(0), days(31)),
    "slashed date": (
        "day",
        days(0, lambda d: d.strftime("%d/%m/%Y")),
        days(31, lambda d: d.strftime("%d/%m/%Y")),
    ),
    "date objects": ("signup", days(0, lambda d: d), days(31, lambda d: d)),
    "ISO week": ("week", texts("2024-W{:02d}", 1, 9), texts("2024-W{:02d}", 9, 17)),
    "month text": ("month", texts("2024-{:02d}", 1, 6), texts("2024-{:02d}", 6, 9)),
    "month name": (
        "month",
        lambda rng, n: rng.choice(["January", "February"], n),
        lambda rng, n: np.full(n, "March"),
    ),
    "version": ("app", texts("2.{}.1", 0, 9), texts("2.{}.0", 10, 14)),
    "batch text": ("batch", texts("B-{:05d}", 0, 40), texts("B-{:05d}", 40, 70)),
    "customers": ("customer", texts("c{}x", 0, 400), texts("d{}y", 0, 400)),
    "year": ("year", whole(2021, 2024), whole(2024, 2025)),
    "month": ("order_month", whole(1, 7), whole(7, 10)),
    "month after new year": ("month", whole(10, 13), whole(1, 3)),
    "week": ("week_no", whole(1, 20), whole(20, 30)),
    "batch": ("batch_id", whole(100, 140), whole(140, 170)),
    "version number": (
        "model_version",
        lambda rng, n: rng.choice([1.0, 1.1], n),
        lambda rng, n: np.full(n, 1.2),
    ),
}


@pytest.mark.parametrize("case", ADVANCING)
def test_what_changes_by_itself_is_a_note_and_no_cause(case):
    """A column that says when is neither skew nor shift, wherever it comes from."""
    name, before, after = ADVANCING[case]
    given = {
        "validation": records(0, "validation", **{name: before}),
        "production": records(1, "production", **{name: after}),
    }
    diagnosis = gd.diagnose(**given, only=["shift"])
    assert not [f.summary for f in diagnosis.findings if f.severity.level >= WARN]
    (note,) = [f for f in diagnosis.findings if f.subject == name]
    assert note.severity is Severity.NOTE
    assert "not compared" in note.summary
    assert "feed" in note.remedy
    kinds = change_kinds(given["production"], given["validation"])
    assert kinds.verdict == "none"
    assert list(kinds.excluded) == [name]


WRITTEN = {
    "percent": "{:.2f} %",
    "weight": "{:.3f}kg",
    "money before": "$ {:,.2f}",
    "money behind": "{:,.2f} EUR",
}


def amounts(form):
    return lambda rng, n: [form.format(x) for x in rng.lognormal(3, 2, n)]


@pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN)
def test_numbers_with_their_unit_are_no_identifiers(form):
    before, after = (
        records(seed, name, amount=amounts(form))
        for seed, name in enumerate(("validation", "production"))
    )
    diagnosis = gd.diagnose(
        train=before, validation=before, production=after, only=["shift.categories", "leakage.ids"]
    )
    notes = [finding for finding in diagnosis.findings if finding.subject == "amount"]
    assert [finding.check for finding in notes] == ["leakage.ids", "shift.categories"]
    for note in notes:
        assert note.severity is Severity.NOTE
        assert "unit as text" in note.summary
        assert "Convert amount to numbers" in note.remedy


def test_another_unit_of_written_numbers_is_named():
    before = records(0, "validation", weight=amounts("{:.3f} kg"))
    after = records(1, "production", weight=amounts("{:.2f} lb"))
    (finding, *_) = gd.diagnose(
        validation=before, production=after, only="shift.categories"
    ).findings
    assert (finding.severity, finding.subject) == (Severity.FAIL, "weight")
    assert finding.cause is gd.Cause.TRAIN_SERVE_SKEW
    assert "written in lb, not in kg" in finding.summary


def test_a_column_of_another_type_is_left_out_and_named():
    """Timestamps, durations and lists cannot be compared; the columns beside them are."""
    stamps = pd.date_range("2024-01-01", periods=1200, freq="h").to_numpy(copy=True)
    columns = {
        "moment": lambda rng, n: stamps,
        "lasted": lambda rng, n: pd.to_timedelta(rng.integers(1, 99, n), unit="s"),
        "tags": lambda rng, n: [["a", "b"]] * n,
        "point": lambda rng, n: list(np.zeros((n, 2))),
    }
    before, after = (records(seed, name, **columns) for seed, name in enumerate(("v", "p")))
    moved = replace(after, features=after.features.assign(z=after.features["z"] + 2.0))
    for production, alarms in ((after, set()), (moved, {"z"})):
        findings = gd.diagnose(validation=before, production=production, only=["shift"]).findings
        assert not [f.numbers["traceback"] for f in findings if f.severity is Severity.ERRORED]
        assert {
            f.subject for f in findings if f.check == "shift.ks" and f.severity.level >= WARN
        } == (alarms)
        (note,) = [f for f in findings if f.summary.startswith("Not compared:")]
        assert all(name in note.summary for name in columns)


def test_no_sentence_says_that_nothing_moved_where_inputs_were_not_compared():
    """Concept drift names what was not compared."""
    before = records(0, "validation", signup=days(0))
    after = records(1, "production", signup=days(31))
    generator = torch.Generator().manual_seed(0)
    coin = torch.randint(0, 2, (1200,), generator=generator)
    drifted = replace(after, targets=torch.where(torch.arange(1200) % 5 < 3, coin, after.targets))
    findings = gd.diagnose(validation=before, production=drifted, only=["shift"]).findings
    (finding,) = [f for f in findings if f.check == "shift.concept_drift"]
    assert finding.severity.level >= WARN
    assert "No input shifted" not in finding.summary
    assert "Not compared: signup (it holds dates)" in finding.summary
    lost = replace(drifted, features=drifted.features[["x", "signup"]])
    findings = gd.diagnose(validation=before, production=lost, only=["shift"]).findings
    (finding,) = [f for f in findings if f.check == "shift.concept_drift"]
    assert "z (it is absent in production)" in finding.summary
    plain = [replace(r, features=r.features[["x", "z"]]) for r in (before, drifted)]
    findings = gd.diagnose(validation=plain[0], production=plain[1], only=["shift"]).findings
    (finding,) = [f for f in findings if f.check == "shift.concept_drift"]
    assert "No input shifted" in finding.summary


def test_what_is_no_calendar_is_still_compared():
    """Names alone, or values alone, excuse nothing that a calendar would not do."""
    numbers = {
        "price": ([100.0, 150.0], [200.0, 250.0]),
        "birth_year": ([1940.0, 1980.0, 2000.0], [1950.0, 1990.0, 2001.0]),
        "month": ([1.0, 6.0, 12.0], [100.0, 600.0]),
        "day_minutes": ([100.0, 200.5], [300.0, 320.5]),
        "hour": ([1.0, 5.0], [7.0, 9.0]),
        "year": ([2020.0, 2023.0], [2020.0, 1.0]),
        "timestamp": ([1.7e9, 1.71e9], [1.72e12, 1.73e12]),
        "weekday": (list(map(float, range(7))), list(map(float, range(1, 8)))),
    }
    for name, sides in numbers.items():
        assert number_reason(name, *map(np.asarray, sides)) is None, name
    levels = {
        "channel": ({"web": 5, "shop": 3}, {"WEB": 5, "SHOP": 3}),
        "zip": ({"01001": 9, "01002": 9, "01003": 3}, {"1001": 9, "1002": 9}),
        "code": ({"A1": 9, "A2": 9}, {"A1": 9, "B2": 9}),
        "grade": ({"1": 9, "2": 9, "3": 9}, {"4": 9}),
        "signup": ({"2024-01-01": 9, "2024-01-02": 9}, {"01/03/2024": 9}),
    }
    for name, sides in levels.items():
        assert level_reason(name, *sides) is None, name


def test_many_levels_of_equal_shares_are_no_evidence_of_a_renaming():
    """Only names or uneven shares identify which level became which."""
    rng = np.random.default_rng(0)
    old, new = ([f"{word}{i}" for i in range(12)] for word in ("oak", "elm"))
    even = [pd.Series(rng.choice(levels, 3000)) for levels in (old, new)]
    assert fit_level_renaming(*even, distance=1.0) is None
    upper = even[0], pd.Series(rng.choice([level.upper() for level in old], 3000))
    assert fit_level_renaming(*upper, distance=1.0).kind == "renamed"
    shares = 0.6 ** np.arange(12) / (0.6 ** np.arange(12)).sum()
    uneven = [pd.Series(rng.choice(levels, 3000, p=shares)) for levels in (old, new)]
    assert fit_level_renaming(*uneven, distance=1.0).kind == "renamed"


@pytest.mark.parametrize(
    "name", ["epoch_ms", "model_rev", "dayOfYear", "day_of_year", "invoice_no"]
)
def test_numbers_that_count_on_are_known_by_their_last_word(name):
    before, after = np.arange(100.0, 200.0), np.arange(201.0, 260.0)
    assert number_reason(name, before, after)
    assert number_reason(name, before, before[::-1]) is None
    assert number_reason("price", before, after) is None
    year = np.repeat([0.0, 1.0], [99, 1])
    assert number_reason("yr", year, np.ones(50)), "the reference ends in the year of production"
    assert number_reason("yr", year, year) is None
