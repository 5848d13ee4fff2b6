"""The finding on a multilabel head: every label is tested by itself."""

from __future__ import annotations

from typing import Any

import torch

from gendebug_torch.calibration.measures.classwise import ClasswiseBins, label_bins
from gendebug_torch.checks.finding import Finding, Severity
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.stats.multiple_testing import holm_adjusted

# ECE beyond noise above which no probability of the label can be trusted.
_FAILS_FROM = 0.1
_REMEDY = (
    "Recalibrate each label: `recalibrate` with `label_temperature`, or with `label_platt` where "
    "the mean probability is wrong too."
)


def multilabel_finding(
    this: Check,
    records: Records,
    bins: int,
    limit: float,
    alpha: float,
    min_rows: int,
    earlier: Records | None = None,
) -> Finding:
    """The finding on labels `[n, k]` of 0 and 1: the worst label beyond noise, after Holm."""
    labels = _label_bins(records, bins)
    rows = labels.count.sum(1)
    if int(rows.max()) < min_rows:
        text = f"No label of {records.name} has {min_rows} rows, so calibration was not checked."
        return this.finding(Severity.NOTE, text, numbers={"rows": int(rows.max())})
    null, p = labels.noise(replicates=1000)
    # Labels that are known for few rows are not judged.
    p = torch.where(rows >= min_rows, p, 1.0)
    adjusted = holm_adjusted(p)
    # The part of the error that noise explains is subtracted before it is compared with the limit.
    beyond_noise = (labels.ece.square() - null.square()).clamp(min=0).sqrt()
    bad = (adjusted < alpha) & (beyond_noise >= limit)
    judged = torch.where(rows >= min_rows, labels.ece, -2.0)
    worst = int(torch.where(bad, judged, judged - 1).argmax())
    numbers = {
        "labels": len(labels.count),
        "miscalibrated": int(bad.sum()),
        "ece": labels.macro,
        "worst_ece": float(labels.ece[worst]),
        "noise": float(null[worst]),
        "beyond_noise": float(beyond_noise[worst]),
        "p_value": float(adjusted[worst]),
        "rows": len(records),
        "label_rows": int(rows[worst]),
    }
    before = None if earlier is None else _label_bins(earlier, bins)
    if before is not None and len(before.count) == len(labels.count):
        numbers["validation_ece"] = float(before.ece[worst])
    name = _label_name(records, worst)
    if not bool(bad.any()):
        text = (
            f"All {numbers['labels']} labels of {records.name} are calibrated within noise or to "
            f"within {limit:.0%}. The largest error is that of {name}: {_error(numbers)}."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=labels)
    probability, frequency = (
        f"{float(sums[worst].sum() / rows[worst]):.1%}"
        for sums in (labels.probability, labels.positive)
    )
    return this.finding(
        Severity.FAIL if numbers["beyond_noise"] >= _FAILS_FROM else Severity.WARN,
        f"{numbers['miscalibrated']} of {numbers['labels']} labels of {records.name} are "
        f"miscalibrated. The worst is {name}: {_error(numbers)}; its mean probability is "
        f"{probability}, its frequency {frequency}.",
        subject=name,
        numbers=numbers,
        remedy=_REMEDY,
        evidence=labels,
    )


def _label_bins(records: Records, bins: int) -> ClasswiseBins:
    assert records.logits is not None
    assert records.targets is not None
    return label_bins(records.logits, records.targets, bins=bins)


def _label_name(records: Records, label: int) -> str:
    names = records.schema.logits or records.schema.probs
    return f"label {names[label]}" if len(names) > label else f"label {label}"


def _error(numbers: dict[str, Any]) -> str:
    before = numbers.get("validation_ece")
    change = "" if before is None else f", against {before:.1%} in validation"
    if numbers["label_rows"] < numbers["rows"]:
        change += f", over the {numbers['label_rows']:,} rows of {numbers['rows']:,} that have it"
    return f"ECE {numbers['worst_ece']:.1%}{change}, by chance {numbers['noise']:.1%}"
