import io
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from gendebug_torch import attribute
from gendebug_torch.cli import main
from gendebug_torch.cli.inputs import deadline_of
from gendebug_torch.cli.main import BEGAN
from gendebug_torch.errors import InputError
from gendebug_torch.model.formats import load_program
from tests.versions import require_raw_weights

NETWORK = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Linear(2, 1)
def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
def probable():
    return nn.Sequential(wide(), nn.Softmax(1))
x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
rows = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
broken = 3
"""


def write_table(path, n=800, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    score = 1.5 * x[:, 0]
    y = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(int)
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1] + shift, "label": y, "score": score}).to_csv(
        path, index=False
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table("validation.csv")
    write_table("production.csv", seed=1)
    write_table("shifted.csv", seed=2, shift=1.5)
    (tmp_path / "schema.yaml").write_text("target: label\nlogits: score\n")
    (tmp_path / f"net_{os.getpid()}.py").write_text(NETWORK)
    return tmp_path


def diagnose(*more, production="production.csv"):
    tables = ["--validation", "validation.csv", "--production", production]
    return main(["diagnose", *tables, "--schema", "schema.yaml", "--out", "out", *more])


def findings():
    with open("out/findings.json") as file:
        return json.load(file)


def test_clean_tables_exit_with_zero(place, capsys):
    assert diagnose() == 0
    assert "nothing" in capsys.readouterr().out
    assert set(findings()[0]) == {
        "check",
        "cause",
        "severity",
        "subject",
        "summary",
        "numbers",
        "remedy",
        "inputs",
    }


def test_a_shift_exits_with_one_and_is_named(place):
    assert diagnose(production="shifted.csv") == 1
    assert any(f["check"] == "shift.ks" and f["subject"] == "b" for f in findings())
    assert diagnose("--fail-on", "never", production="shifted.csv") == 0


def test_only_and_options(place):
    options = '{"shift.ks": {"min_effect": 0.99}}'
    assert diagnose("--only", '["shift.ks"]', "--options", options, production="shifted.csv") == 0
    assert {f["check"] for f in findings()} == {"shift.ks"}


def test_production_may_lack_labels(place):
    pd.read_csv("production.csv").drop(columns="label").to_csv("production.csv", index=False)
    assert diagnose() == 0


def test_a_network_is_imported(place):
    (place / "schema.yaml").write_text("target: label\nmetadata: score\n")
    assert diagnose("--model", f"net_{os.getpid()}:build", "--fail-on", "never") == 0


@pytest.mark.parametrize(
    ("network", "data", "code", "words"),
    [
        ("wide", "rows", 0, ""),
        ("wide", "sorted.csv", 0, ""),
        ("probable", "rows", 1, "softmax_before_loss"),
    ],
)
def test_a_network_is_tried_before_its_training(place, network, data, code, words):
    rows = pd.read_csv("validation.csv").assign(label=lambda t: (t["a"] > 0).astype(int))
    rows.drop(columns="score").sort_values("label").to_csv("sorted.csv", index=False)
    (place / "schema.yaml").write_text("target: label\n")
    module = f"net_{os.getpid()}"
    data = data if data.endswith(".csv") else f"{module}:{data}"
    arguments = ["--model", f"{module}:{network}", "--data", data, "--out", "out"]
    assert main(["preflight", *arguments, "--schema", "schema.yaml"]) == code
    assert words in [f["numbers"].get("kind", "") for f in findings()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--schema", "absent.yaml"], "absent.yaml"),
        (["--production", "absent.csv"], "absent.csv"),
        (["--model", "nowhere"], "MODULE:NAME"),
        (["--model", "nowhere:net"], "nowhere"),
        (["--budget", "soon"], "budget"),
        (["--only", '["shfit"]'], "Did you mean 'shift'"),
        (["--out", "/proc/nowhere"], "out"),
    ],
)
def test_bad_input_exits_with_two_and_says_why(place, capsys, arguments, words):
    assert diagnose(*arguments) == 2
    assert words in capsys.readouterr().err


def test_unknown_flags_exit_with_two(place):
    assert main(["diagnose", "--outt", "x"]) == 2


def test_curves(place, capsys):
    epoch = np.arange(40)
    overfit = pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": np.exp(-epoch / 8),
            "val_loss": 0.5 + (epoch - 12) ** 2 / 800,
        }
    )
    overfit.to_csv("curves.csv", index=False)
    assert main(["curves", "curves.csv", "--out", "out"]) == 1
    assert any(f["cause"] == "overfitting" for f in findings())


def test_recalibrate(place):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3000, 4, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    np.savez("logits.npz", logits=(logits * 2).numpy(), labels=targets.numpy())
    assert main(["recalibrate", "--logits", "logits.npz", "--out", "out"]) == 0
    assert any(
        path.suffix == ".json" and "calibration" in path.name for path in (place / "out").iterdir()
    )
    assert main(["recalibrate", "--logits", "logits.npz", "--out", "out", "--fail-on", "warn"]) == 1


def test_attribute(place):
    (place / "schema.yaml").write_text("target: label\nmetadata: score\n")
    model = f"net_{os.getpid()}:build"
    arguments = [
        "attribute",
        "--model",
        model,
        "--data",
        "validation.csv",
        "--schema",
        "schema.yaml",
        "--out",
        "out",
    ]
    assert main(arguments) == 0
    written = pd.read_parquet("out/attributions.parquet")
    assert list(written.columns[:2]) == ["a", "b"]
    assert len(written) == 800
    assert "Row by row" in (place / "out" / "report.html").read_text()
    assert main([*arguments, "--method", "Saliency"]) == 0
    assert main([*arguments, "--method", "Nonsense"]) == 2


@pytest.mark.parametrize("kept", ["net.safetensors", "net.pt", "lightning.ckpt"])
def test_attribute_with_weights_from_a_checkpoint(place, kept):
    (place / "schema.yaml").write_text("target: label\nmetadata: score\n")
    network = torch.nn.Linear(2, 1)
    network.weight.data = torch.tensor([[3.0, -2.0]])
    if kept == "net.safetensors":
        save_file(network.state_dict(), kept)
    elif kept == "net.pt":
        torch.save(network.state_dict(), kept)
    else:
        torch.save(
            {
                "epoch": 3,
                "state_dict": {
                    f"model.{key}": value for key, value in network.state_dict().items()
                },
            },
            kept,
        )
    arguments = [
        "attribute",
        "--model",
        f"net_{os.getpid()}:build",
        "--data",
        "validation.csv",
        "--schema",
        "schema.yaml",
        "--out",
        "out",
    ]
    assert main([*arguments, "--weights", kept, "--checkpoint", "kept", "--fail-on", "never"]) == 0
    table = pd.read_csv("validation.csv")
    made = pd.read_parquet("out/attributions.parquet")
    assert np.allclose(made[["a", "b"]], table[["a", "b"]] * [3.0, -2.0], atol=1e-4)
    assert list((place / "kept").glob("batches-*"))


def test_weights_that_would_be_unpickled_are_refused(place, capsys):
    torch.save({"state_dict": {}, "hook": Runs()}, "net.ckpt")
    (place / "schema.yaml").write_text("target: label\nmetadata: score\n")
    arguments = [
        "attribute",
        "--model",
        f"net_{os.getpid()}:build",
        "--data",
        "validation.csv",
        "--schema",
        "schema.yaml",
        "--out",
        "out",
    ]
    assert main([*arguments, "--weights", "net.ckpt"]) == 2
    assert "without unpickling" in capsys.readouterr().err
    assert not (place / "was_run").exists()


def exported(path, network):
    rows = torch.export.Dim("rows", min=1, max=100_000)
    torch.export.save(
        torch.export.export(network, (torch.zeros(4, 2),), dynamic_shapes=({0: rows},)), path
    )
    require_raw_weights(path)


def test_attribute_an_exported_program(place):
    (place / "schema.yaml").write_text("target: label\nmetadata: score\n")
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    exported("net.pt2", network)
    arguments = [
        "attribute",
        "--data",
        "validation.csv",
        "--schema",
        "schema.yaml",
        "--out",
        "out",
        "--fail-on",
        "never",
    ]
    assert main([*arguments, "--model", "net.pt2"]) == 0
    table = pd.read_csv("validation.csv")
    x = torch.tensor(table[["a", "b"]].to_numpy(), dtype=torch.float32)
    expected = attribute(network, x).values.numpy()
    assert np.allclose(
        pd.read_parquet("out/attributions.parquet")[["a", "b"]].to_numpy(), expected, atol=1e-5
    )


class Runs:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


def repacked(path, change):
    with zipfile.ZipFile("net.pt2") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            name, content = change(entry, old.read(entry))
            new.writestr(name, content)
        for name, content in change(None, None):
            new.writestr(name, content)


def test_a_program_that_would_be_unpickled_is_refused(place, capsys):
    exported("net.pt2", torch.nn.Linear(2, 1))
    code = io.BytesIO()
    torch.save((Runs(),), code)

    def flagged(content):
        kept = json.loads(content)
        for payload in kept["config"].values():
            payload["use_pickle"] = True
        return json.dumps(kept)

    changes = {
        "sample": lambda e, c: (
            ()
            if e is None
            else (e, code.getvalue() if "sample_inputs" in e and e.endswith(".pt") else c)
        ),
        "weights": lambda e, c: (
            () if e is None else (e, flagged(c) if e.endswith("weights_config.json") else c)
        ),
        "legacy": lambda e, c: (
            (("net/data/weights/model.pt", code.getvalue()),) if e is None else (e, c)
        ),
        "library": lambda e, c: (
            (("net/data/aotinductor/model/net.so", b""),) if e is None else (e, c)
        ),
        "object": lambda e, c: (("net/data/constants/opaque_obj_0", b""),) if e is None else (e, c),
    }
    for name, change in changes.items():
        repacked(f"{name}.pt2", change)
        with pytest.raises(InputError, match="pickled"):
            load_program(f"{name}.pt2", "--model")
    assert not (place / "was_run").exists()
    (place / "schema.yaml").write_text("target: label\n")
    arguments = ["attribute", "--data", "validation.csv", "--schema", "schema.yaml", "--out", "out"]
    assert main([*arguments, "--model", "nowhere.pt2"]) == 2
    assert "nowhere.pt2" in capsys.readouterr().err


def test_checks_lists_every_check(place, capsys):
    from gendebug_torch.checks.registry import all_checks

    assert main(["checks"]) == 0
    text = capsys.readouterr().out
    assert all(check.name in text for check in all_checks())
    assert main(["checks", "--as_json", "true"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(all_checks())


@pytest.mark.parametrize(
    "command", ["diagnose", "recalibrate", "attribute", "curves", "checks", "predeploy"]
)
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "Exit code" in text
    assert "--" in text


def test_the_entry_point_runs(place):
    done = subprocess.run(
        [sys.executable, "-m", "gendebug_torch.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "diagnose" in done.stdout


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_real_tables_from_files_alone(place, shared_data, kind):
    table = pd.read_parquet(shared_data / "elec2" / "electricity.parquet")
    cuts = {"train": table[:20000], "validation": table[20000:30000], "production": table[30000:]}
    for name, part in cuts.items():
        part.to_csv(f"{name}.csv", index=False) if kind == "csv" else part.to_parquet(
            f"{name}.parquet"
        )
    (place / "elec.yaml").write_text("target: class\nclasses: [DOWN, UP]\n")
    tables = [argument for name in cuts for argument in (f"--{name}", f"{name}.{kind}")]
    assert main(["diagnose", *tables, "--schema", "elec.yaml", "--out", "out"]) == 1
    shifted = {
        f["subject"]
        for f in findings()
        if f["check"] == "shift.ks" and f["severity"] in ("warn", "fail")
    }
    assert {"nswprice", "vicprice"} <= shifted
    (date,) = [f for f in findings() if f["check"] == "shift.ks" and f["subject"] == "date"]
    assert (date["severity"], "not compared" in date["summary"]) == ("note", True)


def test_three_real_occupancy_tables(place, shared_data):
    files = {"train": "datatraining", "validation": "datatest", "production": "datatest2"}
    tables = [
        argument
        for name, file in files.items()
        for argument in (f"--{name}", str(shared_data / "occupancy" / f"{file}.parquet"))
    ]
    (place / "occupancy.yaml").write_text("target: Occupancy\ntime: date\n")
    assert main(["diagnose", *tables, "--schema", "occupancy.yaml", "--out", "out"]) == 1
    # A week of such slow fluctuations has an effective sample size of about ten: they may explain
    # each column, but not all of them together.
    joint, *_ = [f for f in findings() if f["check"] == "shift.joint"]
    assert joint["severity"] == "warn"
    assert "may be a fluctuation" in joint["summary"]
    wandered = {
        f["subject"]
        for f in findings()
        if f["check"] == "shift.ks" and "too short to tell" in f["summary"]
    }
    assert {"Temperature", "Light"} <= wandered


def test_the_budget_of_a_command_counts_from_its_start():
    began = BEGAN.set(time.monotonic() - 3.0)
    try:
        # Writing the report has its part as well.
        assert 0.0 < deadline_of("5s").left <= 0.4
        assert deadline_of("5s").seconds == 5.0
        assert deadline_of(None) is None
    finally:
        BEGAN.reset(began)
