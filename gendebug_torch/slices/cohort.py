"""Fifty rows of one kind of mistake, to be looked at by a person."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

CELLS = ("false_positive", "false_negative", "true_positive", "true_negative", "error")


def confusion_cell(score: Tensor, targets: Tensor, *, cell: str = "false_positive", threshold: float = 0.5) -> Tensor:
    """`[n]` bool, rows of one cell of the confusion matrix of a binary score at a threshold.

    Args:
        score: `[n]` probability of the positive class.
        targets: `[n]` int64 of 0 and 1.
        cell: `false_positive`, `false_negative`, `true_positive`, `true_negative` or `error`.
        threshold: above which the model says yes.

    Raises:
        InputError: an unknown cell.
    """
    if cell not in CELLS:
        reject("cell", f"one of {', '.join(CELLS)}", repr(cell), "Choose one of them.")
    said, true = score > threshold, targets == 1
    table = {"false_positive": said & ~true, "false_negative": ~said & true, "true_positive": said & true, "true_negative": ~said & ~true}
    return table["false_positive"] | table["false_negative"] if cell == "error" else table[cell]


def cohort_sheet(
    columns: pd.DataFrame, member: Tensor, score: Tensor, *, size: int = 50, order: str = "random", seed: int = 0
) -> pd.DataFrame:
    """Rows of a cohort with their score, drawn at random or by confidence, with an empty column for remarks.

    Args:
        columns: `[n, c]` features and metadata.
        member: `[n]` bool, rows of the cohort.
        score: `[n]` float.
        size: most rows.
        order: `random`, or `confidence` for the surest mistakes first.
        seed: of the drawing.

    Returns:
        At most `size` rows: `row` (position in the table), `score`, the columns, `remark`.

    Raises:
        InputError: an unknown order.
    """
    rows = member.nonzero()[:, 0]
    if order == "random":
        picked = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size]].sort().values
    elif order == "confidence":
        picked = rows[(score[rows] - 0.5).abs().argsort(descending=True, stable=True)[:size]]
    else:
        reject("order", "`random` or `confidence`", repr(order), "Choose one of them.")
    sheet = columns.iloc[picked.numpy()].reset_index(drop=True)
    sheet.insert(0, "row", picked.numpy())
    sheet.insert(1, "score", score[picked].numpy())
    return sheet.assign(remark="")


def write_sheet(sheet: pd.DataFrame, path: str | Path) -> Path:
    """Write a sheet as CSV or HTML by its suffix, whole or not at all.

    Raises:
        InputError: another suffix, or a place that cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".csv", ".html"):
        reject("path", "a .csv or .html file", str(target), "Choose one of them.")
    text = sheet.to_csv(index=False) if target.suffix == ".csv" else sheet.to_html(index=False, escape=True, na_rep="")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}-", delete=False, encoding="utf-8") as scratch:
            scratch.write(text)
        os.replace(scratch.name, target)
    except OSError as error:
        reject("path", "a writable place", f"{target}: {error.strerror}", "Choose another path.")
    return target
