"""Standardised mean difference and population stability index of all columns."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import PreparedReference, as_prepared
from gendebug_torch.stats.intervals import normal_quantile


@dataclass(frozen=True, eq=False)
class EffectSizes:
    """Effect sizes of d columns between two samples.

    Args:
        mean_difference: standardised mean differences, `[d]`: production less reference mean, over
            the pooled standard deviation.
        standard_error: standard errors of the mean differences, `[d]`.
        population_stability_index: population stability indices, `[d]`; 0.1 and 0.25 are the usual
            limits.
        expected_index: means of the index without a shift, `[d]`.
        names: column names, `d` of them.
    """

    mean_difference: Tensor
    standard_error: Tensor
    population_stability_index: Tensor
    expected_index: Tensor
    names: tuple[str, ...]

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds of the standardised mean difference, `[d]` each."""
        half = normal_quantile(0.5 + level / 2) * self.standard_error
        return self.mean_difference - half, self.mean_difference + half

    def table(self) -> pd.DataFrame:
        """One row per column, largest standardised difference first."""
        low, high = self.interval()
        columns = {
            "smd": self.mean_difference,
            "low": low,
            "high": high,
            "psi": self.population_stability_index,
            "psi_by_chance": self.expected_index,
        }
        frame = pd.DataFrame(
            {
                "feature": list(self.names),
                **{name: part.cpu().numpy() for name, part in columns.items()},
            }
        )
        return frame.iloc[frame["smd"].abs().argsort(kind="stable").to_numpy()[::-1]].reset_index(
            drop=True
        )


def effect_sizes(
    reference: Tensor | PreparedReference, live: Tensor | PreparedReference, *, bins: int = 10
) -> EffectSizes:
    """Standardised mean differences and population stability indices; NaN without finite values.

    `smd = (mean_live - mean_ref) / s` with the pooled s and
    `se^2 = 1/n + 1/m + smd^2 / (2 (n + m))`. `psi = sum_b (q_b - p_b) log(q_b / p_b)` over bins
    that hold equal shares of the reference, half a row added to each bin. Without a shift it is
    `(bins - 1) (1/n + 1/m)` on average: compare with that before marks like 0.1.

    Source: Hedges and Olkin (1985), Statistical Methods for Meta-Analysis, chapter 5; Lewis (1994),
    An Introduction to Credit Scoring, for the index; Yurdakul (2018), Western Michigan University,
    for its mean.

    Args:
        reference: numbers, `[n, d]`, or what `prepare_reference` returned for them.
        live: numbers, `[m, d]`, or prepared likewise.
        bins: number of bins of the index; columns with few distinct values get fewer.

    Returns:
        The effect sizes; `table()` lists them, largest mean difference first.

    Raises:
        InputError: other numbers of columns, or fewer than 2 bins.

    Cost: one pass over both, and `m log bins` per column.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> reference, live = torch.randn(2000, 1, generator=generator).split(1000)
        >>> sizes = effect_sizes(reference, live + 0.5)
        >>> round(float(sizes.mean_difference), 1), bool(sizes.population_stability_index > 0.1)
        (0.5, True)
    """
    before, after = as_prepared(reference), as_prepared(live)
    if len(after.columns) != len(before.columns):
        reject(
            "live",
            f"{len(before.columns)} columns like the reference",
            str(len(after.columns)),
            "Select the same columns.",
        )
    if bins < 2:
        reject("bins", "at least 2", str(bins), "10 is customary.")
    (n, mean, spread), (m, live_mean, live_spread) = (_moments(side) for side in (before, after))
    pooled = ((spread * (n - 1) + live_spread * (m - 1)) / (n + m - 2).clamp(min=1)).sqrt()
    smd = (live_mean - mean) / torch.where(pooled > 0, pooled, torch.full_like(pooled, torch.nan))
    smd = torch.where((pooled == 0) & (live_mean == mean), torch.zeros_like(smd), smd)
    error = (1 / n + 1 / m + smd.square() / (2 * (n + m))).sqrt()
    index, expected = _population_stability_index(before, after, bins)
    names = before.names or tuple(f"column_{i}" for i in range(len(before.columns)))
    return EffectSizes(smd, error, index, expected, names)


def _moments(side: PreparedReference) -> tuple[Tensor, Tensor, Tensor]:
    """`[d]` number, mean and variance of the finite values of each column."""
    columns = side.columns.double()
    finite = columns.isfinite()
    count = finite.sum(1).double()
    mean = torch.where(finite, columns, torch.zeros_like(columns)).sum(1) / count
    deviation = torch.where(finite, columns - mean[:, None], torch.zeros_like(columns))
    return (
        count * side.n / side.stored.clamp(min=1),
        mean,
        deviation.square().sum(1) / (count - 1).clamp(min=1),
    )


def _population_stability_index(
    before: PreparedReference, after: PreparedReference, bins: int
) -> tuple[Tensor, Tensor]:
    """`[d]` indices and their `[d]` means without a shift; all columns at once."""
    values, live = (_padded(side) for side in (before, after))
    parts = torch.arange(1, bins, device=values.device)
    edges = values.gather(1, parts * before.stored[:, None] // bins)
    # Equal quantiles are one edge: the bin between them is none.
    inner = edges[:, 1:] != edges[:, :-1]
    real = torch.cat([torch.ones_like(edges[:, :1], dtype=torch.bool), inner], 1)
    real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
    count = real.sum(1)
    p, q = (
        _bin_shares(column, edges, side, count)
        for column, side in ((values, before), (live, after))
    )
    index = torch.where(real, (q - p) * (q / p).log(), 0.0).sum(1)
    expected = (count - 1) * (1 / before.n.double() + 1 / after.n.double())
    empty = (before.n == 0) | (after.n == 0)
    return index.masked_fill(empty, torch.nan), expected.masked_fill(empty, torch.nan)


def _padded(side: PreparedReference) -> Tensor:
    """`[d, size]` float64 stored values of each column, ascending, followed by infinity."""
    columns = side.columns.double()
    if not columns.shape[1]:
        return columns.new_full((len(columns), 1), torch.inf)
    filled = torch.arange(columns.shape[1], device=columns.device) < side.stored[:, None]
    return torch.where(filled, columns, torch.inf)


def _bin_shares(values: Tensor, edges: Tensor, side: PreparedReference, bins: Tensor) -> Tensor:
    """`[d, b]` shares of the values between edges `[d, b - 1]`, half a row added to each."""
    stored = side.stored[:, None]
    below = torch.searchsorted(values, edges).minimum(stored)
    below = torch.cat([torch.zeros_like(stored), below, stored], 1)
    share = below.diff(dim=1).double() / stored
    return (share * side.n[:, None] + 0.5) / (side.n + 0.5 * bins)[:, None]
