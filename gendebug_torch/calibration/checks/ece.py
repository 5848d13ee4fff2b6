"""Confidence equals accuracy in validation."""

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
    "calibration.ece",
    cause=Cause.MISCALIBRATION,
    needs=("validation.logits", "validation.targets"),
    cost=logits_cost,
    derived=(BINS,),
    partial_labels=True,
    positions=True,
)
def confidence_equals_accuracy(
    validation: Records,
    count_bins: BinCounter = bins_of_rows,
    *,
    bins: int = 15,
    limit: float = 0.03,
    alpha: float = 0.002,
    min_rows: int = MIN_ROWS,
) -> Iterator[Finding]:
    """The confidence of the model equals its accuracy in validation.

    The calibration error must exceed the limit beyond that of a calibrated model on these rows, and
    be significant. Every label of a multilabel head is tested by itself, corrected by Holm. Rows
    that share the group of the schema, such as the pixels of an image, count as one observation.
    Where another order of the classes fits the outputs far better, that is said instead.

    Source: Guo et al. (2017), arXiv:1706.04599; Bröcker and Smith (2007), Weather and Forecasting
    22:651.

    Args:
        validation: labeled records with logits.
        count_bins: function of records and a number of bins, derived.
        bins: number of equal bins of confidence.
        limit: least calibration error beyond noise that matters.
        alpha: probability of a false alarm.
        min_rows: number of rows below which calibration is not judged.
    """
    if (exchanged := exchanged_finding(confidence_equals_accuracy, validation)) is not None:
        yield exchanged
        return
    criteria = Criteria(bins, limit, alpha, min_rows)
    yield confidence_finding(confidence_equals_accuracy, validation, criteria, count_bins)
