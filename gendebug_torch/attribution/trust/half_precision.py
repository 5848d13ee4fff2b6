"""Comparison of attributions in half precision with float32, on a few rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.rank_agreement import top_k_jaccard
from gendebug_torch.attribution.explain import explain
from gendebug_torch.attribution.explanation.task import AttributionTask
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.batches import Unpack, sample_rows
from gendebug_torch.model.evaluation import Model

_ROWS = 32
# Relative change of the median row above which attributions are mostly rounding, and up to which
# they are as accurate as in float32.
_ROUNDING, _ACCURATE = 0.25, 0.05


@dataclass(frozen=True)
class PrecisionCheck:
    """Attributions in half precision beside those in float32 for the same rows.

    Args:
        precision: name of the half precision.
        rows: number of rows.
        reordered: share of rows with other top features, ties at zero left out.
        typical: median over rows of `|a16 - a32| / |a32|`.
        largest: maximum over rows of the same.
    """

    precision: str
    rows: int
    reordered: float
    typical: float
    largest: float

    @property
    def accurate(self) -> bool:
        """Whether the median row is as accurate as in float32."""
        return self.typical <= _ACCURATE

    @property
    def usable(self) -> bool:
        """Whether the attributions are more than rounding."""
        return self.typical <= _ROUNDING

    def __str__(self) -> str:
        return (
            f"{self.precision} changes the contributions of {self.rows} rows by "
            f"{self.typical:.1%} in the median and {self.largest:.1%} at most, and the top "
            f"features of {self.reordered:.0%} of them"
        )


def precision_check(
    task: AttributionTask, model: Model, loader: Any, unpack: Unpack | None
) -> PrecisionCheck:
    """The same few rows in half precision and in float32, both for the class that float32 predicts.

    Args:
        task: options of the run.
        model: network.
        loader: rows.
        unpack: function from a batch to (inputs, targets).

    Raises:
        InputError: a loader that cannot be iterated again.
        UnsupportedError: attributions that are mostly rounding.
    """
    inputs, targets = sample_rows(loader, _ROWS, unpack=unpack)

    def run(own: AttributionTask, labels: Tensor | None) -> Attributions:
        return explain(own, model, [(inputs, labels)], unpack=lambda batch: batch, alone=True)

    single = run(replace(task, precision="32-true"), targets)
    if task.target == "predicted" and len(single) and int(single.targets.min()) >= 0:
        half = run(replace(task, target="target"), single.targets)
    else:
        half = run(task, targets)
    check = compare_precisions(half.flat, single.flat, task.precision)
    if not check.usable:
        raise UnsupportedError(
            f"{check}: that is mostly rounding. Use precision='32-true' for {single.method}"
        )
    if not check.accurate:
        warnings.warn(f"{check}; `32-true` avoids it", stacklevel=3)
    return check


def compare_precisions(half: Tensor, single: Tensor, precision: str) -> PrecisionCheck:
    """Differences between contributions in half precision and in float32.

    A row with hardly any contribution is measured relative to a thousandth of the median row. Rows
    that are not finite in float32 are left out; those that are not finite in half precision alone
    count as an infinite change.

    Args:
        half: `[n, d]` float contributions in half precision.
        single: `[n, d]` float contributions in float32.
        precision: name of the half precision.
    """
    finite = single.isfinite().all(1)
    half, single = half[finite].double(), single[finite].double()
    if not len(single) or not single.shape[1]:
        return PrecisionCheck(precision, len(single), 0.0, 0.0, 0.0)
    size = single.norm(dim=1)
    scale = torch.maximum(size, 1e-3 * size.median()).clamp(min=1e-12)
    change = ((half - single).norm(dim=1) / scale).nan_to_num(torch.inf)
    k = min(5, max(1, single.shape[1] // 2))
    reordered = float((top_k_jaccard(half.nan_to_num(0.0), single, k) < 1).double().mean())
    typical, largest = float(change.median()), float(change.max())
    return PrecisionCheck(precision, len(single), reordered, typical, largest)
