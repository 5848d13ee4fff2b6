"""`gendebug labels`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import gendebug_torch as gd
from gendebug_torch.checks.evidence import Plottable
from gendebug_torch.cli.deliver import FailOn, Format, deliver, say
from gendebug_torch.cli.inputs import load_schema, load_table, option_of
from gendebug_torch.data.files import replacing, without_controls, write_whole
from gendebug_torch.data.sheets.sheet_files import write_sheet
from gendebug_torch.data.task import Task
from gendebug_torch.errors import reject
from gendebug_torch.labels import audit_sheet, pruning_effect, read_review
from gendebug_torch.labels.noise.noise_model import LabelNoise
from gendebug_torch.labels.quantities.quantity_errors import QuantityErrors
from gendebug_torch.labels.review.audit_sheet import Review
from gendebug_torch.labels.review.ranking import LabelRanking, audit_ranking


def labels(
    table: str,
    schema: str,
    out: str,
    size: int = 100,
    reviewed: str | list[str] | None = None,
    out_of_sample: bool = False,
    seed: int = 0,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Audit the labels of a table, and write a sheet of rows for a person to review.

    Says how many labels are wrong, and in which groups of rows; of quantities, which values.

    Args:
        table: table (CSV or Parquet) with features or logits.
        schema: YAML file that says what the columns are (target, source, classes, logits, ...).
        out: directory for report.html, findings.json and the next sheet, audit-1.csv and
            audit-1.html and so on.
        size: rows of the sheet.
        reviewed: sheet, or [sheet, sheet], with verdicts, for the precision of the audit, the
            corrected table and the next sheet.
        out_of_sample: whether the logits in the table are of models that did not see the row.
        seed: seed of the small networks that predict the labels.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    description, frame = load_schema(schema), load_table(table, "table")
    if size < 1:
        reject("--size", "at least 1", str(size), "A hundred rows can be reviewed in one sitting.")
    records = _labeled(frame, description)
    reviews = _reviews(records, [reviewed] if isinstance(reviewed, str) else reviewed or [])
    settings = {"max_rows": max(len(records), 1), "out_of_sample": out_of_sample, "seed": seed}
    diagnosis = gd.diagnose(
        train=records,
        only="labels.noise",
        options={"labels.noise": settings},
        progress=sys.stderr.isatty(),
    )
    tables: dict[str, pd.DataFrame] = {}
    pictures: dict[str, Plottable] = {}
    for finding in diagnosis.findings:
        if isinstance(noise := finding.evidence, LabelNoise):
            judged = records.select(noise.row_numbers)
            ranking = audit_ranking(noise, str(finding.numbers["basis"]), judged.metadata)
            _write_audit(ranking, judged, noise.row_numbers, reviews, size, Path(out))
            pictures["Quality of the labels"] = ranking
            tables |= _tables(ranking, judged, noise, out_of_sample=out_of_sample)
        elif isinstance(finding.evidence, QuantityErrors):
            _write_values(finding.evidence, size, Path(out))
    if reviews:
        review = sum(reviews[1:], reviews[0])
        tables["Review"] = _corrected(frame, description, review, Path(out), Path(table).suffix)
    return deliver(diagnosis, out, fail_on, also=also or (), tables=tables, pictures=pictures)


def _labeled(frame: pd.DataFrame, description: gd.Schema) -> gd.Records:
    with option_of("table"):
        records = gd.Records.from_frame(
            frame, description, name="train", optional=("logits", "probs")
        )
    if records.targets is None:
        expected = "a target that holds classes or quantities"
        reject("--schema", expected, f"{description.target!r}", "Name it as `target`.")
    return records


def _reviews(records: gd.Records, sheets: list[str]) -> list[Review]:
    """Verdicts on sheets of classes."""
    assert records.targets is not None
    if sheets and records.task not in (Task.BINARY, Task.MULTICLASS):
        remedy = "Correct values in the table itself."
        reject("--reviewed", "a sheet of classes", ", ".join(sheets), remedy)
    return [read_review(sheet, records.targets, names=records.schema.classes) for sheet in sheets]


def _tables(
    ranking: LabelRanking, judged: gd.Records, noise: LabelNoise, *, out_of_sample: bool
) -> dict[str, pd.DataFrame]:
    """What the report shows of rows with classes."""
    tables = {"Least and most confident rows": ranking.table()}
    rest = int((~noise.suspicious).sum())
    if judged.logits is not None and not out_of_sample and rest >= 2:
        effect = pruning_effect(judged.logits, noise.targets, noise.suspicious)
        tables["Without the suspicious rows"] = effect.table()
    return tables


def _write_values(errors: QuantityErrors, size: int, out: Path) -> None:
    """A sheet of the suspicious values of a quantity, most suspicious first."""
    columns = {
        "row": torch.arange(len(errors.targets)) if errors.rows is None else errors.rows,
        "given": errors.targets,
        "predicted": errors.predicted,
        "probability_wrong": errors.error_probability,
    }
    frame = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    sheet = frame[errors.suspicious.cpu().numpy()].nlargest(size, "probability_wrong")
    path = _free(out, "audit", ".csv")
    title = f"Values to review: {len(sheet)} rows, most suspicious first"
    for suffix in (".csv", ".html"):
        write_sheet(sheet, path.with_suffix(suffix), title=title)
    say(f"Sheet: {path}. Correct what is wrong in the table, and run this again.")


def _write_audit(
    ranking: LabelRanking,
    records: gd.Records,
    rows: Tensor,
    reviews: list[Review],
    size: int,
    out: Path,
) -> None:
    """The next sheet, without rows that were reviewed before, as CSV and HTML."""
    schema, source = records.schema, None
    if records.metadata is not None and schema.source is not None:
        source = records.metadata[schema.source].tolist()
    reviewed = [row for review in reviews for row in (*review.decisions, *review.unsure)]
    sheet = audit_sheet(
        ranking, names=schema.classes, source=source, size=size, exclude=reviewed, rows=rows
    )
    path = _free(out, "audit", ".csv")
    title = f"Labels to review: {len(sheet)} rows, most suspicious first"
    for suffix in (".csv", ".html"):
        write_sheet(sheet, path.with_suffix(suffix), title=title)
    say(
        f"Sheet: {path}. Write right, wrong, unsure or another class into `verdict`, then pass it "
        "as --reviewed."
    )


def _corrected(
    frame: pd.DataFrame, schema: gd.Schema, review: Review, out: Path, suffix: str
) -> pd.DataFrame:
    """Write the table with corrected labels to a new file; returns the precision as a table."""
    values: dict[str, Any] = {
        without_controls(str(value)): value
        for value in schema.classes or frame[schema.target].unique()
    }
    given = frame[schema.target].tolist()
    for row, name in review.corrections.items():
        given[row] = values.get(name, name)
    corrected = frame.assign(**{str(schema.target): given})
    if suffix in (".parquet", ".pq"):
        path = _free(out, "corrected", ".parquet")
        with replacing(path, "--out") as scratch:
            corrected.to_parquet(scratch)
    else:
        path = _free(out, "corrected", ".csv")
        write_whole(path, corrected.to_csv(index=False), "--out")
    precision, low, high = review.precision
    counts = f"{len(review.corrections)} of {len(review.decisions)} reviewed labels were wrong"
    interval = f" ({precision:.0%}, 95 % interval {low:.0%} to {high:.0%})"
    say(
        f"Review: {counts}{interval if review.decisions else ''}; "
        f"{len(review.unsure)} unsure, "
        f"{len(review.pending)} without a verdict. Corrected table: {path}"
    )
    numbers = {
        "reviewed": len(review.decisions),
        "wrong": len(review.corrections),
        "precision": precision,
        "low": low,
        "high": high,
    }
    return pd.DataFrame([numbers | {"unsure": len(review.unsure), "pending": len(review.pending)}])


def _free(directory: Path, stem: str, suffix: str) -> Path:
    """The first of `stem-1`, `stem-2`, ... that does not exist, so that nothing is overwritten."""
    number = 1
    while (directory / f"{stem}-{number}{suffix}").exists():
        number += 1
    return directory / f"{stem}-{number}{suffix}"
