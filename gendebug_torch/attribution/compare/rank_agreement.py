"""Agreement of rankings: rank correlation, overlap of the top features, and its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.stats.auc import midranks
from gendebug_torch.stats.intervals import bootstrap_replicates, percentile_interval

if TYPE_CHECKING:
    import pandas as pd

# Contributions below this share of the largest of a row are ties.
_TIE = 1e-6


def top_k_jaccard(first: Tensor, second: Tensor, k: int = 5) -> Tensor:
    """`[n]` overlap of the k largest absolute contributions of each row: shared over all.

    Ties at zero are left out, because a method with many zero coefficients would look stable by
    its zeros. Two rows without any contribution agree.

    Args:
        first: `[n, d]` float contributions.
        second: `[n, d]` float contributions.
        k: number of largest contributions.
    """
    members = []
    for side in (first.abs(), second.abs()):
        largest = side.topk(min(k, side.shape[1]), dim=1).indices
        top = torch.zeros_like(side, dtype=torch.bool).scatter_(1, largest, True)
        members.append(top & (side > _TIE * side.amax(1, keepdim=True).clamp(min=1e-300)))
    shared = (members[0] & members[1]).sum(1).double()
    union = (members[0] | members[1]).sum(1)
    return torch.where(union > 0, shared / union.clamp(min=1), torch.ones_like(shared))


def row_spearman(first: Tensor, second: Tensor) -> Tensor:
    """`[n]` rank correlation of the absolute contributions within each row; NaN for a constant.

    Args:
        first: `[n, d]` float contributions.
        second: `[n, d]` float contributions.
    """
    return spearman(first.abs(), second.abs())


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """`[n]` rank correlation of two `[n, d]` row by row, ties at their mean rank; NaN if constant.

    Source: Spearman (1904), Am. J. Psychol. 15:72.

    Args:
        first: `[n, d]` float values.
        second: `[n, d]` float values.
    """
    ranks = [midranks(side.contiguous()) for side in (first, second)]
    centered = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    norms = centered[0].norm(dim=1) * centered[1].norm(dim=1)
    correlation: Tensor = (centered[0] * centered[1]).sum(1) / norms
    return correlation


@dataclass(frozen=True, eq=False)
class RankAgreement:
    """Agreement of each pair of rankings of the same features.

    Args:
        names: names of the features.
        methods: methods that rank them.
        sizes: `[m, d]` float64 size of each feature by method: mean |contribution|, or importance.
        pairs: positions of the two methods of each pair.
        correlation: `[p]` float64 rank correlation of each pair; NaN where all sizes are equal.
        low: `[p]` float64 lower end of its 95 % interval over rows.
        high: `[p]` float64 upper end.
        rows: number of rows.
    """

    names: tuple[str, ...]
    methods: tuple[str, ...]
    sizes: Tensor
    pairs: tuple[tuple[int, int], ...]
    correlation: Tensor
    low: Tensor
    high: Tensor
    rows: int

    def table(self) -> pd.DataFrame:
        """One row per pair, least agreement first."""
        import pandas as pd

        pairs = [[self.methods[first], self.methods[second]] for first, second in self.pairs]
        columns = {"rank_correlation": self.correlation, "low": self.low, "high": self.high}
        frame = pd.DataFrame(pairs, columns=["first", "second"]).assign(
            **{name: value.numpy() for name, value in columns.items()}
        )
        return frame.sort_values("rank_correlation", ignore_index=True, kind="stable")


def rank_agreement(
    per_row: Mapping[str, Tensor], names: Sequence[str], *, replicates: int = 200, seed: int = 0
) -> RankAgreement:
    """Spearman's correlation of the mean sizes of every pair of methods, with its interval.

    Where methods disagree, the ranking is a property of the method and not of the network:
    correlated or interacting features are credited differently. The interval comes from a bootstrap
    over rows; it is the hull of the percentile and the basic interval, rather too wide than too
    narrow.

    Source: Spearman (1904), Am. J. Psychol. 15:72; Efron (1979), Ann. Statist. 7:1; Davison and
    Hinkley (1997), Bootstrap Methods, 5.2; for methods that disagree Krishna et al. (2022),
    arXiv:2202.01602.

    Args:
        per_row: method -> `[n, d]` size of each feature in each row: |contribution|, or rise of
            the loss.
        names: names of the d features.
        replicates: number of bootstrap samples.
        seed: seed of the bootstrap.

    Raises:
        InputError: fewer than two methods, features or rows, or shapes that differ.

    Cost: `replicates * n * d` multiplications per method.

    Example:
        >>> import torch
        >>> size = torch.arange(1.0, 5.0) + torch.rand(50, 4, generator=torch.manual_seed(0)) / 2
        >>> agreement = rank_agreement({"one": size, "other": size.square()}, list("abcd"))
        >>> round(float(agreement.correlation[0]), 3)
        1.0
    """
    shapes = {tuple(values.shape) for values in per_row.values()}
    if len(per_row) < 2 or len(shapes) != 1 or len(names) < 2 or next(iter(shapes))[0] < 2:
        expected = "two or more methods on the same rows, two or more features"
        got = f"{len(per_row)} methods of shapes {sorted(shapes)}, {len(names)} names"
        reject("per_row", expected, got, "Run all methods on the same rows.")
    stacked = torch.stack([values.double().cpu() for values in per_row.values()])
    stacked = stacked[:, stacked.isfinite().all(2).all(0)]
    if stacked.shape[1] < 2:
        expected = "two rows that every method can explain"
        reject("per_row", expected, str(stacked.shape[1]), "Leave out rows with NaN.")
    pairs = tuple(itertools.combinations(range(len(stacked)), 2))
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    _, n, d = stacked.shape

    def correlations(weights: Tensor) -> Tensor:
        """`[r, p]` correlations under `[r, n]` weights of the rows."""
        sizes = torch.einsum("rn,mnd->rmd", weights, stacked)
        both = (sizes[:, side].reshape(-1, d) for side in (first, second))
        return spearman(*both).reshape(len(weights), len(pairs))

    correlation = correlations(torch.ones(1, n, dtype=torch.float64))[0].clamp(-1.0, 1.0)
    sampled = bootstrap_replicates(correlations, n, replicates=replicates, seed=seed)
    # In a replicate where all sizes of a method are equal there is no correlation.
    low, high = _interval(correlation, sampled.nan_to_num(0.0))
    sizes = stacked.mean(1)
    return RankAgreement(tuple(names), tuple(per_row), sizes, pairs, correlation, low, high, n)


def _interval(correlation: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Hull of the percentile and the basic interval; everything where there is no correlation.

    Noise of the sizes attenuates a rank correlation, and resampling attenuates it once more; the
    interval reflected at the estimate corrects for that.
    """
    low, high = percentile_interval(sampled)
    low, high = low.minimum(2 * correlation - high), high.maximum(2 * correlation - low)
    undefined = correlation.isnan()
    return (
        low.clamp(min=-1.0).masked_fill(undefined, -1.0),
        high.clamp(max=1.0).masked_fill(undefined, 1.0),
    )
