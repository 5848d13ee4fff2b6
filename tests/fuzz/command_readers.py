"""Commands as readers: words that are odd, and damaged tables that go through all that follows.

A check that breaks on a table that was read is an error here, as it is exit code 3 of the command.
"""

import contextlib
import inspect
import io
import json
import os
from functools import partial
from typing import get_type_hints

import pandas as pd
import torch

from gendebug_torch.cli import main
from gendebug_torch.cli.main import COMMANDS
from gendebug_torch.cli.signatures import signature_of
from gendebug_torch.errors import InputError, reading
from tests.fuzz import mutations
from tests.fuzz.folder_readers import features_of
from tests.fuzz.reader import SUITE_TEXT, Reader, command, frame

SCHEMA_TEXT = (
    b"target: label\nlogits: score\ntime: created_at\ngroup: customer\ncategorical: [city]\n"
)
FEATURES = ("x1", "x2", "flag")
# Good values of parameters by name, where a command needs one or is given one.
ROWS = ("data", "train", "validation", "production", "reference", "live", "tables", "table")
ROWS += ("raw", "stored", "before", "after", "from_")
GOOD = {
    **dict.fromkeys(ROWS, "rows.csv"),
    **{"schema": "numbers.yaml", "out": "out", "suite": "s.yaml", "file": "metrics.csv"},
    **{"folder": ".", "shell": "bash", "row": "0", "key": "x1", "only": "calibration"},
    **{"pipeline": f"{features_of.__module__}:features_of", "steps": "2", "rows": "3"},
    **{"model": f"{__name__}:scores", "served": f"{__name__}:scores", "max_rows": "20"},
}
WORDS = [text for text in mutations.ODD if isinstance(text, str) and "\0" not in text]
WORDS += ["0", "-1", "1", "2", "0.5", "1e308", "nan", "-inf", "9" * 30, "[]", "{}", "[1", "null"]
WORDS += ["rows.csv", "numbers.yaml", ".", "..", "/", "/dev/null", "/proc/self", "~", "a:b", "*"]
WORDS += ["\udcff", "\udcff.csv", "out/\udcff", "é.csv", "rows.csv\n", "true", "--", "-", "{"]
WORDS += ["label,label", "x1", "x1,x2", "os:getcwd", "builtins:print", "math:pi", "none", "1s"]


def scores(rows):
    """A predict function of cases, and a network of batches."""
    return [0.2 for _ in rows] if isinstance(rows, list) else rows[:, 0]


class Scores(torch.nn.Module):
    """A network of any number of columns, which needs no weights."""

    def forward(self, x):
        return torch.nan_to_num(x).sum(1)


def network():
    """Returns a network."""
    return Scores()


def _files():
    losses = "".join(f"{i},{1 / (i + 1)},{1 / (i + 1) + 0.1}\n" for i in range(12))
    return {
        "rows.csv": frame()[["label", *FEATURES]].to_csv(index=False).encode(),
        "numbers.yaml": b"target: label\n",
        "s.yaml": SUITE_TEXT,
        "metrics.csv": b"epoch,train_loss,val_loss\n" + losses.encode(),
        "words.json": json.dumps(["checks"]).encode(),
    }


def _odd_words(rng):
    """The files, and a call of some command with one to three odd values."""
    name = rng.choice(sorted(COMMANDS))
    called = COMMANDS[name]
    function = signature_of(f"gendebug_torch.cli.commands.{called.module}", called.function)
    parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    values = {
        key: GOOD.get(key, "1")
        for key, one in parameters.items()
        if one.default is one.empty or (key in GOOD and rng.random() < 0.4)
    }
    for key in rng.sample(sorted(parameters), min(len(parameters), rng.choice((1, 1, 2, 3)))):
        numeric = hints[key] in (int, float) and rng.random() < 0.5
        values[key] = rng.choice(WORDS[-40:] if numeric else WORDS)
    positional = [one.removesuffix("+") for one in called.positional]
    words = name.split() + [values.pop(one) for one in positional if one in values]
    for key, value in values.items():
        words += [f"--{key.rstrip('_').replace('_', '-')}={value}"]
    return _files() | {"words.json": json.dumps(words).encode()}


def _call(folder):
    """Call the command line in the folder, as a shell does."""
    home, said = os.getcwd(), io.StringIO()
    with reading(folder / "words.json", "a list of words"):
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("no words")
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(said):
            code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    finally:
        os.chdir(home)
    if code == 2:
        raise InputError(said.getvalue())
    assert code in (0, 1), f"{code} after {words}: {said.getvalue()[-300:]}"


def _rows():
    rows = frame().to_csv(index=False).encode()
    return {"rows.csv": rows, "live.csv": rows, "schema.yaml": SCHEMA_TEXT}


def _damaged_rows(rng):
    """A table of which some cells are damaged, so that most can be read."""
    table = frame().astype(object)
    for _ in range(rng.choice((1, 1, 3, 30))):
        place = rng.randrange(len(table)), rng.randrange(table.shape[1])
        table.iloc[place] = rng.choice(mutations.CELLS)
    if rng.random() < 0.3:
        column = rng.randrange(table.shape[1])
        odd = [rng.choice(mutations.CELLS)] * len(table)
        table[table.columns[column]] = pd.Series(odd, table.index, dtype=object)
    if rng.random() < 0.2:
        table = table.iloc[: rng.choice((0, 1, 2, 5))]
    text = table.to_csv(index=False).encode("utf-8", "surrogatepass")
    return _rows() | {rng.choice(("rows.csv", "live.csv")): text}


def _through(name, options, folder):
    paths = {"schema": f"{folder}/schema.yaml", "out": f"{folder}/out"}
    given = {key: f"{folder}/{value}" for key, value in options.items() if value.endswith(".csv")}
    command(name, **{**options, **given, **paths})


def _tables(folder):
    paths = [f"{folder}/rows.csv", f"{folder}/live.csv"]
    command("leakage", tables=paths, schema=f"{folder}/schema.yaml", out=f"{folder}/out")


_SIDES = {"train": "rows.csv", "validation": "rows.csv", "production": "live.csv"}
_OF_NETWORK = {"model": f"{__name__}:network"}
_THROUGH = {
    "diagnose": (_SIDES, 1000),
    "shift": ({"reference": "rows.csv", "live": "live.csv"}, 500),
    "labels": ({"table": "rows.csv"}, 50),
    "predeploy": (_SIDES, 600),
    "compare": ({"before": "rows.csv", "after": "live.csv"}, 20),
}
COMMAND_READERS = (
    Reader("words of a command", _files, _call, _odd_words, cost=5),
    Reader("rows of leakage", _rows, _tables, _damaged_rows, cost=300),
    *(
        Reader(f"rows of {name}", _rows, partial(_through, name, options), _damaged_rows, cost=cost)
        for name, (options, cost) in _THROUGH.items()
    ),
)
