"""Fifty rows of one kind of mistake, to be looked at by a person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

# Cell of the confusion matrix of two classes -> what was predicted, what was true.
CELLS = {
    "true_positive": (1, 1),
    "false_positive": (1, 0),
    "true_negative": (0, 0),
    "false_negative": (0, 1),
}


def confusion_cell(
    predicted: Tensor, targets: Tensor, cell: str | tuple[int, int] = "false_positive"
) -> Tensor:
    """`[n]` bool, rows of one cell of the confusion matrix.

    Args:
        predicted: `[n]` int64 class ids.
        targets: `[n]` int64 class ids.
        cell: (predicted class, true class); `error` for all mistakes; or, for the classes 0 and 1,
            `false_positive`, `false_negative`, `true_positive`, `true_negative`.

    Raises:
        InputError: an unknown cell, lengths that differ, or a name of two classes where there are
            more.
    """
    if predicted.shape != targets.shape or predicted.ndim != 1:
        reject(
            "targets",
            f"{list(predicted.shape)} like `predicted`",
            str(list(targets.shape)),
            "Pass one label per row.",
        )
    if cell == "error":
        return predicted != targets
    if isinstance(cell, str):
        if cell not in CELLS:
            reject(
                "cell",
                f"one of error, {', '.join(CELLS)}, or a pair of classes",
                repr(cell),
                "Choose one of them.",
            )
        if len(predicted) and max(int(predicted.max()), int(targets.max())) > 1:
            reject(
                "cell",
                "`error` or (predicted, true) for more than two classes",
                repr(cell),
                "Pass for example (2, 0).",
            )
        cell = CELLS[cell]
    return (predicted == cell[0]) & (targets == cell[1])


def review_rows(
    member: Tensor, score: Tensor, *, size: int = 50, order: str = "random", seed: int = 0
) -> Tensor:
    """`[m]` int64 positions of at most `size` rows of a cohort, drawn at random or the highest
    score first.

    Args:
        member: `[n]` bool, rows of the cohort.
        score: `[n]` float, e.g. the confidence.
        size: most rows.
        order: `random`, in the order of the table, or `confidence` for the highest scores first.
        seed: of the drawing.

    Raises:
        InputError: an unknown order, lengths that differ, or a size below 1.
    """
    if size < 1:
        reject("size", "at least 1", str(size), "Fifty rows can be looked at in one sitting.")
    if member.shape != score.shape:
        reject(
            "score",
            f"{list(member.shape)} like `member`",
            str(list(score.shape)),
            "Pass one score per row.",
        )
    rows = member.cpu().nonzero()[:, 0]
    if order == "random":
        return (
            rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size]]
            .sort()
            .values
        )
    if order == "confidence":
        return rows[score.cpu()[rows].argsort(descending=True, stable=True)[:size]]
    reject("order", "`random` or `confidence`", repr(order), "Choose one of them.")


def review_sheet(
    columns: pd.DataFrame,
    rows: Tensor,
    score: Tensor,
    *,
    attributions: pd.DataFrame | None = None,
    top: int = 3,
) -> pd.DataFrame:
    """The rows of a cohort with their score, what drove it where that is known, and an empty column
    for remarks.

    Args:
        columns: `[n, c]` features and metadata.
        rows: `[m]` int64 positions in `columns`, e.g. from `review_rows`.
        score: `[n]` float.
        attributions: `[m, d]` one row for each of `rows`, in their order; columns name features.
        top: features named in `because`, by the size of their attribution.

    Returns:
        `[m, ...]`: `row` (position in the table), `score`, `because` where attributions are given,
        the columns, `remark`.

    Raises:
        InputError: attributions of other rows than these.
    """
    if attributions is not None and len(attributions) != len(rows):
        reject(
            "attributions",
            f"{len(rows)} rows, one per row of the sheet",
            str(len(attributions)),
            "Attribute just these rows.",
        )
    at = rows.cpu()
    sheet = columns.iloc[at.numpy()].reset_index(drop=True)
    sheet = sheet.drop(
        columns=[name for name in ("row", "score", "because", "remark") if name in sheet]
    )
    front = {"row": at.numpy(), "score": score.cpu()[at].numpy()}
    if attributions is not None:
        front["because"] = np.array(
            [_because(values, top) for _, values in attributions.iterrows()], dtype=object
        )
    return pd.concat([pd.DataFrame(front), sheet], axis=1).assign(remark="")


def _because(attributions: pd.Series[Any], top: int) -> str:
    """The features that moved the score most, with sign."""
    order = attributions.abs().sort_values(ascending=False, kind="stable").index[:top]
    return ", ".join(f"{name} {attributions[name]:+.3g}" for name in order)
