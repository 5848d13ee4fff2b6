"""Thresholds and wording that the checks of splits share."""

from __future__ import annotations

from typing import Any

from gendebug_torch.checks.finding import Severity
from gendebug_torch.leakage.splits.near_duplicates import NearDuplicates
from gendebug_torch.leakage.splits.shared_rows import SplitOverlap

SPLIT_NEEDS = ("train.features", "validation.features")
# Share of affected rows from which a finding is a failure.
_FAIL_SHARE = 0.1
_ROWS_LISTED = 20


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
