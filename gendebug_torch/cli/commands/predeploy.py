"""`gendebug predeploy`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import load_records
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import reject
from gendebug_torch.model.formats import load_network
from gendebug_torch.report.sheets import write_sheet
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
        device: auto, cpu, cuda or cuda:N.
        fail_on: exit with 1 from this severity on.
        also: further files to write, junit (findings.xml) and markdown (findings.md).
    """
    if rows < 1:
        reject("--rows", "at least 1", str(rows), "Ten thousand rows show most of what goes wrong.")
    known = gd.Schema.from_file(schema)
    deployed = threshold or known.threshold or 0.5
    network = None if model is None else load_network(model, weights)
    paths = {"train": train, "validation": validation, "production": production}
    sides = {
        name: load_records(name, path, known, name == "train" or network is not None)
        for name, path in paths.items()
        if path is not None
    }
    sides["production"] = first_rows(sides["production"], rows)
    if network is not None:
        for name in sides.keys() - {"train"}:
            sides[name] = gd.collect(network, sides[name], device=device)
    live, judged = sides["production"], sides.get("validation")
    diagnosis = _together(
        gd.diagnose(train=sides["train"], production=live, only=_DISTRIBUTION),
        gd.diagnose(
            validation=judged,
            production=live,
            only=_CONFIDENCE,
            options={"shift.confidence": {"threshold": deployed}},
        ),
    )
    member, caption = cohort(live, deployed)
    tables: dict[str, pd.DataFrame] = {}
    if live.logits is not None:
        score = live.confidence if live.probs.ndim == 2 else live.probs
        picked = review_rows(member, live.confidence, size=size, order=order, seed=seed)
        because = (
            None
            if network is None or not len(picked)
            else _because(network, live.select(picked), device)
        )
        sheet = review_sheet(_columns(live, deployed), picked, score, attributions=because)
        caption = (
            f"{caption} {len(sheet)} of {int(member.sum()):,} "
            f"{'drawn at random' if order == 'random' else 'with the highest confidence'}."
        )
        tables = {caption: sheet}
        for suffix in (".csv", ".html"):
            write_sheet(sheet, Path(out) / f"sheet{suffix}", title=caption)
    else:
        print(caption)
    named = {
        f"Confidence in {side.name}": side
        for side in (live, judged)
        if side is not None and side.logits is not None
    }
    pictures = (
        {}
        if known.multilabel
        else {
            name: gd.shift.confidence_bimodality(side.probs, names=known.classes)
            for name, side in named.items()
        }
    )
    extras: dict[str, Any] = {"tables": tables, "pictures": pictures}
    return deliver(diagnosis, out, fail_on, also=also or (), title="Before deployment", **extras)


def first_rows(records: gd.Records, rows: int) -> gd.Records:
    """The first rows by the time column of the schema, or from the top of the table."""
    order = torch.arange(len(records))
    column = records.schema.time
    if column is not None and records.metadata is not None and column in records.metadata:
        order = parse_times(records.metadata[column], column).order
    return records.select(order[:rows])


def cohort(live: gd.Records, threshold: float) -> tuple[torch.Tensor, str]:
    """Rows that the sheet is drawn from, `[n]` bool, and its caption."""
    if live.logits is None or live.schema.multilabel:
        return torch.zeros(
            len(live), dtype=torch.bool
        ), "No sheet: it needs the logits of one label per row; pass --model or name `logits`."
    said = _predicted(live, threshold)
    two_classes = live.probs.ndim == 1 or live.probs.shape[1] == 2
    what = (
        "False positives"
        if two_classes
        else "Mistakes, each a false positive of the class predicted"
    )
    if live.targets is not None:
        return confusion_cell(
            said, live.targets, "false_positive" if two_classes else "error"
        ), f"{what} among the first {len(live):,} live rows."
    member = said == 1 if two_classes else torch.ones(len(live), dtype=torch.bool)
    wrong = float(1 - live.confidence[member].mean()) if bool(member.any()) else 0.0
    kind = "Positive predictions" if two_classes else "Predictions"
    return member, (
        f"{kind} among the first {len(live):,} live rows. Their labels have not arrived, so the "
        "sheet cannot say which are false: "
        f"by the model's own confidence {wrong:.0%} of them are. Label these rows to find out."
    )


def _predicted(records: gd.Records, threshold: float) -> torch.Tensor:
    probs = records.probs
    if probs.ndim == 1 or probs.shape[1] == 2:
        return ((probs if probs.ndim == 1 else probs[:, 1]) > threshold).long()
    return records.predicted


def _columns(records: gd.Records, threshold: float) -> pd.DataFrame:
    """What the model said and what was true, then metadata, then features."""
    names = records.schema.classes

    def named(ids: torch.Tensor) -> list[Any]:
        return [names[place] if names else place for place in ids.tolist()]

    said = pd.DataFrame({"predicted": named(_predicted(records, threshold))})
    if records.targets is not None:
        said["target"] = named(records.targets)
    tables = [
        part.reset_index(drop=True)
        for part in (records.metadata, records.features)
        if isinstance(part, pd.DataFrame)
    ]
    joined = pd.concat([said, *tables], axis=1)
    return joined.loc[:, ~joined.columns.duplicated()]


def _because(network: Any, rows: gd.Records, device: str) -> pd.DataFrame:
    found = gd.attribute(network, rows, device=device, trust=False)
    return pd.DataFrame(found.flat.cpu().numpy(), columns=list(found.feature_names) or None)


def _together(first: gd.Diagnosis, second: gd.Diagnosis) -> gd.Diagnosis:
    findings = sorted(
        [*first.findings, *second.findings], key=lambda finding: -finding.severity.level
    )
    seconds = sum(float(part.context["seconds"]) for part in (first, second))
    context = {**first.context, **second.context, "seconds": f"{seconds:.1f}"}
    return replace(
        second, findings=tuple(findings), context=context, costs=first.costs + second.costs
    )
