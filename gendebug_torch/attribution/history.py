"""The ranking of the features through a training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions, short_name
from gendebug_torch.attribution.compare.rank_agreement import row_spearman, top_k_jaccard
from gendebug_torch.checks.evidence import CYCLE, NEUTRAL, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LINES = 8
# Fewer rows rank by chance. The first explanation, whose speed is unknown, is of as many.
_MIN_ROWS = 32


@dataclass
class RankingHistory:
    """Mean absolute contribution of every feature per epoch.

    Args:
        names: names of the features; empty before the first epoch.
        sizes: epoch -> `[d]` float64 mean absolute contribution.
        rows_per_second: speed of the last explanation, with its fixed costs; 0 before the first.
        seconds: total time of the explanations.
    """

    names: tuple[str, ...] = ()
    sizes: dict[int, Tensor] = field(default_factory=dict)
    rows_per_second: float = 0.0
    seconds: float = 0.0

    def affordable_rows(self, max_rows: int, max_seconds: float) -> int:
        """Rows that can be explained within a total time; 0 where too few to rank.

        The first explanation is of 32 rows at any cost; later ones wait until the total allows it.

        Args:
            max_rows: largest number of rows.
            max_seconds: total time that explanations may take so far.
        """
        min_rows = min(max_rows, _MIN_ROWS)
        if not self.rows_per_second:
            return min_rows
        rows = int((max_seconds - self.seconds) * self.rows_per_second)
        return min(max_rows, rows) if rows >= min_rows else 0

    def explain(
        self, epoch: int, model: Any, inputs: Tensor, clock: Callable[[], float], **options: Any
    ) -> Attributions:
        """Attribute a sample of rows and store its ranking.

        Args:
            epoch: number of the epoch.
            model: network.
            inputs: `[n, ...]` rows.
            clock: function that returns seconds.
            **options: options of `attribute`.
        """
        start = clock()
        attributions = attribute(model, inputs, **({"trust": False} | options))
        seconds = max(clock() - start, 1e-9)
        self.rows_per_second = len(attributions) / seconds
        self.seconds += seconds
        self.names = attributions.names
        self.sizes[epoch] = attributions.flat[attributions.usable].abs().mean(0)
        return attributions

    def table(self, top: int = 5) -> pd.DataFrame:
        """One row per epoch: strongest features, agreement with the epoch before and the last."""
        import pandas as pd

        epochs = sorted(self.sizes)
        rows = []
        for i, epoch in enumerate(epochs):
            size = self.sizes[epoch]
            order = size.argsort(descending=True, stable=True)[:top].tolist()
            strongest = ", ".join(self.names[feature] for feature in order)
            before = (float("nan"), float("nan"))
            if i:
                before = self._agreement(size, self.sizes[epochs[i - 1]], top)
            last = self._agreement(size, self.sizes[epochs[-1]], top)
            rows.append([epoch, strongest, *before, last[0]])
        return pd.DataFrame(
            rows,
            columns=["epoch", "top", "rank_correlation", "overlap", "rank_correlation_with_last"],
        )

    @staticmethod
    def _agreement(first: Tensor, second: Tensor, top: int) -> tuple[float, float]:
        return float(row_spearman(first[None], second[None])[0]), float(
            top_k_jaccard(first[None], second[None], top)[0]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of |contribution| per epoch, of the features that are strongest in any epoch."""
        ax = axes(ax, size=(7.0, 4.0))
        epochs = sorted(self.sizes)
        shares = torch.stack(
            [self.sizes[epoch] / self.sizes[epoch].sum().clamp(min=1e-300) for epoch in epochs]
        )
        strongest = shares.amax(0).argsort(descending=True, stable=True)[:_LINES].tolist()
        order = sorted(strongest, key=lambda feature: -float(shares[-1, feature]))
        for i, feature in enumerate(order):
            color = CYCLE[i] if i < len(CYCLE) else NEUTRAL
            ax.plot(
                epochs,
                shares[:, feature].numpy(),
                color=color,
                marker="o",
                markersize=3,
                label=short_name(self.names[feature]),
            )
        ax.set(
            xlabel="epoch",
            ylabel="share of |contribution|",
            title="Most important features",
            ylim=(0, None),
        )
        ax.locator_params(axis="x", integer=True)
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax
