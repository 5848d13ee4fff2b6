"""Parity: one record at a time against what was stored, as a function, as findings and from the
command line."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Severity
from gendebug_torch.cli import main
from gendebug_torch.errors import InputError
from gendebug_torch.leakage import feature_parity
from gendebug_torch.leakage.checks._parity import parity_findings

PIPELINE = """
def features(row):
    amount = row["amount"].iloc[0]
    return {"amount": amount, "over_mean": amount / row["amount"].mean(), "day": row["day"].iloc[0]}
"""


@pytest.fixture
def raw():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": range(60),
            "amount": rng.lognormal(size=60),
            "day": rng.choice(["mo", "tu"], 60),
            "gap": np.nan,
        }
    )


def whole(raw):
    return pd.DataFrame(
        {
            "amount": raw["amount"],
            "over_mean": raw["amount"] / raw["amount"].mean(),
            "day": raw["day"],
            "gap": raw["gap"],
        }
    )


def test_a_dependence_on_other_rows_is_found(raw):
    found = feature_parity(whole, raw, whole(raw))
    (over_mean, *others) = found.columns
    assert (over_mean.column, over_mean.differing) == ("over_mean", 60)
    assert [column.differing for column in others] == [0, 0, 0]
    assert over_mean.first[0] == (0, pytest.approx(raw["amount"][0] / raw["amount"].mean()), 1.0)
    (finding,) = parity_findings(found)
    assert (finding.cause, finding.subject, finding.severity) == (
        Cause.TRAIN_SERVE_SKEW,
        "over_mean",
        Severity.FAIL,
    )
    assert "The first is row 0" in finding.summary
    assert found.differences()["row"].tolist() == list(range(20))


@pytest.mark.parametrize(
    "answer",
    [
        lambda row: row[["amount"]],
        lambda row: row["amount"],
        lambda row: {"amount": float(row["amount"].iloc[0])},
        lambda row: [float(row["amount"].iloc[0])],
        lambda row: torch.tensor(row["amount"].to_numpy(copy=True)),
    ],
    ids=["table", "values", "mapping", "list", "tensor"],
)
def test_what_a_pipeline_may_return(raw, answer):
    stored = raw[["amount"]]
    found = feature_parity(
        lambda row: (
            dict(zip(["amount"], answer(row).tolist(), strict=True))
            if isinstance(answer(row), pd.Series)
            else answer(row)
        ),
        raw,
        stored,
    )
    assert found.equal
    assert parity_findings(found)[0].severity is Severity.OK


def test_tolerance_is_per_column(raw):
    stored = raw[["amount"]].assign(other=raw["amount"])
    slightly = {"amount": 1e-3, "other": 1e-3}

    def pipeline(row):
        value = float(row["amount"].iloc[0])
        return {"amount": value + 1e-4, "other": value + 1e-4}

    assert feature_parity(pipeline, raw, stored, tolerance=slightly).equal
    assert [
        c.column
        for c in feature_parity(pipeline, raw, stored, tolerance={"amount": 1e-3}).columns
        if c.differing
    ] == ["other"]


def test_absent_columns_and_records_that_fail_are_reported(raw):
    def pipeline(row):
        if row["id"].iloc[0] in (5, 9):
            raise KeyError("no rate")
        return {"amount": row["amount"].iloc[0], "new": 1}

    found = feature_parity(pipeline, raw, raw[["amount", "day"]])
    assert (found.absent, found.added, [row for row, _ in found.failed]) == (
        ("day",),
        ("new",),
        [5, 9],
    )
    assert found.columns[0].rows == 58
    messages = [finding.summary for finding in parity_findings(found)]
    assert any("does not return day" in message for message in messages)
    assert any(
        "raised an error on 2 of 60 records, first in row 5: KeyError" in message
        for message in messages
    )


def test_records_may_be_spread_evenly_and_come_as_a_sequence(raw):
    records = raw.to_dict("records")
    found = feature_parity(
        lambda record: {"amount": record["amount"]},
        records,
        raw[["amount"]],
        max_rows=7,
        progress=True,
    )
    assert found.rows == 7
    assert found.equal


@pytest.mark.parametrize(
    ("pipeline", "stored", "words"),
    [
        (lambda row: row, slice(0, 5), "one row for each of 60 raw rows"),
        (lambda row: "text", slice(None), "something with columns, got str for row 0"),
        (lambda row: [1.0], slice(None), "2 numbers, got 1 for row 0"),
        (lambda row: pd.concat([row, row]), slice(None), "one row for one record"),
    ],
)
def test_bad_input(raw, pipeline, stored, words):
    with pytest.raises(InputError, match=words):
        feature_parity(pipeline, raw, raw[["amount", "day"]][stored])


def test_from_the_command_line(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving_pipe.py").write_text(PIPELINE)
    raw.to_parquet("raw.parquet")
    stored = whole(raw).drop(columns="gap").assign(id=raw["id"]).sample(frac=1.0, random_state=0)
    stored.to_parquet("stored.parquet")
    arguments = [
        "parity",
        "--pipeline",
        "serving_pipe:features",
        "--raw",
        "raw.parquet",
        "--stored",
        "stored.parquet",
        "--out",
        "out",
    ]
    assert main([*arguments, "--key", "id"]) == 1
    assert "over_mean differs in 60 of 60 records" in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"findings.json", "report.html"}
    assert main([*arguments, "--key", "day"]) == 2
    assert "one row per value of 'day'" in capsys.readouterr().err


def test_the_command_leakage(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=900), "b": rng.normal(size=900)})
    frame["y"] = (frame["a"] + rng.normal(size=900) > 0).astype(int)
    frame["fee"] = frame["y"] * rng.lognormal(size=900)
    frame[:600].to_parquet(tmp_path / "train.parquet")
    frame[590:].to_csv(tmp_path / "validation.csv", index=False)
    (tmp_path / "schema.yaml").write_text("target: y\n")
    files = [str(tmp_path / name) for name in ("train.parquet", "validation.csv")]
    where = ["--schema", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out")]
    assert main(["leakage", *files, *where]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fee alone explains" in said
    assert "10 of 310 validation rows (3.2%" in said
    assert main(["leakage", files[0], *where, "--fail-on", "never"]) == 0
    assert main(["leakage", *files, *files, *where]) == 2
