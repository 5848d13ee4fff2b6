"""The check of columns that tell the target in training and no longer in production."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._suspects import screen_cost, suspects_of
from gendebug_torch.leakage.columns.association import Association, association, too_few
from gendebug_torch.leakage.splits.row_hashes import Features

_NEEDS = ("train.features", "train.targets", "production.features", "production.targets")


@check("leakage.vanishing", cause=Cause.TARGET_LEAKAGE, needs=_NEEDS, cost=screen_cost)
def telling_columns_tell_in_production(
    train: Records,
    production: Records,
    *,
    max_pearson: float = 0.8,
    max_auc: float = 0.95,
    min_kept: float = 0.5,
    limit: int = 10,
) -> Iterator[Finding]:
    """A column that tells the target alone in training tells it in production as well.

    What is written with the outcome is not there yet when the model is asked: the column is empty,
    zero or a default, and what it told is gone. That sets a leak apart from a strong cause, which
    keeps telling.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15, section 3; Pearson (1905)
    and Goodman and Kruskal (1954), JASA 49:732, for the explained share.

    Args:
        train: records with features and targets.
        production: records with features and targets.
        max_pearson: correlation in training from which a column is looked at.
        max_auc: AUC in training from which a column is looked at.
        min_kept: share of what it explained that it must still explain.
        limit: most columns reported one by one.
    """
    this = telling_columns_tell_in_production
    assert train.features is not None
    assert train.targets is not None
    assert production.features is not None
    assert production.targets is not None
    if train.targets.ndim != 1 or production.targets.ndim != 1:
        yield this.finding(
            Severity.NOTE, "Not judged: several labels per row; pass one label at a time."
        )
        return
    if reason := too_few(train.targets) or too_few(production.targets):
        yield this.finding(
            Severity.NOTE, f"Not judged: {reason}.", numbers={"n": len(train), "m": len(production)}
        )
        return
    found = association(train.features, train.targets, categorical=train.schema.categorical)
    suspects = [
        s
        for s in suspects_of(train, found, max_pearson, max_auc)
        if s.column not in train.schema.causal
    ]
    chosen = _columns(production.features, [s.column for s in suspects])
    if chosen is None:
        text = (
            f"None of {len(found.names)} columns tells the target alone in {train.name}, so "
            "that none can stop to."
        )
        yield this.finding(Severity.OK, text, numbers={"columns": len(found.names)}, evidence=found)
        return
    after = association(chosen, production.targets, categorical=train.schema.categorical)
    by_name = {s.column: s for s in suspects}
    lost = [
        i
        for i, name in enumerate(after.names)
        if float(_most(after)[i]) < min_kept * by_name[name].alone
    ]
    for i in lost[:limit]:
        yield _vanished(train, production, found, after, i, by_name[after.names[i]].alone)
    if not lost:
        text = (
            f"Of {len(after.names)} columns that tell the target alone in {train.name}, all do "
            f"in {production.name}."
        )
        yield this.finding(Severity.OK, text, numbers={"columns": len(after.names)}, evidence=after)


def _most(found: Association) -> torch.Tensor:
    """`[d]` the most that each column may explain: the larger measure, and two standard errors."""
    alone = torch.maximum(
        torch.maximum(found.explained, found.best_explained), found.pearson.square().nan_to_num(0.0)
    )
    return alone.nan_to_num(0.0) + 2 * found.explained_error.nan_to_num(0.0)


def _columns(features: Features, names: list[str]) -> pd.DataFrame | None:
    """The named columns that are there, as a table; None without any."""
    if isinstance(features, pd.DataFrame):
        kept = features[[c for c in features.columns if str(c) in names]]
    else:
        flat = features.detach().reshape(len(features), -1)
        places = {name: int(name.removeprefix("feature_")) for name in names}
        kept = pd.DataFrame(
            {
                name: flat[:, place].double().cpu().numpy()
                for name, place in places.items()
                if place < flat.shape[1]
            }
        )
    return kept if kept.shape[1] else None


def _vanished(
    train: Records,
    production: Records,
    found: Association,
    after: Association,
    i: int,
    alone: float,
) -> Finding:
    name = after.names[i]
    place = found.names.index(name)
    (low, high), (low_after, high_after) = found.interval("explained"), after.interval("explained")
    numbers = {
        "explained": float(found.explained[place]),
        "low": float(low[place]),
        "high": float(high[place]),
        "n": found.n,
    }
    numbers |= {
        "explained_production": float(after.explained[i]),
        "low_production": float(low_after[i]),
        "m": after.n,
    }
    numbers |= {"high_production": float(high_after[i])}
    known = f"95 % interval {numbers['low']:.0%} to {numbers['high']:.0%}"
    text = (
        f"{name} explains {numbers['explained']:.0%} of the target in {train.name} ({known}) and "
        f"{max(numbers['explained_production'], 0.0):.0%} in {production.name}: it is not there, "
        "or not yet, when the model is asked."
    )
    remedy = (
        f"Drop {name} from the features and retrain, or deliver it in production as it was "
        "in training."
    )
    severity = Severity.FAIL if float(_most(after)[i]) < alone / 4 else Severity.WARN
    return telling_columns_tell_in_production.finding(
        severity, text, subject=name, numbers=numbers, remedy=remedy, evidence=after
    )
