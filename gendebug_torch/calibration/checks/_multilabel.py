"""What the checks of calibration say of a multilabel head: each label is asked by itself."""

from __future__ import annotations

from typing import Any

import torch

from gendebug_torch.calibration.measures.classwise import ClasswiseBins, classwise_bins
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.stats.multiple_testing import holm_adjusted

# A calibration error beyond noise from which on no probability of the label can be taken at its
# word.
_FAILS_FROM = 0.1


def judged_labels(
    this: Check,
    records: Records,
    bins: int,
    limit: float,
    alpha: float,
    earlier: Records | None = None,
) -> Finding:
    """The finding on labels `[n, k]` of 0 and 1: the worst label beyond noise, corrected for how
    many were asked.
    """
    found = _counted(records, bins)
    null, p = found.noise(replicates=1000)
    adjusted = holm_adjusted(p)
    # What noise adds to the error is taken off before it is held against the limit.
    real = (found.ece.square() - null.square()).clamp(min=0).sqrt()
    bad = (adjusted < alpha) & (real >= limit)
    worst = int(torch.where(bad, found.ece, found.ece - 1).argmax())
    before = None if earlier is None else _counted(earlier, bins)
    known = before is not None and len(before.count) == len(found.count)
    numbers: dict[str, Any] = {
        "labels": len(found.count),
        "miscalibrated": int(bad.sum()),
        "ece": found.macro,
        "worst_ece": float(found.ece[worst]),
        "noise": float(null[worst]),
        "beyond_noise": float(real[worst]),
        "p_value": float(adjusted[worst]),
        "rows": len(records),
    }
    was = ""
    if before is not None and known:
        numbers["validation_ece"] = float(before.ece[worst])
        was = f", against {float(before.ece[worst]):.1%} in validation"
    name = _name(records, worst)
    error = (
        f"calibration error {float(found.ece[worst]):.1%}{was}, where a calibrated one would "
        f"show {float(null[worst]):.1%}"
    )
    if not bool(bad.any()):
        bound = f"calibrated within noise or to within {limit:.0%}"
        text = (
            f"All {len(found.count)} labels of {records.name} are {bound}; worst is {name}: "
            f"{error}."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    said, true = (
        float(found.probability[worst].sum()) / len(records),
        float(found.positive[worst].sum()) / len(records),
    )
    text = (
        f"{int(bad.sum())} of {len(found.count)} labels of {records.name} are miscalibrated; "
        f"worst is {name}: {error}; "
        f"it is expected in {said:.1%} of the rows and true in {true:.1%}."
    )
    remedy = (
        "Recalibrate each label by itself: `recalibrate` with `label_temperature`, or "
        "`label_platt` where the rate is off too."
    )
    severity = Severity.FAIL if float(real[worst]) >= _FAILS_FROM else Severity.WARN
    return this.finding(
        severity, text, subject=name, numbers=numbers, remedy=remedy, evidence=found
    )


def _counted(records: Records, bins: int) -> ClasswiseBins:
    assert records.logits is not None
    assert records.targets is not None
    return classwise_bins(records.logits, records.targets, bins=bins)


def _name(records: Records, label: int) -> str:
    names = records.schema.logits or records.schema.probs
    return f"label {names[label]}" if len(names) > label else f"label {label}"
