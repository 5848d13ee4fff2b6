"""The checks of this topic: thresholds, findings and wording."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gendebug_torch.calibration.binning import ReliabilityBins, reliability_bins
from gendebug_torch.calibration.recalibrate import out_of_fold
from gendebug_torch.calibration.temperature import fit_temperature
from gendebug_torch.finding import Cause, Finding, Severity
from gendebug_torch.records import Records
from gendebug_torch.registry import Check, Cost, check

# With fewer rows the noise of the bins is larger than any limit worth asking.
_FEWEST = 30


def _cost(given: Mapping[str, Any]) -> Cost:
    sides = [given.get(name) for name in ("validation", "production")]
    return Cost(elements=1.0 + sum(60.0 * side.logits.numel() for side in sides if side is not None and side.logits is not None))


@check("calibration.ece", cause=Cause.MISCALIBRATION, needs=("validation.logits", "validation.targets"), cost=_cost)
def confidence_is_accuracy(
    validation: Records, *, bins: int = 15, limit: float = 0.05, alpha: float = 0.01, fewest: int = _FEWEST
) -> Iterator[Finding]:
    """What the model is sure of is right as often as it says.

    The calibration error must exceed the limit beyond what a calibrated model of these rows would show, and
    be significant against it.

    Source: Guo et al. (2017), arXiv:1706.04599; Bröcker and Smith (2007), Weather and Forecasting 22:651.

    Args:
        validation: labeled records with logits.
        bins: equal bins of confidence.
        limit: calibration error beyond noise that matters; twice as much fails.
        alpha: chance of a false alarm.
        fewest: rows below which nothing is judged.
    """
    this = confidence_is_accuracy
    refused = _refused(this, validation, fewest)
    if refused is not None:
        yield refused
        return
    found = _binned(validation, bins)
    yield _judged(this, validation, found, limit, alpha)


@check("calibration.production_ece", cause=Cause.MISCALIBRATION, needs=("production.logits", "production.targets"), cost=_cost)
def production_confidence_is_accuracy(
    production: Records,
    validation: Records | None = None,
    *,
    bins: int = 15,
    limit: float = 0.05,
    alpha: float = 0.01,
    fewest: int = _FEWEST,
) -> Iterator[Finding]:
    """What the model is sure of in production is right as often as it says.

    As `calibration.ece`, on production; the finding says what the error was in validation.

    Source: Guo et al. (2017), arXiv:1706.04599; Ovadia et al. (2019), arXiv:1906.02530, for calibration under shift.

    Args:
        production: labeled records with logits.
        validation: labeled records with logits, to compare with.
        bins: equal bins of confidence.
        limit: calibration error beyond noise that matters; twice as much fails.
        alpha: chance of a false alarm.
        fewest: rows below which nothing is judged.
    """
    this = production_confidence_is_accuracy
    refused = _refused(this, production, fewest)
    if refused is not None:
        yield refused
        return
    before = None
    if validation is not None and validation.logits is not None and _refused(this, validation, 1) is None:
        before = _binned(validation, bins)
    yield _judged(this, production, _binned(production, bins), limit, alpha, before)


def _refused(this: Check, records: Records, fewest: int) -> Finding | None:
    """Why nothing can be judged, if so."""
    targets = records.targets
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        return this.finding(Severity.NOTE, f"{records.name} has no class targets [n], so that calibration of classes is not asked.")
    if len(records) < max(fewest, 1):
        summary = f"{len(records)} rows are too few to judge calibration."
        return this.finding(Severity.NOTE, summary, numbers={"rows": len(records)}, remedy=f"Collect at least {fewest} labeled rows.")
    return None


def _binned(records: Records, bins: int) -> ReliabilityBins:
    assert records.logits is not None
    assert records.targets is not None
    return reliability_bins(records.logits, records.targets, bins=bins)


def _judged(
    this: Check, records: Records, found: ReliabilityBins, limit: float, alpha: float, before: ReliabilityBins | None = None
) -> Finding:
    low, high = found.interval()
    noise, p_value = found.noise()
    excess = found.ece - noise
    numbers = {"ece": found.ece, "interval": [low, high], "noise": noise, "p_value": p_value, "rows": found.total}
    numbers |= {"accuracy": found.accuracy, "mean_confidence": found.mean_confidence}
    earlier = ""
    if before is not None and before.total:
        numbers["validation_ece"] = before.ece
        earlier = f", against {before.ece:.1%} in validation"
    told = f"calibration error {found.ece:.1%} (95 % interval {low:.1%} to {high:.1%}){earlier}"
    if excess < limit or p_value >= alpha:
        known = f"a calibrated model would show {noise:.1%} on {found.total:,} rows"
        summary = f"{records.name} is calibrated to within {limit:.0%}: {told}; {known}."
        return this.finding(Severity.OK, summary, numbers=numbers, evidence=found)
    direction = "overconfident" if found.mean_confidence > found.accuracy else "underconfident"
    remedy, more = _remedy(records, found)
    average = f"it is {found.mean_confidence:.1%} sure on average and right in {found.accuracy:.1%}"
    summary = f"The model is {direction} in {records.name}: {told}; {average}."
    severity = Severity.FAIL if low >= 2 * limit else Severity.WARN
    return this.finding(severity, summary, numbers=numbers | more, remedy=remedy, evidence=found)


def _remedy(records: Records, found: ReliabilityBins) -> tuple[str, dict[str, Any]]:
    """Whether a temperature helps on rows that it has not seen."""
    assert records.logits is not None
    assert records.targets is not None
    fitted = fit_temperature(records.logits, records.targets)
    if fitted.unbounded:
        return "No finite temperature fits these rows: calibrate on rows that hold errors.", {"temperature": None}
    after = reliability_bins(out_of_fold(records.logits, records.targets), records.targets, bins=len(found.count))
    numbers = {"temperature": fitted.temperature, "temperature_error": fitted.standard_error, "ece_after": after.ece}
    if after.ece < found.ece and not math.isclose(after.ece, found.ece):
        return f"Recalibrate: a temperature of {fitted.temperature:.2f} brings it to {after.ece:.1%} on rows it has not seen.", numbers
    return f"A temperature does not help here ({after.ece:.1%} on rows it has not seen): calibrate per class, or retrain.", numbers
