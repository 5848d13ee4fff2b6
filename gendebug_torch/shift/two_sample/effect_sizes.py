"""Effect sizes that people ask for by name: standardised mean difference and population stability
index, of all columns at once.
"""

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
    """How far d columns moved.

    Args:
        mean_difference: `[d]` standardised: production less reference mean, over the pooled
            standard deviation.
        standard_error: `[d]` of it.
        stability: `[d]` population stability index; 0.1 and 0.25 are the customary marks.
        noise: `[d]` what the index is on average where nothing moved.
        names: `d` column names.
    """

    mean_difference: Tensor
    standard_error: Tensor
    stability: Tensor
    noise: Tensor
    names: tuple[str, ...]

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[d]` bounds of the standardised mean difference."""
        half = normal_quantile(0.5 + level / 2) * self.standard_error
        return self.mean_difference - half, self.mean_difference + half

    def table(self) -> pd.DataFrame:
        """One row per column, largest standardised difference first."""
        low, high = self.interval()
        columns = {
            "smd": self.mean_difference,
            "low": low,
            "high": high,
            "psi": self.stability,
            "psi_by_chance": self.noise,
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
    """Standardised mean differences and stability indices of all columns; NaN where a side has no
    finite value.

    `smd = (mean_live - mean_ref) / s` with the pooled s and
    `se^2 = 1/n + 1/m + smd^2 / (2 (n + m))`. `psi = sum_b (q_b - p_b) log(q_b / p_b)` over bins
    that hold equal shares of the reference, half a row added to each bin. Without a shift it is
    `(bins - 1) (1/n + 1/m)` on average: compare with that before marks like 0.1.

    Source: Hedges and Olkin (1985), Statistical Methods for Meta-Analysis, chapter 5; Lewis (1994),
    An Introduction to Credit Scoring, for the index; Yurdakul (2018), Western Michigan University,
    for its mean.

    Args:
        reference: `[n, d]`, or what `prepare_reference` returned for it.
        live: `[m, d]`, or prepared likewise.
        bins: of the index; columns with few distinct values get fewer.

    Raises:
        InputError: other numbers of columns, or fewer than 2 bins.

    Cost: one pass over both, and `m log bins` per column.
    """
    known, after = as_prepared(reference), as_prepared(live)
    if len(after.columns) != len(known.columns):
        reject(
            "live",
            f"{len(known.columns)} columns like the reference",
            str(len(after.columns)),
            "Select the same columns.",
        )
    if bins < 2:
        reject("bins", "at least 2", str(bins), "10 is customary.")
    (n, mean, spread), (m, live_mean, live_spread) = (_moments(side) for side in (known, after))
    pooled = ((spread * (n - 1) + live_spread * (m - 1)) / (n + m - 2).clamp(min=1)).sqrt()
    smd = (live_mean - mean) / torch.where(pooled > 0, pooled, torch.full_like(pooled, torch.nan))
    smd = torch.where((pooled == 0) & (live_mean == mean), torch.zeros_like(smd), smd)
    error = (1 / n + 1 / m + smd.square() / (2 * (n + m))).sqrt()
    index, noise = _stability(known, after, bins)
    names = known.names or tuple(f"column_{i}" for i in range(len(known.columns)))
    return EffectSizes(smd, error, index, noise, names)


def _moments(side: PreparedReference) -> tuple[Tensor, Tensor, Tensor]:
    """`[d]` number, mean and variance of the finite values of each column; those left of a thinned
    one stand for all.
    """
    columns = side.columns.double()
    held = columns.isfinite()
    count = held.sum(1).double()
    kept = torch.where(held, columns, torch.zeros_like(columns))
    mean = kept.sum(1) / count
    deviation = torch.where(held, columns - mean[:, None], torch.zeros_like(columns))
    return (
        count * side.n / side.kept.clamp(min=1),
        mean,
        deviation.square().sum(1) / (count - 1).clamp(min=1),
    )


def _stability(
    known: PreparedReference, after: PreparedReference, bins: int
) -> tuple[Tensor, Tensor]:
    device = known.columns.device
    index, noise = (
        torch.full((len(known.n),), torch.nan, dtype=torch.float64, device=device) for _ in range(2)
    )
    for column, sizes in enumerate(zip(known.n.tolist(), after.n.tolist(), strict=True)):
        if not min(sizes):
            continue
        held, live = (side.values(column).double().contiguous() for side in (known, after))
        edges = torch.unique(held[(torch.arange(1, bins, device=device) * len(held)) // bins])
        places = [torch.searchsorted(edges, side, right=True) for side in (held, live)]
        shares = [
            torch.bincount(place, minlength=len(edges) + 1).double() / len(place)
            for place in places
        ]
        p, q = (
            (share * n + 0.5) / (n + 0.5 * len(share))
            for share, n in zip(shares, sizes, strict=True)
        )
        index[column] = ((q - p) * (q / p).log()).sum()
        noise[column] = len(edges) * sum(1 / n for n in sizes)
    return index, noise
