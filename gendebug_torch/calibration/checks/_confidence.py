"""What both checks of confidence share: when they apply, and their findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gendebug_torch.calibration.checks._multilabel import multilabel_finding
from gendebug_torch.calibration.map_choice import out_of_fold
from gendebug_torch.calibration.maps.temperature import fit_temperature
from gendebug_torch.calibration.measures.dependent_rows import group_sums
from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.miscalibration_shape import (
    MiscalibrationShape,
    miscalibration_shape,
)
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins, reliability_bins
from gendebug_torch.calibration.rows.held_out_rows import group_ids
from gendebug_torch.checks.finding import MISREAD, TO_REPAIR, Finding, Severity
from gendebug_torch.checks.inputs import Cost, DerivedInput
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.data.tables import logits_of_probs
from gendebug_torch.data.task import IGNORED, Task, are_probabilities
from gendebug_torch.model.binary import positive_logit

# With fewer rows the noise of the bins is larger than any reasonable limit.
MIN_ROWS = 30
# Lower bound of the ECE above which no probability can be trusted.
_FAILS_FROM = 0.1
_DIRECTION = {
    "overconfident": "overconfident",
    "underconfident": "underconfident",
    "S-shaped": "overconfident at some confidences and underconfident at others",
}


BinCounter: TypeAlias = Callable[[Records, int], ReliabilityBins]
BinaryRows: TypeAlias = Callable[[Records], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class Criteria:
    """The options of a check of confidence.

    Args:
        bins: number of equal bins of confidence.
        limit: least calibration error beyond noise that matters.
        alpha: probability of a false alarm.
        min_rows: number of rows below which calibration is not judged.
    """

    bins: int
    limit: float
    alpha: float
    min_rows: int


def logits_cost(given: Mapping[str, Any]) -> Cost:
    """Some tens of operations per logit of each side."""
    sides = [given.get(name) for name in ("validation", "production")]
    logits = [side.logits for side in sides if side is not None and side.logits is not None]
    return Cost(elements=1.0 + sum(60.0 * z.numel() for z in logits))


def confidence_finding(
    this: Check,
    records: Records,
    criteria: Criteria,
    count: BinCounter,
    earlier: Records | None = None,
) -> Finding:
    """The finding on the confidence of these records, compared with earlier ones if possible."""
    if records.task is Task.REGRESSION:
        text = "Not judged: quantities have no confidence; `calibration.coverage` judges intervals."
        return this.finding(Severity.NOTE, text)
    if not _has_labels(records):
        return this.finding(
            Severity.NOTE,
            f"{records.name} has neither class targets [n] nor labels [n, k] of 0 and 1, so "
            "calibration was not checked.",
        )
    if len(records) < max(criteria.min_rows, 1):
        return this.finding(
            Severity.NOTE,
            f"{records.name} has {len(records)} labeled rows, too few to judge calibration.",
            numbers={"rows": len(records)},
            remedy=f"Collect at least {criteria.min_rows} labeled rows.",
        )
    multilabel = _is_multilabel(records)
    if earlier is not None and (
        earlier.logits is None
        or not len(earlier)
        or not _has_labels(earlier)
        or _is_multilabel(earlier) != multilabel
    ):
        earlier = None
    if multilabel:
        return multilabel_finding(
            this,
            records,
            criteria.bins,
            criteria.limit,
            criteria.alpha,
            max(criteria.min_rows, 1),
            earlier,
        )
    before = None if earlier is None else count(earlier, criteria.bins)
    return _top_label_finding(this, records, criteria, count(records, criteria.bins), before)


def _has_labels(records: Records) -> bool:
    targets = records.targets
    if targets is None or targets.dtype != torch.int64:
        return False
    return targets.ndim == 1 or _is_multilabel(records)


def _is_multilabel(records: Records) -> bool:
    z, targets = records.logits, records.targets
    if z is None or targets is None or targets.dtype != torch.int64:
        return False
    return targets.ndim == 2 and targets.shape == z.shape


def bins_of_rows(records: Records, bins: int) -> ReliabilityBins:
    assert records.logits is not None
    assert records.targets is not None
    return reliability_bins(records.logits, records.targets, bins=bins, ignore_index=IGNORED)


def _of_rows() -> BinCounter:
    return bins_of_rows


# How rows are counted in bins: one by one, or by sums over more rows than these.
BINS = DerivedInput("count_bins", _of_rows)


def rows_of_binary(records: Records) -> tuple[Tensor, Tensor] | None:
    """Binary logits `[n]` and class ids `[n]`; None for other outputs or targets."""
    z, targets = records.logits, records.targets
    if z is None or targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return None
    return (positive_logit(z), targets) if z.ndim == 1 or z.shape[1] == 2 else None


def _binary() -> BinaryRows:
    return rows_of_binary


# How logits and classes of a binary model are read: row by row, or by quantiles of more rows.
BINARY_ROWS = DerivedInput("binary_rows", _binary)


def _top_label_finding(
    this: Check,
    records: Records,
    criteria: Criteria,
    bins: ReliabilityBins,
    before: ReliabilityBins | None,
) -> Finding:
    groups = group_ids(records)
    ece = bins.measure() if groups is None else _grouped_ece(records, groups, criteria.bins)
    shape = miscalibration_shape(bins)
    # The part of the error that noise explains is subtracted before it is compared with the limit.
    beyond_noise = math.sqrt(max(ece.value**2 - ece.null**2, 0.0))
    numbers = _numbers(bins, ece, shape) | {"beyond_noise": beyond_noise}
    text = f"ECE {ece.value:.1%} (95 % interval {ece.low:.1%} to {ece.high:.1%})"
    if before is not None and before.total:
        numbers["validation_ece"] = before.ece
        text += f", against {before.ece:.1%} in validation"
    if groups is not None:
        numbers["groups"] = int(groups.max()) + 1
        text += f", over {numbers['groups']:,} groups"
    # The tests of single bins assume independent rows.
    worst = _worst_bin(shape) if groups is None else ""
    if beyond_noise < criteria.limit or ece.p_value >= criteria.alpha:
        significant = ece.p_value < criteria.alpha
        bound = f"to within {criteria.limit:.0%}" if significant else "within noise"
        return this.finding(
            Severity.NOTE if worst and significant else Severity.OK,
            f"Confidence in {records.name} is calibrated {bound}: {text}; a calibrated model would "
            f"show {ece.null:.1%} on {bins.total:,} rows.{worst}",
            numbers=numbers,
            evidence=bins,
        )
    if before is not None and ece.low <= before.ece < criteria.limit:
        # What was tolerated in validation is no news.
        known = f"Confidence in {records.name} is off by no more than in validation: {text}."
        return this.finding(Severity.NOTE, known, numbers=numbers, evidence=bins)
    if records.logits is not None and are_probabilities(records.logits):
        return _probabilities_finding(this, records, criteria.bins, numbers, shape.kind)
    return _alarm(this, records, bins, numbers, f"{text}.{worst}")


def _alarm(
    this: Check, records: Records, bins: ReliabilityBins, numbers: dict[str, Any], text: str
) -> Finding:
    """The finding on confidence that is off, with a remedy that was tried."""
    remedy, more = _remedy(records, bins)
    return this.finding(
        Severity.FAIL if numbers["interval"][0] >= _FAILS_FROM else Severity.WARN,
        f"The model is {_DIRECTION.get(numbers['shape'], 'miscalibrated')} in {records.name}: mean "
        f"confidence {bins.mean_confidence:.1%}, accuracy {bins.accuracy:.1%}, {text}",
        numbers=numbers | more,
        remedy=remedy,
        evidence=bins,
    )


def _probabilities_finding(
    this: Check, records: Records, bins: int, numbers: dict[str, Any], kind: str
) -> Finding:
    """The finding on logits that look like probabilities, with both readings."""
    assert records.logits is not None
    as_probs = replace(records, logits=logits_of_probs(records.logits.double()))
    other = bins_of_rows(as_probs, bins)
    sums = " and sums to 1" if records.logits.ndim > 1 else ""
    return this.finding(
        Severity.WARN,
        f"The logits of {records.name} look like probabilities: every row lies in [0, 1]{sums}. "
        f"Read as logits, the model is {_DIRECTION.get(kind, 'miscalibrated')} (ECE "
        f"{numbers['ece']:.1%}); read as probabilities, its ECE is {other.ece:.1%}.",
        numbers=numbers
        | {"ece_as_probabilities": other.ece, TO_REPAIR: True, MISREAD: "everywhere"},
        remedy="If the network ends in a softmax or sigmoid, pass the values before it, or declare "
        "the columns as `probs` in the schema.",
        evidence=other,
    )


def _numbers(bins: ReliabilityBins, ece: Measure, shape: MiscalibrationShape) -> dict[str, Any]:
    return {
        "ece": ece.value,
        "interval": [ece.low, ece.high],
        "noise": ece.null,
        "p_value": ece.p_value,
        "rows": bins.total,
        "accuracy": bins.accuracy,
        "mean_confidence": bins.mean_confidence,
        "shape": shape.kind,
    }


def _grouped_ece(records: Records, groups: Tensor, bins: int) -> Measure:
    assert records.logits is not None
    assert records.targets is not None
    groups = groups.to(records.logits.device)
    return group_sums(records.logits, records.targets, groups, bins=bins).measures()[-1]


def _worst_bin(shape: MiscalibrationShape) -> str:
    """A sentence on the bin furthest beyond chance; empty without one."""
    if not shape.worst:
        return ""
    bad = shape.worst[0]
    return (
        f" The worst bin is {bad.low:.2f} to {bad.high:.2f}: mean confidence {bad.confidence:.1%}, "
        f"accuracy {bad.accuracy:.1%} ({bad.rows:,} rows)."
    )


def _remedy(records: Records, bins: ReliabilityBins) -> tuple[str, dict[str, Any]]:
    """Whether a temperature helps on rows that it was not fitted to."""
    assert records.logits is not None
    assert records.targets is not None
    fitted = fit_temperature(records.logits, records.targets, ignore_index=IGNORED)
    if fitted.unbounded:
        text = "No finite temperature fits these rows. Recalibrate on rows that contain errors."
        return text, {"temperature": None}
    mapped = out_of_fold(records.logits, records.targets, groups=group_ids(records))
    after = reliability_bins(mapped, records.targets, bins=len(bins.count)).ece
    numbers = {
        "temperature": fitted.temperature,
        "temperature_error": fitted.standard_error,
        "ece_after": after,
    }
    if after < bins.ece and not math.isclose(after, bins.ece):
        return (
            f"Recalibrate: a temperature of {fitted.temperature:.2f} reduces the ECE to "
            f"{after:.1%} on rows that it was not fitted to."
        ), numbers
    return (
        f"A temperature does not help (ECE {after:.1%} on rows that it was not fitted to). "
        "Recalibrate per class, or retrain."
    ), numbers
