"""Confidence equals accuracy in production."""

from __future__ import annotations

from collections.abc import Iterator

from gendebug_torch.calibration.checks._confidence import (
    BINS,
    MIN_ROWS,
    BinCounter,
    Criteria,
    bins_of_rows,
    confidence_finding,
    logits_cost,
)
from gendebug_torch.calibration.checks._exchanged_classes import exchanged_finding
from gendebug_torch.checks.finding import Cause, Finding
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records


@check(
    "calibration.production_ece",
    cause=Cause.MISCALIBRATION,
    needs=("production.logits", "production.targets"),
    cost=logits_cost,
    derived=(BINS,),
    partial_labels=True,
    positions=True,
)
def production_confidence_equals_accuracy(
    production: Records,
    validation: Records | None = None,
    count_bins: BinCounter = bins_of_rows,
    *,
    bins: int = 15,
    limit: float = 0.03,
    alpha: float = 0.002,
    min_rows: int = MIN_ROWS,
) -> Iterator[Finding]:
    """The confidence of the model equals its accuracy in production.

    As `calibration.ece`, on production; the finding also states the error in validation. Classes
    that stand in another order than the outputs in production alone are train/serve skew.

    Source: Guo et al. (2017), arXiv:1706.04599; Ovadia et al. (2019), arXiv:1906.02530, for
    calibration under shift.

    Args:
        production: labeled records with logits.
        validation: labeled records with logits, to compare with.
        count_bins: function of records and a number of bins, derived.
        bins: number of equal bins of confidence.
        limit: least calibration error beyond noise that matters.
        alpha: probability of a false alarm.
        min_rows: number of rows below which calibration is not judged.
    """
    this = production_confidence_equals_accuracy
    usual = _in_order(validation)
    exchanged = None if usual is None else exchanged_finding(this, production, usual)
    if exchanged is not None:
        yield exchanged
        return
    criteria = Criteria(bins, limit, alpha, min_rows)
    yield confidence_finding(this, production, criteria, count_bins, validation)


def _in_order(validation: Records | None) -> Records | None:
    """Labeled rows of validation; None where it has none, or its classes are in another order too.

    The latter is what `calibration.ece` says.
    """
    if validation is None or validation.logits is None or validation.targets is None:
        return None
    labeled = validation.labeled()
    other = exchanged_finding(production_confidence_equals_accuracy, labeled)
    return labeled if other is None and len(labeled) else None
