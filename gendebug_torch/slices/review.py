"""A sample of rows of one kind of error, for a person to review."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject

# Cell of the confusion matrix of two classes -> predicted class, true class.
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
        predicted: predicted class ids, `[n]` int64.
        targets: class ids, `[n]` int64.
        cell: pair (predicted class, true class); `error` for all errors; or, for the classes 0 and
            1, `false_positive`, `false_negative`, `true_positive`, `true_negative`.

    Raises:
        InputError: an unknown cell, lengths that differ, or a name of two classes where there are
            more.

    Example:
        >>> predicted, targets = torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0])
        >>> confusion_cell(predicted, targets, "false_positive").tolist()
        [False, True, False]
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
    """`[m]` int64 row numbers of a sample of a cohort, random or of the highest scores.

    Args:
        member: rows of the cohort, `[n]` bool.
        score: score of each row, e.g. the confidence, `[n]` float.
        size: most rows.
        order: `random`, in the order of the table, or `confidence` for the highest scores first.
        seed: seed of the sample.

    Raises:
        InputError: an unknown order, lengths that differ, or a size below 1.

    Example:
        >>> member = torch.tensor([True, False, True, True])
        >>> score = torch.tensor([0.2, 0.9, 0.7, 0.5])
        >>> review_rows(member, score, size=2, order="confidence").tolist()
        [2, 3]
    """
    if size < 1:
        reject("size", "at least 1", str(size), "Fifty rows can be reviewed in one sitting.")
    if member.shape != score.shape:
        reject(
            "score",
            f"{list(member.shape)} like `member`",
            str(list(score.shape)),
            "Pass one score per row.",
        )
    rows = member.cpu().nonzero()[:, 0]
    if order == "random":
        sample = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size]
        return rows[sample].sort().values
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
    """The rows with their score, the features behind it, and an empty column for remarks.

    Args:
        columns: features and metadata, `[n, c]`.
        rows: row numbers, e.g. from `review_rows`, `[m]` int64.
        score: score of each row of the table, `[n]` float.
        attributions: attributions of `rows`, in their order, `[m, d]`; columns name features.
        top: number of features named in `because`, those of the largest attributions.

    Returns:
        Table `[m, ...]`: `row` (its number), `score`, `because` where attributions are given, the
        columns, `remark`.

    Raises:
        InputError: attributions of other rows.

    Example:
        >>> table = pd.DataFrame({"amount": [1.0, 2.0, 3.0]})
        >>> review_sheet(table, torch.tensor([2]), torch.tensor([0.1, 0.2, 0.9])).columns.tolist()
        ['row', 'score', 'amount', 'remark']
    """
    if attributions is not None and len(attributions) != len(rows):
        reject(
            "attributions",
            f"{len(rows)} rows, one per row of the sheet",
            str(len(attributions)),
            "Attribute these rows.",
        )
    index = rows.cpu()
    sheet = columns.iloc[index.numpy()].reset_index(drop=True)
    sheet = sheet.drop(
        columns=[name for name in ("row", "score", "because", "remark") if name in sheet]
    )
    front = {"row": index.numpy(), "score": score.cpu()[index].numpy()}
    if attributions is not None:
        front["because"] = np.array(
            [_because(values, top) for _, values in attributions.iterrows()], dtype=object
        )
    return pd.concat([pd.DataFrame(front), sheet], axis=1).assign(remark="")


def _because(attributions: pd.Series[Any], top: int) -> str:
    """The features of the largest attributions, with sign."""
    order = attributions.abs().sort_values(ascending=False, kind="stable").index[:top]
    return ", ".join(f"{name} {attributions[name]:+.3g}" for name in order)
