"""The command line, pytest, the Lightning callback."""

import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch.behavior import Case, Suite, append_case, load_suite, run_suite
from gendebug_torch.callbacks import BehaviorMonitor
from gendebug_torch.cli import main
from gendebug_torch.errors import InputError

MODEL = """
import torch
from torch import nn

def predict(rows):
    return [0.9 if (row["amount"] or 0) > 100 else 0.1 for row in rows]

def worse(rows):
    if any(row["amount"] == 500 for row in rows):
        raise ValueError("five hundred")
    return [0.1 for row in rows]

def broken(rows):
    return [100.0 * row["amount"] for row in rows]

class Net(nn.Module):
    def forward(self, x):
        return (x[:, 0] - 100) / 10

def build():
    return Net()
"""
SUITE = """
features: [amount, hour]
cases:
  - id: small
    input: {amount: 3, hour: 4}
    expect: {score: [0, 0.3]}
    tags: [money]
  - id: large
    input: {amount: 500, hour: 4}
    expect: {class: 1}
    origin: incident 7
  - id: draft
    input: {amount: 7, hour: 4}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.behavior.yaml").write_text(SUITE)
    (tmp_path / "served.py").write_text(MODEL)
    pd.DataFrame({"amount": [1.0, 2e9], "hour": [3, 4], "other": ["a", "b"]}).to_parquet(
        "live.parquet"
    )
    (tmp_path / "raises.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    (tmp_path / "deep.yaml").write_text("[" * 2000)
    other = Suite((Case("other", {"x": 1}, {"score": [0, 1]}),))
    run_suite(other, lambda rows: [0.5]).save("other.json")
    return tmp_path


def behave(*words, model="served:predict"):
    return main(["behave", *words, *(["--model", model] if model else [])])


def test_a_suite_runs_from_the_command_line(place, capsys):
    assert behave("s.behavior.yaml", "--save", "base.json", "--out", "out") == 0
    assert "0 of 2 cases fail" in capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {
        "report.html",
        "findings.json",
        "behavior.json",
    }
    assert (
        behave(
            "s.behavior.yaml",
            "--baseline",
            "base.json",
            "--junit",
            "junit.xml",
            model="served:worse",
        )
        == 1
    )
    text = capsys.readouterr().out
    assert "s.behavior.yaml:8" in text
    assert "five hundred" in text
    assert "incident 7" in text
    assert "1 newly broken" in text
    suite = ElementTree.parse("junit.xml").getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("3", "1", "1")
    assert [case.get("name") for case in suite] == ["small", "large", "draft"]
    assert behave("s.behavior.yaml", "--tags", "[money]", model="served:worse") == 0
    assert behave("s.behavior.yaml", "--fail-on", "never", model="served:worse") == 0
    assert behave("s.behavior.yaml", "--fail-on", "never", model="served:broken") == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--tags", "money"],
        ["--tags=money"],
        ["--tags", "[money]"],
        ["--tags", "money,size"],
        ["--tags", "money", "size"],
        ["--tags", '["money", "size"]'],
    ],
)
def test_lists_are_written_as_their_help_shows(place, capsys, words):
    text = SUITE.replace("    origin: incident 7\n", "    tags: [size, other]\n")
    Path("s.behavior.yaml").write_text(text)
    assert behave("s.behavior.yaml", *words) == 0
    expected = 2 if "size" in "".join(words) else 1
    assert f"0 of {expected} cases fail" in capsys.readouterr().out


def test_fields_ids_and_runs_are_lists_too(place):
    add = ["add", "s.behavior.yaml", "--from", "live.parquet", "--row", "1", "--tags", "a,b"]
    assert behave(*add, "--fields", "amount,hour", "--expect", "0:1", model=None) == 0
    added = load_suite("s.behavior.yaml").cases[-1]
    assert (added.tags, set(added.input)) == (("a", "b"), {"amount", "hour"})
    assert behave("record", "s.behavior.yaml") == 0
    assert behave("confirm", "s.behavior.yaml", "--ids", "draft", model=None) == 0
    assert behave("s.behavior.yaml", "--save", "one.json") == 0
    assert behave("s.behavior.yaml", "--save", "two.json", model="served:worse") == 1
    assert behave("redundancy", "s.behavior.yaml", "--runs", "one.json,two.json") == 0


def test_what_acts_on_a_terminal_is_escaped(place, capsys):
    name = "a\x1b[2J\u202e" + "n" * 10_000
    case = {"id": name, "input": {"amount": 3, "hour": 1}, "expect": {"score": [0.9, 1]}}
    append_case("s.behavior.yaml", case | {"capability": "c\x1b[1m"})
    assert behave("s.behavior.yaml") == 1
    Path("s.behavior.yaml").write_text(SUITE.replace("id: draft", "id: 'draft\u202e'"))
    assert behave("record", "s.behavior.yaml") == 0
    assert behave("confirm", "s.behavior.yaml", model=None) == 0
    assert behave("redundancy", "s.behavior.yaml") == 0
    printed = capsys.readouterr()
    assert not {"\x1b", "\u202e"} & set(printed.out + printed.err)
    assert len(printed.out) < 10_000


@pytest.mark.parametrize("model", ["served:build", "served:Net"])
def test_networks_and_their_builders_are_run_too(place, model):
    assert behave("run", "s.behavior.yaml", model=model) == 0


def test_a_suite_grows_on_the_command_line(place, capsys):
    add = ["add", "s.behavior.yaml", "--from", "live.parquet", "--row", "1"]
    assert behave(*add, "--expect", "0.0:0.3", "--capability", "size", model=None) == 0
    added = load_suite("s.behavior.yaml").cases[-1]
    assert (added.id, added.capability, dict(added.input)) == (
        "live-row-1",
        "size",
        {"amount": 2e9, "hour": 4},
    )
    assert behave(*add, model=None) == 2
    assert "live-row-1" in capsys.readouterr().err
    assert behave("record", "s.behavior.yaml") == 0
    assert [case.id for case in load_suite("s.behavior.yaml").cases if not case.reviewed] == [
        "draft"
    ]
    assert behave("s.behavior.yaml", "--tags", "[general]", "--fail-on", "warn") == 0
    assert behave("confirm", "s.behavior.yaml", model=None) == 0
    assert all(case.reviewed for case in load_suite("s.behavior.yaml").cases)
    assert behave("redundancy", "s.behavior.yaml", "--out", "red") == 0
    assert "faults" in capsys.readouterr().out
    assert {path.name for path in Path("red").iterdir()} == {"redundancy.csv", "redundancy.png"}


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        (["absent.yaml"], "served:predict", "absent.yaml"),
        (["s.behavior.yaml"], None, "--model"),
        (["s.behavior.yaml"], "served:nothing", "served:nothing"),
        (["s.behavior.yaml"], "served", "MODULE:NAME"),
        (["s.behavior.yaml", "--baseline", "absent.json"], "served:predict", "absent.json"),
        (["s.behavior.yaml", "--out", "/proc/nowhere"], "served:predict", "/proc/nowhere"),
        (["add", "s.behavior.yaml", "--from", "live.parquet", "--row", "7"], None, "0..1"),
        (
            ["add", "s.behavior.yaml", "--from", "absent.parquet", "--row", "0"],
            None,
            "absent.parquet",
        ),
        (
            ["add", "s.behavior.yaml", "--from", "live.parquet", "--row", "0", "--expect", "0:3"],
            None,
            "[0, 1]",
        ),
        (["s.behavior.yaml", "--tags", "[monney]"], "served:predict", "Did you mean 'money'"),
        (["confirm", "s.behavior.yaml", "--ids", "[nobody]"], None, "nobody"),
        (["confirm", "s.behavior.yaml", "--ids", "nobody"], None, "nobody"),
        (["s.behavior.yaml", "--allowed", "2"], "served:predict", "--allowed"),
        (["s.behavior.yaml", "--allowed", "-0.1"], "served:predict", "--allowed"),
        (["record", "s.behavior.yaml", "--width", "-1"], "served:predict", "--width"),
        (["s.behavior.yaml", "--baseline", "other.json"], "served:predict", "none in common"),
        (["s.behavior.yaml", "--baseline", "s.behavior.yaml"], "served:predict", "saved run"),
        (["raises.py"], "served:predict", "ZeroDivisionError"),
        (["exits.py"], "served:predict", "SystemExit"),
        (["deep.yaml"], "served:predict", "depth"),
        (["s.behavior.yaml", "--save", "."], "served:predict", "regular file"),
        (["s.behavior.yaml", "--junit", "served.py/junit.xml"], "served:predict", "--junit"),
    ],
)
def test_bad_input_exits_with_two_and_touches_nothing(place, capsys, words, model, message):
    assert behave(*words, model=model) == 2
    assert message in capsys.readouterr().err
    assert (place / "s.behavior.yaml").read_text() == SUITE


@pytest.mark.parametrize(
    "words",
    [
        ["behave"],
        ["behave", "run"],
        ["behave", "add"],
        ["behave", "record"],
        ["behave", "redundancy"],
    ],
)
def test_help_spells_flags_as_people_write_them(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "Exit code" in text
    assert not re.search(r"--[a-z]*_", text)
    assert ("--from " in text) == (words[-1] == "add")


def test_diagnose_takes_a_suite(place):
    words = [
        "diagnose",
        "--behavior",
        "s.behavior.yaml",
        "--model",
        "served:build",
        "--out",
        "out",
        "--only",
        "[behavior]",
    ]
    assert main(words) == 0
    Path("s.behavior.yaml").write_text(SUITE.replace("[amount, hour]", "[hour, amount]"))
    assert main(words) == 1


@pytest.fixture
def run_inside(capsys):
    """Another pytest with our plugin in this process and the current folder."""

    def run(*words):
        sys.modules.pop("served", None)
        plugins = ["-p", "gendebug_torch.pytest_plugin", "-p", "no:cacheprovider"]
        code = pytest.main([*plugins, *words])
        return SimpleNamespace(returncode=code, stdout=capsys.readouterr().out)

    return run


def test_a_suite_is_a_file_of_pytest(place, run_inside):
    done = run_inside("s.behavior.yaml", "--behavior-model", "served:predict", "-v")
    assert done.returncode == 0, done.stdout
    assert "s.behavior.yaml::small PASSED" in done.stdout
    assert "2 passed, 1 skipped" in done.stdout
    Path("pytest.ini").write_text("[pytest]\nbehavior_model = served:worse\n")
    Path("s.behavior.yaml").write_text(
        SUITE + "    expect: {score: [0.9, 1]}\n    reviewed: false\n"
    )
    done = run_inside("s.behavior.yaml")
    assert done.returncode == 1
    assert re.search(r"s\.behavior\.yaml:8: large", done.stdout)
    assert "ValueError: five hundred" in done.stdout
    assert "1 failed, 1 passed, 1 xfailed" in done.stdout
    assert "1 passed, 2 deselected" in run_inside("s.behavior.yaml", "-k", "money").stdout


def test_pytest_says_what_is_wrong_with_a_suite_or_model(place, run_inside):
    done = run_inside("s.behavior.yaml")
    assert done.returncode == 1
    assert "--behavior-model" in done.stdout
    Path("s.behavior.yaml").write_text(SUITE.replace("expect: {class: 1}", "expct: {class: 1}"))
    done = run_inside("s.behavior.yaml")
    assert done.returncode == 2
    assert "s.behavior.yaml:10" in done.stdout
    assert "Did you mean 'expect'" in done.stdout


def test_the_plugin_costs_a_pytest_run_nothing():
    code = (
        "import sys, gendebug_torch.pytest_plugin; print('torch' in sys.modules, 'pandas' in "
        "sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


class Learner(pl.LightningModule):
    """Learns that the second column counts."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1)
        nn.init.constant_(self.line.weight, -0.5)

    def forward(self, x):
        return self.line(x)

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self(x)[:, 0], y)

    def validation_step(self, batch, index):
        return self.training_step(batch, index)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


def fit(monitor, epochs=4, **options):
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(x, (x[:, 1] > 0).float())
    loader = torch.utils.data.DataLoader(data, 64)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Learner(), loader, loader)
    return trainer


def test_the_callback_follows_the_suite_over_epochs():
    cases = (
        Case("up", {"a": 0, "b": 0}, "higher", {"b": 1}),
        Case("high", {"a": 0, "b": 3}, {"class": 1}),
    )
    suite = Suite(cases, features=("a", "b"))
    monitor = BehaviorMonitor(suite)
    trainer = fit(monitor)
    failed = [len(run.failures) for run in monitor.history.values()]
    assert list(monitor.history) == [0, 1, 2, 3]
    assert failed[-1] == 0
    resumed = BehaviorMonitor(suite, every_n_epochs=2)
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.history == monitor.history
    sparse = BehaviorMonitor(suite, every_n_epochs=2)
    fit(sparse)
    assert list(sparse.history) == [0, 2]
    assert trainer.lightning_module.training or not trainer.lightning_module.training
    seen = BehaviorMonitor(
        Suite(cases), predict=lambda module: lambda rows: [float(row["b"] > 0) for row in rows]
    )
    fit(seen, epochs=1)
    assert not seen.history[0].failures
    with pytest.raises(InputError, match="features"):
        BehaviorMonitor(Suite(cases))


def test_the_callback_reports_a_predict_function_that_fails_and_counts_nothing():
    def raising(rows):
        raise TypeError("a list of dicts")

    suite = Suite((Case("a", {"x": 1}, {"class": 1}),))
    monitor = BehaviorMonitor(suite, predict=lambda module: raising)
    fit(monitor, epochs=2)
    (errored,) = [finding for finding in monitor.findings if finding.severity == "errored"]
    assert "a list of dicts" in errored.summary
