"""`gendebug predeploy`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver, say
from gendebug_torch.cli.inputs import (
    at_least,
    checked_threshold,
    load_model,
    load_records,
    load_schema,
)
from gendebug_torch.data.sheets.sheet_files import write_sheet
from gendebug_torch.data.times import parse_times
from gendebug_torch.diagnosis.preparation.tables import fed_by_name
from gendebug_torch.errors import reject
from gendebug_torch.model.formats import load_served
from gendebug_torch.slices import confusion_cell, review_rows, review_sheet

_DISTRIBUTION = ("shift.ks", "shift.missing", "shift.categories", "shift.joint")
_CONFIDENCE = ("shift.confidence", "shift.bimodality")


def predeploy(
    train: str,
    production: str,
    schema: str,
    out: str,
    validation: str | None = None,
    rows: int = 10_000,
    size: int = 50,
    order: Literal["random", "confidence"] = "random",
    threshold: float | None = None,
    seed: int = 0,
    model: str | None = None,
    weights: str | None = None,
    served: str | None = None,
    device: str = "auto",
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Look at the first live rows: inputs, confidence by class, and a sheet of mistakes.

    Args:
        train: table that the model was fitted on (CSV or Parquet).
        production: the first table of live rows; its target may be absent.
        schema: YAML file that says what the columns are (target, time, classes, logits, ...).
        out: directory for report.html, findings.json, and the sheet as sheet.csv and sheet.html.
        validation: table that the model was judged on; what it said there is set beside what it
            says now.
        rows: how many live rows to look at, by the time column where the schema names one, else
            from the top.
        size: rows of the sheet.
        order: of the sheet: random, or confidence for the surest mistakes first.
        threshold: on the probability of a binary model; that of the schema, or 0.5, where none is
            given.
        seed: of the drawing.
        model: MODULE:NAME of a network; gives logits where the tables hold none, and the top
            attributions on the sheet.
        weights: safetensors file to load into the network.
        served: what is served in the place of --model (see gendebug parity); it must answer the
            same rows alike.
        device: auto, cpu, cuda or cuda:N.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    if rows < 1:
        reject("--rows", "at least 1", str(rows), "Ten thousand rows show most of what goes wrong.")
    at_least(1, size=size)
    columns = load_schema(schema)
    threshold = checked_threshold(threshold) or columns.threshold or 0.5
    network = load_model(model, weights)
    if served is not None and network is None:
        reject("--served", "a network to compare with", f"{served} alone", "Pass --model as well.")
    answers = None if served is None else load_served(served)
    paths = {"train": train, "validation": validation, "production": production}
    sides = {
        name: load_records(name, path, columns, name == "train" or network is not None)
        for name, path in paths.items()
        if path is not None
    }
    sides = _by_column_name(network, sides)
    sides["production"] = first_rows(sides["production"], rows)
    if network is not None:
        for name in sides.keys() - {"train"}:
            show = sys.stderr.isatty()
            sides[name] = gd.collect(network, sides[name], device=device, progress=show)
    live = sides["production"]
    tables = {}
    chosen, caption = sheet_rows(live, threshold)
    if live.logits is None:
        say(caption)
    else:
        picked = review_rows(chosen, live.confidence, size=size, order=order, seed=seed)
        sheet = _sheet(live, picked, threshold, network, device)
        drawn = "drawn at random" if order == "random" else "with the highest confidence"
        caption = f"{caption} {len(sheet)} of {int(chosen.sum()):,} {drawn}."
        tables[caption] = sheet
        for suffix in (".csv", ".html"):
            write_sheet(sheet, Path(out) / f"sheet{suffix}", title=caption)
    extras: dict[str, Any] = {"tables": tables, "pictures": _confidence_pictures(sides)}
    diagnosis = _diagnosis(sides, threshold, network, answers)
    return deliver(diagnosis, out, fail_on, also=also or (), title="Before deployment", **extras)


def _by_column_name(network: Any, sides: Mapping[str, gd.Records]) -> dict[str, gd.Records]:
    """The tables as the network was trained on them, by column name; what that changed is said."""
    notes: list[gd.Finding] = []
    given = {"model": network, "train": None, "validation": None, "production": None} | dict(sides)
    aligned = fed_by_name(notes, given)
    for note in notes:
        say(note.summary)
    return dict(sides) | aligned


def first_rows(records: gd.Records, rows: int) -> gd.Records:
    """The first rows by the time column of the schema, or from the top of the table."""
    order = torch.arange(len(records))
    column = records.schema.time
    if column is not None and records.metadata is not None and column in records.metadata:
        order = parse_times(records.metadata[column], column).order
    return records.select(order[:rows])


def sheet_rows(live: gd.Records, threshold: float) -> tuple[torch.Tensor, str]:
    """Rows that the sheet is drawn from, `[n]` bool, and its caption."""
    if live.logits is None or live.schema.multilabel:
        text = "No sheet: it needs the logits of one label per row; pass --model or name `logits`."
        return torch.zeros(len(live), dtype=torch.bool), text
    predicted = _predicted(live, threshold)
    binary = live.probs.ndim == 1 or live.probs.shape[1] == 2
    if live.targets is not None:
        mistakes = "False positives" if binary else "Mistakes, each a false positive of its class"
        cell = confusion_cell(predicted, live.targets, "false_positive" if binary else "error")
        return cell, f"{mistakes} among the first {len(live):,} live rows."
    rows = predicted == 1 if binary else torch.ones(len(live), dtype=torch.bool)
    wrong = float(1 - live.confidence[rows].mean()) if bool(rows.any()) else 0.0
    kind = "Positive predictions" if binary else "Predictions"
    return rows, (
        f"{kind} among the first {len(live):,} live rows. Their labels have not arrived; by the "
        f"model's own confidence {wrong:.0%} of them are wrong. Label these rows to find out."
    )


def _sheet(
    live: gd.Records, rows: torch.Tensor, threshold: float, network: Any, device: str
) -> pd.DataFrame:
    score = live.confidence if live.probs.ndim == 2 else live.probs
    attributions = None
    if network is not None and len(rows):
        result = gd.attribute(network, live.select(rows), device=device, trust=False)
        names = list(result.feature_names) or None
        attributions = pd.DataFrame(result.flat.cpu().numpy(), columns=names)
    return review_sheet(_columns(live, threshold), rows, score, attributions=attributions)


def _predicted(records: gd.Records, threshold: float) -> torch.Tensor:
    probs = records.probs
    if probs.ndim == 1 or probs.shape[1] == 2:
        return ((probs if probs.ndim == 1 else probs[:, 1]) > threshold).long()
    return records.predicted


def _columns(records: gd.Records, threshold: float) -> pd.DataFrame:
    """Prediction and target, then metadata, then features."""
    names = records.schema.classes

    def named(ids: torch.Tensor) -> list[Any]:
        return [names[index] if names else index for index in ids.tolist()]

    answers = pd.DataFrame({"predicted": named(_predicted(records, threshold))})
    if records.targets is not None:
        answers["target"] = named(records.targets)
    tables = [
        part.reset_index(drop=True)
        for part in (records.metadata, records.features)
        if isinstance(part, pd.DataFrame)
    ]
    joined = pd.concat([answers, *tables], axis=1)
    return joined.loc[:, ~joined.columns.duplicated()]


def _confidence_pictures(sides: Mapping[str, gd.Records]) -> dict[str, Any]:
    return {
        f"Confidence in {name}": gd.shift.confidence_bimodality(
            side.probs, names=side.schema.classes
        )
        for name, side in sides.items()
        if name != "train" and side.logits is not None and not side.schema.multilabel
    }


def _diagnosis(
    sides: Mapping[str, gd.Records], threshold: float, network: Any, served: Any
) -> gd.Diagnosis:
    """Inputs against training, confidence against validation, and outputs against what is served.

    All as one diagnosis.
    """
    live = sides["production"]
    inputs = gd.diagnose(train=sides["train"], production=live, only=_DISTRIBUTION)
    options = {"shift.confidence": {"threshold": threshold}}
    validation = sides.get("validation")
    scores = gd.diagnose(validation=validation, production=live, only=_CONFIDENCE, options=options)
    parts = [inputs, scores]
    if served is not None:
        asked = {"model": network, "served": served, "validation": live}
        parts.append(gd.diagnose(**asked, only="shift.served_outputs"))
    found = [finding for part in parts for finding in part.findings]
    findings = sorted(found, key=lambda finding: -finding.severity.level)
    seconds = sum(float(part.context["seconds"]) for part in parts)
    context = {**inputs.context, **scores.context, "seconds": f"{seconds:.1f}"}
    costs = tuple(cost for part in parts for cost in part.costs)
    return replace(scores, findings=tuple(findings), context=context, costs=costs)
