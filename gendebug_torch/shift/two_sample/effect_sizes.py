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
    """`[d]` indices and their `[d]` means without a shift."""
    device = before.columns.device
    index, expected = (
        torch.full((len(before.n),), torch.nan, dtype=torch.float64, device=device)
        for _ in range(2)
    )
    for column, sizes in enumerate(zip(before.n.tolist(), after.n.tolist(), strict=True)):
        if not min(sizes):
            continue
        values, live = (side.values(column).double().contiguous() for side in (before, after))
        edges = torch.unique(values[(torch.arange(1, bins, device=device) * len(values)) // bins])
        shares = []
        for side, n in zip((values, live), sizes, strict=True):
            bin_ids = torch.searchsorted(edges, side, right=True)
            share = torch.bincount(bin_ids, minlength=len(edges) + 1).double() / len(side)
            shares.append((share * n + 0.5) / (n + 0.5 * len(share)))
        p, q = shares
        index[column] = ((q - p) * (q / p).log()).sum()
        expected[column] = len(edges) * sum(1 / n for n in sizes)
    return index, expected
