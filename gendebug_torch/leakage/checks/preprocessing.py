"""The check for transformations that were fitted on validation rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._costs import split_cost
from gendebug_torch.leakage.checks._splits import SPLIT_NEEDS
from gendebug_torch.leakage.preprocessing.encodings import LEVEL_LIST, VOCABULARY
from gendebug_torch.leakage.preprocessing.preprocessing_leaks import (
    PreprocessingLeaks,
    preprocessing_leaks,
)
from gendebug_torch.leakage.preprocessing.stored_column import FittedColumn


@check(
    "leakage.preprocessing", cause=Cause.PREPROCESSING_LEAKAGE, needs=SPLIT_NEEDS, cost=split_cost
)
def preprocessing_is_fitted_on_training_rows(
    train: Records, validation: Records, *, alpha: float = 1e-4, limit: int = 10
) -> Iterator[Finding]:
    """No scaling, imputation or encoding of a stored feature was fitted on validation rows.

    Only values that are exact to rounding (or as uniform, or as complete a list) over training with
    validation, or over validation alone, and not over training are evidence. Anything else cannot
    be decided from the stored values, and the finding says so: rounded quantiles, a smoothed
    encoding, term weights, a fixed catalogue.

    Source: Moscovich and Rosset (2022), JRSS B 84:1474, on the bias; Kaufman et al. (2012), ACM
    TKDD 6:15.

    Args:
        train: records with the stored features.
        validation: records with the stored features.
        alpha: chance of a false finding, over all columns.
        limit: largest number of columns listed.
    """
    before, after = train.targets, validation.targets
    assert train.features is not None
    assert validation.features is not None
    pair = None
    complete = all(records.labeled() is records for records in (train, validation))
    if before is not None and after is not None and complete and before.ndim == after.ndim == 1:
        pair = before, after
    found = preprocessing_leaks(train.features, validation.features, targets=pair, alpha=alpha)
    numbers: dict[str, Any] = {
        "leaks": len(found.leaks),
        "clean": len(found.clean),
        "undecidable": len(found.undecidable),
    }
    yield _leak_finding(found, numbers, limit) if found.leaks else _clean_finding(found, numbers)


def _clean_finding(found: PreprocessingLeaks, numbers: dict[str, Any]) -> Finding:
    parts = []
    if found.clean:
        parts.append(f"{len(found.clean)} columns were fitted on training rows alone")
    if found.undecidable or not found.clean:
        parts.append(f"{len(found.undecidable)} columns cannot be decided from their values")
    return preprocessing_is_fitted_on_training_rows.finding(
        Severity.OK,
        f"No column was demonstrably fitted on validation rows: {', '.join(parts)}.",
        numbers=numbers,
        evidence=found,
    )


def _leak_finding(found: PreprocessingLeaks, numbers: dict[str, Any], limit: int) -> Finding:
    first, others = found.leaks[0], len(found.leaks) - 1
    numbers = numbers | {
        "columns": [fit.column for fit in found.leaks[:limit]],
        "operations": sorted({fit.operation for fit in found.leaks}),
        "p_value": first.p_value,
        "error": first.error,
        "train_error": first.train_error,
        "fitted_on": " + ".join(first.fitted_on),
    }
    more = f" Another {others} columns have the same fault." if others else ""
    p = f" (p = {first.p_value:.0e})" if first.p_value else ""
    return preprocessing_is_fitted_on_training_rows.finding(
        Severity.FAIL,
        f"{first.column} was {first.operation}, and fitted on {' and '.join(first.fitted_on)} "
        f"rows: {_proof(first)}{p}.{more}",
        subject="" if others else first.column,
        numbers=numbers,
        remedy="Fit every transformation on training rows alone, apply it unchanged to all other "
        "rows, and evaluate the model again.",
        evidence=found,
    )


def _proof(fit: FittedColumn) -> str:
    if fit.operation in (LEVEL_LIST, VOCABULARY):
        return (
            f"{fit.train_error:.0%} of its entries do not occur in training, but all occur in the "
            "two splits together"
        )
    return (
        f"it is exact there to {fit.error:.0e}, over training rows alone to {fit.train_error:.0e}"
    )
