"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.calibration.grouping import group_ids
from gendebug_torch.calibration.map_choice import out_of_fold
from gendebug_torch.calibration.maps.temperature import fit_temperature
from gendebug_torch.calibration.measures.dependent_rows import group_sums
from gendebug_torch.calibration.measures.measure import Measure
from gendebug_torch.calibration.measures.miscalibration_shape import Shape, shape
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins, reliability_bins
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check, Cost
from gendebug_torch.data.records import Records

# With fewer rows the noise of the bins is larger than any limit worth asking.
_FEWEST = 30
# A lower bound of the error from which on no probability can be taken at its word.
_FAILS_FROM = 0.1
_DIRECTION = {
    "overconfident": "overconfident",
    "underconfident": "underconfident",
    "S-shaped": "too bold on one side and too timid on the other",
}


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("validation", "production")]
    return Cost(
        elements=1.0
        + sum(
            60.0 * side.logits.numel()
            for side in sides
            if side is not None and side.logits is not None
        )
    )


def _refused(this: Check, records: Records, fewest: int) -> Finding | None:
    """Why nothing can be judged, if so."""
    targets = records.targets
    asked = (
        targets is not None
        and targets.dtype == torch.int64
        and (targets.ndim == 1 or _is_multilabel(records))
    )
    if not asked:
        text = (
            f"{records.name} has neither class targets [n] nor labels [n, k] of 0 and 1, so "
            "that calibration is not asked."
        )
        return this.finding(Severity.NOTE, text)
    if len(records) < max(fewest, 1):
        summary = f"{len(records)} rows are too few to judge calibration."
        return this.finding(
            Severity.NOTE,
            summary,
            numbers={"rows": len(records)},
            remedy=f"Collect at least {fewest} labeled rows.",
        )
    return None


def _is_multilabel(records: Records) -> bool:
    z, targets = records.logits, records.targets
    return (
        z is not None
        and targets is not None
        and targets.ndim == 2
        and targets.shape == z.shape
        and targets.dtype == torch.int64
    )


def _binned(records: Records, bins: int) -> ReliabilityBins:
    assert records.logits is not None
    assert records.targets is not None
    return reliability_bins(records.logits, records.targets, bins=bins)


def _judged(
    this: Check,
    records: Records,
    found: ReliabilityBins,
    limit: float,
    alpha: float,
    before: ReliabilityBins | None = None,
) -> Finding:
    groups = group_ids(records)
    told = found.measure() if groups is None else _by_group(records, groups, len(found.count))
    form = shape(found)
    # What noise adds to the error is taken off before it is held against the limit.
    real = math.sqrt(max(told.value**2 - told.null**2, 0.0))
    numbers = {
        "ece": told.value,
        "interval": [told.low, told.high],
        "noise": told.null,
        "p_value": told.p_value,
        "rows": found.total,
    }
    numbers |= {
        "accuracy": found.accuracy,
        "mean_confidence": found.mean_confidence,
        "shape": form.kind,
        "beyond_noise": real,
    }
    earlier = ""
    if before is not None and before.total:
        numbers["validation_ece"] = before.ece
        earlier = f", against {before.ece:.1%} in validation"
    text = (
        f"calibration error {told.value:.1%} (95 % interval {told.low:.1%} to "
        f"{told.high:.1%}){earlier}"
    )
    # The tests of single bins take rows for independent.
    worst = _worst(form) if groups is None else ""
    if groups is not None:
        numbers["groups"] = int(groups.max()) + 1
        text += f" over {numbers['groups']:,} groups"
    if real < limit or told.p_value >= alpha:
        known = f"a calibrated model would show {told.null:.1%} on {found.total:,} rows"
        bound = "within noise" if told.p_value >= alpha else f"to within {limit:.0%}"
        severity = Severity.NOTE if worst and told.p_value < alpha else Severity.OK
        return this.finding(
            severity,
            f"{records.name} is calibrated {bound}: {text}; {known}{worst}.",
            numbers=numbers,
            evidence=found,
        )
    remedy, more = _remedy(records, found)
    average = f"it is {found.mean_confidence:.1%} sure on average and right in {found.accuracy:.1%}"
    summary = (
        f"The model is {_DIRECTION.get(form.kind, 'miscalibrated')} in {records.name}: "
        f"{text}; {average}{worst}."
    )
    severity = Severity.FAIL if told.low >= _FAILS_FROM else Severity.WARN
    return this.finding(severity, summary, numbers=numbers | more, remedy=remedy, evidence=found)


def _by_group(records: Records, groups: Tensor, bins: int) -> Measure:
    assert records.logits is not None
    assert records.targets is not None
    return group_sums(
        records.logits, records.targets, groups.to(records.logits.device), bins=bins
    ).measures()[-1]


def _worst(form: Shape) -> str:
    """The bin furthest beyond chance, in words."""
    if not form.worst:
        return ""
    bad = form.worst[0]
    return (
        f"; worst between {bad.low:.2f} and {bad.high:.2f}: {bad.confidence:.1%} sure, "
        f"{bad.accuracy:.1%} right ({bad.rows:,} rows)"
    )


def _remedy(records: Records, found: ReliabilityBins) -> tuple[str, dict[str, Any]]:
    """Whether a temperature helps on rows that it has not seen."""
    assert records.logits is not None
    assert records.targets is not None
    fitted = fit_temperature(records.logits, records.targets)
    if fitted.unbounded:
        return "No finite temperature fits these rows: calibrate on rows that hold errors.", {
            "temperature": None
        }
    after = reliability_bins(
        out_of_fold(records.logits, records.targets, groups=group_ids(records)),
        records.targets,
        bins=len(found.count),
    )
    numbers = {
        "temperature": fitted.temperature,
        "temperature_error": fitted.standard_error,
        "ece_after": after.ece,
    }
    if after.ece < found.ece and not math.isclose(after.ece, found.ece):
        return (
            f"Recalibrate: a temperature of {fitted.temperature:.2f} brings it to {after.ece:.1%} "
            "on rows it has not seen.",
            numbers,
        )
    return (
        f"A temperature does not help here ({after.ece:.1%} on rows it has not seen): calibrate "
        "per class, or retrain.",
        numbers,
    )
