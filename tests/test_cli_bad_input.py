"""Twenty bad inputs and more for every command: exit code 2, and words that help."""

import inspect
import os
import re
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from gendebug_torch.cli import arguments, main
from gendebug_torch.cli.main import COMMANDS
from tests.fuzz.readers import SUITE_TEXT

MODULE = f"bad_input_{os.getpid()}"
NETWORK = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Linear(2, 1)
def needs(argument):
    return nn.Linear(2, 1)
def raises():
    raise KeyError("no such layer")
number = 3
"""
TABLES = ("absent.csv", "folder.csv", "empty.csv", "bytes.csv", "bytes.parquet", "rows.xlsx")
SCHEMAS = ("absent.yaml", "empty.yaml", "key.yaml", "type.yaml", "deep.yaml", "bytes.yaml")
MODELS = ("nowhere", "nowhere:net", f"{MODULE}:absent", "syntax:net", "leaves:net")
CALLED = (f"{MODULE}:needs", f"{MODULE}:raises", f"{MODULE}:number")
SUITES = ("absent.yaml", "empty.yaml", "key.yaml", "bytes.yaml", "deep.yaml", "leaves.py")
RUNS = ("absent.json", "bytes.json", "list.json", "empty.csv")
TENSORS = ("absent.safetensors", "bytes.safetensors", "other.safetensors", "bytes.pt", "list.pt")
BUDGETS = ("soon", "-5s", "nan", "1x")
# Values that no command can use, by parameter; those of all others follow from their type.
BAD = {
    "out": ("file.txt", "file.txt/below"),
    "schema": (*SCHEMAS, "columns.yaml"),
    "model": (*MODELS, *CALLED),
    "pipeline": (*MODELS, f"{MODULE}:number"),
    "budget": BUDGETS,
    "device": ("tpu", "cuda:99", "cpu:x"),
    "only": ("shfit", "shift.kss"),
    "options": ("[1", "{}x", '{"shift.kss": {}}', '{"shift.ks": {"no": 1}}', '{"shift.ks": 1}'),
    "weights": TENSORS,
    "checkpoint": ("absent.ckpt", "bytes.pt", "list.pt"),
    "program": ("absent.pt2", "bytes.pt", "folder.csv"),
    "logits": ("absent.npz", "bytes.npz", "other.npz", "bytes.safetensors", "other.safetensors"),
    "curves": ("absent.csv", "empty.csv", "bytes.csv", "rows.csv", "folder.csv"),
    "file": ("absent.csv", "empty.csv", "bytes.csv", "rows.csv", "folder.csv", "list.json"),
    "behavior": (*SUITES, *RUNS[:3]),
    "suite": SUITES,
    "baseline": RUNS,
    "runs": RUNS,
    "tags": ("nothing",),
    "ids": ("nothing",),
    "folder": ("absent.csv", "empty.csv"),
    "shell": ("sh", "csh", "bsh", "BASH", "powershell", "bash,zsh", "1", ""),
    "as_json": ("2", "oui", "{}", "1.0", "true false", "yess"),
    "expect": ("0.3:0.1", "-1:2"),
    "reviewed": ("absent.csv", "empty.csv", "bytes.csv", "rows.csv"),
    "size": ("0", "-1"),
    "rows": ("0", "-1"),
    "row": ("-1", "100000"),
    "batch_size": ("0", "-1"),
    "devices": ("0", "-1"),
    "max_rows": ("0", "-1"),
    "threshold": ("0", "1.5", "nan", "-1"),
    "allowed": ("-0.1", "1.5", "nan"),
    "width": ("-0.1", "1.5", "nan"),
    "tolerance": ("-1", "nan"),
    "steps": ("0", "-1"),
    "loss": (*MODELS, f"{MODULE}:number"),
    "candidates": ("platt", "temprature"),
    "method": ("integrated_gradient", "no_such_method"),
    "target": ("presicted", "7"),
    "baseline_loss": ("nan", "inf"),
    "target_loss": ("nan", "inf"),
    "fields": ("no_such_column",),
    "key": ("no_such_column",),
    "train": ("no_such_column", *TABLES),
    "val": ("no_such_column",),
    "method_options": ("[1", '{"no_such_option": 1}'),
    **dict.fromkeys(("reference", "live", "tables", "table", "raw", "stored", "from_"), TABLES),
    **dict.fromkeys(("validation", "production", "data", "before", "after"), TABLES),
}
# What came and what to do, and what shows a value that is read.
WORDS = r"(expected .+, got .+|not readable as YAML: .+)\. \S.+[.?]"
SHOWN = {"columns.yaml": "no_such_column", '{"no_such_option": 1}': "no_such_option"}
SHOWN |= {'{"shift.kss": {}}': "shift.kss", '{"shift.ks": {"no": 1}}': "no"}
SHOWN |= {'{"shift.ks": 1}': "shift.ks"}
OF_TYPE = {int: ("abc", "1.5"), float: ("abc", "1,5"), bool: ("maybe",), str: ()}
NETWORK_OF = {"model": f"{MODULE}:build"}
SIDES = {"train": "rows.csv", "validation": "rows.csv", "production": "rows.csv"}
BASIC = {"schema": "schema.yaml", "out": "out"}
# What each command is given apart from the one bad value.
GOOD = {
    "diagnose": {**BASIC, "validation": "rows.csv", "only": "calibration.ece", **NETWORK_OF},
    "recalibrate": {**BASIC, "data": "rows.csv", **NETWORK_OF},
    "attribute": {**BASIC, "data": "rows.csv", **NETWORK_OF},
    "preflight": {**BASIC, "data": "rows.csv", **NETWORK_OF},
    "curves": {"file": "curves.csv", "out": "out"},
    "shift": {**BASIC, "reference": "rows.csv", "live": "rows.csv"},
    "leakage": {**BASIC, "tables": "rows.csv"},
    "parity": {"pipeline": f"{MODULE}:build", "raw": "rows.csv", "stored": "rows.csv", "out": "o"},
    "labels": {**BASIC, "table": "rows.csv"},
    "influence": {
        **BASIC,
        "train": "rows.csv",
        "validation": "rows.csv",
        **NETWORK_OF,
    },
    "counterfactual": {
        **BASIC,
        "train": "rows.csv",
        "data": "rows.csv",
        "rows": "0",
        **NETWORK_OF,
    },
    "predeploy": {**BASIC, "train": "rows.csv", "production": "rows.csv", **NETWORK_OF},
    "profile": {"schema": "schema.yaml", "data": "rows.csv", "out": "week.profile"},
    "compare": {**BASIC, "before": "rows.csv", "after": "rows.csv"},
    "history": {"folder": "folder.csv", "out": "out"},
    "checks": {},
    "completion": {"shell": "bash"},
    "behave": {"suite": "s.yaml", **NETWORK_OF},
    "behave add": {"suite": "s.yaml", "from_": "rows.csv", "row": "0"},
    "behave record": {"suite": "s.yaml", **NETWORK_OF},
    "behave confirm": {"suite": "s.yaml"},
    "behave redundancy": {"suite": "s.yaml", **NETWORK_OF},
}
# Words that are no arguments of any command.
MISUSES = (
    *(["--no-such"], ["--no-such=1"], ["--no-such", "1"], ["--OUT", "x"], ["--outt", "x"]),
    *(["--no_such", "[1"], ["--\x1b[2J", "1"], ["--config", "x"], ["--print_config"], ["-x"]),
    *(["--unknown", "a", "b"], ["--fail-onn", "warn"], ["--=1"], ["--no-such", ""]),
)


def function_of(name):
    command = COMMANDS[name]
    module = __import__(f"gendebug_torch.cli.commands.{command.module}", fromlist=["x"])
    return getattr(module, command.function)


def bad_values(name, parameter, hint):
    if (name, parameter) in (
        ("curves", "train"),
        ("predeploy", "train"),
        ("influence", "train"),
        ("counterfactual", "train"),
    ):
        return BAD["val"] if name == "curves" else TABLES
    if parameter == "shell":
        # Given by position, it is read by the command itself.
        return BAD["shell"]
    if (name, parameter) == ("counterfactual", "rows"):
        # A row has the number 0.
        return ("-1", "100000")
    if parameter == "schema" and name in ("profile", "parity"):
        # Both take rows without labels.
        return tuple(value for value in BAD["schema"] if value != "columns.yaml")
    if name == "attribute" and parameter == "baseline":
        return ("no_such_start",)
    if parameter == "model" and name.startswith("behave"):
        # A function of one argument is a predict function.
        return (*MODELS, *CALLED[1:])
    if (name, parameter) == ("attribute", "checkpoint"):
        return ("file.txt", "")
    if name == "behave add" and parameter in ("suite", "tags"):
        # It makes the suite, and any tag.
        return BAD["suite"][1:] if parameter == "suite" else ("",)
    kinds = [hint, *get_args(hint)]
    if any(get_origin(kind) is Literal for kind in [*kinds, *sum(map(get_args, kinds), ())]):
        return ("sometimes",)
    typed = next((OF_TYPE[kind] for kind in kinds if kind in OF_TYPE), ())
    empty = ("",) if str in kinds else ()
    return (*BAD.get(parameter, ()), *typed, *empty)


def words_of(name, values):
    positional = [one.removesuffix("+") for one in COMMANDS[name].positional]
    words = name.split() + [values[one] for one in positional if one in values]
    for key, value in values.items():
        if key not in positional:
            words += [f"--{key.rstrip('_').replace('_', '-')}={value}"]
    return words


def cases():
    for name in COMMANDS:
        hints, tried = get_type_hints(function_of(name)), set()
        for parameter in inspect.signature(function_of(name)).parameters:
            values = bad_values(name, parameter, hints[parameter])
            # Files of one kind are read in one place: once per command they are tried in full.
            values = values[:2] if values in tried else values
            tried.add(values)
            for value in values:
                yield name, parameter, value


def good_beside(name, parameter):
    """What a command is given beside a value of one parameter."""
    if (name, parameter) == ("recalibrate", "logits"):
        return BASIC
    if name == "parity" and parameter in ("model", "served", "data", "weights", "schema"):
        return {**BASIC, "data": "rows.csv", "served": f"{MODULE}:build", **NETWORK_OF}
    return GOOD[name] | (NETWORK_OF if parameter == "weights" else {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"amount": rng.normal(size=60), "hour": rng.normal(size=60)})
    rows.assign(label=rng.integers(0, 2, 60)).to_csv(place / "rows.csv", index=False)
    losses = [(i, 1 / (i + 1), 1 / (i + 1) + 0.1) for i in range(12)]
    logs = pd.DataFrame(losses, columns=["epoch", "train_loss", "val_loss"])
    logs.to_csv(place / "curves.csv", index=False)
    texts = {
        "schema.yaml": "target: label",
        "columns.yaml": "target: no_such_column",
        "key.yaml": "tagret: label",
        "type.yaml": "target: [label]",
        "deep.yaml": f"target: {'[' * 3000}",
        "syntax.py": "def net(:",
        "leaves.py": "import sys; sys.exit(0)",
        "list.json": "[1]",
        "file.txt": "old",
        f"{MODULE}.py": NETWORK,
        **dict.fromkeys(("empty.yaml", "empty.csv"), ""),
    }
    for name, text in texts.items():
        (place / name).write_text(text)
    for suffix in ("csv", "parquet", "yaml", "json", "pt", "npz", "safetensors"):
        (place / f"bytes.{suffix}").write_bytes(bytes(range(255, 0, -1)))
    (place / "folder.csv").mkdir()
    (place / "s.yaml").write_bytes(SUITE_TEXT)
    save_file({"other": torch.ones(3)}, place / "other.safetensors")
    np.savez(place / "other.npz", other=np.ones(3))
    torch.save([1], place / "list.pt")
    return place


@pytest.fixture
def called(folder, monkeypatch, capsys):
    """What a command line gives: exit code and stderr. One parser serves all calls of a command."""
    monkeypatch.chdir(folder)
    made = {}

    def parser(name, *how, build=arguments._parser):
        if name not in made:
            made[name] = build(name, *how)
        return made[name]

    monkeypatch.setattr(arguments, "_parser", parser)

    def call(words):
        code = main(words)
        text = capsys.readouterr()
        assert "Traceback" not in text.out + text.err
        return code, text.err

    return call


def test_there_are_twenty_for_every_command():
    counted = {name: len(MISUSES) for name in COMMANDS}
    for name, *_ in cases():
        counted[name] += 1
    assert not {name for name in counted if counted[name] < 20}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_bad_value_is_named_with_its_argument_and_a_remedy(folder, called, name):
    before = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    wrong = []
    for command, parameter, value in cases():
        if command != name:
            continue
        code, text = called(words_of(name, good_beside(name, parameter) | {parameter: value}))
        argument = parameter.rstrip("_").replace("_", "[-_ ]")
        helps = re.search(rf"\b{argument}\b", text) and re.search(WORDS, text, re.DOTALL)
        shown = SHOWN.get(value, value.partition(":")[0][:20]) in text
        if code != 2 or not helps or not shown:
            wrong.append(f"{parameter}={value}: {code} {text.strip()[:300]}")
    assert not wrong, "\n".join(wrong)
    after = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert before == after


@pytest.mark.parametrize("name", COMMANDS)
def test_words_that_are_no_arguments(called, name):
    for words in MISUSES:
        code, text = called([*words_of(name, GOOD[name]), *words])
        assert code == 2, words
        assert re.search(r"expected .+, got .+\. .*See `gendebug .+ --help`\.", text), text
        assert "\x1b" not in text


@pytest.mark.parametrize("name", [name for name in COMMANDS if GOOD[name]])
def test_each_required_argument_is_named_when_it_is_missing(called, name):
    parameters = inspect.signature(function_of(name)).parameters.values()
    for parameter in parameters:
        if parameter.default is parameter.empty:
            values = {key: value for key, value in GOOD[name].items() if key != parameter.name}
            code, text = called(words_of(name, values))
            assert code == 2
            given = [one.removesuffix("+") for one in COMMANDS[name].positional]
            # Of two by position the second one is missing, whichever was left out.
            named = given if parameter.name in given else [parameter.name]
            assert any(one.rstrip("_") in text for one in named), text
            assert "got none" in text


def test_a_name_that_no_file_can_have_is_bad_input(capsys, tmp_path):
    assert main(["compare", 5000 * "x", "b", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "no file can have this name, it is too long" in said
    assert len(said) < 1000
