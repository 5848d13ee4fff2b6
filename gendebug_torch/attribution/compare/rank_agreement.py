"""Whether methods that should rank the features alike do so: rank agreement with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.attribution.trust.stability import spearman
from gendebug_torch.checks.evidence import GOOD, LIVE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import bootstrap_replicates, percentile_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class RankAgreement:
    """Rankings of the same features by several methods, and how far each pair agrees.

    Args:
        names: of the features.
        methods: that ranked them.
        sizes: `[m, d]` float64 what each method ranks by: mean absolute contribution, or rise of
            the loss.
        pairs: positions of the two methods of each pair.
        correlation: `[p]` float64 rank correlation of each pair; NaN where a method ranks nothing.
        low: `[p]` lower end of its 95 % interval over rows.
        high: `[p]` upper end.
        rows: that both were asked about.
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

        named = [[self.methods[first], self.methods[second]] for first, second in self.pairs]
        frame = pd.DataFrame(named, columns=["first", "second"])
        frame = frame.assign(
            rank_correlation=self.correlation.numpy(), low=self.low.numpy(), high=self.high.numpy()
        )
        return frame.sort_values("rank_correlation", ignore_index=True, kind="stable")

    def ranking(self) -> pd.DataFrame:
        """One row per feature: its rank by each method, from 1; features that all rank high
        first.
        """
        import pandas as pd

        ranks = (
            pd.DataFrame(
                {method: -self.sizes[at].numpy() for at, method in enumerate(self.methods)}
            )
            .rank(method="min")
            .astype(int)
        )
        ranks.insert(0, "feature", list(self.names))
        return ranks.loc[
            ranks[list(self.methods)].mean(axis=1).sort_values(kind="stable").index
        ].reset_index(drop=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Rank correlation of each pair with its interval; orange where the interval does not
        exclude that they disagree.
        """
        pairs = self.table().iloc[::-1]
        ax = axes(ax, size=(7.6, 1.3 + 0.4 * max(1, len(pairs))))
        for height, (_, pair) in enumerate(pairs.iterrows()):
            color = GOOD if pair["low"] > 0 else LIVE
            ax.plot([pair["low"], pair["high"]], [height, height], color=color, linewidth=2)
            ax.plot([pair["rank_correlation"]], [height], "o", color=color)
        ax.set_yticks(
            range(len(pairs)),
            [
                f"{first} and {second}"
                for first, second in zip(pairs["first"], pairs["second"], strict=True)
            ],
        )
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(
            xlim=(-1.05, 1.05), xticks=[-1, -0.5, 0, 0.5, 1], ylim=(-0.6, max(1, len(pairs)) - 0.4)
        )
        title = f"Do methods rank the {len(self.names)} features alike? {self.rows:,} rows"
        ax.set(xlabel="rank correlation (95 % interval over rows)", title=title)
        ax.grid(visible=False, axis="y")
        return ax


def rank_agreement(
    per_row: Mapping[str, Tensor], names: Sequence[str], *, replicates: int = 200, seed: int = 0
) -> RankAgreement:
    """Spearman's correlation of the mean sizes of every pair of methods, with a bootstrap over
    common rows.

    The interval is the hull of the percentile and the basic one, so that it is rather too wide than
    too narrow.

    Source: Spearman (1904), Am. J. Psychol. 15:72; Efron (1979), Ann. Statist. 7:1; Davison and
    Hinkley (1997), Bootstrap Methods, 5.2; for methods that disagree Krishna et al. (2022),
    arXiv:2202.01602.

    Args:
        per_row: method -> `[n, d]` what each row adds to the size of each feature: |contribution|,
            or rise of the loss.
        names: `d` names of the features.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two methods or features, no row, or shapes that differ.

    Cost: `replicates * n * d` multiplications per method.
    """
    shapes = {tuple(values.shape) for values in per_row.values()}
    if len(per_row) < 2 or len(shapes) != 1 or len(names) < 2 or next(iter(shapes))[0] < 2:
        got = f"{len(per_row)} methods of shapes {sorted(shapes)}, {len(names)} names"
        reject(
            "per_row",
            "two or more methods about the same rows, two or more features",
            got,
            "Ask all methods about the same rows.",
        )
    stacked = torch.stack([values.double().cpu() for values in per_row.values()])
    stacked = stacked[:, stacked.isfinite().all(2).all(0)]
    if stacked.shape[1] < 2:
        reject(
            "per_row",
            "two rows that every method can explain",
            str(stacked.shape[1]),
            "Leave out rows with NaN.",
        )
    pairs = tuple(itertools.combinations(range(len(stacked)), 2))
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    _, n, d = stacked.shape

    def correlations(weights: Tensor) -> Tensor:
        sizes = torch.einsum("rn,mnd->rmd", weights, stacked)
        return spearman(sizes[:, first].reshape(-1, d), sizes[:, second].reshape(-1, d)).reshape(
            len(weights), len(pairs)
        )

    found = correlations(torch.ones(1, n, dtype=torch.float64))[0].clamp(-1.0, 1.0)
    # A replicate in which a method ranks nothing says nothing.
    drawn = bootstrap_replicates(correlations, n, replicates=replicates, seed=seed).nan_to_num(0.0)
    low, high = percentile_interval(drawn)
    # Noise of the sizes weakens a rank correlation, and resampling adds as much again: the interval
    # reflected at the estimate makes up for it, and both together cover.
    low, high = (
        low.minimum(2 * found - high).clamp(min=-1.0),
        high.maximum(2 * found - low).clamp(max=1.0),
    )
    blank = found.isnan()
    low, high = low.masked_fill(blank, -1.0), high.masked_fill(blank, 1.0)
    return RankAgreement(tuple(names), tuple(per_row), stacked.mean(1), pairs, found, low, high, n)
