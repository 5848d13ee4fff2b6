"""Checks of what a column is: a number of the row rather than a fact about it, or a time after the
outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._columns import _cost
from gendebug_torch.leakage.columns.association import Association, association
from gendebug_torch.leakage.columns.identifiers import row_numbers, target_like_names


@check(
    "leakage.ids", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.targets"), cost=_cost
)
def columns_do_not_number_the_rows(
    train: Records,
    *,
    min_explained: float = 0.05,
    min_auc: float = 0.6,
    min_position: float = 0.1,
    limit: int = 10,
) -> Iterator[Finding]:
    """No column that numbers the rows (an id, a hash, a counter, a raw time) tells the target, and
    nor does the order of rows.

    Such a column cannot mean anything for a new row; if it tells the target, it says where or when
    the row was collected. One that tells nothing, rows in the order of the target, and names like
    that of the target, are notes.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 2 (patient ids in
    KDD Cup 2008); Pearson (1905) for the explained share.

    Args:
        train: records with features and targets.
        min_explained: share of the target that a row number may explain.
        min_auc: AUC that a row number may have.
        min_position: share of the target that the position of the row may explain before it is
            noted.
        limit: most columns reported one by one.
    """
    this = columns_do_not_number_the_rows
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    numbered = row_numbers(features) if isinstance(features, pd.DataFrame) else {}
    judged = targets.ndim == 1 and len(targets) >= 50
    tells = (
        _tells(features, targets, list(numbered))
        if judged and numbered and isinstance(features, pd.DataFrame)
        else None
    )
    for name, kind in list(numbered.items())[:limit]:
        yield _number_finding(name, kind, tells, min_explained, min_auc)
    if (
        judged
        and (position := _position(targets)) is not None
        and (share := float(position.explained[0])) >= min_position
    ):
        text = (
            f"The rows of {train.name} come in an order that explains {share:.0%} of the "
            "target: sorted by label, by source or by time."
        )
        remedy = (
            "Shuffle before any split by position, and keep columns that count rows out of "
            "the features."
        )
        yield this.finding(
            Severity.NOTE,
            text,
            subject="row order",
            numbers={"explained": share, "n": position.n},
            remedy=remedy,
        )
    for name in (
        target_like_names(features, train.schema.target)
        if isinstance(features, pd.DataFrame)
        else ()
    ):
        text = f"The name of the feature {name} reads like that of the target or of an outcome."
        remedy = (
            f"Make sure that {name} is known when the model is asked; `leakage.columns` says "
            "how much it tells."
        )
        yield this.finding(Severity.NOTE, text, subject=name, numbers={"name": name}, remedy=remedy)
    if not numbered:
        columns = features.shape[1] if features.ndim > 1 else 1
        yield this.finding(
            Severity.OK,
            f"None of {columns} columns numbers the rows.",
            numbers={"columns": columns},
        )


def _tells(features: pd.DataFrame, targets: Tensor, names: list[str]) -> Association:
    """Row numbers against the target, as quantities where they are numbers and by their sorting
    order where they are text.
    """
    wanted = [column for column in features.columns if str(column) in names]
    ranked = {
        str(c): features[c]
        if features[c].dtype.kind in "iufM"
        else features[c].rank(method="dense")
        for c in wanted
    }
    return association(pd.DataFrame(ranked), targets)


def _position(targets: Tensor) -> Association | None:
    return (
        association(torch.arange(len(targets), dtype=torch.float64)[:, None], targets.cpu())
        if len(targets)
        else None
    )


def _number_finding(
    name: str, kind: str, tells: Association | None, min_explained: float, min_auc: float
) -> Finding:
    this = columns_do_not_number_the_rows
    text = f"{name} is {kind}: a different value in nearly every row"
    if tells is None:
        return this.finding(
            Severity.NOTE,
            f"{text}.",
            subject=name,
            numbers={"kind": kind},
            remedy=f"List {name} under `ids`.",
        )
    i = tells.names.index(name)
    share, auc = float(tells.explained[i].nan_to_num(0.0)), float(tells.auc[i])
    low, high = (float(bound[i]) for bound in tells.interval("explained"))
    auc_low = float(tells.interval("auc")[0][i].nan_to_num(0.0))
    numbers = {"kind": kind, "explained": share, "low": low, "high": high, "auc": auc, "n": tells.n}
    text += f", and explains {share:.0%} of the target (95 % interval {low:.0%} to {high:.0%}"
    text += f", AUC {auc:.2f})" if math.isfinite(auc) else ")"
    if (
        share >= min_explained and share > 5 * float(tells.explained_error[i])
    ) or auc_low >= min_auc:
        remedy = (
            f"Drop {name} (list it under `ids`) and retrain; find out why rows of one class "
            "were numbered together."
        )
        return this.finding(
            Severity.WARN,
            f"{text}: it tells where or when a row was collected.",
            subject=name,
            numbers=numbers,
            remedy=remedy,
            evidence=tells,
        )
    remedy = f"List {name} under `ids`: a network can only memorise it."
    return this.finding(
        Severity.NOTE, f"{text}.", subject=name, numbers=numbers, remedy=remedy, evidence=tells
    )
