"""Checks of what quantities do not show: missing values and levels of categories; and what checks
of columns share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import FAIL_EFFECT, kinds_between, p_text
from gendebug_torch.shift.checks._levels import (
    by_kind,
    columns_cost,
    lost,
    nothing_to_compare,
)
from gendebug_torch.shift.columns.shared_columns import (
    SharedColumns,
    autocorrelation_times,
    category_names,
    column_values,
    shared_columns,
)
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.categories import (
    CategoryShift,
    category_shift,
    level_indicators,
    unseen_excess,
)
from gendebug_torch.stats.effective_sample_size import MAX_LEVELS
from gendebug_torch.stats.multiple_testing import holm_adjusted


@check(
    "shift.categories",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.features",),
    cost=columns_cost,
)
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

    Source: Pearson (1900), Philos. Mag. 50:157 with rare levels pooled (Cochran, 1954); Bergsma
    (2013), J. Korean Stat. Soc. 42:323 for V; Good (1953), Biometrika 40:237 for unseen levels; Rao
    and Scott (1981), J. Am. Stat. Assoc. 76:221 for rows in time; Holm (1979) over the columns.

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
    if (pair := shared_columns(production, validation, train, category_names)) is None:
        yield nothing_to_compare(this)
        return
    yield from lost(this, (pair.reference.name, pair.production.name), pair.absent)
    tests = [
        category_shift(column_values(pair.reference, n), column_values(pair.production, n), name=n)
        for n in pair.names
    ]
    yield from category_findings(
        [
            _in_time(test, pair) if test.p_value < alpha or test.unseen[0] else test
            for test in tests
        ],
        (len(pair.reference), len(production)),
        lambda: kinds_between(production, validation, train),
        alpha=alpha,
        min_effect=min_effect,
        min_unseen=min_unseen,
        limit=limit,
    )


def _in_time(test: CategoryShift, pair: SharedColumns) -> CategoryShift:
    """The test with its rows counted as what they are worth, by the longest time of its commonest
    levels.
    """
    common = (
        (test.reference + test.live).argsort(descending=True, stable=True)[:MAX_LEVELS].tolist()
    )
    levels = [test.levels[place] for place in common]
    before, after = (
        level_indicators(column_values(side, test.name), levels)
        for side in (pair.reference, pair.production)
    )
    times = autocorrelation_times(
        pair.reference, pair.production, before, after, torch.arange(len(levels))
    )
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
    """What level counts of several columns say; options as those of the check. `kinds` is asked
    only where one moved.
    """
    adjusted = holm_adjusted(
        torch.tensor([test.p_value for test in tests], dtype=torch.float64)
    ).tolist()
    level = 1.0 - alpha / max(len(tests), 1)
    found = []
    for test, p in zip(tests, adjusted, strict=True):
        new = test.unseen[1] >= min_unseen and unseen_excess(test, level=level) > 0.0
        if new or (p < alpha and test.effect >= min_effect):
            found.append((test, p, new))
    table = kinds() if found else None
    for test, p, new in sorted(found, key=lambda entry: -entry[0].effect)[:limit]:
        yield (
            _category_finding(test, p, new)
            if new
            else by_kind(_category_finding(test, p, new), table)
        )
    if not found:
        numbers = {"columns": len(tests), "n": rows[0], "m": rows[1]}
        empty = not tests or not min(numbers["n"], numbers["m"])
        text = (
            "No categorical features to compare."
            if empty
            else f"None of {len(tests)} categorical features changed its levels."
        )
        yield categories_keep_their_shares.finding(
            Severity.NOTE if empty else Severity.OK, text, numbers=numbers
        )


def _category_finding(test: CategoryShift, p: float, new: bool) -> Finding:
    count, share = test.unseen
    numbers = {
        "distance": test.distance,
        "effect": test.effect,
        "cramers_v": test.cramers_v,
        "p_holm": p,
        "n": test.n,
        "m": test.m,
    }
    numbers |= {
        "unseen_rows": count,
        "unseen_share": share,
        "expected_unseen": test.expected_unseen,
        "levels": len(test.levels),
    }
    text = (
        f"{test.name} changed its levels: distance {test.distance:.2f}, Cramér's V "
        f"{test.cramers_v:.2f} (Holm {p_text(p)})"
    )
    remedy = (
        f"Compare how {test.name} is filled in production and in training; if the change is "
        "lasting, retrain on recent rows."
    )
    if new:
        text += (
            f"; {share:.1%} of production rows have levels never seen before "
            f"({test.expected_unseen:.1%} expected)"
        )
        remedy = (
            f"Decide what unseen levels of {test.name} become: a level `other` trained on "
            f"rare ones, or a model without {test.name}."
        )
    severity = (
        Severity.FAIL if max(test.effect, share if new else 0.0) >= FAIL_EFFECT else Severity.WARN
    )
    return categories_keep_their_shares.finding(
        severity, f"{text}.", subject=test.name, numbers=numbers, remedy=remedy, evidence=test
    )
