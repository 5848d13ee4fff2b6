"""`gendebug counterfactual`."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.attribution import counterfactual as smallest_changes
from gendebug_torch.cli.deliver import say
from gendebug_torch.cli.exit_codes import CLEAN
from gendebug_torch.cli.inputs import at_least, load_model, load_records, load_schema
from gendebug_torch.data.files import replacing_files
from gendebug_torch.data.sheets.sheet_files import csv_text
from gendebug_torch.errors import reject


def counterfactual(
    data: str,
    train: str,
    schema: str,
    out: str,
    model: str | None = None,
    weights: str | None = None,
    to: str = "other",
    rows: list[int] | None = None,
    immutable: list[str] | None = None,
    alternatives: int = 3,
    max_changes: int = 4,
    budget: int = 1000,
    seed: int = 0,
) -> int:
    """Find the smallest changes of rows that the network answers otherwise.

    Without `--rows` it is the first hundred rows that the network gets wrong, or of an unlabeled
    table the first hundred.

    Args:
        data: table (CSV or Parquet) or npz with the rows.
        train: table or npz that the network was fitted on; changes use its values.
        schema: YAML file that says what the columns are.
        out: directory for changes.csv (one line per change) and alternatives.csv.
        model: network as MODULE:NAME.
        weights: weights of the network, safetensors or a checkpoint of tensors.
        to: class that is wanted, or `other`.
        rows: numbers of rows in the table.
        immutable: columns, regions or words that may not change.
        alternatives: most alternatives per row.
        max_changes: most columns, regions or words that change.
        budget: most evaluations of the network per row.
        seed: seed by which training rows are drawn.
    """
    at_least(1, alternatives=alternatives, max_changes=max_changes, budget=budget)
    description, network = load_schema(schema), load_model(model, weights)
    if network is None:
        reject("--model", "a network", "none", "Pass --model MODULE:NAME.")
    records = load_records("production", data, description, computed=True, option="--data")
    number = torch.tensor(_chosen(network, records, rows))
    found = smallest_changes(
        network,
        records.select(number),
        train=load_records("train", train, description, computed=True),
        to=to,
        immutable=immutable or (),
        alternatives=alternatives,
        max_changes=max_changes,
        budget=budget,
        progress=sys.stderr.isatty(),
        seed=seed,
    )
    tables = {"changes.csv": found.table(), "alternatives.csv": found.summary()}
    with replacing_files(out, list(tables), "--out") as scratch:
        for name, table in tables.items():
            numbered = table.assign(row=number.numpy()[table["row"].to_numpy(dtype=int)])
            (scratch / name).write_text(csv_text(numbered), encoding="utf-8", newline="")
    none = int((~found.found).sum())
    say(
        f"{len(number):,} rows; of {none:,} no change within reach is answered otherwise. "
        f"{found.evaluations:,} evaluations, at most {found.price:,} per row.",
        _lines(found.shared),
        f"Changes: {Path(out) / 'changes.csv'}",
    )
    return CLEAN


def _chosen(network: object, records: gd.Records, rows: list[int] | None) -> list[int]:
    """Numbers of the rows to change."""
    if rows is not None:
        if wrong := [row for row in rows if not 0 <= row < len(records)]:
            reject("--rows", f"rows 0 to {len(records) - 1}", str(wrong[:5]), "Correct them.")
        return rows
    if records.targets is None or records.targets.is_floating_point():
        return list(range(min(100, len(records))))
    show = sys.stderr.isatty()
    answered = gd.collect(network, records, progress=show)  # type: ignore[arg-type]
    numbers: list[int] = (~answered.correct).nonzero()[:100, 0].tolist()
    if not numbers:
        reject("--data", "rows that the network gets wrong", "none", "Name rows with --rows.")
    return numbers


def _lines(shared: pd.DataFrame) -> str:
    """The changes that most rows share, a line each."""
    rows = zip(*(shared.head(5)[name] for name in ("feature", "way", "share")), strict=True)
    return "\n".join(f"{feature} {way}: {share:.0%} of the rows" for feature, way, share in rows)
