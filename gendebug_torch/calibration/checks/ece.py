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
    "calibration.ece",
    cause=Cause.MISCALIBRATION,
    needs=("validation.logits", "validation.targets"),
    cost=_cost,
)
def confidence_is_accuracy(
    validation: Records,
    *,
    bins: int = 15,
    limit: float = 0.03,
    alpha: float = 0.002,
    fewest: int = _FEWEST,
) -> Iterator[Finding]:
    """What the model is sure of is right as often as it says.

    The calibration error must exceed the limit beyond what a calibrated model of these rows would
    show, and be significant against it. Of a multilabel head every label is asked by itself,
    corrected by Holm. Rows that share the group of the schema, such as the pixels of an image,
    count as one piece of evidence.

    Source: Guo et al. (2017), arXiv:1706.04599; Bröcker and Smith (2007), Weather and Forecasting
    22:651.

    Args:
        validation: labeled records with logits.
        bins: equal bins of confidence.
        limit: calibration error beyond noise that matters.
        alpha: chance of a false alarm.
        fewest: rows below which nothing is judged.
    """
    this = confidence_is_accuracy
    refused = _refused(this, validation, fewest)
    if refused is not None:
        yield refused
        return
    if _is_multilabel(validation):
        yield judged_labels(this, validation, bins, limit, alpha)
        return
    yield _judged(this, validation, _binned(validation, bins), limit, alpha)
