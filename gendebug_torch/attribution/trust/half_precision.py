"""What half precision changes about the answers, measured on a few rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.explanation.explainer import Explainer
from gendebug_torch.attribution.trust.stability import top_k_jaccard
from gendebug_torch.data.batches import Unpack, sample_rows
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.model.runner import Model

# Rows that are compared.
_COMPARED = 32
# Relative change of the typical row from which an answer is rounding, and up to which it is as good
# as in float32.
_ROUNDING, _SMALL = 0.25, 0.05


@dataclass(frozen=True)
class PrecisionCheck:
    """Answers in half precision beside those in float32 for the same rows.

    Args:
        precision: that was checked.
        rows: compared.
        reordered: share of rows whose strongest features are others, ties at zero left out.
        typical: median over rows of `|a16 - a32| / |a32|`.
        largest: maximum of the same.
    """

    precision: str
    rows: int
    reordered: float
    typical: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether the typical row is as good as in float32."""
        return self.typical <= _SMALL

    @property
    def usable(self) -> bool:
        """Whether the answers are more than rounding."""
        return self.typical <= _ROUNDING

    def __str__(self) -> str:
        told = (
            f"typically by {self.typical:.1%}, at most by {self.largest:.1%}, and the "
            f"strongest features of {self.reordered:.0%} of them"
        )
        return f"{self.precision} changes the contributions of {self.rows} rows {told}"


def precision_check(
    asked: Explainer, model: Model, loader: Any, unpack: Unpack | None
) -> PrecisionCheck:
    """The same few rows of a loader in half precision and in float32; what float32 predicts is
    explained in both.

    Raises:
        InputError: a loader that cannot be iterated again.
        UnsupportedError: the answers are mostly rounding.
    """
    inputs, targets = sample_rows(loader, _COMPARED, unpack=unpack)

    def answer(explainer: Explainer, labels: Tensor | None) -> Attributions:
        return explainer.explain(model, [(inputs, labels)], unpack=lambda batch: batch, alone=True)

    single = answer(replace(asked, precision="32-true"), targets)
    predicted = asked.target == "predicted" and len(single) > 0 and int(single.targets.min()) >= 0
    half = (
        answer(replace(asked, target="target"), single.targets)
        if predicted
        else answer(asked, targets)
    )
    found = compared(half.flat, single.flat, asked.precision)
    if not found.usable:
        raise UnsupportedError(
            f"{found}: that is mostly rounding. Use precision='32-true' for {single.method}"
        )
    if not found.holds:
        warnings.warn(f"{found}; `32-true` avoids it", stacklevel=3)
    return found


def compared(half: Tensor, single: Tensor, precision: str) -> PrecisionCheck:
    """Differences between `[n, d]` contributions in half precision and in float32.

    A row with hardly any contribution is measured by a thousandth of the median row. Rows that are
    not finite in float32 are left out; those that are not finite in half precision alone count as
    changed without limit.

    Args:
        half: `[n, d]` float.
        single: `[n, d]` float.
        precision: name of the half one.
    """
    known = single.isfinite().all(1)
    half, single = half[known].double(), single[known].double()
    if not len(single) or not single.shape[1]:
        return PrecisionCheck(precision, len(single), 0.0, 0.0, 0.0)
    size = single.norm(dim=1)
    change = (half - single).norm(dim=1) / torch.maximum(size, 1e-3 * size.median()).clamp(
        min=1e-12
    )
    change = change.nan_to_num(torch.inf)
    k = min(5, max(1, single.shape[1] // 2))
    reordered = float((top_k_jaccard(half.nan_to_num(0.0), single, k) < 1).double().mean())
    return PrecisionCheck(
        precision, len(single), reordered, float(change.median()), float(change.max())
    )
