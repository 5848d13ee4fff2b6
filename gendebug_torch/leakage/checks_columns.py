"""Checks of what a column is: a number of the row rather than a fact about it, or a time after the outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.leakage.association import Association, association, too_few
from gendebug_torch.leakage.gaps import Gaps, telling_gaps
from gendebug_torch.leakage.ids import AfterLabel, after_label, row_numbers, target_like_names
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check

FAIL_AFTER, FAIL_GAP = 0.5, 0.8


def _cost(given: Mapping[str, Any]) -> Cost:
    train = given.get("train")
    shape = (0,) if train is None or train.features is None else train.features.shape
    return Cost(elements=10.0 * math.prod(shape))


@check("leakage.ids", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.targets"), cost=_cost)
def columns_do_not_number_the_rows(
    train: Records, *, min_explained: float = 0.05, min_auc: float = 0.6, min_position: float = 0.1, limit: int = 10
) -> Iterator[Finding]:
    """No column that numbers the rows (an id, a hash, a counter, a raw time) tells the target, and nor does the order of rows.

    Such a column cannot mean anything for a new row; if it tells the target, it says where or when the row was collected.
    One that tells nothing, rows in the order of the target, and names like that of the target, are notes.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 2 (patient ids in KDD Cup 2008);
    Pearson (1905) for the explained share.

    Args:
        train: records with features and targets.
        min_explained: share of the target that a row number may explain.
        min_auc: AUC that a row number may have.
        min_position: share of the target that the position of the row may explain before it is noted.
        limit: most columns reported one by one.
    """
    this = columns_do_not_number_the_rows
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    numbered = row_numbers(features) if isinstance(features, pd.DataFrame) else {}
    judged = targets.ndim == 1 and len(targets) >= 50
    tells = _tells(features, targets, list(numbered)) if judged and numbered and isinstance(features, pd.DataFrame) else None
    for name, kind in list(numbered.items())[:limit]:
        yield _number_finding(name, kind, tells, min_explained, min_auc)
    if judged and (position := _position(targets)) is not None and (share := float(position.explained[0])) >= min_position:
        text = f"The rows of {train.name} come in an order that explains {share:.0%} of the target: sorted by label, by source or by time."
        remedy = "Shuffle before any split by position, and keep columns that count rows out of the features."
        yield this.finding(Severity.NOTE, text, subject="row order", numbers={"explained": share, "n": position.n}, remedy=remedy)
    for name in target_like_names(features, train.schema.target) if isinstance(features, pd.DataFrame) else ():
        text = f"The name of the feature {name} reads like that of the target or of an outcome."
        remedy = f"Make sure that {name} is known when the model is asked; `leakage.columns` says how much it tells."
        yield this.finding(Severity.NOTE, text, subject=name, numbers={"name": name}, remedy=remedy)
    if not numbered:
        columns = features.shape[1] if features.ndim > 1 else 1
        yield this.finding(Severity.OK, f"None of {columns} columns numbers the rows.", numbers={"columns": columns})


def _tells(features: pd.DataFrame, targets: Tensor, names: list[str]) -> Association:
    """Row numbers against the target, as quantities where they are numbers and by their sorting order where they are text."""
    wanted = [column for column in features.columns if str(column) in names]
    ranked = {str(c): features[c] if features[c].dtype.kind in "iufM" else features[c].rank(method="dense") for c in wanted}
    return association(pd.DataFrame(ranked), targets)


def _position(targets: Tensor) -> Association | None:
    return association(torch.arange(len(targets), dtype=torch.float64)[:, None], targets.cpu()) if len(targets) else None


def _number_finding(name: str, kind: str, tells: Association | None, min_explained: float, min_auc: float) -> Finding:
    this = columns_do_not_number_the_rows
    text = f"{name} is {kind}: a different value in nearly every row"
    if tells is None:
        return this.finding(Severity.NOTE, f"{text}.", subject=name, numbers={"kind": kind}, remedy=f"List {name} under `ids`.")
    i = tells.names.index(name)
    share, auc = float(tells.explained[i].nan_to_num(0.0)), float(tells.auc[i])
    low, high = (float(bound[i]) for bound in tells.interval("explained"))
    auc_low = float(tells.interval("auc")[0][i].nan_to_num(0.0))
    numbers = {"kind": kind, "explained": share, "low": low, "high": high, "auc": auc, "n": tells.n}
    text += f", and explains {share:.0%} of the target (95 % interval {low:.0%} to {high:.0%}"
    text += f", AUC {auc:.2f})" if math.isfinite(auc) else ")"
    if (share >= min_explained and share > 5 * float(tells.explained_error[i])) or auc_low >= min_auc:
        remedy = f"Drop {name} (list it under `ids`) and retrain; find out why rows of one class were numbered together."
        return this.finding(
            Severity.WARN,
            f"{text}: it tells where or when a row was collected.",
            subject=name,
            numbers=numbers,
            remedy=remedy,
            evidence=tells,
        )
    remedy = f"List {name} under `ids`: a network can only memorise it."
    return this.finding(Severity.NOTE, f"{text}.", subject=name, numbers=numbers, remedy=remedy, evidence=tells)


@check("leakage.after_label", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.metadata"), cost=_cost)
def features_are_known_before_the_label(train: Records, *, min_share: float = 0.01, limit: int = 10) -> Iterator[Finding]:
    """No feature holds a time later than the one at which the label became known.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 3 (no time travel); Wilson (1927),
    JASA 22:209 for the interval.

    Args:
        train: records with features, and with `schema.label_time` among the metadata.
        min_share: share of rows from which it counts.
        limit: most columns reported one by one.
    """
    this = features_are_known_before_the_label
    column = train.schema.label_time
    if column is None or train.metadata is None or column not in train.metadata or not isinstance(train.features, pd.DataFrame):
        lacks = ["schema.label_time"]
        yield this.finding(
            Severity.SKIPPED,
            "Skipped: needs schema.label_time and a table of features.",
            numbers={"lacks": lacks},
            remedy="Declare `label_time`.",
        )
        return
    late = after_label(train.features, train.metadata[column])
    found = [entry for entry in late if entry.low >= min_share]
    for entry in found[:limit]:
        yield _late_finding(entry, column)
    if not found:
        text = f"None of {len(late)} columns of times lies after {column}."
        yield this.finding(Severity.OK, text, numbers={"columns": len(late)}, evidence=late[0] if late else None)


def _late_finding(entry: AfterLabel, column: str) -> Finding:
    numbers = {
        "late": entry.late,
        "rows": entry.rows,
        "share": entry.share,
        "low": entry.low,
        "high": entry.high,
        "first_rows": list(entry.first_rows),
    }
    text = (
        f"{entry.column} is later than {column} in {entry.late:,} of {entry.rows:,} rows ({entry.share:.1%}, 95 % interval "
        f"{entry.low:.1%} to {entry.high:.1%}), first in row {entry.first_rows[0]}."
    )
    remedy = f"Drop {entry.column} and all that is computed from it, or rebuild it as it stood when the model is asked; then retrain."
    severity = Severity.FAIL if entry.share >= FAIL_AFTER else Severity.WARN
    return features_are_known_before_the_label.finding(severity, text, subject=entry.column, numbers=numbers, remedy=remedy, evidence=entry)


@check("leakage.missing", cause=Cause.TARGET_LEAKAGE, needs=("train.features", "train.targets"), cost=_cost)
def gaps_do_not_tell_the_target(
    train: Records, *, min_share: float = 0.95, max_pearson: float = 0.8, alpha: float = 1e-6, limit: int = 10
) -> Iterator[Finding]:
    """Whether a value is missing does not give the target away.

    A field that is filled in only after the outcome is empty, or filled, for one class alone.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209 for the interval;
    exact binomial tails with Holm's correction (1979).

    Args:
        train: records with features and targets.
        min_share: share of one class among the missing (or the present) from which its lower bound counts as all of them.
        max_pearson: correlation of being missing with the target from which it counts, whatever the shares.
        alpha: chance of any such finding by accident, over all columns.
        limit: most columns reported one by one.
    """
    this = gaps_do_not_tell_the_target
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if targets.ndim != 1 or too_few(targets):
        yield this.finding(Severity.NOTE, f"Not judged: {too_few(targets) or 'several labels per row'}.", numbers={"n": len(targets)})
        return
    gaps = telling_gaps(_missing(features), targets, names=_names(features))
    places = [i for i in gaps.telling(min_share, max_pearson, alpha) if gaps.names[i] not in train.schema.causal]
    for i in places[:limit]:
        yield _gap_finding(train, gaps, i)
    if not places:
        some = int((gaps.missing > 0).sum())
        numbers = {
            "columns": len(gaps.names),
            "with_gaps": some,
            "largest_correlation": float(gaps.correlation.abs().nan_to_num(0.0).max()),
        }
        text = f"No gap tells the target: {some} of {len(gaps.names)} columns have missing values"
        text += f", largest correlation with the target {numbers['largest_correlation']:.2f}." if some else "."
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=gaps if some else None)


def _gap_finding(train: Records, gaps: Gaps, i: int) -> Finding:
    name, side = gaps.names[i], "missing" if gaps.where_missing[i] else "present"
    share, base, r, rows = float(gaps.purity[i]), float(gaps.base[i]), float(gaps.correlation[i]), int(gaps.rows[i])
    low, high = (float(bound[i]) for bound in gaps.interval())
    place = int(gaps.classes[i])
    label = f"of class {train.schema.classes[place] if place < len(train.schema.classes) else place}"
    numbers = {"missing": int(gaps.missing[i]), "n": gaps.n, "side": side, "share": share, "low": low, "high": high, "rows": rows}
    numbers |= {"class": place, "overall": base, "correlation": r, "p_holm": float(gaps.p_adjusted[i])}
    text = (
        f"Where {name} is {side} ({rows:,} of {gaps.n:,} rows), {share:.1%} are {label} (95 % interval {low:.1%} to {high:.1%}), "
        f"against {base:.1%} overall; correlation of being missing with the target {r:+.2f}."
    )
    remedy = (
        f"Find out who fills in {name} and when: if it is written after the outcome, drop it together with its missing flag, and retrain."
    )
    severity = Severity.FAIL if abs(r) >= FAIL_GAP else Severity.WARN
    return gaps_do_not_tell_the_target.finding(severity, text, subject=name, numbers=numbers, remedy=remedy, evidence=gaps)


def _names(features: pd.DataFrame | Tensor) -> tuple[str, ...]:
    if isinstance(features, Tensor):
        return tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
    return tuple(map(str, features.columns))


def _missing(features: pd.DataFrame | Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features.detach().reshape(len(features), -1).isnan()
    return torch.from_numpy(features.isna().to_numpy(dtype=bool, copy=True))
