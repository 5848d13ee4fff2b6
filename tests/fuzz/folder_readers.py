"""Readers of several files at once: folders, histories, pairs, and files that are edited."""

import io
from functools import cache, partial

import numpy as np
import pandas as pd

from gendebug_torch import Profile, profile
from gendebug_torch.behavior import append_case, confirm_expectations
from gendebug_torch.behavior.suite.edit import propose_expectations
from gendebug_torch.checks.finding import Cause, Finding, Severity, findings_to_json
from gendebug_torch.curves import LearningCurves, diagnose_curves
from gendebug_torch.data.inputs.image_folder import read_image_folder
from gendebug_torch.diagnosis.apportioning.bill import Bill, BillLine
from gendebug_torch.diagnosis.comparison.history import history
from tests.fuzz import mutations
from tests.fuzz.reader import SCHEMA, SUITE_TEXT, Reader, command, frame, written


@cache
def _pictures():
    from PIL import Image

    rng, files = np.random.default_rng(0), {}
    for at, suffix in enumerate(("png", "jpg", "gif", "bmp", "webp", "tiff")):
        stream = io.BytesIO()
        pixels = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
        files[f"{('cat', 'dog')[at % 2]}/{at}.{suffix}"] = stream.getvalue()
    return files


def _one_picture(rng):
    """Only what is damaged, so that nothing else in the folder can be read."""
    name, content = rng.choice(sorted(_pictures().items()))
    return {name: mutations.damaged_bytes(content, rng)}


def _read_pictures(folder):
    found = read_image_folder(folder)
    assert len(found.metadata) == len(found) == len(found.targets)
    found[0]


def _weeks(folder):
    for week in (1, 2):
        profile(frame().iloc[week:], SCHEMA, sample=8).save(folder / f"{week}.profile")


def _profile_bytes():
    return {"profile.bin": profile(frame(), SCHEMA, sample=8).to_bytes()}


def _odd_profile_bytes(rng):
    return {"profile.bin": mutations.damaged_safetensors(_profile_bytes()["profile.bin"], rng)}


def _read_profile_bytes(folder):
    found = Profile.from_bytes((folder / "profile.bin").read_bytes())
    assert len(found.records) <= found.rows


def _run(severity):
    numbers = {"effect": 0.3, "features": ["x1"]}
    return findings_to_json(
        [
            Finding("shift.ks", Cause.COVARIATE_SHIFT, severity, "x1 moved.", "x1", numbers),
            Finding("labels.noise", Cause.LABEL_NOISE, Severity.OK, "No label is wrong."),
        ]
    ).encode()


def _runs():
    return {f"{name}/findings.json": _run(level) for name, level in zip("ab", Severity)}  # noqa: B905


def _read_runs(folder):
    str(history(folder).report())


def _billed():
    line = BillLine("label_shift", "", 2.0, 1.0, 3.0)
    bill = Bill("accuracy", "percentage points", 90.0, 3.0, 2.0, 4.0, (line,))
    return _runs() | {f"{name}/bill.json": bill.to_json().encode() for name in "ab"}


def _read_compared(folder):
    command("compare", before=f"{folder}/a", after=f"{folder}/b", out=f"{folder}/out")


def _partitions():
    files = {"day=1/a.csv": frame().iloc[:30].to_csv(index=False).encode()}
    stream = io.BytesIO()
    dates = pd.to_datetime(frame()["created_at"]).dt.date
    frame().assign(created_at=dates).iloc[30:].to_parquet(stream)
    return files | {"day=2/b.parquet": stream.getvalue()}


def _read_partitions(folder):
    found = profile(folder, SCHEMA)
    found.table()
    assert len(found.records) <= found.rows


def _log():
    lines = "".join(f"{i},{10 * i},{1 / (i + 1):.4f},{1 / (i + 1) + 0.1:.4f}\n" for i in range(20))
    return {"metrics.csv": f"epoch,step,train_loss,val_loss\n{lines}".encode()}


def _read_log(folder):
    diagnose_curves(LearningCurves.from_run(folder))


def _edited(folder):
    path = folder / "s.yaml"
    append_case(path, {"id": "new", "input": {"amount": 1.0, "hour": 2}})
    propose_expectations(path, {"new": {"score": [0.0, 0.3]}})
    confirm_expectations(path, ["new"])


def _case_of_table(folder):
    command("behave", "add", suite=str(folder / "s.yaml"), from_=str(folder / "rows.csv"), row=1)


def _parity_tables():
    rows = pd.DataFrame({"id": range(30), "amount": np.arange(30) / 7, "city": list("abc") * 10})
    return {f"{name}.csv": rows.to_csv(index=False).encode() for name in ("raw", "stored")}


def features_of(record):
    """What a pipeline makes of one record."""
    return dict(record)


def _read_parity_tables(folder):
    paths = {name: str(folder / f"{name}.csv") for name in ("raw", "stored")}
    command("parity", pipeline=f"{__name__}:features_of", out=str(folder / "out"), **paths)


FOLDER_READERS = (
    Reader("pictures", _pictures, _read_pictures, _one_picture, cost=2),
    Reader("profiles over time", partial(written, _weeks), _read_runs, cost=25),
    Reader("profile in bytes", _profile_bytes, _read_profile_bytes, _odd_profile_bytes, cost=10),
    Reader("diagnoses over time", _runs, _read_runs),
    Reader("two diagnoses", _billed, _read_compared, cost=5),
    Reader("partitions", _partitions, _read_partitions, cost=20),
    Reader("curves folder", _log, _read_log, cost=30),
    Reader("edited suite", lambda: {"s.yaml": SUITE_TEXT}, _edited, cost=4),
    Reader(
        "case of a table",
        lambda: {"rows.csv": frame().assign(amount=1.0, hour=2).to_csv(index=False).encode()},
        _case_of_table,
        cost=8,
    ),
    Reader("parity tables", _parity_tables, _read_parity_tables, cost=150),
)
