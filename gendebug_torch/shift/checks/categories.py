"""Checks of what quantities do not show: missing values and levels of categories; and what checks of columns share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import kinds_between
from gendebug_torch.shift.checks._levels import category_findings, columns_cost, lost, nothing_to_compare
from gendebug_torch.shift.columns.shared_columns import (
    SharedColumns,
    codes,
    level_values,
    shared_columns,
    times_between,
)
from gendebug_torch.shift.two_sample.categories import (
    CategoryShift,
    category_shift,
    level_indicators,
)
from gendebug_torch.stats.effective_sample_size import MOST_TIMED


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
