"""`gendebug shift`."""

from __future__ import annotations

import sys
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.arguments import PROFILE
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import deadline_of, load_model, load_records, load_schema, option_of
from gendebug_torch.shift.columns.chunks import is_large
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.feature_shift import MostShifted

_SAVED = (PROFILE, ".safetensors")


def shift(
    reference: str,
    live: str,
    schema: str,
    out: str,
    save_reference: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Compare production rows with a reference: which columns shifted, how far, and for what cause.

    Tables of more than 20 million values are profiled, in bounded memory: columns, classes and
    quality are compared on all rows, whole rows on a random sample.

    Args:
        reference: table of rows before deployment (CSV or Parquet), or a profile of it, e.g.
            one written by --save-reference (.profile).
        live: table of rows after deployment; target and logits may be absent.
        schema: YAML file with the roles of the columns (target, time, categorical, logits, ...).
        out: directory for report.html and findings.json.
        save_reference: file for the profile of the reference, so that the next run reads the live
            table alone.
        model: MODULE:NAME of a network, for the logits where the tables hold none.
        weights: safetensors file to load into the network.
        budget: time for the whole command, e.g. 90s or 2m.
        options: check id to option to value, e.g. '{"shift.ks": {"min_effect": 0.05}}'.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    deadline = deadline_of(budget)
    known = load_schema(schema)
    sides: list[Any]
    if save_reference or reference.endswith(_SAVED) or any(map(is_large, (reference, live))):
        sides = [_profile(reference, known, "reference"), _profile(live, known, "live")]
        if save_reference is not None:
            sides[0].save(save_reference)
        before, after = sides[0].records, sides[1].records
    else:
        before = load_records("validation", reference, known, True, "reference")
        after = load_records("production", live, known, True, "live")
        sides = [before, after]
    diagnosis = gd.diagnose(
        load_model(model, weights),
        validation=sides[0],
        production=sides[1],
        only="shift",
        budget=deadline,
        options=options or {},
        progress=sys.stderr.isatty(),
    )
    extras = _extras(diagnosis, before, after)
    return deliver(
        diagnosis, out, fail_on, deadline=deadline, also=also or (), title="Shift", **extras
    )


def _profile(path: str, schema: gd.Schema, option: str) -> gd.Profile:
    """The profile of a table, or the one that was saved."""
    with option_of(option):
        if path.endswith(_SAVED):
            return gd.Profile.load(path)
        return gd.profile(path, schema, progress=sys.stderr.isatty())


def _change_kinds(diagnosis: gd.Diagnosis) -> ChangeKinds | None:
    """The kinds of change that the diagnosis rests on, if it judged them."""
    evidence = (finding.evidence for finding in diagnosis.findings)
    return next((part for part in evidence if isinstance(part, ChangeKinds)), None)


def _extras(
    diagnosis: gd.Diagnosis, before: gd.Records | None, after: gd.Records
) -> dict[str, Any]:
    """Tables and pictures of the report beside those of the findings."""
    pictures: dict[str, Any] = {}
    tables = {}
    for finding in diagnosis.findings:
        if isinstance(finding.evidence, MostShifted):
            pictures["Features that shifted most"] = finding.evidence
    if (kinds := _change_kinds(diagnosis)) is not None:
        tables["Kinds of change"] = kinds.table()
        pictures["Kinds of change"] = kinds
    paired = before is not None and before.features is not None and after.features is not None
    if paired and (drift := gd.shift.drift_windows(after, before)) is not None:
        tables["Drift per window of time"] = drift.table()
        pictures["Drift per window of time"] = drift
    return {"tables": tables, "pictures": pictures}
