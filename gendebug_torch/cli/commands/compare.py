"""`gendebug compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gendebug_torch as gd
from gendebug_torch.checks.finding import findings_from_json
from gendebug_torch.cli.arguments import PROFILE
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import load_records, load_schema, option_of
from gendebug_torch.diagnosis.apportioning.bill import read_bill
from gendebug_torch.errors import reject


def compare(
    before: str,
    after: str,
    out: str,
    schema: str | None = None,
    alpha: float = 0.02,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Say what got worse from one run to the next; the exit code can gate a pull request.

    Args:
        before: the earlier run: a findings.json or its folder, a profile, or a table with the
            outputs of the earlier model.
        after: the later one, of the same kind; a table holds the same rows in the same order.
        out: directory for report.html and findings.json.
        schema: YAML file that says what the columns of tables are.
        alpha: chance that any change between two models is claimed where there is none.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    found = gd.compare(_side(before, schema, "before"), _side(after, schema, "after"), alpha=alpha)
    tables = {"What was compared": found.table()}
    if found.disagreements is not None:
        tables["Rows on which the models disagree"] = found.disagreements
    if found.bills is not None:
        tables["Both bills"] = found.bills
    return deliver(found.report(), out, fail_on, also=also or (), title="Comparison", tables=tables)


def _side(path: str, schema: str | None, name: str) -> Any:
    """What a path holds: a diagnosis, a profile, or records."""
    place = Path(path)
    with option_of(name):
        if path.endswith(PROFILE):
            return gd.Profile.load(place)
        if place.is_dir() and (place / "findings.json").exists():
            place = place / "findings.json"
        if place.suffix == ".json":
            return _diagnosis(place)
    if schema is None:
        remedy = "Pass --schema, or two findings.json, or two profiles."
        reject("--schema", "a YAML file that says what the columns are", "none", remedy)
    return load_records("validation", path, load_schema(schema), False, name)


def _diagnosis(path: Path) -> gd.Diagnosis:
    """Written findings, with the bill of the same report where it has one."""
    own = path.with_name("bill.json")
    bill = read_bill(own) if path.name == "findings.json" and own.exists() else None
    return gd.Diagnosis(tuple(findings_from_json(path)), bill=bill)
