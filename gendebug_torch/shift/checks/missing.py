"""Checks of what quantities do not show: missing values and levels of categories; and what checks
of columns share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import FAIL_EFFECT
from gendebug_torch.shift.checks._levels import columns_cost, nothing_to_compare
from gendebug_torch.shift.columns.shared_columns import (
    all_feature_names,
    autocorrelation_times,
    missing_mask,
    shared_columns,
)
from gendebug_torch.shift.two_sample.missing import MissingShift, missing_shift


@check(
    "shift.missing", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=columns_cost
)
def values_are_missing_as_often(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.05,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each feature misses as many values in production as in validation (or in training, without
    validation).

    Where the schema names a time column, rows count as the independent ones that they are worth.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87 and the pooled z-test; Newcombe (1998), Stat. Med.
    17:873 for the interval; Sokal (1997) for rows that depend on each other; Holm (1979) over the
    columns.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest change of the share of missing values that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = values_are_missing_as_often
    if (pair := shared_columns(production, validation, train, all_feature_names)) is None:
        yield nothing_to_compare(this)
        return
    before, after = (missing_mask(side, pair.names) for side in (pair.reference, pair.production))
    test = missing_shift(before, after, names=pair.names)
    significant = (test.adjusted < alpha).nonzero().flatten()
    times = autocorrelation_times(
        pair.reference, pair.production, before.double(), after.double(), significant
    )
    test = replace(test, times=torch.stack(times))
    yield from missing_findings(test, alpha=alpha, min_effect=min_effect, limit=limit)


def missing_findings(
    test: MissingShift, *, alpha: float, min_effect: float, limit: int
) -> Iterator[Finding]:
    """What counts of missing values say; options as those of the check."""
    this = values_are_missing_as_often
    low, high = test.interval()
    before, after = test.rates
    found = (
        ((test.adjusted < alpha) & (test.difference.abs() >= min_effect))
        .nonzero()
        .flatten()
        .tolist()
    )
    for i in sorted(found, key=lambda i: -abs(float(test.difference[i])))[:limit]:
        name, change = test.names[i], float(test.difference[i])
        numbers = {
            "reference": float(before[i]),
            "production": float(after[i]),
            "difference": change,
            "p_holm": float(test.adjusted[i]),
        }
        numbers |= {
            "low": float(low[i]),
            "high": float(high[i]),
            "effect_h": float(test.effect[i]),
            "n": test.n,
            "m": test.m,
        }
        bounds = f"95 % interval {float(low[i]):+.1%} to {float(high[i]):+.1%}"
        summary = (
            f"Missing values of {name} went from {float(before[i]):.1%} to "
            f"{float(after[i]):.1%} ({change:+.1%}, {bounds})."
        )
        gone = (
            "Find the source that stopped delivering it"
            if change > 0
            else "Find what fills it in production but did not in training"
        )
        severity = Severity.FAIL if abs(change) >= FAIL_EFFECT else Severity.WARN
        remedy = f"{gone}; impute {name} in training as in production."
        yield this.finding(
            severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=test
        )
    if not found:
        d = len(test.names)
        largest = float(test.difference.abs().max()) if d else 0.0
        numbers = {"features": d, "largest": largest, "n": test.n, "m": test.m}
        text = (
            f"None of {d} columns changed its share of missing values by {min_effect:.0%} or "
            f"more; the largest change is {largest:.1%}."
        )
        if not test.n or not test.m:
            yield this.finding(
                Severity.NOTE, f"No rows to compare: {test.n} against {test.m}.", numbers=numbers
            )
        else:
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=test)
