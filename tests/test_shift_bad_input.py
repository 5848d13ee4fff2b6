"""`shift` on input that is broken or too little: a clear error, or a finding that says what cannot
be known from it."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.cli.main import main
from gendebug_torch.errors import InputError
from gendebug_torch.shift import change_kinds, drift_windows, ks_two_sample
from gendebug_torch.shift.checks.categories import categories_keep_their_shares
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.checks.label_shift import classes_keep_their_shares
from gendebug_torch.shift.checks.missing import values_are_missing_as_often
from gendebug_torch.shift.columns.shared_columns import time_order
from gendebug_torch.shift.kinds.class_shares import class_shares

WARN = Severity.WARN.level
COLUMNS = (
    features_keep_their_distribution,
    values_are_missing_as_often,
    categories_keep_their_shares,
)


def world(seed, n, name="validation", *, labeled=True):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "hour": rng.integers(0, 24, n), "kind": rng.choice(["a", "b"], n)}
    )
    logits = torch.from_numpy(frame["x"].to_numpy() * 1.5)
    targets = (
        torch.from_numpy((rng.random(n) < torch.sigmoid(logits).numpy()).astype(np.int64))
        if labeled
        else None
    )
    moments = pd.DataFrame(
        {"when": pd.date_range("2026-01-01", periods=max(n, 1), freq="h", tz="UTC")[:n]}
    )
    return Records(frame, targets, logits, moments, Schema(time="when"), name)


def alarms(findings):
    return {finding.subject for finding in findings if finding.severity.level >= WARN}


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_a_live_batch_of_few_rows_alarms_nobody_and_breaks_nothing(rows):
    diagnosis = diagnose(
        validation=world(0, 1500), production=world(1, rows, "production"), only="shift"
    )
    assert not [finding for finding in diagnosis.findings if finding.severity.level >= WARN]
    assert not [finding for finding in diagnosis.findings if finding.severity is Severity.ERRORED]
    told = [finding for finding in diagnosis.findings if finding.check == "shift.ks"]
    assert len(told) == 1
    words = {
        0: "Skipped: needs rows of production",
        1: "Too few rows to detect any shift",
        30: "or more would have been detected",
    }
    assert words[rows] in told[0].summary


def test_thirty_rows_of_another_world_are_seen():
    live = world(1, 30, "production")
    moved = Records(live.features.assign(x=live.features["x"] + 3.0), name="production")
    assert "x" in alarms(features_keep_their_distribution(moved, world(0, 1500)))


def test_identical_rows_alarm_as_stuck_values_or_not_at_all():
    before = world(0, 1500)
    stuck = Records(
        pd.concat([before.features.iloc[:1]] * 500, ignore_index=True), name="production"
    )
    told = [finding for check in COLUMNS for finding in check(stuck, before)]
    assert {"x", "hour"} <= alarms(told)
    assert "constant at" in next(finding for finding in told if finding.subject == "x").remedy
    both = [Records(stuck.features, name=name) for name in ("production", "validation")]
    assert not alarms(finding for check in COLUMNS for finding in check(*both))
    logits = [
        Records(logits=torch.zeros(300), targets=torch.zeros(300, dtype=torch.int64), name=name)
        for name in ("a", "b")
    ]
    findings = diagnose(validation=logits[0], production=logits[1], only="shift").findings
    assert not [
        finding
        for finding in findings
        if finding.severity.level >= WARN or finding.severity is Severity.ERRORED
    ]


def test_ids_beyond_float_precision_are_no_quantities():
    ids = [2**60 + start + np.arange(2000) for start in (0, 10**6)]
    sides = [
        Records(pd.DataFrame({"hash": values, "x": np.random.default_rng(0).normal(size=2000)}))
        for values in ids
    ]
    told = features_keep_their_distribution(sides[1], sides[0])
    assert not alarms(told)
    assert "hash" in told[0].summary
    assert "`ids`" in told[0].remedy
    assert not change_kinds(sides[1], sides[0]).features
    assert float(ks_two_sample(*(torch.from_numpy(values) for values in ids)).statistic) == 1.0


def decimals(values):
    return [Decimal(f"{value:.2f}") for value in values]


NUMBERS = {
    "float64": lambda values: values,
    "float16": lambda values: values.astype("float16"),
    "Float64": lambda values: pd.array(values, dtype="Float64"),
    "arrow": lambda values: pd.array(values, dtype="float32[pyarrow]"),
    "decimal": decimals,
    "arrow decimal": lambda values: pd.array(
        decimals(values), dtype=pd.ArrowDtype(pa.decimal128(12, 2))
    ),
    "object": lambda values: np.array([None, *values[1:].tolist()], dtype=object),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_quantities_however_they_are_stored(kind):
    rng = np.random.default_rng(0)
    before, after, other = rng.normal(100.0, 10.0, (3, 600))
    reference = Records(pd.DataFrame({"amount": before, "same": before}), name="validation")
    stored = pd.DataFrame({"amount": NUMBERS[kind](after + 30), "same": NUMBERS[kind](other)})
    findings = features_keep_their_distribution(Records(stored, name="production"), reference)
    assert alarms(findings) == {"amount"}
    assert findings[0].numbers["statistic"] == pytest.approx(0.87, abs=0.05)
    assert not [f for f in findings if f.subject == "same"]


def test_columns_meet_by_name_in_any_order_whether_names_are_numbers_or_text():
    rng = np.random.default_rng(0)
    before, after = (pd.DataFrame(rng.normal([0.0, 5.0, 10.0], size=(600, 3))) for _ in range(2))
    for turned in (after[[2, 0, 1]], after[[2, 0, 1]].rename(columns=str)):
        sides = Records(turned, name="production"), Records(before, name="validation")
        assert not [f for check in COLUMNS for f in check(*sides) if f.severity.level >= WARN]
        assert change_kinds(*sides).verdict == "none"
    moved = Records(turned.assign(**{"1": turned["1"] + 1}), name="production")
    assert alarms(features_keep_their_distribution(moved, sides[1])) == {"1"}
    with pytest.raises(InputError, match="one column for each name"):
        Records(after.set_axis([1, "1", 2], axis=1))


def test_moments_in_two_zones_are_put_in_one_order():
    utc = pd.date_range("2026-01-01", periods=200, freq="h", tz="UTC")
    mixed = [
        str(moment.tz_convert("America/New_York")) if i % 2 else str(moment)
        for i, moment in enumerate(utc)
    ]
    rng = np.random.default_rng(0)
    order = rng.permutation(200)
    frame = pd.DataFrame({"x": rng.normal(size=200)})
    records = Records(
        frame, metadata=pd.DataFrame({"when": np.array(mixed)[order]}), schema=Schema(time="when")
    )
    assert torch.equal(time_order(records), torch.from_numpy(np.argsort(order)))
    bad = Records(
        frame, metadata=pd.DataFrame({"when": ["soon"] * 200}), schema=Schema(time="when")
    )
    with pytest.raises(InputError, match="time"):
        time_order(bad)
    gap = Records(
        frame, metadata=pd.DataFrame({"when": [None, *mixed[1:]]}), schema=Schema(time="when")
    )
    assert time_order(gap) is None


def test_rows_out_of_order_say_what_rows_in_order_say():
    before, after = world(0, 1500), world(1, 900, "production")
    shuffled = after.select(torch.randperm(900, generator=torch.Generator().manual_seed(0)))
    for check in all_checks():
        if check.name in (
            "shift.ks",
            "shift.missing",
            "shift.categories",
            "shift.confidence",
            "shift.over_time",
        ):
            told = [
                check.run({"validation": before, "production": side}) for side in (after, shuffled)
            ]
            assert [finding.summary for finding in told[0]] == [
                finding.summary for finding in told[1]
            ], check.name
    windows = [drift_windows(side, before).table() for side in (after, shuffled)]
    pd.testing.assert_frame_equal(*windows)


def test_an_absent_target_is_estimated_or_said_to_be_unknown(tmp_path):
    before, after = world(0, 1500), world(1, 900, "production", labeled=False)
    estimated = class_shares(before, after)
    assert estimated is not None
    assert not estimated.observed
    bare = Records(after.features, name="production")
    assert class_shares(before, bare) is None
    (told,) = classes_keep_their_shares(before, bare)
    assert (told.severity, "class shares need" in told.summary) == (Severity.NOTE, True)
    for name, frame in (
        ("before", before.features.assign(y=before.targets.numpy())),
        ("after", after.features),
    ):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "schema.yaml").write_text("target: y\n")
    paths = [str(tmp_path / name) for name in ("before.csv", "after.csv")]
    assert (
        main(
            [
                "shift",
                *paths,
                "--schema",
                str(tmp_path / "schema.yaml"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    told = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert any("class shares need" in finding["summary"] for finding in told)


def test_columns_and_types_that_differ_are_named(tmp_path, capsys):
    before = world(0, 800)
    changed = before.features.drop(columns="hour").assign(
        x=before.features["x"].map("{:.2f}€".format), kind=7, new=1.0
    )
    told = [
        finding
        for check in COLUMNS
        for finding in check(Records(changed, name="production"), before)
    ]
    failed = {
        (finding.subject, finding.cause) for finding in told if finding.severity is Severity.FAIL
    }
    assert {
        ("hour", "train_serve_skew"),
        ("x", "train_serve_skew"),
        ("kind", "covariate_shift"),
    } <= failed
    with pytest.raises(InputError, match=r"production\.features"):
        features_keep_their_distribution(Records(torch.zeros(5, 2)), before)
    (tmp_path / "schema.yaml").write_text("time: when\n")
    before.features.to_csv(tmp_path / "a.csv", index=False)
    arguments = [
        "shift",
        str(tmp_path / "a.csv"),
        str(tmp_path / "a.csv"),
        "--schema",
        str(tmp_path / "schema.yaml"),
        "--out",
        "x",
    ]
    assert main(arguments) == 2
    assert "'when'" in capsys.readouterr().err
