"""Every snippet of the documentation runs as it stands: Python, commands, schemas. Asked by
`scripts/docs`."""

import re
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch.cli import main
from gendebug_torch.cli.exit_codes import CLEAN, FINDINGS
from gendebug_torch.diagnosis.preparation.views import SPLITS
from tests.contract.plants_modality import sides
from tests.test_readme import loader, module

ROOT = Path(__file__).resolve().parents[1]
DOCS, README = ROOT / "docs", ROOT / "README.md"
# Short for `--also junit` and so on.
FORMATS = ("--junit", "--markdown", "--sarif")
PAGES = sorted(DOCS.glob("*.md")) + sorted((DOCS / "quickstart").glob("*.md"))
NETS = """
import torch
from torch import nn
COLUMNS = 4
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
"""
DATA = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
def loader():
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=32)
"""
SERVING = """
def predict(rows):
    return [[0.9, 0.1] if row["amount"] < 100 else [0.1, 0.9] for row in rows]
"""
SUITE = """
suite: fraud
model: my_package.serving:predict
classes: [legitimate, fraud]
cases:
  - {id: groceries, input: {amount: 30.0}, expect: {class: legitimate}}
  - {id: jewels, input: {amount: 900.0}, expect: {class: fraud}}
"""


# Words that stand for something of the reader's.
OPEN = re.compile(r"^(\.\.\.|[A-Z]+|.*\|.*)$")
PACKAGES = ("my_package", "package", "my_company")


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(page):
    """Words of each command of the page; comments at the end of a line are none."""
    text = "\n".join(blocks(page, "sh") + blocks(page, "bash")).replace("\\\n", " ")
    text += "\n" + "\n".join(re.findall(r"`(gendebug [^`]+ [^`]+)`", page.read_text()))
    found = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in found if words[:1] == ["gendebug"]]


def table(seed, n=300, weeks=0):
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(size=n) for name in ("income", "amount", "age")}
    frame = pd.DataFrame(columns).assign(row_number=rng.permutation(n))
    score = 2 * frame["income"] - frame["amount"]
    frame["label"] = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(int)
    moment = pd.Timestamp("2026-01-01") + pd.Timedelta(weeks=weeks)
    return frame.assign(
        score=score,
        created_at=moment + pd.to_timedelta(np.arange(n), unit="min"),
        customer=[f"c{seed}-{i // 2}" for i in range(n)],
        labeler=rng.choice(["ann", "bob"], n),
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the pages name, in which they run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, seed in (("train", 0), ("val", 1), ("reference", 2), ("live", 3)):
        table(seed).to_csv(f"{name}.csv", index=False)
    table(4).to_parquet("live.parquet")
    Path("schema.yaml").write_text(blocks(DOCS / "quickstart" / "tables.md", "yaml")[0])
    for package in PACKAGES[:2]:
        for name, code in (("__init__", ""), ("nets", NETS), ("data", DATA), ("serving", SERVING)):
            write(f"{package}/{name}.py", code)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


NAMES = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}


def artefacts():
    """What earlier commands and programs of the reader left: networks, logits, logs, weeks."""
    from my_package.nets import build

    network, rows = build(), torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (rows[:2],), "net.onnx", **NAMES, dynamo=False)
    np.savez("rows.npz", features=rows.numpy())
    logits = 3 * torch.randn(600, 3, generator=torch.Generator().manual_seed(2))
    np.savez("validation.npz", logits=logits.numpy(), targets=logits.argmax(1).numpy())
    epochs = np.arange(30)
    losses = {"train_loss": 0.5 + 1 / (1 + epochs), "val_loss": 0.6 + 1 / (1 + epochs)}
    pd.DataFrame({"epoch": epochs, **losses}).to_csv("metrics.csv", index=False)
    for name in ("fraud", "sentiment"):
        write(f"{name}.behavior.yaml", SUITE)
    table(5, weeks=46).to_parquet("week47.parquet")


def earlier_runs():
    """Two diagnoses and three weeks, to be compared."""
    schema = gd.Schema.from_file("schema.yaml")
    for name, seed in (("before", 6), ("after", 7)):
        rows = gd.Records.from_frame(table(seed), schema, name="validation")
        gd.diagnose(validation=rows, only="calibration").write(f"runs/{name}")
    for week in (45, 46, 47):
        Path("profiles").mkdir(exist_ok=True)
        gd.profile(table(week, weeks=week), schema).save(f"profiles/week{week}.profile")


def photos():
    """Folders of pictures by class, and an exported network that takes them."""
    from PIL import Image

    for folder, seed in (("photos", 0), ("served", 1)):
        rng = np.random.default_rng(seed)
        for i in range(60):
            pixels = rng.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[:6, :6, 2 * (i % 2)] = 250
            path = Path(folder, ("red", "blue")[i % 2], f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    rows = torch.export.Dim("rows")
    torch.export.save(
        torch.export.export(network, (torch.rand(4, 3, 12, 12),), dynamic_shapes=({0: rows},)),
        "cnn.pt2",
    )


def test_every_command_of_the_pages_runs(folder, capsys):
    artefacts()
    earlier_runs()
    photos()
    every = {tuple(words): page.name for page in (*PAGES, README) for words in commands(page)}
    for words, page in every.items():
        if any(map(OPEN.match, words)):
            continue
        assert main(list(words)) in (CLEAN, FINDINGS), (page, words, capsys.readouterr().err)
        assert "nan" not in capsys.readouterr().out.split(), (page, words)


def test_options_of_commands_that_are_left_open_exist(capsys):
    every = [words for page in (*PAGES, README) for words in commands(page)]
    for name, *words in [words for words in every if any(map(OPEN.match, words))]:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = {*re.findall(r"--[a-z-]+", capsys.readouterr().out), *FORMATS}
        assert {word for word in words if word.startswith("--")} <= known, (name, words)


def network():
    """A network of five columns, its loaders, and a Lightning module around it."""
    trained = module()
    loaders = {f"{side}_loader": loader(i) for i, side in enumerate(SPLITS)}
    optimizer = trained.configure_optimizers()
    for batch in loaders["train_loader"]:
        optimizer.zero_grad()
        trained.training_step(batch, 0).backward()
        optimizer.step()
    production = gd.collect(trained.network, loaders["production_loader"], name="production")
    return {"module": trained, "model": trained.network, "production": production, **loaders}


def pictures():
    """Images whose red and blue are exchanged in production."""
    found = sides(3, lambda x: x.flip(1), n=300)
    served, before = found["production"], found["validation"]
    names = {"cnn": found["model"], "images": before.features, "labels": before.targets}
    return {**names, "served": served.features, "served_labels": served.targets}


def windows():
    """Series of two channels, and a network that compares their levels."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 16, 2, generator=draw).cumsum(1) * torch.tensor([1.0, 3.0])
    y = (x[:, :, 0].mean(1) > 0).long()

    def level(series):
        return series[:, :, 0].mean(1)

    names = {"network": level, "windows": x[:300], "labels": y[:300]}
    return {**names, "live": x[300:].flip(2), "live_labels": y[300:]}


def texts():
    """Mails with what a filter said of them."""
    words = np.array(
        ["offer", "free", "money", "win", "now", "hello", "dear", "team", "meeting", "tomorrow"]
    )
    for name, seed in (("validation", 0), ("live", 1)):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame({"mail": [" ".join(rng.choice(words, 8)) for _ in range(300)]})
        frame["score"] = frame["mail"].str.count("free|win") - 1.0
        frame["spam"] = (rng.random(300) < 1 / (1 + np.exp(-frame["score"]))).astype(int)
        frame.to_csv(f"{name}.csv", index=False)
    return {}


def weeks():
    """Partitions in folders and in a bucket, and profiles of earlier weeks."""
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem

    class Bucket(DirFileSystem):
        protocol = "s3"

        def __init__(self, **options):
            super().__init__(path=str(Path.cwd()), fs=fsspec.filesystem("file"), **options)

    fsspec.register_implementation("s3", Bucket, clobber=True)
    schema = gd.Schema(target="label", logits="score", time="at")
    for seed, name in enumerate(("train", "validation", "week47", "bucket/week47")):
        for part in range(2):
            rows = table(10 * seed + part, weeks=part).rename(columns={"created_at": "at"})
            Path(name).mkdir(parents=True, exist_ok=True)
            rows.to_parquet(f"{name}/{part}.parquet")
    for name in ("validation", "week46"):
        gd.profile("validation/*.parquet", schema).save(f"{name}.profile")
    return {}


# Page -> what the reader has, by the names that it uses.
GIVEN = {
    "attribution": network,
    "callbacks": network,
    "diagnosis": network,
    "images": pictures,
    "profiles": weeks,
    "recalibration": network,
    "series": windows,
    "tables": dict,
    "text": texts,
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_code_of_a_page_runs(name, folder):
    (page,) = [page for page in PAGES if page.stem == name]
    torch.manual_seed(0)
    names = GIVEN[name]()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(ensorboard|GPU|workers|log_every).*")
        for code in blocks(page, "python"):
            exec(compile(code, page.name, "exec"), names)


def test_no_page_with_code_is_left_out():
    assert {page.stem for page in PAGES if blocks(page, "python")} == {*GIVEN, "ecosystem"}


def test_a_kind_of_input_is_registered_as_the_page_says(folder, monkeypatch):
    page = DOCS / "ecosystem.md"
    (code,) = blocks(page, "python")
    write("my_company/__init__.py", "")
    write("my_company/audio.py", code)
    checks, modalities = blocks(page, "toml")
    groups = [re.search(r'entry-points\."(.+)"\]', text)[1] for text in (checks, modalities)]
    assert groups[0] == "gendebug_torch.checks"
    name, value = re.search(r'^(\w+) = "(.+)"', modalities, re.M).groups()
    write("acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    write("acme-1.0.dist-info/entry_points.txt", f"[{groups[1]}]\n{name} = {value}\n")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 32, generator=draw) * 2.0 ** (torch.arange(400) % 3)[:, None]
    y = (x.std(1) > 1).long()

    def loud(batch):
        return batch.std(1) - 1

    rows = DataLoader(TensorDataset(x[:200], y[:200]), batch_size=50)
    validation = gd.collect(loud, rows, modality="waveform", name="validation")
    live = 0.5 * x[200:]
    production = gd.Records(live, y[200:], loud(live), modality="waveform", name="production")
    assert list(validation.properties) == ["loudness", "peak"]
    found = gd.diagnose(
        loud, validation=validation, production=production, only="shift.reproduced_change"
    )
    assert "the gain is halved" in found.findings[0].summary
