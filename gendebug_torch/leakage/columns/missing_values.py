"""Missing values that tell the target: what the rows with and without a gap are, column by
column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.leakage.columns.association import correlation, target_classes
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Purity says little where nearly every row is of one class anyway; so much correlation must stand
# beside it.
LEAST_CORRELATION = 0.1


@dataclass(frozen=True, eq=False)
class Gaps:
    """The side (missing or present) and class by which a gap in each of d columns tells most.

    Args:
        names: of the columns.
        n: rows.
        missing: `[d]` int64 rows without a value.
        where_missing: `[d]` whether the telling side is the missing one.
        classes: `[d]` int64 the class that prevails there (a sixteenth of the range of a real
            target).
        rows: `[d]` int64 rows of that side.
        hits: `[d]` int64 of them of that class.
        base: `[d]` share of that class overall.
        correlation: `[d]` of being missing with the target; with k > 2 classes the largest of one
            class.
        p_adjusted: `[d]` Holm over the columns.
    """

    names: tuple[str, ...]
    n: int
    missing: Tensor
    where_missing: Tensor
    classes: Tensor
    rows: Tensor
    hits: Tensor
    base: Tensor
    correlation: Tensor
    p_adjusted: Tensor

    @property
    def purity(self) -> Tensor:
        """`[d]` share of the prevailing class on the telling side."""
        return self.hits.double() / self.rows.clamp(min=1)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Wilson's bounds of `purity`, `[d]` each."""
        return wilson_interval(self.hits, self.rows, level=level)

    def telling(self, min_share: float, min_correlation: float, alpha: float) -> list[int]:
        """Columns whose gaps tell: nearly one class alone on one side, or much correlation;
        strongest first.
        """
        r = self.correlation.abs().nan_to_num(0.0)
        pure = (self.interval()[0] >= min_share) & (r >= LEAST_CORRELATION)
        found = (
            ((self.p_adjusted <= alpha) & (pure | (r >= min_correlation))).nonzero()[:, 0].tolist()
        )
        return sorted(found, key=lambda i: -float(r[i]))

    def table(self) -> pd.DataFrame:
        """One row per column with gaps: missing rows, telling side, class and its share there and
        overall.
        """
        import pandas as pd

        low, high = self.interval()
        frame = pd.DataFrame(
            {
                "column": list(self.names),
                "missing": self.missing.numpy(),
                "side": ["missing" if side else "present" for side in self.where_missing.tolist()],
                "rows": self.rows.numpy(),
                "class": self.classes.numpy(),
                "share": self.purity.numpy(),
                "low": low.numpy(),
                "high": high.numpy(),
                "overall": self.base.numpy(),
                "correlation": self.correlation.numpy(),
            }
        )
        some = (frame["missing"] > 0) & (frame["missing"] < self.n)
        return frame[some].sort_values("correlation", key=lambda r: -r.abs(), ignore_index=True)

    def plot(self, ax: Axes | None = None, *, most: int = 12) -> Axes:
        """For the strongest columns: the share of the class where the column tells, with its
        interval, and overall.
        """
        ax = axes(ax, size=(6.4, 4.0))
        rows = self.table().head(most).iloc[::-1].reset_index(drop=True)
        for place, row in enumerate(rows.to_dict("records")):
            ax.plot([row["low"], row["high"]], [place, place], color=LIVE, linewidth=1.6)
            ax.plot(
                [row["share"]],
                [place],
                "o",
                color=LIVE,
                label="on that side" if place == 0 else None,
            )
            ax.plot(
                [row["overall"]],
                [place],
                "o",
                color=REFERENCE,
                label="overall" if place == 0 else None,
            )
        ax.set_yticks(
            range(len(rows)),
            [
                f"{str(row['column'])[:20]} {row['side']}, n = {row['rows']:,}"
                for row in rows.to_dict("records")
            ],
        )
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("share of the class that prevails")
        ax.set_title("What a gap says about the target")
        ax.set_ylim(-0.7, max(len(rows), 1) - 0.3)
        if len(rows):
            ax.legend(frameon=True)
        return ax


def telling_gaps(missing: Tensor, targets: Tensor, *, names: Sequence[str]) -> Gaps:
    """What missing and present values of each column say about the target.

    Of the `2 k` sides and classes of a column the one with the most surprising purity is kept: the
    chance of at least h of r rows in a class of share b is at most `exp(-r KL(h / r || b))`, times
    2 k for the choice.

    Source: Chernoff (1952), Ann. Math. Stat. 23:493; Holm (1979), Scand. J. Statist. 6:65, over the
    columns.

    Args:
        missing: `[n, d]` bool.
        targets: `[n]` int64 class ids or float values.
        names: of the d columns.

    Cost: one product of `[d, n]` with `[n, k]`.
    """
    classes, centred = target_classes(targets.cpu())
    gaps = missing.cpu()
    k = int(classes.max()) + 1 if len(classes) else 1
    totals = torch.bincount(classes, minlength=k)
    without = torch.zeros(gaps.shape[1], k, dtype=torch.float64)
    without.index_add_(1, classes, gaps.T.double())
    counts = torch.stack([totals - without.long(), without.long()], 1)
    sides = counts.sum(2, keepdim=True)
    base = (totals.double() / max(len(classes), 1)).expand(len(counts), k)[:, None]
    share = counts.double() / sides.clamp(min=1)
    surprise = torch.where(share > base, sides * _divergence(share, base), 0.0).flatten(1)
    best = surprise.argmax(1)
    side, chosen = best // k, best % k
    columns = torch.arange(len(counts))
    p = (torch.exp(-surprise[columns, best]) * 2 * k).clamp(max=1.0)
    p[(sides == 0).any(1)[:, 0]] = torch.nan
    r = correlation(gaps.T.double(), classes if centred is None else centred, k)
    return Gaps(
        tuple(names),
        len(classes),
        counts[:, 1].sum(1),
        side == 1,
        chosen,
        sides[columns, side, 0],
        counts[columns, side, chosen],
        base[columns, 0, chosen],
        r,
        holm_adjusted(p),
    )


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two Bernoulli distributions in nats."""
    p, q = p.clamp(1e-12, 1 - 1e-12), q.clamp(1e-12, 1 - 1e-12)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
