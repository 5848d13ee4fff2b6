"""The check for columns that identify rows and predict the target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._costs import column_cost
from gendebug_torch.leakage.checks._targets import by_target
from gendebug_torch.leakage.columns.association import Association, association, unsuitable_targets
from gendebug_torch.leakage.columns.column_ablation import (
    MAX_COLUMNS,
    ablated_performance,
    numeric_table,
    random_rows,
)
from gendebug_torch.leakage.columns.identifiers import (
    identifier_columns,
    outcome_like_names,
    written_quantities,
)

# Standard errors by which an explained share must exceed 0.
_ERRORS = 5
# What identifiers must add to the other columns: a part of the share that they must explain, or to
# the AUC.
_MIN_GAIN, _MIN_AREA_GAIN = 0.4, 0.02
# Rank correlation with a column from which an identifier runs in its order, and the part of what it
# explains alone that it must then add: small networks bend along two such columns more easily.
_SAME_ORDER, _OWN_PART = 0.99, 0.5


@check(
    "leakage.ids",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=column_cost,
    partial_labels=True,
)
def no_identifier_predicts_the_target(
    train: Records,
    *,
    min_explained: float = 0.05,
    min_auc: float = 0.6,
    min_order_explained: float = 0.1,
    limit: int = 10,
) -> Iterator[Finding]:
    """No column that identifies rows (an id, a hash, a counter, a time stamp) predicts the target.

    Such a column has no meaning for a new row; if it predicts the target beyond all other columns,
    it reveals where or when the row was collected. An identifier that tells nothing new, rows
    sorted by the target, and names like that of the target, are notes. Of several labels or
    quantities each is judged by itself.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 2 (patient ids in
    KDD Cup 2008); Pearson (1905) for the explained share.

    Args:
        train: records with features and targets.
        min_explained: share of the target that an identifier must explain to be reported.
        min_auc: AUC from which an identifier is reported.
        min_order_explained: share of the target that the position of a row must explain to be
            noted.
        limit: largest number of columns reported one by one.
    """
    table = train.features if isinstance(train.features, pd.DataFrame) else pd.DataFrame()
    identifiers = dict(list(identifier_columns(table).items())[:limit])

    def judged(parts: Sequence[Records | None], output: int | None) -> Iterator[Finding]:
        (labeled,) = parts
        assert labeled is not None
        return _target_findings(labeled, identifiers, (min_explained, min_auc), min_order_explained)

    yield from by_target(judged, train)
    for name, units in written_quantities(table).items():
        yield no_identifier_predicts_the_target.finding(
            Severity.NOTE,
            f"{name} holds numbers with their unit as text ({', '.join(units)}).",
            subject=name,
            numbers={"units": list(units)},
            remedy=f"Convert {name} to numbers in one unit: cut off the unit and the separators of "
            "thousands, then `pandas.to_numeric`.",
        )
    for name in outcome_like_names(table, train.schema.target):
        remedy = (
            f"Check that {name} is available at prediction time; `leakage.columns` reports how "
            "strongly it is associated with the target."
        )
        text = f"The name of the feature {name} resembles that of the target or of an outcome."
        yield no_identifier_predicts_the_target.finding(
            Severity.NOTE, text, subject=name, numbers={"name": name}, remedy=remedy
        )


def _target_findings(
    train: Records,
    identifiers: Mapping[str, str],
    limits: tuple[float, float],
    min_order_explained: float,
) -> Iterator[Finding]:
    """Findings on one target of labeled records."""
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    table = features if isinstance(features, pd.DataFrame) else pd.DataFrame()
    suitable = not unsuitable_targets(targets)
    found = _association(table, targets, list(identifiers)) if suitable and identifiers else None
    suspects = [] if found is None else [c for c in identifiers if _predicts(found, c, *limits)]
    adds = bool(suspects) and _add_to_others(train, list(identifiers), found, limits[0])
    for name, kind in identifiers.items():
        yield _identifier_finding(name, kind, found, name in suspects, adds)
    if suitable:
        yield from _order_findings(train.name, targets, min_order_explained)
    if not identifiers:
        columns = features.shape[1] if features.ndim > 1 else 1
        text = f"None of {columns} columns identifies rows."
        yield no_identifier_predicts_the_target.finding(
            Severity.OK, text, numbers={"columns": columns}
        )


def _predicts(found: Association, name: str, min_explained: float, min_auc: float) -> bool:
    """Whether an identifier predicts the target beyond chance."""
    i = found.names.index(name)
    share = float(found.explained[i].nan_to_num(0.0))
    certain = share > _ERRORS * float(found.explained_error[i])
    by_share = share >= min_explained and certain
    return by_share or float(found.interval("auc")[0][i]) >= min_auc


def _add_to_others(
    train: Records, names: list[str], found: Association | None, min_explained: float
) -> bool:
    """Whether identifiers tell more of the target than all other columns do without them.

    A row number of a table in the order of time follows the time that other columns hold as well.
    """
    assert isinstance(train.features, pd.DataFrame)
    assert train.targets is not None
    assert found is not None
    others = [str(c) for c in train.features.columns if str(c) not in names]
    table = train.features.assign(**_ranked(train.features, names))
    with_them, without = ablated_performance(
        table,
        train.targets,
        [(), names],
        order=[*names, *others],
        categorical=train.schema.categorical,
    )
    gain = with_them.explained - without.explained
    area = with_them.auc - without.auc
    if _in_order_of(table, names, others[:MAX_COLUMNS]):
        share = float(found.explained.nan_to_num(0.0).max())
        return gain >= max(_OWN_PART * share, _MIN_GAIN * min_explained)
    return gain >= _MIN_GAIN * min_explained or area >= _MIN_AREA_GAIN


def _in_order_of(table: pd.DataFrame, names: list[str], others: list[str]) -> bool:
    """Whether each identifier runs in the order of another column, as a row number of dates."""
    numbers = numeric_table(table, random_rows(len(table)), [*names, *others])
    ranks = numbers.select_dtypes("number").rank()
    compared = ranks[[name for name in others if name in ranks]]
    return all(
        name in ranks and bool((compared.corrwith(ranks[name]).abs() >= _SAME_ORDER).any())
        for name in names
    )


def _ranked(table: pd.DataFrame, names: list[str]) -> dict[str, pd.Series[Any]]:
    """Identifiers as numbers: text by its alphabetical order."""
    return {
        str(c): table[c] if table[c].dtype.kind in "iufM" else table[c].rank(method="dense")
        for c in table.columns
        if str(c) in names
    }


def _association(table: pd.DataFrame, targets: Tensor, names: list[str]) -> Association:
    """Identifiers against the target: numbers by their values, text by its alphabetical order."""
    return association(pd.DataFrame(_ranked(table, names)), targets)


def _order_findings(name: str, targets: Tensor, min_explained: float) -> Iterator[Finding]:
    """A note if the position of a row predicts its target."""
    position = torch.arange(len(targets), dtype=torch.float64)[:, None]
    share = float(association(position, targets.cpu()).explained[0])
    if share >= min_explained:
        yield no_identifier_predicts_the_target.finding(
            Severity.NOTE,
            f"The order of the rows of {name} explains {share:.0%} of the target: they are sorted "
            "by label, by source or by time.",
            subject="row order",
            numbers={"explained": share, "n": len(targets)},
            remedy="Shuffle the rows before splitting by position, and keep row counters out of "
            "the features.",
        )


def _identifier_finding(
    name: str, kind: str, found: Association | None, predicts: bool, adds: bool
) -> Finding:
    this = no_identifier_predicts_the_target
    text = f"{name} is {kind}: nearly every row has a different value."
    remedy = f"List {name} under `ids` in the schema: a model can only memorise it."
    if found is None:
        numbers = {"kind": kind}
        return this.finding(Severity.NOTE, text, subject=name, numbers=numbers, remedy=remedy)
    i = found.names.index(name)
    share, auc = float(found.explained[i].nan_to_num(0.0)), float(found.auc[i])
    low, high = (float(bound[i]) for bound in found.interval("explained"))
    area = f", AUC {auc:.2f}" if math.isfinite(auc) else ""
    text += f" It explains {share:.0%} of the target (95% interval {low:.0%} to {high:.0%}{area})"
    severity = Severity.NOTE
    if predicts and not adds:
        text += ", but nothing that the other columns do not tell"
    elif predicts:
        severity = Severity.WARN
        text += ", so it reveals where or when a row was collected"
        remedy = (
            f"Drop {name} (list it under `ids` in the schema) and retrain. Find out why rows of "
            "one class have neighbouring values."
        )
    return this.finding(
        severity,
        f"{text}.",
        subject=name,
        numbers={
            "kind": kind,
            "explained": share,
            "low": low,
            "high": high,
            "auc": auc,
            "n": found.n,
        },
        remedy=remedy,
        evidence=found,
    )
