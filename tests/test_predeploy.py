"""`gendebug predeploy`: the first live rows, from files."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema
from gendebug_torch.cli import main
from gendebug_torch.cli.commands.predeploy import first_rows

NETWORK = """
import torch
from torch import nn
def build():
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 0.3]]))
        network.bias.zero_()
    return network
"""


def write(path, n, seed, shift=0.0, labeled=True):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int)
    frame = pd.DataFrame(
        {
            "a": x[:, 0],
            "b": x[:, 1] + shift,
            "time": np.arange(n)[::-1],
            "score": 2 * x[:, 0],
            "label": y,
        }
    )
    frame["shop"] = rng.choice(["<b>Corner</b>", "Market"], n)
    (frame if labeled else frame.drop(columns="label")).to_csv(path, index=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv", 2000, 0)
    write("validation.csv", 1500, 1)
    write("live.csv", 3000, 2)
    write("shifted.csv", 3000, 3, shift=1.5)
    write("unlabeled.csv", 3000, 4, labeled=False)
    (tmp_path / "schema.yaml").write_text(
        "target: label\ntime: time\nlogits: score\nmetadata: shop\n"
    )
    (tmp_path / "bare.yaml").write_text("target: label\ntime: time\nmetadata: [shop, score]\n")
    (tmp_path / f"live_net_{os.getpid()}.py").write_text(NETWORK)
    return tmp_path


def predeploy(production, *more, schema="schema.yaml"):
    tables = ["--train", "train.csv", "--validation", "validation.csv", "--production", production]
    return main(["predeploy", *tables, "--schema", schema, "--out", "out", *more])


def test_clean_rows_pass_and_leave_a_sheet(place, capsys):
    assert predeploy("live.csv") == 0, capsys.readouterr().out
    sheet = pd.read_csv("out/sheet.csv")
    assert len(sheet) == 50
    assert (sheet["predicted"] == 1).all()
    assert (sheet["target"] == 0).all()
    assert {"row", "score", "shop", "a", "b", "remark"} <= set(sheet.columns)
    page = (place / "out" / "report.html").read_text()
    assert "False positives among the first 3,000 live rows" in page
    assert "Confidence in production" in page
    assert "<b>Corner" not in page
    assert "<b>Corner" not in (place / "out" / "sheet.html").read_text()
    with open("out/findings.json") as file:
        checks = {finding["check"] for finding in json.load(file)}
    assert checks == {
        "shift.ks",
        "shift.missing",
        "shift.categories",
        "shift.joint",
        "shift.confidence",
        "shift.bimodality",
    }


def test_a_shift_against_training_is_named(place):
    assert predeploy("shifted.csv") == 1
    with open("out/findings.json") as file:
        assert any(
            f["check"] == "shift.ks" and f["subject"] == "b" and "train" in f["summary"]
            for f in json.load(file)
        )


def test_without_labels_it_says_what_the_sheet_cannot_hold(place):
    assert predeploy("unlabeled.csv") == 0
    assert "Their labels have not arrived" in (place / "out" / "report.html").read_text()
    sheet = pd.read_csv("out/sheet.csv")
    assert "target" not in sheet
    assert (sheet["predicted"] == 1).all()


def test_a_network_gives_logits_and_reasons(place):
    model = f"live_net_{os.getpid()}:build"
    assert (
        predeploy(
            "live.csv", "--model", model, "--order", "confidence", "--size", "7", schema="bare.yaml"
        )
        == 0
    )
    sheet = pd.read_csv("out/sheet.csv")
    assert len(sheet) == 7
    assert sheet["because"].str.startswith("a +").all()
    assert sheet["score"].is_monotonic_decreasing


def test_without_logits_only_the_inputs_are_checked(place, capsys):
    assert predeploy("live.csv", schema="bare.yaml") == 0
    assert "No sheet" in capsys.readouterr().out
    assert not (place / "out" / "sheet.csv").exists()


def test_first_means_first_in_time():
    metadata = pd.DataFrame({"when": ["2026-01-03 09:00", "2026-01-01", None, "2026-01-02"]})
    records = Records(None, torch.arange(4), None, metadata, schema=Schema(time="when"))
    assert first_rows(records, 2).targets.tolist() == [1, 3]
    assert first_rows(records, 9).targets.tolist() == [1, 3, 0, 2]
    assert first_rows(Records(targets=torch.arange(4)), 2).targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--rows", "0"], "--rows"),
        (["--size", "0"], "size"),
        (["--model", "nowhere:net"], "nowhere"),
        (["--out", "/proc/nowhere"], "path"),
    ],
)
def test_bad_input_exits_with_two(place, capsys, more, words):
    assert predeploy("live.csv", *more) == 2
    assert words in capsys.readouterr().err


def test_the_occupancy_rooms(place, shared_data):
    """Three real weeks: the door of the last one stands open; a logistic regression was fitted on
    the first."""
    tables = {
        name: pd.read_parquet(shared_data / "occupancy" / f"{file}.parquet")
        for name, file in (
            ("train", "datatraining"),
            ("validation", "datatest"),
            ("production", "datatest2"),
        )
    }
    columns = ["Temperature", "Humidity", "Light", "CO2", "HumidityRatio"]
    fitted = tables["train"][columns]
    x = torch.tensor(((fitted - fitted.mean()) / fitted.std()).to_numpy(), dtype=torch.float64)
    y = torch.tensor(tables["train"]["Occupancy"].to_numpy(), dtype=torch.float64)
    weight = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=50)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight[:5] + weight[5], y)
        value.backward()
        return value

    optimizer.step(loss)
    slope = weight.detach().numpy()
    for name, table in tables.items():
        scaled = ((table[columns] - fitted.mean()) / fitted.std()).to_numpy()
        table.assign(score=scaled @ slope[:5] + slope[5]).to_parquet(f"{name}.parquet")
    (place / "room.yaml").write_text("target: Occupancy\ntime: date\nlogits: score\n")
    arguments = [argument for name in tables for argument in (f"--{name}", f"{name}.parquet")]
    assert main(["predeploy", *arguments, "--schema", "room.yaml", "--out", "out"]) == 1
    with open("out/findings.json") as file:
        (joint,) = [f for f in json.load(file) if f["check"] == "shift.joint"]
    assert joint["severity"] == "warn"
    assert "CO2" in joint["summary"]
    sheet = pd.read_csv("out/sheet.csv")
    assert len(sheet) == 50
    assert sheet["Light"].median() > 300, "the light is on in an empty room"
