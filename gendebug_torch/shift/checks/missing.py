"""`shift.missing`: shares of missing values, column by column."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.checks.finding import TO_REPAIR, Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._columns import COLUMN_PAIR, ColumnPair, no_reference, severity_of
from gendebug_torch.shift.checks._costs import columns_cost
from gendebug_torch.shift.two_sample.missing import MissingShift


@check(
    "shift.missing",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.features",),
    cost=columns_cost,
    derived=(COLUMN_PAIR,),
)
def values_are_missing_as_often(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    column_pair: ColumnPair | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.05,
    limit: int = 20,
) -> Iterator[Finding]:
    """Values of each feature are missing as often in production as in validation (or training).

    Where the schema names a time column, tests use the effective sample size.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87 and the pooled z-test; Newcombe (1998), Stat. Med.
    17:873 for the interval; Sokal (1997) for rows that depend on each other; Holm (1979) over the
    columns.

    Args:
        production: records with features.
        validation: reference, if it has features.
        train: reference otherwise.
        column_pair: columns of both, derived.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest change of the share of missing values that matters.
        limit: most columns reported one by one, largest change first.
    """
    if column_pair is None:
        yield no_reference(values_are_missing_as_often)
        return
    test = column_pair.missing(alpha)
    changed = (test.adjusted < alpha) & (test.difference.abs() >= min_effect)
    columns = changed.nonzero().flatten().tolist()
    for column in sorted(columns, key=lambda i: -abs(float(test.difference[i])))[:limit]:
        yield _column_finding(test, column)
    if not columns:
        yield _clean_finding(test, min_effect)


def _column_finding(test: MissingShift, column: int) -> Finding:
    name, change = test.names[column], float(test.difference[column])
    low, high = (float(bound[column]) for bound in test.interval())
    before, after = (float(rates[column]) for rates in test.rates)
    numbers = {
        "reference": before,
        "production": after,
        "difference": change,
        "p_holm": float(test.adjusted[column]),
        "low": low,
        "high": high,
        "effect_h": float(test.effect[column]),
        TO_REPAIR: True,
        "n": test.n,
        "m": test.m,
    }
    summary = (
        f"The share of missing values of {name} went from {before:.1%} to {after:.1%} "
        f"({change:+.1%}, 95 % interval {low:+.1%} to {high:+.1%})."
    )
    action = (
        "Find the source that stopped delivering it"
        if change > 0
        else "Find what fills it in production but did not in training"
    )
    return values_are_missing_as_often.finding(
        severity_of(abs(change)),
        summary,
        subject=name,
        numbers=numbers,
        remedy=f"{action}, and impute {name} in training as in production.",
        evidence=test,
    )


def _clean_finding(test: MissingShift, min_effect: float) -> Finding:
    this, d = values_are_missing_as_often, len(test.names)
    largest = float(test.difference.abs().max()) if d else 0.0
    numbers = {"features": d, "largest": largest, "n": test.n, "m": test.m}
    if not test.n or not test.m:
        text = f"No rows to compare: {test.n} against {test.m}."
        return this.finding(Severity.NOTE, text, numbers=numbers)
    text = (
        f"None of {d} columns changed its share of missing values by {min_effect:.0%} or more; "
        f"the largest change is {largest:.1%}."
    )
    return this.finding(Severity.OK, text, numbers=numbers, evidence=test)
