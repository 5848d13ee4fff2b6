"""The same data give the same findings however they are stored."""

import functools
import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import one_hot

from gendebug_torch import Records, Schema, diagnose
from gendebug_torch.cli import main
from gendebug_torch.data.tables import standard_column

ROWS = {"validation": 360, "production": 240}
CHECKS = ("calibration", "shift", "slices")
# Label noise is the dearest; its networks see every column at once, so these forms say it all.
WITH_LABELS = ("arrow", "another order, names as numbers")
IGNORED = -100
# What states that two readings were possible; the tests of each are below.
STATED = ("ignore:.*whole numbers stored as floats.*", "ignore:.*read as one-hot classes.*")


def findings(sides, only=CHECKS):
    """The decision and all findings, without their evidence."""
    diagnosis = diagnose(**sides, only=only)
    assert not [f for f in diagnosis.findings if f.severity == "errored"]
    return diagnosis.decision, [finding.to_dict() for finding in diagnosis.findings]


def table(side):
    """Rows whose numbers are exact in float32; production moved, and the model is overconfident."""
    n, moved = ROWS[side], side == "production"
    draw = np.random.default_rng(len(side))
    income = np.round(64 * draw.normal(3 + 0.8 * moved, 1, n)) / 64
    age, flag = draw.integers(20, 60, n), draw.integers(0, 2, n)
    shop = draw.choice(["red", "green", "blue"], n, p=[0.2, 0.3, 0.5] if moved else [0.6, 0.3, 0.1])
    z = np.round(64 * (1.5 * (income - 3) + 0.05 * (age - 40) + flag - 0.5)) / 64
    y = (draw.random(n) < 1 / (1 + np.exp(-z / 4))).astype("int64")
    start = "2024-03-01" if moved else "2024-01-01"
    when = pd.date_range(start, periods=n, freq="h")
    columns = {"0": income, "1": age, "2": flag, "shop": shop, "when": when, "z": z, "y": y}
    return pd.DataFrame(columns)


def decimals(column):
    return pd.Series([Decimal(repr(value)) for value in column.tolist()], dtype=object)


def booleans(frame, dtype):
    return frame.assign(**{name: frame[name].astype(bool).astype(dtype) for name in ("2", "y")})


TABLES = {
    "narrow": lambda t: t.astype(
        {"0": "float32", "1": "int8", "2": "uint8", "z": "float32", "y": "int16"}
    ),
    "booleans": lambda t: booleans(t, bool).astype({"shop": "category"}),
    "nullable booleans": lambda t: booleans(t, "boolean").astype({"shop": "string"}),
    "objects of booleans": lambda t: booleans(t, object).astype({"shop": object}),
    "floats": lambda t: t.astype({"1": float, "2": float, "y": float}),
    "nullable": lambda t: t.convert_dtypes(),
    "arrow": lambda t: t.convert_dtypes(dtype_backend="pyarrow"),
    "arrow booleans": lambda t: booleans(t, "bool[pyarrow]"),
    "objects": lambda t: t.astype(object).assign(when=t["when"].astype(str)),
    "decimals": lambda t: t.assign(**{name: decimals(t[name]) for name in ("0", "1", "z", "y")}),
    "categories": lambda t: t.astype({"y": "category", "shop": "category"}),
    "another order, names as numbers": lambda t: t[
        ["y", "when", "2", "shop", "z", "1", "0"]
    ].rename(columns={"0": 0, "1": 1, "2": 2}),
    "time in UTC": lambda t: t.assign(when=t["when"].dt.tz_localize("UTC")),
    "texts": lambda t: t.assign(y=t["y"].astype(str)),
    "production has more": lambda t: t.assign(more=1.0) if len(t) == ROWS["production"] else t,
}


def records_of_tables(form):
    classes = {"texts": ("0", "1"), "ids that are declared": (0, 1)}.get(form, ())
    schema = Schema(target="y", logits="z", time="when", classes=classes)
    change = TABLES.get(form, lambda t: t)
    return {side: Records.from_frame(change(table(side)), schema, name=side) for side in ROWS}


@functools.cache
def table_findings(form="as it is", only=CHECKS):
    return findings(records_of_tables(form), only)


def test_the_tables_have_findings():
    decision, said = table_findings()
    assert decision != "nothing"
    assert {"0", "shop"} <= {f["subject"] for f in said if f["severity"] == "fail"}
    judged = {f["check"] for f in said if f["severity"] in ("ok", "warn", "fail")}
    assert {"calibration.ece", "slices.worst", "shift.joint", "shift.bimodality"} <= judged


@pytest.mark.parametrize("form", TABLES)
def test_tables(form):
    # Classes that are declared have names.
    base = "ids that are declared" if form == "texts" else "as it is"
    assert table_findings(form) == table_findings(base)
    if form in WITH_LABELS:
        assert table_findings(form, "labels") == table_findings("as it is", "labels")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_and_the_command_line(suffix, tmp_path):
    paths = {side: tmp_path / f"{side}.{suffix}" for side in ROWS}
    for side, path in paths.items():
        change = TABLES["floats" if suffix == "csv" else "nullable"](table(side))
        change.to_csv(path, index=False) if suffix == "csv" else change.to_parquet(path)
    (tmp_path / "schema.yaml").write_text("target: y\nlogits: z\ntime: when\n")
    schema = Schema.from_file(tmp_path / "schema.yaml")
    read = {side: Records.from_file(path, schema, name=side) for side, path in paths.items()}
    assert findings(read) == table_findings()
    sides = [word for side, path in paths.items() for word in (f"--{side}", str(path))]
    options = ["--schema", str(tmp_path / "schema.yaml"), "--out", str(tmp_path / "out")]
    assert main(["diagnose", *sides, *options, "--only", *CHECKS]) == 1
    said = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert said == json.loads(json.dumps(table_findings()[1]))


@pytest.mark.parametrize("form", ["NaN", "None", "pd.NA", "-100", "floats with -100"])
def test_missing_labels_of_tables(form):
    """Rows without a label are left out where labels are needed; findings are those of the rest."""

    def without(labels, kind):
        gone = pd.Series(np.arange(len(labels)) % 7 == 0)
        if kind == "-100":
            return labels.mask(gone, IGNORED)
        if kind == "floats with -100":
            return labels.astype(float).mask(gone, float(IGNORED))
        if kind == "None":
            return labels.astype(object).mask(gone, None)
        return labels.astype("Int64").mask(gone) if kind == "pd.NA" else labels.mask(gone)

    def sides(kind):
        schema = Schema(target="y", logits="z", time="when")
        frames = {side: table(side).assign(y=lambda t: without(t["y"], kind)) for side in ROWS}
        return {side: Records.from_frame(f, schema, name=side) for side, f in frames.items()}

    said = findings(sides(form), "calibration")
    if form != "NaN":
        assert said == findings(sides("NaN"), "calibration")
    rows = next(f["numbers"]["rows"] for f in said[1] if f["check"] == "calibration.ece")
    assert rows == ROWS["validation"] - math.ceil(ROWS["validation"] / 7)


CLASSES = 3
INTEGERS = {
    str(dtype).removeprefix("torch."): lambda y, dtype=dtype: y.to(dtype)
    for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.float32, torch.float64)
}
COLUMN = {"column": lambda y: y[:, None], "float column": lambda y: y[:, None].float()}
ONE_HOT = {
    "one-hot": lambda y: one_hot(y, CLASSES),
    "one-hot floats": lambda y: one_hot(y, CLASSES).float(),
    "one-hot booleans": lambda y: one_hot(y, CLASSES).bool(),
}
BOOL = {"bool": lambda y: y.bool()}
SCHEMAS = {"regression": Schema(regression=True), "multilabel": Schema(multilabel=True)}


def gone(y):
    return torch.rand(y.shape, generator=torch.Generator().manual_seed(9)) < 0.15


FORMS = {
    "binary": INTEGERS | COLUMN | BOOL,
    "multiclass": INTEGERS | COLUMN | ONE_HOT,
    "multilabel": INTEGERS | BOOL,
    "regression": INTEGERS | COLUMN,
}
MISSING = {
    "NaN": lambda y: y.float().masked_fill(gone(y), math.nan),
    "-100": lambda y: y.masked_fill(gone(y), IGNORED),
}


@functools.cache
def outputs(task, side):
    """Inputs, logits of a linear model, and labels that are not as sure as it is."""
    n, generator = ROWS[side], torch.Generator().manual_seed(len(side))
    x = torch.randn(n, 4, generator=generator) + 0.5 * (side == "production")
    z = (x @ torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0))).mul(64).round()
    z = z / 32
    noise = torch.rand(n, CLASSES, generator=generator)
    if task == "multilabel":
        return x, z, (noise < (z / 3).sigmoid()).long()
    if task == "binary":
        return x, z[:, 0], (noise[:, 0] < (z[:, 0] / 3).sigmoid()).long()
    if task == "regression":
        return (
            x,
            20 + 4 * z[:, 0],
            (20 + 4 * z[:, 0] + 9 * noise[:, 0]).round().clamp(0, 120).long(),
        )
    return x, z, (z / 3 - noise.log().neg().log()).argmax(1)


def output_findings(task, form):
    sides = {}
    for side in ROWS:
        x, z, y = outputs(task, side)
        schema = SCHEMAS.get(task, Schema())
        sides[side] = Records(x, form(y), z, schema=schema, name=side)
        assert sides[side].task == task
    return findings(sides)


@functools.cache
def expected(task):
    return output_findings(task, lambda y: y)


@pytest.mark.parametrize(
    ("task", "form"), [(task, form) for task, forms in FORMS.items() for form in forms]
)
@pytest.mark.filterwarnings(*STATED)
def test_labels_of_tensors(task, form):
    assert output_findings(task, FORMS[task][form]) == expected(task)


@pytest.mark.parametrize("task", FORMS)
@pytest.mark.filterwarnings(*STATED)
def test_missing_labels_of_tensors(task):
    said = output_findings(task, MISSING["-100"])
    assert output_findings(task, MISSING["NaN"]) == said
    assert said != expected(task)


@pytest.mark.parametrize(
    ("odd", "first"), [("9" * 30, 1e30), ("9" * 5000, "9" * 5000), ("1e99999", "1e99999")]
)
def test_written_numbers_are_floats_and_what_no_float_holds_stays_text(odd, first):
    column = standard_column(pd.Series([odd, *(f"{i}.5" for i in range(200))]))
    assert column.iloc[0] == first
    assert (column.dtype.kind == "f") is isinstance(first, float)
