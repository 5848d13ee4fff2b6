"""`gendebug recalibrate` from every kind of file, and what it refuses."""

import json
import sys
from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from gendebug_torch.cli.main import main
from tests.contract.plants_calibration import binary, drawn
from tests.versions import require_raw_weights

MODULE = """
import lightning.pytorch as pl
import torch

class Net(pl.LightningModule):
    def __init__(self, width=2):
        super().__init__()
        self.save_hyperparameters()
        self.head = torch.nn.Linear(width, 2)

    def forward(self, x):
        return self.head(x)

def build():
    return Net()
"""


@pytest.fixture
def place(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    name = f"recalibrated_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    records = drawn(0, 1200, 4, scale=2.5)
    z, y = records.logits.float(), records.targets
    np.savez("logits.npz", logits=z.numpy(), labels=y.numpy())
    save_file({"logits": z, "targets": y}, "logits.safetensors")
    frame = pd.DataFrame(z.numpy(), columns=["a", "b", "c", "d"]).assign(label=y.numpy())
    frame.to_csv("logits.csv", index=False)
    frame.to_parquet("logits.parquet")
    (tmp_path / "schema.yaml").write_text("target: label\nlogits: [a, b, c, d]\n")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 2, generator=generator)
    targets = torch.bernoulli((2 * x[:, 0]).sigmoid(), generator=generator).long()
    pd.DataFrame(x.numpy(), columns=["p", "q"]).assign(label=targets.numpy()).to_csv(
        "data.csv", index=False
    )
    (tmp_path / "data.yaml").write_text("target: label\n")
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "file", ["logits.npz", "logits.safetensors", "logits.csv", "logits.parquet"]
)
def test_from_saved_logits(place, file, capsys):
    schema = ["--schema", "schema.yaml"] if file.endswith(("csv", "parquet")) else []
    assert main(["recalibrate", "--logits", file, "--out", "out", *schema]) == 0
    saved = json.loads(Path("out/calibration.json").read_text())
    assert saved["temperature"] == pytest.approx(2.5, abs=0.3)
    assert saved["ece"]["after"] < saved["ece"]["before"]
    printed = capsys.readouterr().out
    assert printed.count(f"{saved['ece']['after']:.4f} [") == 1
    assert "after (out of fold)" in printed
    for name in (
        "reliability_before.png",
        "reliability_after.png",
        "report.html",
        "findings.json",
        "calibration.safetensors",
    ):
        assert (Path("out") / name).stat().st_size > 0


def test_a_threshold_shows_its_decisions_before_and_after(place, capsys):
    records = binary(0, 3000, scale=2.5)
    np.savez("binary.npz", logits=records.logits.numpy(), labels=records.targets.numpy())
    assert (
        main(["recalibrate", "--logits", "binary.npz", "--threshold", "0.8", "--out", "out"]) == 0
    )
    printed = capsys.readouterr().out
    lines = {
        line.split()[0]: [float(value) for value in line.split()[1:]]
        for line in printed.splitlines()
        if line[:3] in ("tp ", "fp ")
    }
    decided, true = records.logits.sigmoid() > 0.8, records.targets == 1
    assert lines["tp"][0] == pytest.approx(float((decided & true).sum()), rel=1e-3)
    assert lines["fp"][1] < lines["fp"][0]
    moved = float(printed.split("move the threshold to ")[1].split()[0].rstrip("."))
    assert 0.5 < moved < 0.8
    assert "Decisions before and after" in Path("out/report.html").read_text()
    assert (
        main(["recalibrate", "--logits", "logits.npz", "--threshold", "0.8", "--out", "out"]) == 2
    )
    assert main(["recalibrate", "--logits", "binary.npz", "--threshold", "3", "--out", "out"]) == 2
    Path("binary.yaml").write_text("target: label\nthreshold: 0.8\n")
    arguments = [
        "--data",
        "data.csv",
        "--schema",
        "binary.yaml",
        "--model",
        f"{place}:build",
        "--candidates",
        "[temperature]",
    ]
    assert main(["recalibrate", "--out", "out", *arguments]) == 0
    assert "threshold 0.8" in capsys.readouterr().out


def overconfident(net):
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[0.0, 0.0], [6.0, 0.0]]))
        net.head.bias.zero_()
    return net


def test_from_a_lightning_checkpoint(place, monkeypatch):
    monkeypatch.syspath_prepend(".")
    net = overconfident(import_module(place).Net(width=2))
    run = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.strategy.connect(net)
    run.save_checkpoint("net.ckpt", weights_only=True)
    arguments = [
        "recalibrate",
        "--model",
        f"{place}:Net",
        "--checkpoint",
        "net.ckpt",
        "--data",
        "data.csv",
        "--schema",
        "data.yaml",
    ]
    assert main([*arguments, "--out", "out"]) == 0
    assert json.loads(Path("out/calibration.json").read_text())["temperature"] == pytest.approx(
        3.0, abs=0.5
    )
    assert main([*arguments[:3], "--checkpoint", "data.csv", *arguments[5:], "--out", "out"]) == 2


def test_from_an_exported_program(place):
    net = overconfident(torch.nn.Sequential(OrderedDict(head=torch.nn.Linear(2, 2))))
    rows = torch.export.Dim("rows", min=1, max=100_000)
    torch.export.save(
        torch.export.export(net, (torch.zeros(4, 2),), dynamic_shapes=({0: rows},)), "net.pt2"
    )
    require_raw_weights("net.pt2")
    arguments = [
        "recalibrate",
        "--program",
        "net.pt2",
        "--data",
        "data.csv",
        "--schema",
        "data.yaml",
        "--out",
        "out",
    ]
    assert main(arguments) == 0
    assert json.loads(Path("out/calibration.json").read_text())["temperature"] == pytest.approx(
        3.0, abs=0.5
    )
    assert main([*arguments[:2], "data.csv", *arguments[3:]]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "json:loads"],
        ["--logits", "nowhere.npz"],
        ["--logits", "logits.csv"],
        ["--logits", "schema.yaml"],
        ["--logits", "logits.npz", "--candidates", "[magic]"],
    ],
)
def test_bad_input_is_refused_with_a_sentence(place, arguments, capsys):
    assert main(["recalibrate", "--out", "out", *arguments]) == 2
    assert "expected" in capsys.readouterr().err
