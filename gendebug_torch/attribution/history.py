"""The ranking of features through a training: what the network leans on, epoch by epoch, and when
that settles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.attribution.attribute import attribute
from gendebug_torch.attribution.attributions import Attributions, short_name
from gendebug_torch.attribution.trust.stability import row_spearman, top_k_jaccard
from gendebug_torch.checks.evidence import CYCLE, NEUTRAL, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 8
# Fewer rows rank by chance; they are also the first ones, whose cost nobody knows.
_FEWEST = 32


@dataclass
class RankingHistory:
    """Mean absolute contribution of every feature per epoch.

    Args:
        names: of the features; known from the first epoch on.
        sizes: epoch -> `[d]` float64.
        rows_per_second: of the last explanation, its fixed costs included; 0 before the first.
        spent: seconds that explanations took.
    """

    names: tuple[str, ...] = ()
    sizes: dict[int, Tensor] = field(default_factory=dict)
    rows_per_second: float = 0.0
    spent: float = 0.0

    def affordable_rows(self, most: int, seconds: float) -> int:
        """Rows to explain when so many seconds may have been spent in all: 0, rather than too few
        to rank by.

        The first explanation is of 32 rows, whatever it costs; what it took beyond the allowance is
        saved up later.
        """
        fewest = min(most, _FEWEST)
        if not self.rows_per_second:
            return fewest
        rows = int((seconds - self.spent) * self.rows_per_second)
        return min(most, rows) if rows >= fewest else 0

    def explain(
        self, epoch: int, model: Any, inputs: Tensor, clock: Callable[[], float], **options: Any
    ) -> Attributions:
        """Attribute a sample of rows and keep its ranking; `clock()` tells seconds."""
        started = clock()
        found = attribute(model, inputs, **({"trust": False} | options))
        seconds = max(clock() - started, 1e-9)
        self.rows_per_second, self.spent = len(found) / seconds, self.spent + seconds
        self.names = found.names
        self.sizes[epoch] = found.flat[found.usable].abs().mean(0)
        return found

    def table(self, top: int = 5) -> pd.DataFrame:
        """One row per epoch: the strongest features, agreement with the epoch before and with the
        last one.
        """
        import pandas as pd

        epochs = sorted(self.sizes)
        rows = []
        for at, epoch in enumerate(epochs):
            size = self.sizes[epoch]
            strongest = ", ".join(
                self.names[i] for i in size.argsort(descending=True, stable=True)[:top].tolist()
            )
            before = (
                self._agreement(size, self.sizes[epochs[at - 1]], top)
                if at
                else (float("nan"), float("nan"))
            )
            rows.append(
                [epoch, strongest, *before, self._agreement(size, self.sizes[epochs[-1]], top)[0]]
            )
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
        """Share of the features that are strongest in any epoch, through the epochs."""
        ax = axes(ax, size=(7.0, 4.0))
        epochs = sorted(self.sizes)
        shares = torch.stack(
            [self.sizes[epoch] / self.sizes[epoch].sum().clamp(min=1e-300) for epoch in epochs]
        )
        shown = shares.amax(0).argsort(descending=True, stable=True)[:_SHOWN].tolist()
        for place, feature in enumerate(sorted(shown, key=lambda at: -float(shares[-1, at]))):
            color = CYCLE[place] if place < len(CYCLE) else NEUTRAL
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
            title="What the network leans on",
            ylim=(0, None),
        )
        ax.locator_params(axis="x", integer=True)
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax
