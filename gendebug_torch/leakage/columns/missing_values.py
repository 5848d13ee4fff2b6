"""Association of missing values with the target, column by column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.leakage.columns.association import target_classes
from gendebug_torch.leakage.columns.association_measures import pearson_correlation
from gendebug_torch.leakage.columns.column_codes import Features, column_names
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# The share of a class means little where nearly every row belongs to it; this much correlation is
# required as well.
_MIN_CORRELATION = 0.1


@dataclass(frozen=True, eq=False)
class MissingValueAssociation:
    """The state (missing or present) and class that are most strongly associated, per column.

    Args:
        names: d column names.
        n: number of rows.
        missing: number of missing values, `[d]` int64.
        where_missing: whether the state is "missing", `[d]` bool.
        classes: most frequent class there, `[d]` int64 (a sixteenth of the range of a real target).
        rows: number of rows in that state, `[d]` int64.
        hits: number of them that belong to the class, `[d]` int64.
        overall: share of the class over all rows, `[d]`.
        correlation: correlation of being missing with the target, `[d]`; with k > 2 classes the
            largest of one class.
        p_adjusted: Holm-adjusted p-values over the columns, `[d]`.
    """

    names: tuple[str, ...]
    n: int
    missing: Tensor
    where_missing: Tensor
    classes: Tensor
    rows: Tensor
    hits: Tensor
    overall: Tensor
    correlation: Tensor
    p_adjusted: Tensor

    @property
    def share(self) -> Tensor:
        """`[d]` share of the class among the rows in that state."""
        return self.hits.double() / self.rows.clamp(min=1)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Wilson's lower and upper bound of `share`, `[d]` each."""
        return wilson_interval(self.hits, self.rows, level=level)

    def associated(self, min_share: float, min_correlation: float, alpha: float) -> list[int]:
        """Positions of columns whose missing values predict the target, the strongest first.

        Args:
            min_share: share of one class in one state from which its lower bound counts.
            min_correlation: correlation from which a column counts, whatever the share.
            alpha: level of the test.
        """
        r = self.correlation.abs().nan_to_num(0.0)
        pure = (self.interval()[0] >= min_share) & (r >= _MIN_CORRELATION)
        found = (self.p_adjusted <= alpha) & (pure | (r >= min_correlation))
        return sorted(found.nonzero()[:, 0].tolist(), key=lambda i: -float(r[i]))

    def table(self) -> pd.DataFrame:
        """One row per column with missing values: state, class, and its share there and overall."""
        import pandas as pd

        low, high = self.interval()
        frame = pd.DataFrame(
            {
                "column": list(self.names),
                "missing": self.missing.numpy(),
                "state": ["missing" if state else "present" for state in self.where_missing],
                "rows": self.rows.numpy(),
                "class": self.classes.numpy(),
                "share": self.share.numpy(),
                "low": low.numpy(),
                "high": high.numpy(),
                "overall": self.overall.numpy(),
                "correlation": self.correlation.numpy(),
            }
        )
        some = (frame["missing"] > 0) & (frame["missing"] < self.n)
        return frame[some].sort_values("correlation", key=lambda r: -r.abs(), ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of the class in that state with its interval, the strongest columns first."""
        frame = self.table()
        frame = frame.assign(label=frame["column"].str.slice(0, 24) + ", " + frame["state"])
        return BarEvidence(
            frame,
            "label",
            "share",
            "Missing values and the target",
            "share of one class where the value is missing, or present",
            interval=("low", "high"),
            limit=12,
        ).plot(ax)


def missing_value_association(features: Features, targets: Tensor) -> MissingValueAssociation:
    """Association of missing and present values of each column with the target.

    Of the `2 k` pairs of state and class of a column the one with the smallest p-value is reported:
    the chance of at least h of r rows in a class of share b is at most `exp(-r KL(h / r || b))`,
    times 2 k for the choice.

    Source: Chernoff (1952), Ann. Math. Stat. 23:493; Holm (1979), Scand. J. Statist. 6:65, over the
    columns.

    Args:
        features: table `[n, d]`, or tensor `[n, ...]` in which NaN is missing.
        targets: class ids `[n]` int64, or real values.

    Cost: one product of `[d, n]` with `[n, k]`.

    Example:
        >>> import torch
        >>> targets = torch.arange(200) % 2
        >>> refund = torch.where(targets == 1, 5.0, torch.nan)
        >>> found = missing_value_association(refund[:, None], targets)
        >>> found.associated(min_share=0.95, min_correlation=0.8, alpha=1e-6)
        [0]
    """
    classes, standardised = target_classes(targets.cpu())
    missing = _missing(features)
    k = int(classes.max()) + 1 if len(classes) else 1
    totals = torch.bincount(classes, minlength=k)
    absent = torch.zeros(missing.shape[1], k, dtype=torch.float64)
    absent.index_add_(1, classes, missing.T.double())
    numbers = classes if standardised is None else standardised
    r = pearson_correlation(missing.T.double(), numbers, k)
    return counted_missing_values(column_names(features), absent.long(), totals, r)


def counted_missing_values(
    names: tuple[str, ...], absent: Tensor, totals: Tensor, correlation: Tensor
) -> MissingValueAssociation:
    """The association of d columns whose missing values were counted by class.

    Args:
        names: names of the columns.
        absent: number of missing values of each class, `[d, k]` int64.
        totals: number of rows of each class, `[k]` int64.
        correlation: correlation of being missing with the target, `[d]`.
    """
    counts, n = torch.stack([totals - absent, absent], 1), int(totals.sum())
    overall = totals.double() / max(n, 1)
    state, label, p = _least_probable(counts, overall)
    columns, rows = torch.arange(len(counts)), counts.sum(2)
    return MissingValueAssociation(
        names,
        n,
        counts[:, 1].sum(1),
        state == 1,
        label,
        rows[columns, state],
        counts[columns, state, label],
        overall[label],
        correlation,
        holm_adjusted(p),
    )


def _least_probable(counts: Tensor, overall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[d]` state and class with the smallest p-value, and that p-value; NaN with one state only.

    Args:
        counts: number of rows, `[d, 2, k]`.
        overall: share of each class, `[k]`.
    """
    k, rows = counts.shape[2], counts.sum(2, keepdim=True)
    share, base = counts.double() / rows.clamp(min=1), overall.expand(counts.shape)
    exponent = torch.where(share > base, rows * _bernoulli_kl(share, base), 0.0).flatten(1)
    largest, best = exponent.max(1)
    p = (torch.exp(-largest) * 2 * k).clamp(max=1.0)
    p[(rows == 0).any(1)[:, 0]] = torch.nan
    return best // k, best % k, p


def _missing(features: Features) -> Tensor:
    """`[n, d]` bool, on the host."""
    if isinstance(features, Tensor):
        return features.detach().reshape(len(features), -1).isnan().cpu()
    return torch.from_numpy(features.isna().to_numpy(dtype=bool, copy=True))


def _bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two Bernoulli distributions in nats."""
    p, q = p.clamp(1e-12, 1 - 1e-12), q.clamp(1e-12, 1 - 1e-12)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
