"""The checks of the columns on tables that were read in chunks, or prepared before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.errors import reject
from gendebug_torch.shift.checks._levels import lost
from gendebug_torch.shift.checks.categories import categories_keep_their_shares, category_findings
from gendebug_torch.shift.checks.ks import features_keep_their_distribution, quantity_findings
from gendebug_torch.shift.checks.missing import missing_findings, values_are_missing_as_often
from gendebug_torch.shift.columns.prepared_table import MAX_COUNTED_LEVELS, TableComparison
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds

COLUMN_CHECKS: tuple[Check, ...] = (
    features_keep_their_distribution,
    values_are_missing_as_often,
    categories_keep_their_shares,
)


def table_findings(
    pair: TableComparison,
    kinds: Callable[[], ChangeKinds | None],
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Finding, ...]:
    """What `shift.ks`, `shift.missing` and `shift.categories` say of all rows of two prepared
    tables.

    Args:
        pair: the tables compared.
        kinds: what a move is taken for, asked only where a column moved; None where no rows are at
            hand to tell.
        options: check id -> option -> value.
    """
    of_quantities, of_gaps, of_levels = (_settings(check, options) for check in COLUMN_CHECKS)
    sides = pair.quantities
    found = [
        *lost(features_keep_their_distribution, sides.names, pair.absent, pair.non_numeric),
        *quantity_findings(sides, kinds, **of_quantities),
        *missing_findings(pair.missing, **of_gaps),
        *category_findings(pair.categories, sides.rows, kinds, **of_levels),
    ]
    if pair.not_counted:
        names = ", ".join(pair.not_counted)
        text = f"Not compared, of more than {MAX_COUNTED_LEVELS:,} levels: {names}."
        remedy = (
            "Declare them in `ids` or `metadata` if they name rows; count them by hand otherwise."
        )
        found.append(
            categories_keep_their_shares.finding(
                Severity.NOTE, text, numbers={"columns": len(pair.not_counted)}, remedy=remedy
            )
        )
    return tuple(found)


def _settings(check: Check, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    given = dict(options.get(check.name, {}))
    if unknown := sorted(set(given) - set(check.options)):
        reject(
            f"options[{check.name!r}]",
            f"options among {sorted(check.options)}",
            str(unknown),
            "See `gendebug checks`.",
        )
    return {name: option.default for name, option in check.options.items()} | given
