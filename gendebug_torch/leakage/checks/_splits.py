"""Thresholds and wording that the checks of splits share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import missing_labels
from gendebug_torch.leakage.splits.near_duplicates import NearDuplicates
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap

SPLIT_NEEDS = ("train.features", "validation.features")
# Share of affected rows from which a finding is a failure.
_FAIL_SHARE = 0.1
_ROWS_LISTED = 20
# Accuracy that shared rows must add to the validation result to matter.
_MIN_EFFECT = 0.01


def share_text(share: float, low: float, high: float) -> str:
    """A share with its interval, for a sentence."""
    return f"{share:.1%}, 95% interval {low:.1%} to {high:.1%}"


def share_severity(share: float) -> Severity:
    """`fail` from a tenth of the rows, else `warn`."""
    return Severity.FAIL if share >= _FAIL_SHARE else Severity.WARN


def share_numbers(found: SplitOverlap | NearDuplicates) -> dict[str, Any]:
    """Share of the affected rows with its interval, and the first of them."""
    low, high = found.interval()
    numbers: dict[str, Any] = {"share": found.share, "low": low, "high": high}
    if len(found.rows):
        numbers |= {
            "first_rows": found.rows[:_ROWS_LISTED].tolist(),
            "their_training_rows": found.partners[:_ROWS_LISTED].tolist(),
        }
    return numbers


def overlap_numbers(found: SplitOverlap) -> dict[str, Any]:
    """Number of shared rows, sizes of both splits, and `share_numbers`."""
    sizes = {"n": int(found.sizes[0]), "m": int(found.sizes[1])}
    return {"shared": len(found.rows)} | share_numbers(found) | sizes


def accuracy_numbers(validation: Records, rows: Tensor) -> dict[str, float]:
    """Accuracy with and without some validation rows, if there are logits and class ids.

    Args:
        validation: records that are evaluated.
        rows: positions of the shared rows, `[p]` int64.
    """
    targets = validation.targets
    if validation.logits is None or targets is None or targets.is_floating_point():
        return {}
    labeled = ~missing_labels(targets.cpu())
    others = labeled.clone()
    others[rows] = False
    if not bool(others.any()):
        return {}
    correct = validation.correct.cpu().double().reshape(len(validation), -1).mean(1)
    with_rows, without = (float(correct[mask].mean()) for mask in (labeled, others))
    return {"accuracy": with_rows, "accuracy_without": without}


def accuracy_text(numbers: dict[str, Any]) -> str:
    """A sentence about the accuracy with and without the shared rows; empty if it is not known."""
    if "accuracy" not in numbers:
        return ""
    return (
        f" Accuracy is {numbers['accuracy']:.3f} on all validation rows and "
        f"{numbers['accuracy_without']:.3f} without them."
    )


def without_effect(numbers: dict[str, Any]) -> bool:
    """Whether the accuracy is known and hardly better with the shared rows than without them."""
    if "accuracy" not in numbers:
        return False
    return bool(numbers["accuracy"] - numbers["accuracy_without"] < _MIN_EFFECT)
