"""`shift.categories`: shares of the levels of each categorical feature."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.inputs.written_quantities import written_units
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, kinds_in_time, with_cause
from gendebug_torch.shift.checks._columns import (
    COLUMN_PAIR,
    Categories,
    ColumnPair,
    excluded_finding,
    lost_columns,
    no_reference,
    severity_of,
)
from gendebug_torch.shift.checks._costs import columns_cost
from gendebug_torch.shift.columns.exclusions import level_reason
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.categories import CategoryShift, unseen_excess
from gendebug_torch.stats.intervals import p_value_text
from gendebug_torch.stats.multiple_testing import holm_adjusted

# Rows per level below which levels may be identifiers.
_ROWS_PER_LEVEL = 5


@check(
    "shift.categories",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.features",),
    cost=columns_cost,
    derived=(COLUMN_PAIR,),
    deferred=(CHANGE_KINDS,),
)
def categories_keep_their_shares(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    column_pair: ColumnPair | None = None,
    change_kinds: Deferred[ChangeKinds | None] = NOTHING,
    *,
    alpha: float = 0.002,
    min_effect: float = 0.1,
    min_unseen: float = 0.01,
    limit: int = 20,
) -> Iterator[Finding]:
    """Each categorical feature has the same levels, in the same shares, as in validation.

    Training is the reference without validation. Unseen levels count beyond what a fresh sample of
    the same source would bring. Where the schema names a time column, tests use the effective
    sample size. Dates, versions and identifiers change by themselves; they are noted and not
    compared.

    Source: Pearson (1900), Philos. Mag. 50:157 with rare levels pooled (Cochran, 1954); Bergsma
    (2013), J. Korean Stat. Soc. 42:323 for V; Good (1953), Biometrika 40:237 for unseen levels; Rao
    and Scott (1981), J. Am. Stat. Assoc. 76:221 for rows in time; Holm (1979) over the columns.

    Args:
        production: records with features.
        validation: reference, if it has features.
        train: reference otherwise.
        column_pair: columns of both, derived.
        change_kinds: kinds of change, derived; used where a column changed.
        alpha: chance of any false alarm over all columns.
        min_effect: smallest total variation distance, less what sampling alone gives, that matters.
        min_unseen: smallest share of rows with unseen levels that matters.
        limit: most columns reported one by one, largest change first.
    """
    this = categories_keep_their_shares
    if column_pair is None:
        yield no_reference(this)
        return
    columns = column_pair.categories(alpha)
    yield from lost_columns(this, columns.names, columns.absent)
    changed, excluded = _changed(columns.tests, alpha, min_effect, min_unseen)
    for name, reason in list(excluded.items())[:limit]:
        yield excluded_finding(this, name, reason)
    kinds = kinds_in_time(change_kinds) if changed else None
    for test, p, unseen in sorted(changed, key=lambda entry: -entry[0].effect)[:limit]:
        finding = _category_finding(test, p, unseen)
        yield finding if unseen else with_cause(finding, kinds)
    if not changed:
        yield _clean_finding(columns, len(excluded))
    if columns.uncounted:
        yield this.finding(
            Severity.NOTE,
            f"Not compared, because of too many levels: {', '.join(columns.uncounted)}.",
            numbers={"columns": len(columns.uncounted)},
            remedy="Declare them in `ids` or `metadata` if they identify rows.",
        )


def _changed(
    tests: tuple[CategoryShift, ...], alpha: float, min_effect: float, min_unseen: float
) -> tuple[list[tuple[CategoryShift, float, bool]], dict[str, str]]:
    """Columns that changed, and those that change by themselves.

    Returns:
        Changed columns with Holm's p-value and whether unseen levels are the reason; and reasons by
        the name of the other columns.
    """
    p_values = torch.tensor([test.p_value for test in tests], dtype=torch.float64)
    level = 1.0 - alpha / max(len(tests), 1)
    changed, excluded = [], {}
    for test, p in zip(tests, holm_adjusted(p_values).tolist(), strict=True):
        unseen = test.unseen[1] >= min_unseen and unseen_excess(test, level=level) > 0.0
        differs = unseen or (p < alpha and test.effect >= min_effect)
        # Of identifiers no test has power, so that no change is no news either.
        if not differs and len(test.levels) * _ROWS_PER_LEVEL <= test.n + test.m:
            continue
        sides = (
            dict(zip(test.levels, counts.tolist(), strict=True))
            for counts in (test.reference, test.live)
        )
        if reason := level_reason(test.name, *sides):
            excluded[test.name] = reason
        elif differs:
            changed.append((test, p, unseen))
    return changed, excluded


def _clean_finding(columns: Categories, excluded: int) -> Finding:
    count, (n, m) = len(columns.tests) - excluded, columns.rows
    numbers = {"columns": count, "n": n, "m": m}
    if not count or not min(n, m):
        text, severity = "No categorical features to compare.", Severity.NOTE
    else:
        text = (
            f"The levels of all {count} categorical features that were compared kept their shares."
        )
        severity = Severity.OK
    return categories_keep_their_shares.finding(severity, text, numbers=numbers)


def _category_finding(test: CategoryShift, p: float, unseen: bool) -> Finding:
    count, share = test.unseen
    numbers = {
        "distance": test.distance,
        "effect": test.effect,
        "cramers_v": test.cramers_v,
        "p_holm": p,
        "n": test.n,
        "m": test.m,
        "unseen_rows": count,
        "unseen_share": share,
        "expected_unseen": test.expected_unseen,
        "levels": len(test.levels),
    }
    text = (
        f"The level shares of {test.name} changed: total variation distance {test.distance:.2f}, "
        f"Cramér's V {test.cramers_v:.2f} (Holm {p_value_text(p)})"
    )
    remedy = (
        f"Compare how {test.name} is filled in production and in training; if the change is "
        "lasting, retrain on recent rows."
    )
    if unseen:
        text += (
            f"; {share:.1%} of production rows have levels never seen before "
            f"({test.expected_unseen:.1%} expected)"
        )
        remedy = (
            f"Map unseen levels of {test.name} to a level `other` that is trained on rare ones, "
            f"or use a model without {test.name}."
        )
    cause = None
    if units := _other_units(test):
        text, cause = f"{text}. Its values are written in {units}", Cause.TRAIN_SERVE_SKEW
        remedy = f"Deliver {test.name} as numbers in the unit of training."
    return categories_keep_their_shares.finding(
        severity_of(max(test.effect, share if unseen else 0.0)),
        f"{text}.",
        cause=cause,
        subject=test.name,
        numbers=numbers,
        remedy=remedy,
        evidence=test,
    )


def _other_units(test: CategoryShift) -> str:
    """The unit in production and the other one before, of numbers written as text; else empty."""
    before, after = (
        " and ".join(written_units(level for level, n in zip(test.levels, side, strict=True) if n))
        for side in (test.reference.tolist(), test.live.tolist())
    )
    return f"{after}, not in {before}" if before and after and before != after else ""
