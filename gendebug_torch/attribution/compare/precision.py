"""Differences between contributions in half precision and in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.attribution.compare.rank_agreement import top_k_jaccard

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
