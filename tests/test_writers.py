"""Whatever writes: a full disk is said in words and leaves the old files; names do no harm."""

import csv
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gendebug_torch as gd
from gendebug_torch.behavior import append_case, load_suite, run_suite
from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.cli import main
from gendebug_torch.cli.deliver import deliver
from gendebug_torch.data.sheets.sheet_files import write_sheet
from gendebug_torch.errors import InputError
from gendebug_torch.labels import audit_sheet, label_ranking, read_review
from gendebug_torch.shift.columns.chunks import prepare_table
from tests.fuzz.readers import SCHEMA, SUITE_TEXT, frame

CODES = "=1+1 \x1b[31m \u202ex"


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    logits = 3 * torch.randn(400, 3)
    targets = torch.multinomial((logits / 2).softmax(1), 1)[:, 0]
    return gd.Records(logits=logits, targets=targets, features=torch.randn(400, 5))


def diagnosis(mark=""):
    finding = Finding("shift.ks", Cause.COVARIATE_SHIFT, Severity.WARN, f"{mark} moved. " * 99)
    return gd.Diagnosis((finding,))


def report(folder, rows):
    assert deliver(diagnosis(), str(folder), "warn", also=("junit", "markdown", "sarif")) == 1


def recalibration(folder, rows):
    network = torch.nn.Linear(3, 3)
    torch.nn.init.eye_(network.weight)
    held_out = gd.Records(features=rows.logits, targets=rows.targets)
    gd.recalibrate(network, held_out, candidates=["temperature"]).save(folder / "map")


def reference(folder, rows):
    frame().to_csv(folder / "rows.csv", index=False)
    prepare_table(folder / "rows.csv", schema=SCHEMA).save(folder / "reference.safetensors")


def attributions(folder, rows):
    network = torch.nn.Linear(5, 3)
    gd.attribute(network, rows.features, "saliency", trust=False).save(folder / "a.parquet")


def behavior_run(folder, rows):
    (folder / "s.yaml").write_bytes(SUITE_TEXT)
    run_suite(load_suite(folder / "s.yaml"), lambda x: [0.2 for _ in x]).save(folder / "run.json")


def suite(folder, rows):
    path = folder / "s.yaml"
    path.write_bytes(SUITE_TEXT if not path.exists() else path.read_bytes())
    append_case(path, {"id": f"new-{len(path.read_bytes())}", "input": {"amount": 1.0, "hour": 2}})


def sheet(suffix):
    table = pd.DataFrame(np.zeros((50, 6)))
    return lambda folder, rows: write_sheet(table, folder / f"sheet{suffix}")


WRITERS = {
    "report": report,
    "records": lambda folder, rows: rows.save(folder / "records"),
    "recalibration": recalibration,
    "reference": reference,
    "attributions": attributions,
    "behavior run": behavior_run,
    "suite": suite,
    "sheet.csv": sheet(".csv"),
    "sheet.html": sheet(".html"),
    "checkpoint": lambda folder, rows: gd.collect(
        torch.nn.Linear(5, 3), rows.features, checkpoint=folder / str(len(list(folder.iterdir())))
    ),
}


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def full_disk():
    """Within it a file may hold that many bytes."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)

    def limited(size, work, *inputs):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        try:
            work(*inputs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_every_old_file(tmp_path, rows, full_disk, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write = WRITERS[name]
    write(tmp_path, rows)
    before = contents(tmp_path)
    # Inputs of the writer are there already; writing them again would be refused first.
    monkeypatch.setattr(pd.DataFrame, "to_csv", _kept(pd.DataFrame.to_csv))
    monkeypatch.setattr("pathlib.Path.write_bytes", _kept_inputs)
    for size in (0, 60, 300) if name != "checkpoint" else (0, 60):
        with pytest.raises(InputError, match=r"written.*File too large|free some space"):
            full_disk(size, write, tmp_path, rows)
        after = contents(tmp_path)
        assert {path: after.get(path) for path in before} == before
        left = {path for path in after if path not in before}
        assert not left or name == "checkpoint"


_WRITE = Path.write_bytes


def _kept_inputs(path, data):
    return len(data) if path.name == "s.yaml" else _WRITE(path, data)


def _kept(write):
    def to_csv(self, path=None, **options):
        return None if getattr(path, "name", "") == "rows.csv" else write(self, path, **options)

    return to_csv


@pytest.mark.parametrize("failing", range(1, 9))
def test_all_files_of_a_report_are_replaced_or_none(tmp_path, monkeypatch, failing):

    deliver(diagnosis("old"), str(tmp_path), "warn", also=("junit", "markdown"))
    before, steps, replace = contents(tmp_path), [], os.replace

    def faulty(source, target):
        steps.append(target)
        if len(steps) == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("gendebug_torch.data.files.os.replace", faulty)
    with pytest.raises(InputError, match="No space left"):
        deliver(diagnosis("new"), str(tmp_path), "warn", also=("junit", "markdown"))
    assert contents(tmp_path) == before
    assert set(before) == {"findings.json", "report.html", "findings.xml", "findings.md"}


def test_names_in_sheets_neither_run_nor_act(tmp_path):
    codes = (CODES, "+2", "-3", "@x", "\tx", "a\rb", "\x85", "plain", "\u2066y")
    table = pd.DataFrame(dict.fromkeys(codes, codes))
    write_sheet(table, tmp_path / "sheet.csv")
    write_sheet(table, tmp_path / "sheet.html", title=CODES)
    text = (tmp_path / "sheet.csv").read_bytes().decode()
    read = list(csv.reader(io.StringIO(text)))
    assert len(read) == len(codes) + 1
    for cell in (cell for line in read for cell in line):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    for acting in ("\x1b", "\u202e", "\u2066", "\x85", "\r"):
        assert acting not in text + page
    assert read[0][0] == "'=1+1 \\x1b[31m \\u202ex"
    assert "Content-Security-Policy" in page


def test_a_review_survives_names_that_were_made_harmless(tmp_path):
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    targets, names = torch.tensor([0, 0, 1]), [CODES, "\x07no"]
    ranking = label_ranking(probs, targets)
    sources = ["=eve", "\x1bbob", "ann"]
    filled = audit_sheet(ranking, names=names, source=sources).assign(verdict="wrong")
    write_sheet(filled, tmp_path / "sheet.csv")
    review = read_review(tmp_path / "sheet.csv", targets, names=names)
    assert len(review.decisions) == 3


NETWORK = """
import time
from pathlib import Path
from torch import nn
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
    def forward(self, x):
        Path("running").touch()
        time.sleep(60)
        return self.layer(x)
"""


@pytest.fixture
def interruptible():
    """Children can be interrupted, also where this process runs in the background of a shell."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path, interruptible):
    pd.DataFrame({"a": range(50), "b": 0.5, "label": [0, 1] * 25}).to_csv(tmp_path / "rows.csv")
    (tmp_path / "schema.yaml").write_text("target: label\n")
    (tmp_path / "slow_network.py").write_text(NETWORK)
    words = ["diagnose", "--validation", "rows.csv", "--schema", "schema.yaml", "--out", "out"]
    command = [sys.executable, "-m", "gendebug_torch.cli", *words, "--model", "slow_network:Slow"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "running").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors == "gendebug diagnose: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_an_interrupted_import_is_no_broken_one(interruptible, monkeypatch, capsys):
    """NumPy makes an ImportError of Ctrl-C, which ended with the exit code of findings."""

    def importing(name):
        signal.raise_signal(signal.SIGINT)
        return import_module(name)

    monkeypatch.setattr(sys.modules["gendebug_torch.cli.main"], "import_module", importing)
    assert main(["checks"]) == 130
    assert capsys.readouterr().err == "gendebug checks: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_command_prints_what_acts_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {f"{CODES}\x07": "a", "\u2066b\x00": "b", "L" * 5000: "c"}
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.normal(size=200) for name in names})
    table.assign(label=0).to_parquet("before.parquet")
    (table + 3).assign(label=0).to_parquet("after.parquet")
    (tmp_path / "schema.yaml").write_text("target: label\n")
    words = ["--schema", "schema.yaml", "--out", "out"]
    assert main(["shift", "before.parquet", "after.parquet", *words]) == 1
    text = capsys.readouterr()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for acting in ("\x1b", "\x07", "\x00", "\u202e", "\u2066", "L" * 300):
        assert acting not in text.out + text.err
    for acting in ("\x1b", "\x07", "\x00", "\u202e", "\u2066"):
        assert acting not in page


def test_what_a_terminal_lacks_is_printed_as_an_escape(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    epochs = "\n".join(f"{i},{1 / (i + 1)},{1 / (i + 1) + 0.1}" for i in range(12))
    (tmp_path / "runs.csv").write_text(f"epoch,train_loss,val_loss\n{epochs}\n")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert main(["curves", "runs.csv", "--out", "ä\udcff"]) in (0, 1)
    out.flush()
    assert b"Report: \\xe4\\udcff/report.html" in out.buffer.getvalue()
    assert (tmp_path / "ä\udcff" / "report.html").exists()
    assert out.errors == "strict"
