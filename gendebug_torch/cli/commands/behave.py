"""Run and edit a suite of cases that a model must pass; `gendebug behave SUITE` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gendebug_torch as gd
from gendebug_torch import behavior
from gendebug_torch.behavior.audit.explain import explained_run
from gendebug_torch.behavior.audit.redundancy import redundancy as suite_redundancy
from gendebug_torch.behavior.checks.cases import case_findings
from gendebug_torch.behavior.running.model_adapter import load_model
from gendebug_torch.behavior.suite.expectation import Expectation, unit
from gendebug_torch.behavior.suite.proposals import case_of_row, proposed_expectations
from gendebug_torch.checks.evidence import png
from gendebug_torch.cli.deliver import FailOn, Format, exit_code, further_files, say
from gendebug_torch.cli.exit_codes import CLEAN
from gendebug_torch.cli.inputs import load_table, option_of
from gendebug_torch.data.files import replacing_files, write_whole
from gendebug_torch.data.sheets.sheet_files import csv_text
from gendebug_torch.errors import brief, did_you_mean, reject
from gendebug_torch.model.formats import load_weights
from gendebug_torch.report import render_junit, write_report


def run(
    suite: str,
    model: str | None = None,
    weights: str | None = None,
    baseline: str | None = None,
    tags: list[str] | None = None,
    save: str | None = None,
    junit: str | None = None,
    out: str | None = None,
    allowed: float = 0.0,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Run every case of a suite against a model.

    Args:
        suite: YAML file of the cases (*.behavior.yaml), or a Python file with one Suite.
        model: MODULE:NAME of predict(list of dicts) -> scores, of a network, or of a function that
            returns either.
        weights: safetensors file to load into the network.
        baseline: saved run of the last model, to be compared case by case.
        tags: tags or capabilities of the cases to run, e.g. theft,money.
        save: file for the run, to be the next baseline.
        junit: file for a CI server, one test per case.
        out: directory for report.html, findings.json and behavior.json.
        allowed: share of cases per capability that may fail.
        fail_on: exit with 1 from this severity on.
        also: further files to write into `out`: junit (findings.xml), markdown (findings.md),
            sarif (findings.sarif).
    """
    unit("--allowed", allowed)
    if also and out is None:
        reject("--out", "a directory for the files of --also", "none", "Name one.")
    loaded = _suite(suite)
    earlier = None if baseline is None else _run(baseline, "--baseline")
    if tags:
        loaded = _tagged(loaded, tags)
    ran = explained_run(loaded, _model(model, loaded, weights), name=model or "")
    if earlier is not None:
        behavior.compare_runs(earlier, ran)
    options = {"allowed": allowed, "baseline": baseline or ""}
    diagnosis = gd.diagnose(behavior=ran, only="behavior", options={"behavior.cases": options})
    for path in (save, f"{out}/behavior.json" if out else None):
        if path is not None:
            ran.save(path)
    if junit is not None:
        write_whole(junit, render_junit(case_findings(ran), name=ran.suite), "--junit")
    if out is not None:
        tables = {"Cases": ran.cases(), "Failure rate per capability": ran.table()}
        others = further_files(diagnosis, out, also or ())
        write_report(out, diagnosis.to_html(tables=tables), diagnosis.to_json(), others)
    say(ran)
    for finding in diagnosis.findings:
        if not finding.subject and (finding.evidence is not ran or finding.severity == "errored"):
            say(f"\n{finding.severity.upper()} {finding.summary}")
    return exit_code(diagnosis, fail_on)


def add(
    suite: str,
    from_: str,
    row: int,
    expect: str | None = None,
    id: str | None = None,
    capability: str | None = None,
    tags: list[str] | None = None,
    origin: str | None = None,
    fields: list[str] | None = None,
) -> int:
    """Add one row of a table as a case; everything else in the file stays as it is.

    Args:
        suite: YAML file of the cases, created if it does not exist.
        from_: table (CSV or Parquet) that holds the row.
        row: position of the row, counted from 0.
        expect: 0.0:0.3 for a range of scores, or a class; without it the case is a draft for
            `record`.
        id: name of the case; default: the table and the row.
        capability: what the case is about.
        tags: further names of the case, e.g. theft,money.
        origin: the incident; default: the table and the row.
        fields: columns to take, e.g. amount,hour; default: the suite's features, else those that
            its inputs use, else all.
    """
    path = Path(suite)
    current = _suite(suite) if path.exists() else behavior.Suite(())
    more = {"id": id, "capability": capability, "tags": tags, "origin": origin}
    case = case_of_row(
        load_table(from_, "--from"),
        row,
        current,
        expect=expect,
        fields=fields or (),
        source=from_,
        **more,
    )
    after = behavior.append_case(path, case)
    say(f"Added {case['id']} to {path} ({len(after.cases)} cases).")
    return CLEAN


def record(
    suite: str, model: str | None = None, weights: str | None = None, width: float = 0.1
) -> int:
    """Propose an expectation for each case that has none, from the present scores of the model.

    A person must confirm it with `gendebug behave confirm`.

    Args:
        suite: YAML file of the cases.
        model: MODULE:NAME, as in `gendebug behave run`.
        weights: safetensors file to load into the network.
        width: half the range of scores that is proposed.
    """
    unit("--width", width)
    loaded = _suite(suite)
    proposals, errors = proposed_expectations(loaded, _model(model, loaded, weights), width=width)
    if proposals:
        behavior.propose_expectations(suite, proposals)
    for name, expectation in proposals.items():
        say(f"{name}: {Expectation.of(expectation)}")
    for name, error in errors.items():
        say(f"{name}: no proposal, the model raised an error ({error})")
    say(f"{len(proposals)} expectations proposed.")
    if proposals:
        say(f"Review them, then run `gendebug behave confirm {suite}`.")
    return CLEAN


def confirm(suite: str, ids: list[str] | None = None) -> int:
    """Mark proposed expectations as reviewed by a person.

    Args:
        suite: YAML file of the cases.
        ids: cases to confirm, e.g. first,second; default: all that say `reviewed: false`.
    """
    loaded = _suite(suite)
    before = {case.id for case in loaded.cases if not case.reviewed}
    cases = behavior.confirm_expectations(suite, ids or []).cases
    confirmed = before - {case.id for case in cases if not case.reviewed}
    names = ", ".join(sorted(confirmed)) or "nothing: every case is reviewed"
    say(f"Confirmed {names}.")
    return CLEAN


def redundancy(
    suite: str,
    model: str | None = None,
    weights: str | None = None,
    runs: list[str] | None = None,
    out: str | None = None,
) -> int:
    """Find redundant cases and undetected faults, over planted faults and other models.

    Args:
        suite: YAML file of the cases.
        model: MODULE:NAME, as in `gendebug behave run`.
        weights: safetensors file to load into the network.
        runs: saved runs of other models, e.g. old.json,new.json.
        out: directory for redundancy.csv and redundancy.png.
    """
    loaded = _suite(suite)
    others = {path: _run(path, "--runs") for path in runs or []}
    found = suite_redundancy(loaded, _model(model, loaded, weights), runs=others)
    say(f"{found}\n\n{found.table().to_string(index=False)}")
    if out is not None:
        with replacing_files(out, ["redundancy.csv", "redundancy.png"], "--out") as scratch:
            (scratch / "redundancy.csv").write_text(csv_text(found.table()), encoding="utf-8")
            (scratch / "redundancy.png").write_bytes(png(found))
    return CLEAN


def _suite(path: str) -> behavior.Suite:
    with option_of("suite"):
        return behavior.load_suite(path)


def _run(path: str, option: str) -> behavior.BehaviorRun:
    with option_of(option):
        return behavior.BehaviorRun.load(path)


def _tagged(suite: behavior.Suite, tags: list[str]) -> behavior.Suite:
    names = dict.fromkeys(name for case in suite.cases for name in (case.capability, *case.tags))
    for name in tags:
        if name not in names:
            expected = f"tags or capabilities among {', '.join(names)}"
            reject("--tags", expected, repr(name), f"{did_you_mean(name, names)}Correct it.")
    return suite.select(lambda case: bool({case.capability, *case.tags} & set(tags)))


def _model(name: str | None, suite: behavior.Suite, weights: str | None) -> Any:
    source = name or suite.model
    if not source:
        expected = "MODULE:NAME of the model, or `model:` in the suite"
        reject("--model", expected, "neither", "Pass e.g. --model serving:predict.")
    with option_of("--model"):
        model = load_model(source)
        if not callable(model):
            expected = "a network, or predict(list of dicts) -> scores"
            reject("model", expected, f"{source}, {brief(model)}", "Name the model itself.")
        if weights is not None:
            load_weights(model, weights)
    return model
