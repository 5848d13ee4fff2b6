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
from gendebug_torch.leakage.columns.association import too_few
from gendebug_torch.leakage.columns.missing_values import Gaps, telling_gaps

FAIL_GAP = 0.8


@check(
    "leakage.missing",
    cause=Cause.TARGET_LEAKAGE,
    needs=("train.features", "train.targets"),
    cost=_cost,
)
def gaps_do_not_tell_the_target(
    train: Records,
    *,
    min_share: float = 0.95,
    max_pearson: float = 0.8,
    alpha: float = 1e-6,
    limit: int = 10,
) -> Iterator[Finding]:
    """Whether a value is missing does not give the target away.

    A field that is filled in only after the outcome is empty, or filled, for one class alone.

    Source: Kaufman, Rosset, Perlich and Stitelman (2012), ACM TKDD 6:15; Wilson (1927), JASA 22:209
    for the interval; exact binomial tails with Holm's correction (1979).

    Args:
        train: records with features and targets.
        min_share: share of one class among the missing (or the present) from which its lower bound
            counts as all of them.
        max_pearson: correlation of being missing with the target from which it counts, whatever the
            shares.
        alpha: chance of any such finding by accident, over all columns.
        limit: most columns reported one by one.
    """
    this = gaps_do_not_tell_the_target
    features, targets = train.features, train.targets
    assert features is not None
    assert targets is not None
    if targets.ndim != 1 or too_few(targets):
        yield this.finding(
            Severity.NOTE,
            f"Not judged: {too_few(targets) or 'several labels per row'}.",
            numbers={"n": len(targets)},
        )
        return
    gaps = telling_gaps(_missing(features), targets, names=_names(features))
    places = [
        i
        for i in gaps.telling(min_share, max_pearson, alpha)
        if gaps.names[i] not in train.schema.causal
    ]
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
        text += (
            f", largest correlation with the target {numbers['largest_correlation']:.2f}."
            if some
            else "."
        )
        yield this.finding(Severity.OK, text, numbers=numbers, evidence=gaps if some else None)


def _gap_finding(train: Records, gaps: Gaps, i: int) -> Finding:
    name, side = gaps.names[i], "missing" if gaps.where_missing[i] else "present"
    share, base, r, rows = (
        float(gaps.purity[i]),
        float(gaps.base[i]),
        float(gaps.correlation[i]),
        int(gaps.rows[i]),
    )
    low, high = (float(bound[i]) for bound in gaps.interval())
    place = int(gaps.classes[i])
    label = (
        f"of class {train.schema.classes[place] if place < len(train.schema.classes) else place}"
    )
    numbers = {
        "missing": int(gaps.missing[i]),
        "n": gaps.n,
        "side": side,
        "share": share,
        "low": low,
        "high": high,
        "rows": rows,
    }
    numbers |= {
        "class": place,
        "overall": base,
        "correlation": r,
        "p_holm": float(gaps.p_adjusted[i]),
    }
    text = (
        f"Where {name} is {side} ({rows:,} of {gaps.n:,} rows), {share:.1%} are {label} (95 % "
        f"interval {low:.1%} to {high:.1%}), "
        f"against {base:.1%} overall; correlation of being missing with the target {r:+.2f}."
    )
    remedy = (
        f"Find out who fills in {name} and when: if it is written after the outcome, drop it "
        "together with its missing flag, and retrain."
    )
    severity = Severity.FAIL if abs(r) >= FAIL_GAP else Severity.WARN
    return gaps_do_not_tell_the_target.finding(
        severity, text, subject=name, numbers=numbers, remedy=remedy, evidence=gaps
    )


def _names(features: pd.DataFrame | Tensor) -> tuple[str, ...]:
    if isinstance(features, Tensor):
        return tuple(f"feature_{i}" for i in range(math.prod(features.shape[1:])))
    return tuple(map(str, features.columns))


def _missing(features: pd.DataFrame | Tensor) -> Tensor:
    if isinstance(features, Tensor):
        return features.detach().reshape(len(features), -1).isnan()
    return torch.from_numpy(features.isna().to_numpy(dtype=bool, copy=True))
