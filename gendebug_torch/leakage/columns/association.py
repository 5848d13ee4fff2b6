"""How much one column alone tells about the target: explained share, AUC, mutual information,
Pearson, missingness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.association_measures import (
    binned_auc,
    delta_error,
    explained_by_class,
    explained_share,
    explained_values,
    information,
    level_counts,
    level_sums,
)
from gendebug_torch.leakage.columns.column_codes import CodedBlock, coded_blocks
from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Quantile classes of a real target, for mutual information and missingness; its explained share
# uses the values.
TARGET_BINS = 16
FEWEST_ROWS, FEWEST_OF_CLASS = 50, 10


@dataclass(frozen=True, eq=False)
class Association:
    """What each of d columns tells about the target by itself. NaN where it cannot be said.

    Args:
        names: of the columns.
        n: rows.
        classes: k; 0 for a real target.
        pearson: `[d]` correlation over the rows that have a value; with k > 2 classes that of the
            class that it is largest for.
        explained: `[d]` share of the variance of the target that the level means explain, adjusted
            for the number of levels.
        explained_error: `[d]` its standard error.
        auc: `[d]` of the column as a score for class 1 of 2, in either direction; NaN for names and
            other targets.
        auc_error: `[d]` its standard error.
        information: `[d]` mutual information in nats, less the bias of Miller and Madow.
        information_error: `[d]` its standard error.
        target_entropy: nats.
        best_class: `[d]` the class that the column explains best.
        best_explained: `[d]` the explained share of that class against the rest.
        gaps: `[d, k]` int64 rows per class (quantile class of a real target) in which the column is
            missing.
        totals: `[k]` int64 rows per class.
        distinct: `[d]` int64 different values.
    """

    names: tuple[str, ...]
    n: int
    classes: int
    pearson: Tensor
    explained: Tensor
    explained_error: Tensor
    auc: Tensor
    auc_error: Tensor
    information: Tensor
    information_error: Tensor
    target_entropy: float
    best_class: Tensor
    best_explained: Tensor
    gaps: Tensor
    totals: Tensor
    distinct: Tensor

    def interval(self, measure: str, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[d]` bounds of `pearson`, `explained`, `auc` or `information`.

        Source: Fisher (1921), Metron 1:3 for the correlation; normal limits with the delta-method
        error otherwise.
        """
        z = normal_quantile(0.5 + level / 2)
        value: Tensor = getattr(self, measure)
        if measure == "pearson":
            half = z / math.sqrt(max(self.n - 3, 1))
            inside = value.clamp(-1 + 1e-12, 1 - 1e-12).atanh()
            return (inside - half).tanh(), (inside + half).tanh()
        half_width = z * getattr(self, f"{measure}_error")
        return (value - half_width).clamp(min=0.0), (value + half_width).clamp(
            max=1.0 if measure != "information" else math.inf
        )

    def table(self) -> pd.DataFrame:
        """One row per column, the most telling first."""
        import pandas as pd

        low, high = self.interval("explained")
        columns = {
            "explained": self.explained,
            "low": low,
            "high": high,
            "pearson": self.pearson,
            "auc": self.auc,
            "mutual_information": self.information,
            "missing": self.gaps.sum(1).double() / max(self.n, 1),
            "distinct": self.distinct,
        }
        frame = pd.DataFrame(
            {"column": list(self.names)}
            | {key: value.cpu().numpy() for key, value in columns.items()}
        )
        return frame.sort_values("explained", ascending=False, ignore_index=True)

    def plot(self, ax: Axes | None = None, *, most: int = 15, flagged: Sequence[str] = ()) -> Axes:
        """Explained share of the most telling columns with its interval; what is flagged is set
        apart by colour.
        """
        ax = axes(ax, size=(6.4, 4.0))
        rows = (
            self.table().dropna(subset=["explained"]).head(most).iloc[::-1].reset_index(drop=True)
        )
        limit = 0.64
        for place, row in enumerate(rows.to_dict("records")):
            colour = LIVE if row["column"] in flagged or row["explained"] >= limit else REFERENCE
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
            ax.plot([row["explained"]], [place], "o", color=colour, markersize=5)
        ax.axvline(
            limit, color=NEUTRAL, linestyle="--", linewidth=1.0, label="a correlation of 0.8"
        )
        ax.set_yticks(range(len(rows)), [str(name)[:28] for name in rows["column"]])
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.7, max(len(rows), 1) - 0.3)
        ax.set_xlabel("share of the target's variance that the column explains alone")
        ax.set_title(f"Each column against the target ({self.n:,} rows)")
        ax.legend(frameon=True, loc="lower right")
        return ax


def association(
    features: pd.DataFrame | Tensor,
    targets: Tensor,
    *,
    categorical: Sequence[str] = (),
    max_rows: int = 200_000,
) -> Association:
    """Every column by itself against the target, from one count of levels by classes per column.

    The explained share is Goodman and Kruskal's tau for classes and the correlation ratio for a
    real target, both `1 - (1 - raw) (n - 1) / (n - levels)`: for two columns of numbers in a
    straight line it is Pearson's r squared, and it sees bent, symmetric and categorical relations,
    which r does not.

    Source: Pearson (1905), Drapers' Co. Res. Mem. 2, for the ratio; Goodman and Kruskal (1954),
    JASA 49:732, section 9; Miller (1955) for the bias of information; standard errors of counts by
    the delta method, of R² after Olkin and Finn (1995), Psychol. Bull. 118:155. The AUC is that of
    the binned column: off by half a pair within a bin.

    Args:
        features: `[n, d]` table or `[n, ...]` tensor.
        targets: `[n]` int64 class ids or float values.
        categorical: columns that hold codes although they are numbers.
        max_rows: more rows are thinned evenly; 200,000 tell a share to ± 0.004.

    Raises:
        InputError: lengths differ, or `targets` is not `[n]`.

    Cost: `n d log(bins)` with n at most `max_rows`; memory is constant in d.
    """
    if targets.ndim != 1 or len(targets) != len(features):
        reject(
            "targets",
            f"[n] with n = {len(features)}",
            str(list(targets.shape)),
            "Pass one label at a time, aligned with the rows.",
        )
    features, targets = thinned(features, targets, max_rows)
    classes, centred = target_classes(targets)
    k = int(classes.max()) + 1 if len(classes) else 1
    blocks = list(coded_blocks(features, categorical=categorical))
    measured = [_measured(block, classes, centred, k) for block in blocks]
    joined = {key: torch.cat([part[key] for part in measured]).cpu() for key in measured[0]}
    totals = torch.bincount(classes, minlength=k).cpu()
    shares = totals.double() / max(len(targets), 1)
    entropy = float(-(shares * shares.clamp(min=1e-300).log()).sum())
    names = tuple(name for block in blocks for name in block.names)
    return Association(
        names,
        len(targets),
        0 if centred is not None else k,
        totals=totals,
        target_entropy=entropy,
        **joined,
    )


def too_few(targets: Tensor) -> str:
    """Why nothing can be said about `[n]` targets, or an empty string."""
    if targets.is_floating_point():
        few = len(targets) < FEWEST_ROWS or float(targets.double().std()) == 0
        return f"{len(targets)} rows, or a constant target" if few else ""
    counts = torch.bincount(targets) if len(targets) else targets
    enough = len(targets) >= FEWEST_ROWS and int((counts >= FEWEST_OF_CLASS).sum()) >= 2
    return (
        "" if enough else f"{len(targets)} rows, fewer than two classes of {FEWEST_OF_CLASS} rows"
    )


def thinned(
    features: pd.DataFrame | Tensor, targets: Tensor, max_rows: int
) -> tuple[pd.DataFrame | Tensor, Tensor]:
    """Every so-many-th row, so that at most `max_rows` are left."""
    step = -(-len(targets) // max_rows)
    if step <= 1:
        return features, targets
    return (features[::step] if isinstance(features, Tensor) else features.iloc[::step]), targets[
        ::step
    ]


def target_classes(targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """`[n]` class ids, and the `[n]` standardised values of a real target (None for classes)."""
    if not targets.is_floating_point():
        return targets - targets.min() if len(targets) else targets, None
    values = targets.double()
    spread = values.std(correction=0) if len(values) else values.new_tensor(0.0)
    centred = (values - values.mean()) / spread if float(spread) > 0 else torch.zeros_like(values)
    share = torch.linspace(0, 1, TARGET_BINS + 1, dtype=torch.float64, device=values.device)[1:-1]
    cuts = centred.sort().values[(share * (len(values) - 1)).long()] if len(values) else centred
    return torch.searchsorted(torch.unique(cuts), centred), centred


def _measured(
    block: CodedBlock, classes: Tensor, centred: Tensor | None, k: int
) -> dict[str, Tensor]:
    classes, centred = (
        classes.to(block.codes.device),
        None if centred is None else centred.to(block.codes.device),
    )
    counts = level_counts(block.codes, block.levels, classes, k)
    unknown = torch.full((len(block.names),), math.nan, dtype=torch.float64, device=counts.device)
    information_, information_error = delta_error(information, counts)
    if centred is None:
        explained, explained_error = delta_error(explained_share, counts)
        by_class = explained_by_class(counts.double())
    else:
        sums = level_sums(block.codes, block.levels, centred)
        explained = explained_values(counts.sum(2), sums, centred)
        r = explained.clamp(0.0, 1.0)
        explained_error = 2 * r.sqrt() * (1 - r) / math.sqrt(max(len(classes), 1))
        by_class = explained[:, None]
    scored = centred is None and k == 2 and block.values is not None
    auc, auc_error = delta_error(binned_auc, counts[:, :-1]) if scored else (unknown, unknown)
    pearson = (
        unknown
        if block.values is None
        else correlation(block.values, classes if centred is None else centred, k)
    )
    best = by_class.nan_to_num(-1.0).argmax(1)
    return {
        "pearson": pearson,
        "explained": explained.clamp(min=0.0),
        "explained_error": explained_error,
        "auc": torch.maximum(auc, 1 - auc),
        "auc_error": auc_error,
        "information": information_.clamp(min=0.0),
        "information_error": information_error,
        "best_class": best,
        "best_explained": by_class.gather(1, best[:, None])[:, 0].clamp(min=0.0),
        "gaps": counts[:, -1],
        "distinct": block.distinct.to(counts.device),
    }


def correlation(values: Tensor, targets: Tensor, k: int) -> Tensor:
    """`[c]` Pearson's r of each column with a real target, or with the class indicator that it is
    largest for.

    Args:
        values: `[c, n]`; rows that are not finite are left out per column.
        targets: `[n]` class ids or centred float values.
        k: number of classes.
    """
    known = values.isfinite()
    m = known.sum(1, keepdim=True).clamp(min=1)
    centre = torch.where(known, values, 0.0).sum(1, keepdim=True) / m
    x = torch.where(known, values - centre, 0.0)
    x = x / x.abs().amax(1, keepdim=True).clamp(min=1e-300)
    y = (
        targets.double()[:, None]
        if targets.is_floating_point() or k <= 2
        else torch.nn.functional.one_hot(targets, k).double()
    )
    present = known.double()
    y_sum, y_square = present @ y, present @ y.square()
    covariance = x @ y - x.sum(1, keepdim=True) * y_sum / m
    spread = (
        (x.square().sum(1, keepdim=True) * (y_square - y_sum.square() / m)).clamp(min=0.0).sqrt()
    )
    r = torch.where(spread > 1e-12 * m, covariance / spread.clamp(min=1e-300), math.nan)
    best = r.abs().nan_to_num(-1.0).argmax(1, keepdim=True)
    return r.gather(1, best)[:, 0].clamp(-1.0, 1.0)
