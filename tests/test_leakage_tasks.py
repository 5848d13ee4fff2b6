"""Leakage checks for every task: an answer or a reason, label by label where labels are missing."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.data.inputs.likely_groups import likely_groups, searched_rows

TASKS = ("binary", "multiclass", "multilabel", "regression", "outputs")


def world(task, seed, leak=False, missing=0.2):
    """Three splits of one table, a fifth of whose labels are missing; with or without a column that
    is recorded with the answer."""
    rng = np.random.default_rng(seed)
    n = 2400
    x = rng.normal(size=(n, 5))
    frame = pd.DataFrame(x, columns=list("abcde")).assign(
        e=x[:, 4].round(1), city=rng.choice(list("uvwxyz"), n), row=rng.permutation(n)
    )
    weights = np.array([[1, 0, -1], [0.5, 1, 0], [0, 0.5, 1], [0.3, 0, 0], [0, 0, 0.3]])
    scores = x @ weights
    one = task in ("binary", "regression")
    if task in ("binary", "multilabel"):
        y = (scores + rng.logistic(size=(n, 3)) > 0).astype(np.int64)
    elif task == "multiclass":
        y = (scores + rng.gumbel(size=(n, 3))).argmax(1)
    else:
        y = scores + 1.5 * rng.normal(size=(n, 3))
    y, outputs = (y[:, 0], scores[:, 0]) if one else (y, scores)
    if leak:
        told = y if y.ndim == 1 else y[:, 1]
        if task in ("regression", "outputs"):
            frame["fee"] = told + 0.2 * told.std() * rng.normal(size=n)
        else:
            frame["fee"] = np.where(told == 1, rng.lognormal(size=n), 0.0)
    labels = torch.from_numpy(y)
    absent = torch.from_numpy(rng.random(tuple(labels.shape)) < missing)
    labels = labels.masked_fill(absent, torch.nan if labels.is_floating_point() else -100)
    schema = Schema(regression=task in ("regression", "outputs"), multilabel=task == "multilabel")
    cuts = {"train": (0, 1400), "validation": (1400, 1900), "production": (1900, 2400)}
    return {
        name: Records(
            frame[low:high].reset_index(drop=True),
            labels[low:high],
            torch.from_numpy(outputs[low:high].copy()),
            schema=schema,
            name=name,
        )
        for name, (low, high) in cuts.items()
    }


def alarms(diagnosis):
    return {
        (finding.check, finding.subject)
        for finding in diagnosis.findings
        if finding.severity.level >= Severity.WARN.level
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_a_leak_is_named_in_every_task_and_nothing_else(task, seed):
    assert alarms(diagnose(**world(task, seed, leak=True), only="leakage")) == {
        ("leakage.columns", "fee")
    }
    quiet = diagnose(**world(task, seed), only="leakage")
    assert not alarms(quiet), str(quiet)
    assert quiet.worst is not Severity.ERRORED
    assert all("\n" not in finding.summary for finding in quiet.skipped)


def test_the_label_that_leaks_is_named():
    findings = diagnose(**world("multilabel", 0, leak=True), only="leakage.columns").findings
    leak, summary = findings
    assert leak.summary.startswith("Label 1: fee alone explains")
    assert leak.numbers["target"] == 1
    assert leak.numbers["validation_with"] > 0.95 > leak.numbers["validation_without"]
    assert summary.summary.startswith("Label 1, the strongest of 3: 1 of 8 columns predicts")


def test_labels_are_left_out_one_by_one():
    whole, partly = (world("multilabel", 0, missing=share) for share in (0.0, 0.5))
    known = partly["train"].targets >= 0
    assert known.all(1).float().mean() < 0.2
    (finding,) = diagnose(train=partly["train"], only="leakage.columns").findings
    assert finding.numbers["n"] == int(known[:, finding.numbers["target"]].sum()) > 600
    (finding,) = diagnose(train=whole["train"], only="leakage.columns").findings
    assert finding.numbers["n"] == 1400


def test_a_column_that_vanishes_is_found_in_every_task():
    for task in ("multilabel", "outputs"):
        sides = world(task, 1, leak=True)
        later = sides["production"]
        gone = Records(
            later.features.assign(fee=0.0), later.targets, schema=later.schema, name="production"
        )
        found = alarms(diagnose(train=sides["train"], production=gone, only="leakage.vanishing"))
        assert found == {("leakage.vanishing", "fee")}, task


def test_of_many_labels_twenty_are_judged_and_it_says_so():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((300, 50)) < 0.5).astype(np.int64))
    train = Records(pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"]), labels)
    (finding,) = diagnose(train=train, only="leakage.columns").findings
    assert finding.numbers["targets_judged"] == 20
    assert "the strongest of 20 of 50: None of 2 columns" in finding.summary


def test_a_random_split_of_a_series_is_seen_in_one_of_several_labels():
    rng = np.random.default_rng(3)
    n = 1500
    state = np.cumsum(rng.random(n) < 0.05) % 2
    labels = torch.from_numpy(np.stack([rng.integers(0, 2, n), state], 1))
    labels[::7, 1] = -100
    order = torch.from_numpy(rng.permutation(n))
    table = pd.DataFrame({"a": rng.normal(size=n)})
    moment = pd.DataFrame({"moment": np.arange(n)})
    schema = Schema(time="moment", multilabel=True)
    whole = Records(table, labels, metadata=moment, schema=schema)
    sides = {"train": whole.select(order[:1000]), "validation": whole.select(order[1000:])}
    assert alarms(diagnose(**sides, only="leakage.time")) == {("leakage.time", "moment")}
    noise = Records(table, labels[torch.randperm(n)], metadata=moment, schema=schema)
    sides = {"train": noise.select(order[:1000]), "validation": noise.select(order[1000:])}
    assert not alarms(diagnose(**sides, only="leakage.time"))


def test_copies_of_a_regression_count_where_they_change_the_result():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(600, 3))
    y = x[:, 0] + rng.normal(size=600)
    x[500:540], y[500:540] = x[:40], y[:40]
    table = pd.DataFrame(x, columns=list("abc"))

    def finding(outputs):
        sides = {
            name: Records(
                table[rows].reset_index(drop=True),
                torch.from_numpy(y[rows]),
                torch.from_numpy(outputs[rows]),
                name=name,
            )
            for name, rows in (("train", slice(0, 500)), ("validation", slice(500, None)))
        }
        return diagnose(**sides, only="leakage.duplicates").findings[0]

    memorised = np.where(np.arange(600) < 540, y, x[:, 0])
    assert finding(memorised).severity is Severity.FAIL
    assert finding(memorised).numbers["r_squared"] > finding(memorised).numbers["r_squared_without"]
    honest = finding(x[:, 0].copy())
    assert honest.severity is Severity.NOTE
    assert "R² is" in honest.summary


def identified(seed, own):
    """A row number in the order of a trend that the date holds as well, or that nothing holds."""
    rng = np.random.default_rng(seed)
    n = 2000
    day = np.sort(rng.integers(0, 300, n))
    trend = day / 300 if own is False else (np.arange(n) // 500) / 4
    y = 2.5 * trend + rng.normal(size=n)
    dates = (pd.Timestamp("2025-01-01") + pd.to_timedelta(day, unit="D")).strftime("%d/%m/%Y")
    frame = pd.DataFrame({"row": np.arange(n), "x": rng.normal(size=n), "y": y})
    frame = frame if own else frame.assign(date=dates)
    order = rng.permutation(n)
    return Records.from_frame(
        frame.iloc[order].reset_index(drop=True), Schema(target="y", regression=True), name="train"
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_identifier_counts_where_it_tells_what_no_other_column_does(seed):
    (finding,) = diagnose(train=identified(seed, own=False), only="leakage.ids").findings
    assert (finding.subject, finding.severity) == ("row", Severity.NOTE)
    assert "but nothing that the other columns do not tell" in finding.summary
    (finding,) = diagnose(train=identified(seed, own=True), only="leakage.ids").findings
    assert (finding.subject, finding.severity) == ("row", Severity.WARN)


@pytest.mark.parametrize("seed", range(4))
def test_a_row_number_in_the_order_of_its_dates_only_bends_more_easily(seed, shared_data):
    """Bicycles hired by the hour: the counter follows the day, as the season and the year do."""
    hours = pd.read_parquet(shared_data / "bike_sharing_hour" / "hour.parquet")
    hours = hours.drop(columns=["casual", "registered"]).sample(1000, random_state=seed)
    train = Records.from_frame(
        hours.reset_index(drop=True), Schema(target="cnt", regression=True), name="train"
    )
    (finding,) = diagnose(train=train, only="leakage.ids").findings
    assert (finding.subject, finding.severity) == ("instant", Severity.NOTE)


@pytest.mark.parametrize("seed", range(8))
def test_the_only_predictor_of_a_quantity_is_a_note(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2000, 4))
    y = x[:, 0] + 0.48 * rng.normal(size=2000)
    frame = pd.DataFrame(x, columns=list("abcd")).assign(y=y)
    train = Records.from_frame(frame, Schema(target="y", regression=True), name="train")
    (finding,) = diagnose(train=train, only="leakage.columns").findings
    assert finding.severity is Severity.NOTE
    assert finding.numbers["explained"] > 0.75
    assert "Is it known before the answer?" in finding.summary


def test_a_strong_column_among_others_that_can_replace_it_is_no_shortcut():
    rng = np.random.default_rng(0)
    n = 3000
    cause = rng.normal(size=n)
    y = (cause > 0).astype(int)
    blur = [0.1, 0.35, 0.35, 0.35, 0.35]
    frame = pd.DataFrame({f"x{i}": cause + s * rng.normal(size=n) for i, s in enumerate(blur)})
    frame = frame.assign(noise=rng.normal(size=n), y=y)
    sides = {"train": frame[:2000], "validation": frame[2000:].reset_index(drop=True)}
    given = {
        name: Records.from_frame(side, Schema(target="y"), name=name)
        for name, side in sides.items()
    }
    assert not alarms(diagnose(**given, only="leakage.columns"))


def test_groups_among_many_columns():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 60, 400)
    table = pd.DataFrame(rng.integers(0, 40, (400, 300)), columns=[f"c{i}" for i in range(300)])
    constant = rng.integers(0, 30, (60, 200))[group]
    known = pd.DataFrame(constant, columns=[f"k{i}" for i in range(200)])
    table = pd.concat([table, known.assign(customer=group)], axis=1)
    (found,) = likely_groups(table)[:1]
    assert (found.column, len(found.constant)) == ("customer", 200)
    assert searched_rows(pd.DataFrame(np.zeros((300, 200_000), dtype=np.int8))) == 167


@pytest.mark.parametrize("seed", range(6))
def test_a_relation_of_few_rows_is_not_lost_by_chance(seed):
    rng = np.random.default_rng(seed)
    n = 6000
    amount = rng.lognormal(size=n)
    y = (rng.random(n) < np.minimum(0.004 * amount**1.5, 0.9)).astype(int)
    frame = pd.DataFrame({"amount": amount, "b": rng.normal(size=n), "y": y})
    parts = {"train": frame[:3000], "production": frame[3000:].reset_index(drop=True)}
    sides = {k: Records.from_frame(part, Schema(target="y"), name=k) for k, part in parts.items()}
    assert not alarms(diagnose(**sides, only="leakage.columns"))
