"""Checks of what the sides of a split share: rows, groups, times, and the rows that a
transformation was fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.leakage.checks._splits import _SPLIT_NEEDS, _cost, _features
from gendebug_torch.leakage.preprocessing.encodings import LISTED, VOCABULARY
from gendebug_torch.leakage.preprocessing.fitted_rows import FittedRows, fitted_rows


@check("leakage.preprocessing", cause=Cause.PREPROCESSING_LEAKAGE, needs=_SPLIT_NEEDS, cost=_cost)
def preprocessing_is_fitted_on_training_rows(
    train: Records, validation: Records, *, alpha: float = 1e-4, limit: int = 10
) -> Iterator[Finding]:
    """No stored feature betrays that its scaling, filling or encoding was fitted on validation
    rows.

    Only values that are exact to rounding (or as evenly spread, or as complete a list) over
    training with validation, or over validation alone, and not over training are evidence; anything
    else is not decidable from the stored values, and the finding says so: a mapping of quantiles
    that was rounded, a smoothed encoding, a weight of terms, a fixed catalogue.

    Source: Moscovich and Rosset (2022), JRSS B 84:1474, on the bias; Kaufman et al. (2012), ACM
    TKDD 6:15.

    Args:
        train: records with the stored features.
        validation: records with the stored features.
        alpha: chance of such values by accident, over all columns.
        limit: most columns named.
    """
    sides = _features(train=train, validation=validation)
    labels = [
        side.targets
        for side in (train, validation)
        if side.targets is not None and side.targets.ndim == 1
    ]
    pair = (labels[0], labels[1]) if len(labels) == 2 else None
    found = fitted_rows(sides["train"], sides["validation"], targets=pair, alpha=alpha)
    yield _fitted_finding(found, limit)


def _fitted_finding(found: FittedRows, limit: int) -> Finding:
    this = preprocessing_is_fitted_on_training_rows
    numbers: dict[str, Any] = {
        "found": len(found.found),
        "clean": len(found.clean),
        "undecidable": len(found.undecidable),
    }
    if not found.found:
        told = [f"{len(found.clean)} columns were fitted on training alone"] * bool(found.clean)
        told += [f"of {len(found.undecidable)} columns it cannot be told from their values"] * bool(
            found.undecidable or not found.clean
        )
        return this.finding(
            Severity.OK,
            f"No column betrays a fit on validation rows: {'; '.join(told)}.",
            numbers=numbers,
            evidence=found,
        )
    first = found.found[0]
    numbers |= {
        "columns": [entry.column for entry in found.found[:limit]],
        "kinds": sorted({entry.kind for entry in found.found}),
    }
    numbers |= {
        "p_value": first.p_value,
        "offset": first.offset,
        "train_offset": first.train_offset,
        "fitted_on": " + ".join(first.fitted_on),
    }
    more = f" (and {len(found.found) - 1} more)" if len(found.found) > 1 else ""
    exact = (
        f"exact there to {first.offset:.0e}, over training alone only to {first.train_offset:.0e}"
    )
    if first.kind in (LISTED, VOCABULARY):
        exact = (
            f"training leaves {first.train_offset:.0%} of its places empty, both sides "
            "together none"
        )
    text = (
        f"{first.column}{more} was {first.kind} over {' and '.join(first.fitted_on)}: {exact}; "
        f"chance of that by accident {first.p_value:.0e}."
    )
    remedy = (
        "Fit every transformation on training rows alone, apply it to all others as it is, "
        "and judge the model again."
    )
    subject = first.column if len(found.found) == 1 else ""
    return this.finding(
        Severity.FAIL, text, subject=subject, numbers=numbers, remedy=remedy, evidence=found
    )
