"""Thresholds and wording that the checks of splits share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gendebug_torch.checks.finding import Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import IGNORED, Task
from gendebug_torch.leakage.splits.near_duplicates import NearDuplicates
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap

SPLIT_NEEDS = ("train.features", "validation.features")
# Share of affected rows from which a finding is a failure.
_FAIL_SHARE = 0.1
_ROWS_LISTED = 20
# Accuracy, or R², that shared rows must add to the validation result to matter.
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
    """Quality with and without some validation rows, if outputs and labels are there.

    The accuracy, over all labels that are there; of quantities the explained share R².

    Args:
        validation: records that are evaluated.
        rows: positions of the shared rows, `[p]` int64.
    """
    targets, logits = validation.targets, validation.logits
    if logits is None or targets is None or targets.shape != _answers(validation).shape:
        return {}
    flat = targets.cpu().reshape(len(targets), -1)
    quantity = flat.is_floating_point()
    labeled = flat.isfinite() if quantity else flat != IGNORED
    others = labeled.clone()
    others[rows] = False
    if not bool(others.any()):
        return {}
    if quantity:
        outputs = logits.double().cpu().reshape(len(flat), -1)
        pairs = [(outputs, flat.double(), mask) for mask in (labeled, others)]
        with_rows, without = (_r_squared(*pair) for pair in pairs)
        if math.isnan(with_rows) or math.isnan(without):
            return {}
        return {"r_squared": with_rows, "r_squared_without": without}
    correct = validation.correct.cpu().double().reshape(len(flat), -1)
    with_rows, without = (float(correct[mask].mean()) for mask in (labeled, others))
    return {"accuracy": with_rows, "accuracy_without": without}


def _answers(records: Records) -> Tensor:
    """What is compared with the targets: class ids, answers, or quantities."""
    assert records.logits is not None
    return records.logits if records.task is Task.REGRESSION else records.predicted


def _r_squared(outputs: Tensor, targets: Tensor, mask: Tensor) -> float:
    """Explained share of each quantity over the rows of a mask, averaged over the quantities."""
    shares = []
    for j in range(targets.shape[1]):
        y, residual = targets[mask[:, j], j], (targets - outputs)[mask[:, j], j]
        total = float((y - y.mean()).square().sum()) if len(y) else 0.0
        if total > 0:
            shares.append(1 - float(residual.square().sum()) / total)
    return sum(shares) / len(shares) if shares else math.nan


def accuracy_text(numbers: dict[str, Any]) -> str:
    """A sentence about the quality with and without the shared rows; empty if it is not known."""
    for key, name in (("accuracy", "Accuracy"), ("r_squared", "R²")):
        if key in numbers:
            return (
                f" {name} is {numbers[key]:.3f} on all validation rows and "
                f"{numbers[f'{key}_without']:.3f} without them."
            )
    return ""


def without_effect(numbers: dict[str, Any]) -> bool:
    """Whether the quality is known and hardly better with the shared rows than without them."""
    for key in ("accuracy", "r_squared"):
        if key in numbers:
            return bool(numbers[key] - numbers[f"{key}_without"] < _MIN_EFFECT)
    return False
