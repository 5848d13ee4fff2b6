"""`gendebug shift`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.cli.inputs import load_model, load_records, load_schema
from gendebug_torch.shift.columns.chunks import is_large, read_table_in_chunks
from gendebug_torch.shift.columns.prepared_table import PreparedTable, table_comparison
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.feature_shift import MostShifted

_PREPARED = ".safetensors"


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
) -> int:
    """Compare production rows with a reference: which columns shifted, how far, and for what cause.

    Tables of more than 20 million values are read in chunks, in bounded memory: columns are
    compared on all rows, whole rows on a random sample.

    Args:
        reference: table of rows before deployment (CSV or Parquet), or a file written by
            --save-reference (.safetensors).
        live: table of rows after deployment; target and logits may be absent.
        schema: YAML file with the roles of the columns (target, time, categorical, logits, ...).
        out: directory for report.html and findings.json.
        save_reference: file for the reference in constant size, so that the next run reads the live
            table alone.
        model: MODULE:NAME of a network, for the logits where the tables hold none.
        weights: safetensors file to load into the network.
        budget: time to spend, e.g. 90s or 2m.
        options: check id to option to value, e.g. '{"shift.ks": {"min_effect": 0.05}}'.
        fail_on: exit with 1 from this severity on.
    """
    known = load_schema(schema)
    network = load_model(model, weights)
    settings: dict[str, Any] = {
        "budget": budget,
        "options": options or {},
        "progress": sys.stderr.isatty(),
    }
    if save_reference or reference.endswith(_PREPARED) or any(map(is_large, (reference, live))):
        diagnosis, before, after = _in_chunks(
            reference, live, known, save_reference, network, settings
        )
    else:
        before = load_records("validation", reference, known, True, "reference")
        after = load_records("production", live, known, True, "live")
        diagnosis = gd.diagnose(
            network, validation=before, production=after, only="shift", **settings
        )
    return deliver(diagnosis, out, fail_on, title="Shift", **_extras(diagnosis, before, after))


def _in_chunks(
    reference: str,
    live: str,
    schema: gd.Schema,
    save_reference: str | None,
    network: Any,
    settings: dict[str, Any],
) -> tuple[gd.Diagnosis, gd.Records | None, gd.Records]:
    """Findings about all rows and about sampled ones, and the samples (none of a prepared one).

    Checks of columns compare the prepared tables, and all others the sampled rows.
    """
    from gendebug_torch.checks.inputs import Deferred
    from gendebug_torch.checks.registry import all_checks
    from gendebug_torch.shift.checks._columns import COLUMN_PAIR, PreparedPair

    before: gd.Records | None = None
    if reference.endswith(_PREPARED):
        known = PreparedTable.load(reference)
    else:
        known, before = read_table_in_chunks(
            reference, schema, name="validation", optional=("logits", "probs")
        )
    if save_reference is not None:
        known.save(save_reference)
    met, after = read_table_in_chunks(live, schema, name="production")
    checks = [check for check in all_checks() if check.name.startswith("shift.")]
    of_columns = [check for check in checks if COLUMN_PAIR in check.derived]
    others = [check.name for check in checks if check not in of_columns]
    options = settings["options"]
    settings = settings | {"options": {name: options[name] for name in options if name in others}}
    diagnosis = gd.diagnose(network, validation=before, production=after, only=others, **settings)
    kinds = _change_kinds(diagnosis)
    shared: dict[str, Deferred[Any]] = {
        "column_pair": Deferred(lambda: PreparedPair(table_comparison(known, met))),
        "change_kinds": Deferred(lambda: kinds),
    }
    given = {"production": after, "validation": before}
    columns = [
        finding
        for check in of_columns
        for finding in check.run(given, options.get(check.name), shared)
    ]
    findings = sorted([*columns, *diagnosis.findings], key=lambda f: -f.severity.level)
    rows = {side.name: f"{side.rows:,} rows" for side in (known, met)}
    sampled = {
        f"{side.name}, sampled": f"{len(side):,} rows for what needs whole rows"
        for side in (before, after)
        if side is not None
    }
    context = dict(diagnosis.context) | rows | sampled
    return replace(diagnosis, findings=tuple(findings), context=context), before, after


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
