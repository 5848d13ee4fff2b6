"""Checks of what quantities do not show: missing values and levels of categories; and what checks of columns share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Cost, check
from gendebug_torch.shift.categories import CategoryShift, MissingShift, category_shift, level_indicators, missing_shift, unseen_excess
from gendebug_torch.shift.checks_kinds import CAUSES, FAIL_EFFECT, kinds_between, p_text
from gendebug_torch.shift.columns import SharedColumns, codes, every_column, gaps, level_values, shared_columns, times_between
from gendebug_torch.shift.dependence import MOST_TIMED
from gendebug_torch.shift.kinds import ChangeKinds
from gendebug_torch.stats import holm_adjusted


def columns_cost(given: Mapping[str, Any]) -> Cost:
    """Of a check that looks at every value of both sides."""
    sizes = [_cells(given.get(name)) for name in ("validation", "train")]
    return Cost(elements=20.0 * ((sizes[0] or sizes[1]) + _cells(given.get("production"))))


def _cells(records: Records | None) -> float:
    if records is None or records.features is None:
        return 0.0
    shape = records.features.shape
    return float(math.prod(shape))


def nothing_to_compare(self_check: Any) -> Finding:
    """A check without a reference."""
    remedy = "Pass validation or train with features."
    found: Finding = self_check.finding(
        Severity.SKIPPED, "Skipped: needs validation.features or train.features.", numbers={"lacks": ["validation.features"]}, remedy=remedy
    )
    return found


def lost(self_check: Any, names: tuple[str, str], absent: Sequence[str], textual: Sequence[str] = ()) -> Iterator[Finding]:
    """A failure per column that production lacks, or holds as text where the reference has numbers."""
    for name, problem in [(n, "absent") for n in absent] + [(n, "no longer numeric") for n in textual]:
        yield self_check.finding(
            Severity.FAIL,
            f"The column {name} of {names[0]} is {problem} in {names[1]}.",
            cause=Cause.TRAIN_SERVE_SKEW,
            subject=name,
            numbers={"absent": problem == "absent"},
            remedy=f"Deliver {name} in production as it was in training, or retrain without it.",
        )


def by_kind(finding: Finding, kinds: ChangeKinds | None) -> Finding:
    """The finding about one column under the cause that its move is taken for; one that follows the classes is a note."""
    change = None if kinds is None else kinds.of(finding.subject)
    if change is None:
        return finding
    if change.kind == "classes":
        summary = f"{finding.summary[:-1]}; within the classes it kept its distribution."
        return replace(finding, severity=Severity.NOTE, cause=Cause.LABEL_SHIFT, summary=summary)
    return replace(finding, cause=CAUSES[change.kind])


@check("shift.missing", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=columns_cost)
def values_are_missing_as_often(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.05,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each feature misses as many values in production as in validation (or in training, without validation).

    Where the schema names a time column, rows count as the independent ones that they are worth.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87 and the pooled z-test; Newcombe (1998), Stat. Med. 17:873 for the
    interval; Sokal (1997) for rows that depend on each other; Holm (1979) over the columns.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest change of the share of missing values that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = values_are_missing_as_often
    if (pair := shared_columns(production, validation, train, every_column)) is None:
        yield nothing_to_compare(this)
        return
    before, after = (gaps(side, pair.names) for side in (pair.reference, pair.production))
    test = missing_shift(before, after, names=pair.names)
    significant = (test.adjusted < alpha).nonzero().flatten()
    times = times_between(pair.reference, pair.production, before.double(), after.double(), significant)
    test = replace(test, times=torch.stack(times))
    yield from missing_findings(test, alpha=alpha, min_effect=min_effect, limit=limit)


def missing_findings(test: MissingShift, *, alpha: float, min_effect: float, limit: int) -> Iterator[Finding]:
    """What counts of missing values say; options as those of the check."""
    this = values_are_missing_as_often
    low, high = test.interval()
    before, after = test.rates
    found = ((test.adjusted < alpha) & (test.difference.abs() >= min_effect)).nonzero().flatten().tolist()
    for i in sorted(found, key=lambda i: -abs(float(test.difference[i])))[:limit]:
        name, change = test.names[i], float(test.difference[i])
        numbers = {"reference": float(before[i]), "production": float(after[i]), "difference": change, "p_holm": float(test.adjusted[i])}
        numbers |= {"low": float(low[i]), "high": float(high[i]), "effect_h": float(test.effect[i]), "n": test.n, "m": test.m}
        bounds = f"95 % interval {float(low[i]):+.1%} to {float(high[i]):+.1%}"
        summary = f"Missing values of {name} went from {float(before[i]):.1%} to {float(after[i]):.1%} ({change:+.1%}, {bounds})."
        gone = "Find the source that stopped delivering it" if change > 0 else "Find what fills it in production but did not in training"
        severity = Severity.FAIL if abs(change) >= FAIL_EFFECT else Severity.WARN
        remedy = f"{gone}; impute {name} in training as in production."
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=test)
    if not found:
        d = len(test.names)
        largest = float(test.difference.abs().max()) if d else 0.0
        numbers = {"features": d, "largest": largest, "n": test.n, "m": test.m}
        text = f"None of {d} columns changed its share of missing values by {min_effect:.0%} or more; the largest change is {largest:.1%}."
        if not test.n or not test.m:
            yield this.finding(Severity.NOTE, f"No rows to compare: {test.n} against {test.m}.", numbers=numbers)
        else:
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=test)


@check("shift.categories", cause=Cause.COVARIATE_SHIFT, needs=("production.features",), cost=columns_cost)
def categories_keep_their_shares(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_unseen: float = 0.01,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each categorical feature has the levels, in the shares, that validation (or training) has.

    Unseen levels count beyond what a fresh sample of the same source would bring.

    Source: Pearson (1900), Philos. Mag. 50:157 with rare levels pooled (Cochran, 1954); Bergsma (2013), J. Korean
    Stat. Soc. 42:323 for V; Good (1953), Biometrika 40:237 for unseen levels; Rao and Scott (1981), J. Am. Stat. Assoc.
    76:221 for rows in time; Holm (1979) over the columns.

    Args:
        production: records with features.
        validation: the reference, if it has features.
        train: the reference otherwise.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest total variation distance, less what sampling alone gives, that matters.
        min_unseen: smallest share of rows with unseen levels that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = categories_keep_their_shares
    if (pair := shared_columns(production, validation, train, codes)) is None:
        yield nothing_to_compare(this)
        return
    yield from lost(this, (pair.reference.name, pair.production.name), pair.absent)
    tests = [category_shift(level_values(pair.reference, n), level_values(pair.production, n), name=n) for n in pair.names]
    yield from category_findings(
        [_in_time(test, pair) if test.p_value < alpha or test.unseen[0] else test for test in tests],
        (len(pair.reference), len(production)),
        lambda: kinds_between(production, validation, train),
        alpha=alpha,
        min_effect=min_effect,
        min_unseen=min_unseen,
        limit=limit,
    )


def _in_time(test: CategoryShift, pair: SharedColumns) -> CategoryShift:
    """The test with its rows counted as what they are worth, by the longest time of its commonest levels."""
    common = (test.reference + test.live).argsort(descending=True, stable=True)[:MOST_TIMED].tolist()
    levels = [test.levels[place] for place in common]
    before, after = (level_indicators(level_values(side, test.name), levels) for side in (pair.reference, pair.production))
    times = times_between(pair.reference, pair.production, before, after, torch.arange(len(levels)))
    return replace(test, times=(float(times[0].amax()), float(times[1].amax())))


def category_findings(
    tests: Sequence[CategoryShift],
    rows: tuple[int, int],
    kinds: Callable[[], ChangeKinds | None],
    *,
    alpha: float,
    min_effect: float,
    min_unseen: float,
    limit: int,
) -> Iterator[Finding]:
    """What level counts of several columns say; options as those of the check. `kinds` is asked only where one moved."""
    adjusted = holm_adjusted(torch.tensor([test.p_value for test in tests], dtype=torch.float64)).tolist()
    level = 1.0 - alpha / max(len(tests), 1)
    found = []
    for test, p in zip(tests, adjusted, strict=True):
        new = test.unseen[1] >= min_unseen and unseen_excess(test, level=level) > 0.0
        if new or (p < alpha and test.effect >= min_effect):
            found.append((test, p, new))
    table = kinds() if found else None
    for test, p, new in sorted(found, key=lambda entry: -entry[0].effect)[:limit]:
        yield _category_finding(test, p, new) if new else by_kind(_category_finding(test, p, new), table)
    if not found:
        numbers = {"columns": len(tests), "n": rows[0], "m": rows[1]}
        empty = not tests or not min(numbers["n"], numbers["m"])
        text = "No categorical features to compare." if empty else f"None of {len(tests)} categorical features changed its levels."
        yield categories_keep_their_shares.finding(Severity.NOTE if empty else Severity.OK, text, numbers=numbers)


def _category_finding(test: CategoryShift, p: float, new: bool) -> Finding:
    count, share = test.unseen
    numbers = {"distance": test.distance, "effect": test.effect, "cramers_v": test.cramers_v, "p_holm": p, "n": test.n, "m": test.m}
    numbers |= {"unseen_rows": count, "unseen_share": share, "expected_unseen": test.expected_unseen, "levels": len(test.levels)}
    text = f"{test.name} changed its levels: distance {test.distance:.2f}, Cramér's V {test.cramers_v:.2f} (Holm {p_text(p)})"
    remedy = f"Compare how {test.name} is filled in production and in training; if the change is lasting, retrain on recent rows."
    if new:
        text += f"; {share:.1%} of production rows have levels never seen before ({test.expected_unseen:.1%} expected)"
        remedy = f"Decide what unseen levels of {test.name} become: a level `other` trained on rare ones, or a model without {test.name}."
    severity = Severity.FAIL if max(test.effect, share if new else 0.0) >= FAIL_EFFECT else Severity.WARN
    return categories_keep_their_shares.finding(
        severity, f"{text}.", subject=test.name, numbers=numbers, remedy=remedy, evidence=test
    )
