"""`gendebug labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

import gendebug_torch as gd
from gendebug_torch.checks.evidence import Plottable
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.data.files import write_whole
from gendebug_torch.data.tables import read_table
from gendebug_torch.errors import reject
from gendebug_torch.labels import (
    LabelNoise,
    Review,
    audit_ranking,
    audit_sheet,
    pruning_effect,
    read_review,
)
from gendebug_torch.slices import write_sheet


def labels(
    table: str,
    schema: str,
    out: str,
    size: int = 100,
    reviewed: str | list[str] | None = None,
    out_of_sample: bool = False,
    seed: int = 0,
    fail_on: FailOn = "warn",
) -> int:
    """Audit the labels of a table: how many are wrong, where they come from, and a sheet of rows
    for a person to judge.

    Args:
        table: table (CSV or Parquet) with features or logits.
        schema: YAML file that says what the columns are (target, source, classes, logits, ...).
        out: directory for report.html, findings.json and the next sheet, audit-1.csv and
            audit-1.html and so on.
        size: rows of the sheet.
        reviewed: sheet, or [sheet, sheet], with verdicts; gives the precision of the audit, the
            corrected table and the next sheet.
        out_of_sample: whether the logits in the table are of models that did not see the row.
        seed: of the small networks that judge the labels.
        fail_on: exit with 1 from this severity on.
    """
    known, frame = gd.Schema.from_file(schema), read_table(table)
    records = gd.Records.from_frame(frame, known, name="train", optional=("logits", "probs"))
    if records.targets is None or records.targets.is_floating_point() or records.targets.ndim != 1:
        reject(
            "--schema",
            "a target that holds classes",
            f"{known.target!r}",
            "Labels can be audited for classes only.",
        )
    sheets = [reviewed] if isinstance(reviewed, str) else reviewed or []
    reviews = [read_review(sheet, records.targets, names=known.classes) for sheet in sheets]
    settings = {"rows": max(len(records), 1), "out_of_sample": out_of_sample, "seed": seed}
    diagnosis = gd.diagnose(train=records, only="labels.noise", options={"labels.noise": settings})
    found = next(
        ((f.evidence, f.numbers) for f in diagnosis.findings if isinstance(f.evidence, LabelNoise)),
        None,
    )
    tables: dict[str, pd.DataFrame] = {}
    pictures: dict[str, Plottable] = {}
    if found is not None:
        noise, basis = found[0], str(found[1]["basis"])
        ranking = audit_ranking(noise, basis, records.metadata)
        source = (
            None
            if records.metadata is None or known.source is None
            else records.metadata[known.source].tolist()
        )
        judged = [row for review in reviews for row in (*review.looked, *review.unsure)]
        sheet = audit_sheet(ranking, names=known.classes, source=source, size=size, without=judged)
        path = _free(Path(out), "audit", ".csv")
        for suffix in (".csv", ".html"):
            write_sheet(
                sheet,
                path.with_suffix(suffix),
                title=f"Labels to judge: {len(sheet)} rows, most suspicious first",
            )
        print(
            f"Sheet: {path}; write right, wrong, unsure or another class into `verdict`, then "
            "pass it as --reviewed."
        )
        pictures["How much the labels are believed"] = ranking
        tables["Least and most confident rows"] = ranking.table()
        if records.logits is not None and not out_of_sample and int((~noise.suspicious).sum()) >= 2:
            effect = pruning_effect(records.logits, records.targets, noise.suspicious)
            tables["Without the suspicious rows"] = effect.table()
    if reviews:
        tables["Review"] = _corrected(
            frame, known, sum(reviews[1:], reviews[0]), Path(out), Path(table).suffix
        )
    return deliver(diagnosis, out, fail_on, tables=tables, pictures=pictures)


def _corrected(
    frame: pd.DataFrame, known: gd.Schema, review: Review, out: Path, suffix: str
) -> pd.DataFrame:
    """Write the table with the corrected labels beside the old one; its precision as a table."""
    values: dict[str, Any] = {
        str(value): value for value in known.classes or frame[known.target].unique()
    }
    given = frame[known.target].tolist()
    for row, name in review.corrections.items():
        given[row] = values.get(name, name)
    corrected = frame.assign(**{str(known.target): given})
    if suffix in (".parquet", ".pq"):
        path = _free(out, "corrected", ".parquet")
        out.mkdir(parents=True, exist_ok=True)
        corrected.to_parquet(path)
    else:
        path = _free(out, "corrected", ".csv")
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, corrected.to_csv(index=False))
    precision, low, high = review.precision
    counts = f"{len(review.corrections)} of {len(review.looked)} judged labels were wrong"
    print(
        f"Review: {counts} ({precision:.0%}, 95 % interval {low:.0%} to {high:.0%}); "
        f"{len(review.unsure)} unsure, "
        f"{len(review.waiting)} without a verdict. Corrected table: {path}"
    )
    numbers = {
        "judged": len(review.looked),
        "wrong": len(review.corrections),
        "precision": precision,
        "low": low,
        "high": high,
    }
    return pd.DataFrame([numbers | {"unsure": len(review.unsure), "waiting": len(review.waiting)}])


def _free(directory: Path, stem: str, suffix: str) -> Path:
    """The first of `stem-1`, `stem-2`, ... that does not exist, so that nothing is overwritten."""
    number = 1
    while (directory / f"{stem}-{number}{suffix}").exists():
        number += 1
    return directory / f"{stem}-{number}{suffix}"
