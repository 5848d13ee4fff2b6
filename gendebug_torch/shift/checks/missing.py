"""Checks of what quantities do not show: missing values and levels of categories; and what checks of columns share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._levels import columns_cost, missing_findings, nothing_to_compare
from gendebug_torch.shift.columns.shared_columns import (
    every_column,
    gaps,
    shared_columns,
    times_between,
)
from gendebug_torch.shift.two_sample.categories import (
    missing_shift,
)


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
