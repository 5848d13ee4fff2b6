"""Association of every single column with the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.association_measures import (
    binned_auc,
    delta_method,
    explained_by_class,
    explained_share,
    explained_values,
    level_counts,
    level_sums,
    mutual_information,
    pearson_correlation,
)
from gendebug_torch.leakage.columns.column_codes import CodedBlock, Features, coded_blocks
from gendebug_torch.stats.intervals import normal_quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Quantile classes of a real target, for mutual information and missing values; the explained share
# uses the values.
TARGET_BINS = 16
MIN_ROWS, MIN_CLASS_ROWS = 50, 10
# Explained share that a correlation of 0.8 gives, for the picture.
_STRONG = 0.64


@dataclass(frozen=True, eq=False)
class Association:
    """Association of each of d columns with the target; NaN where it is not defined.

    Args:
        names: d column names.
        n: number of rows.
        classes: number of classes k; 0 for a real target.
        pearson: correlation over the rows that have a value, `[d]`; with k > 2 that with the
            indicator of the class for which it is largest.
        explained: share of the variance of the target that the means of the levels explain,
            adjusted for the number of levels, `[d]`.
        explained_error: its standard error, `[d]`.
        auc: AUC of the column as a score for class 1 of 2, in the better direction, `[d]`.
        auc_error: its standard error, `[d]`.
        information: mutual information in nats, corrected for its bias, `[d]`.
        information_error: its standard error, `[d]`.
        target_entropy: entropy of the target in nats.
        best_class: class that the column explains best, `[d]` int64.
        best_explained: explained share of that class against the rest, `[d]`.
        missing: number of missing values per class (quantile class of a real target), `[d, k]`.
        distinct: number of different values, `[d]` int64.
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
    missing: Tensor
    distinct: Tensor

    @property
    def strength(self) -> Tensor:
        """`[d]` the largest of explained share, that of the best class, and squared correlation."""
        shares = torch.maximum(self.explained, self.best_explained).nan_to_num(0.0)
        return torch.maximum(shares, self.pearson.nan_to_num(0.0).square())

    @property
    def overall(self) -> Tensor:
        """`[d]` explained share of the whole target; for two classes or a real one, `strength`."""
        return self.explained.nan_to_num(0.0) if self.classes > 2 else self.strength

    @property
    def order(self) -> tuple[str, ...]:
        """Column names by falling explained share."""
        rank = self.explained.nan_to_num(-1.0).argsort(descending=True)
        return tuple(self.names[i] for i in rank.tolist())

    def interval(self, measure: str, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[d]` lower and upper bounds of one measure.

        Source: Fisher (1921), Metron 1:3 for the correlation; normal limits with the delta-method
        error otherwise.

        Args:
            measure: `pearson`, `explained`, `auc` or `information`.
            level: coverage in (0, 1).
        """
        z = normal_quantile(0.5 + level / 2)
        value: Tensor = getattr(self, measure)
        if measure == "pearson":
            half = z / math.sqrt(max(self.n - 3, 1))
            transformed = value.clamp(-1 + 1e-12, 1 - 1e-12).atanh()
            return (transformed - half).tanh(), (transformed + half).tanh()
        half_width = z * getattr(self, f"{measure}_error")
        most = math.inf if measure == "information" else 1.0
        return (value - half_width).clamp(min=0.0), (value + half_width).clamp(max=most)

    def table(self) -> pd.DataFrame:
        """One row per column, by falling explained share."""
        import pandas as pd

        low, high = self.interval("explained")
        measures = {
            "explained": self.explained,
            "low": low,
            "high": high,
            "pearson": self.pearson,
            "auc": self.auc,
            "mutual_information": self.information,
            "missing": self.missing.sum(1).double() / max(self.n, 1),
            "distinct": self.distinct,
        }
        values = {name: value.cpu().numpy() for name, value in measures.items()}
        frame = pd.DataFrame({"column": list(self.names)} | values)
        return frame.sort_values("explained", ascending=False, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Explained share of the most strongly associated columns with its interval."""
        return BarEvidence(
            self.table().dropna(subset=["explained"]),
            "column",
            "explained",
            f"Association of single columns with the target ({self.n:,} rows)",
            "explained share of the target's variance (dashed: correlation 0.8)",
            interval=("low", "high"),
            marker=_STRONG,
            limit=15,
        ).plot(ax)


def association(
    features: Features,
    targets: Tensor,
    *,
    categorical: Sequence[str] = (),
    max_rows: int = 200_000,
) -> Association:
    """Association of every single column with the target.

    The explained share is Goodman and Kruskal's tau for classes and the correlation ratio for a
    real target, both `1 - (1 - raw) (n - 1) / (n - levels)`. For a linear relation of two numeric
    columns it is Pearson's r squared; unlike r it also measures curved, symmetric and categorical
    relations. All measures come from one count of levels by classes per column.

    Source: Pearson (1905), Drapers' Co. Res. Mem. 2, for the ratio; Goodman and Kruskal (1954),
    JASA 49:732, section 9; Miller (1955) for the bias of information; standard errors of counts by
    the delta method, of R² after Olkin and Finn (1995), Psychol. Bull. 118:155. The AUC is that of
    the binned column: off by half a pair within a bin.

    Args:
        features: table `[n, d]` or tensor `[n, ...]`.
        targets: class ids `[n]` int64, or real values.
        categorical: numeric columns that hold codes.
        max_rows: largest number of rows used, evenly spaced; 200,000 give a share to ± 0.004.

    Raises:
        InputError: lengths differ, or `targets` is not `[n]`.

    Cost: `n d log(bins)` with n at most `max_rows`; memory is constant in d.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 1000)[:, None]
        >>> found = association(torch.cat([x, x.square()], 1), (x[:, 0].abs() > 0.5).long())
        >>> [round(float(share), 2) for share in found.explained]
        [0.96, 0.97]
        >>> abs(float(found.pearson[0])) < 0.01
        True
    """
    if targets.ndim != 1 or len(targets) != len(features):
        reject(
            "targets",
            f"[n] with n = {len(features)}",
            str(list(targets.shape)),
            "Pass one label at a time, aligned with the rows.",
        )
    features, targets = _thinned(features, targets, max_rows)
    classes, standardised = target_classes(targets)
    k = int(classes.max()) + 1 if len(classes) else 1
    blocks = list(coded_blocks(features, categorical=categorical))
    parts = [_block_association(block, classes, standardised, k) for block in blocks]
    joined = {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
    share = torch.bincount(classes, minlength=k).double().cpu() / max(len(targets), 1)
    return Association(
        tuple(name for block in blocks for name in block.names),
        len(targets),
        k if standardised is None else 0,
        target_entropy=float(-(share * share.clamp(min=1e-300).log()).sum()),
        **joined,
    )


def unsuitable_targets(targets: Tensor) -> str:
    """Why single columns cannot be compared with these targets; empty if they can."""
    if targets.ndim != 1:
        return "several labels per row; pass one label at a time"
    n = len(targets)
    if targets.is_floating_point():
        few = n < MIN_ROWS or float(targets.double().std()) == 0
        return f"{n} rows, or a constant target" if few else ""
    counts = torch.bincount(targets) if n else targets
    if n >= MIN_ROWS and int((counts >= MIN_CLASS_ROWS).sum()) >= 2:
        return ""
    return f"{n} rows, fewer than two classes of {MIN_CLASS_ROWS} rows"


def target_classes(targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """`[n]` class ids, and the `[n]` standardised values of a real target (None for classes)."""
    if not targets.is_floating_point():
        return targets - targets.min() if len(targets) else targets, None
    values = targets.double()
    deviation = values.std(correction=0) if len(values) else values.new_tensor(0.0)
    constant = not float(deviation) > 0
    scaled = torch.zeros_like(values) if constant else (values - values.mean()) / deviation
    share = torch.linspace(0, 1, TARGET_BINS + 1, dtype=torch.float64, device=values.device)[1:-1]
    cuts = scaled.sort().values[(share * (len(values) - 1)).long()] if len(values) else scaled
    return torch.searchsorted(torch.unique(cuts), scaled), scaled


def _thinned(features: Features, targets: Tensor, max_rows: int) -> tuple[Features, Tensor]:
    step = -(-len(targets) // max_rows)
    if step <= 1:
        return features, targets
    rows = features[::step] if isinstance(features, Tensor) else features.iloc[::step]
    return rows, targets[::step]


def _block_association(
    block: CodedBlock, classes: Tensor, standardised: Tensor | None, k: int
) -> dict[str, Tensor]:
    classes = classes.to(block.codes.device)
    standardised = None if standardised is None else standardised.to(block.codes.device)
    counts = level_counts(block.codes, block.levels, classes, k)
    sums = None
    if standardised is not None:
        own = level_sums(block.codes, block.levels, standardised)
        sums = own, standardised.square().sum().expand(len(own))
    numbers = classes if standardised is None else standardised
    values, undefined = block.values, torch.full((len(counts),), math.nan, dtype=torch.float64)
    r = undefined.to(counts.device) if values is None else pearson_correlation(values, numbers, k)
    known = {"pearson": r, "distinct": block.distinct.to(counts.device)}
    return known | counted_measures(counts, sums, ordered=values is not None)


def counted_measures(
    counts: Tensor, sums: tuple[Tensor, Tensor] | None, *, ordered: bool
) -> dict[str, Tensor]:
    """Measures of c columns, all but Pearson's correlation, by the names that `Association` has.

    Args:
        counts: rows of each level and class, `[c, levels, k]`, the missing level last.
        sums: of a real target, sums of its centred values by level, `[c, levels]`, and of their
            squares over all rows, `[c]`; None for classes.
        ordered: whether the levels ascend.
    """
    undefined = torch.full((len(counts),), math.nan, dtype=torch.float64, device=counts.device)
    information, information_error = delta_method(mutual_information, counts)
    explained, explained_error, by_class = _explained(counts, sums)
    ranked = sums is None and counts.shape[2] == 2 and ordered
    auc, auc_error = delta_method(binned_auc, counts[:, :-1]) if ranked else (undefined, undefined)
    best = by_class.nan_to_num(-1.0).argmax(1)
    return {
        "explained": explained.clamp(min=0.0),
        "explained_error": explained_error,
        "auc": torch.maximum(auc, 1 - auc),
        "auc_error": auc_error,
        "information": information.clamp(min=0.0),
        "information_error": information_error,
        "best_class": best,
        "best_explained": by_class.gather(1, best[:, None])[:, 0].clamp(min=0.0),
        "missing": counts[:, -1],
    }


def _explained(counts: Tensor, sums: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Explained share and its standard error, `[c]` each, and the `[c, k]` share of each class."""
    if sums is None:
        explained, error = delta_method(explained_share, counts)
        return explained, error, explained_by_class(counts.double())
    rows = counts.sum(2)
    explained = explained_values(rows, *sums)
    r = explained.clamp(0.0, 1.0)
    error = 2 * r.sqrt() * (1 - r) / rows.sum(1).double().clamp(min=1).sqrt()
    return explained, error, explained[:, None]
