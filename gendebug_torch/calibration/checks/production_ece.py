"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.calibration.checks._judged import (
    _FEWEST,
    _binned,
    _cost,
    _is_multilabel,
    _judged,
    _refused,
)
from gendebug_torch.calibration.checks._multilabel import judged_labels
from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records


@check(
    "calibration.production_ece",
    cause=Cause.MISCALIBRATION,
    needs=("production.logits", "production.targets"),
    cost=_cost,
)
def production_confidence_is_accuracy(
    production: Records,
    validation: Records | None = None,
    *,
    bins: int = 15,
    limit: float = 0.03,
    alpha: float = 0.002,
    fewest: int = _FEWEST,
) -> Iterator[Finding]:
    """What the model is sure of in production is right as often as it says.

    As `calibration.ece`, on production; the finding says what the error was in validation.

    Source: Guo et al. (2017), arXiv:1706.04599; Ovadia et al. (2019), arXiv:1906.02530, for
    calibration under shift.

    Args:
        production: labeled records with logits.
        validation: labeled records with logits, to compare with.
        bins: equal bins of confidence.
        limit: calibration error beyond noise that matters.
        alpha: chance of a false alarm.
        fewest: rows below which nothing is judged.
    """
    this = production_confidence_is_accuracy
    refused = _refused(this, production, fewest)
    if refused is not None:
        yield refused
        return
    earlier = (
        validation
        if validation is not None
        and validation.logits is not None
        and _refused(this, validation, 1) is None
        else None
    )
    if _is_multilabel(production):
        yield judged_labels(
            this,
            production,
            bins,
            limit,
            alpha,
            earlier if earlier is not None and _is_multilabel(earlier) else None,
        )
        return
    before = None if earlier is None or _is_multilabel(earlier) else _binned(earlier, bins)
    yield _judged(this, production, _binned(production, bins), limit, alpha, before)
