"""Shift of all columns together: a classifier two-sample test and changes of correlations."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.records import Records
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import NO_DEADLINE, Deadline, reject
from gendebug_torch.shift.plots import axis_label
from gendebug_torch.stats.dependence.effective_sample_size import autocorrelation_time
from gendebug_torch.stats.multiple_testing import holm_adjusted
from gendebug_torch.stats.probe_network import Design, cross_fit, design

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ROWS = 2500
_MAX_BLOCK = MAX_ROWS // 10
# Blocks of a sample in the order of time.
_BLOCKS = 25
# Columns whose correlations are compared.
MAX_PAIRED = 60
_MIN_ROWS = 40
# Difference of AUC within which features count as equally important, at least.
_TIE = 0.02
# Features whose importance is measured.
_MAX_IMPORTANCE = 10


@dataclass(frozen=True, eq=False)
class JointShift:
    """Classifier two-sample test of all columns, and changes of their correlations.

    Args:
        auc: out-of-fold AUC of a network that classifies rows by sample; 0.5 where it cannot.
        low: lower 95 % bound of the AUC.
        high: upper 95 % bound of the AUC.
        p_value: p-value of no difference, by permuted labels with refits.
        importance: losses of AUC by the feature left out, largest first; empty without a shift.
        pairs: correlations of normal scores, columns `one, other, before, after, p_holm`, largest
            change first.
        rows: numbers of reference and production rows used.
        block: number of consecutive rows that were permuted together.
        alone: AUC of each feature of `importance` by itself.
    """

    auc: float
    low: float
    high: float
    p_value: float
    importance: dict[str, float]
    pairs: pd.DataFrame
    rows: tuple[int, int]
    block: int = 1
    alone: dict[str, float] = field(default_factory=dict)

    @property
    def leading(self) -> tuple[str, ...]:
        """The features that tell the samples apart most; several where none stands out.

        Alone, or in what the others lack without it, whichever is more: of two that tell the same,
        leaving out one loses nothing, and of two whose relation changed, one alone tells nothing.
        """
        tells = {name: max(self.alone[name] - 0.5, lost) for name, lost in self.importance.items()}
        least = max(tells.values(), default=0.0) - max(_TIE, (self.high - self.low) / 2)
        return tuple(sorted((n for n in tells if tells[n] >= least), key=lambda n: -tells[n]))

    def table(self) -> pd.DataFrame:
        """One row per important feature, then one per pair with the largest changes."""
        rows = [
            (what, name, value, math.nan, math.nan)
            for what, values in (("AUC lost without it", self.importance), ("AUC", self.alone))
            for name, value in values.items()
        ]
        rows += [("correlation", *pair) for pair in _changes(self.pairs.head(20))]
        return pd.DataFrame(rows, columns=["what", "features", "change", "reference", "production"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Losses of AUC without each feature; without a shift, changes of correlation."""
        bars = list(self.importance.items())[:12]
        label = "AUC lost without the feature"
        if not bars:
            bars = [(pair, abs(change)) for pair, change, _, _ in _changes(self.pairs.head(12))]
            label = "change of the correlation"
        bars = bars[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.3 * len(bars) + 1.4)))
        counted = f"{self.rows[0]:,} reference against {self.rows[1]:,} production rows"
        ax.barh(range(len(bars)), [value for _, value in bars], color=LIVE, label=counted)
        ax.set_yticks(range(len(bars)), [axis_label(name) for name, _ in bars])
        ax.axvline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.set_xlabel(label)
        ax.set_ylabel("feature")
        ax.set_title(
            f"Reference against production: AUC {self.auc:.3f} ({self.low:.3f} to {self.high:.3f})"
        )
        if bars:
            # Beside long names the axes are too narrow for it.
            below = (1.0, -0.5 / (0.3 * len(bars) + 1.0))
            ax.legend(loc="upper right", bbox_to_anchor=below, frameon=False)
        return ax


def joint_shift(
    reference: pd.DataFrame | Tensor,
    live: pd.DataFrame | Tensor,
    *,
    categorical: Sequence[str] = (),
    block: int = 1,
    groups: tuple[Tensor, Tensor] | None = None,
    permutations: int = 60,
    seed: int = 0,
    deadline: Deadline = NO_DEADLINE,
) -> JointShift:
    """Classifier two-sample test with a permutation null, and tests of all pairwise correlations.

    A cross-fitted network (`probe_network.cross_fit`) is fitted to the true sample labels and to
    permuted ones at once. Correlations are those of normal scores; their change in Fisher's z is
    measured in the larger of its theoretical standard error and its spread over the permutations,
    Holm over the pairs.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545, for the classifier test; Fisher
    (1921), Metron 1:3; Carlstein (1986), Ann. Stat. 14:1171, for blocks.

    Args:
        reference: table or tensor, `[n, d]`; of more than 2500 rows as many are drawn.
        live: table or tensor, `[m, d]`, with the same columns.
        categorical: names of the numeric columns that hold codes.
        block: number of consecutive rows (of those drawn) that stay together when labels are
            permuted and folds drawn, for rows in time; at most 250.
        groups: group of each row of either side, `[n]` and `[m]` int64, whose rows stay together
            instead.
        permutations: number of refits with permuted labels, at least 10.
        seed: seed of drawing and permuting.
        deadline: end of the time, asked between fits.

    Returns:
        AUC, p-value, importance of the features and correlations.

    Raises:
        InputError: fewer than 40 rows on a side, fewer than 10 permutations, other columns.

    Cost: one `cross_fit` with `permutations + 1` targets; up to twenty more for importance where
    the samples differ.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> reference = torch.randn(200, 2, generator=generator)
        >>> live = torch.randn(200, 1, generator=generator).repeat(1, 2)
        >>> shift = joint_shift(reference, live, permutations=20)
        >>> round(float(shift.pairs["after"][0]), 2), bool(shift.pairs["p_holm"][0] < 0.001)
        (1.0, True)
    """
    _check_sizes(reference, live, block, permutations)
    generator = torch.Generator().manual_seed(seed)
    rows = [_drawn_rows(len(side), block, generator) for side in (reference, live)]
    sides = [_taken(side, drawn) for side, drawn in zip((reference, live), rows, strict=True)]
    built = design(*sides, categorical=categorical)
    n, m = map(len, rows)
    blocks, in_production = _units(rows, block, groups)
    orders = [torch.randperm(len(in_production), generator=generator) for _ in range(permutations)]
    labels = [in_production, *(in_production[order] for order in orders)]
    targets = torch.stack(labels, 1).double()[blocks]
    folds = (torch.randperm(len(in_production), generator=generator) % 5)[blocks]
    fit = cross_fit(built.values, targets, folds=folds, seed=seed)
    auc, p_value = float(fit.auc.auc), fit.p_value()
    low, high = (float(bound) for bound in fit.auc.interval())
    differs = p_value < 0.01 and auc > 0.5
    first = targets[:, :1]
    importance, alone = (
        _importance(built, first, folds, auc, seed, deadline) if differs else ({}, {})
    )
    pairs = _pairs(built, targets, categorical)
    return JointShift(auc, low, high, p_value, importance, pairs, (n, m), block, alone)


def _check_sizes(
    reference: pd.DataFrame | Tensor, live: pd.DataFrame | Tensor, block: int, permutations: int
) -> None:
    if min(len(reference), len(live)) < _MIN_ROWS:
        reject(
            "live",
            f"at least {_MIN_ROWS} rows in either sample",
            f"{len(reference)} and {len(live)}",
            "Collect more rows first.",
        )
    if permutations < 10:
        reject("permutations", "at least 10", str(permutations), "The default is 60.")
    if not 1 <= block <= _MAX_BLOCK:
        reject(
            "block",
            f"1 to {_MAX_BLOCK} rows",
            str(block),
            "Fewer than ten blocks of a sample cannot be permuted.",
        )


def permutation_block(reference: Records, production: Records) -> int:
    """Block length for `joint_shift`: a 25th of the shorter sample, or 1 if rows are unordered."""
    if not all(_is_ordered(records) for records in (reference, production)):
        return 1
    return max(1, min(len(reference), len(production), MAX_ROWS) // _BLOCKS)


def slow_columns(
    reference: pd.DataFrame, live: pd.DataFrame, block: int, *, categorical: Collection[str] = ()
) -> list[str]:
    """Numeric columns whose autocorrelation time exceeds a block, slowest first.

    Blocks of such columns are not independent. Estimated on the evenly spaced rows that
    `joint_shift` uses, at most 2500.

    Args:
        reference: rows in the order of time, `[n, d]`.
        live: rows in the order of time, `[m, d]`, with the same columns.
        block: length of a block, see `permutation_block`.
        categorical: names of the columns to leave out.
    """
    names = [name for name in reference.columns if name not in categorical]
    times = torch.zeros(len(names), dtype=torch.float64)
    for side in (reference, live):
        rows = side[names] if len(side) <= MAX_ROWS else side[names].iloc[_spaced(len(side), block)]
        values = torch.from_numpy(rows.to_numpy(dtype=np.float64, copy=True))
        times = times.maximum(autocorrelation_time(values))
    return [names[i] for i in times.argsort(descending=True).tolist() if times[i] > block]


def _is_ordered(records: Records) -> bool:
    column, metadata = records.schema.time, records.metadata
    if column is None or metadata is None or column not in metadata:
        return False
    return bool((parse_times(metadata[column], column).values.diff() >= 0).all())


def _changes(pairs: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """Names, change, and correlation before and after."""
    columns = [pairs[name].tolist() for name in ("one", "other", "before", "after")]
    return [
        (f"{one} & {other}", after - before, before, after)
        for one, other, before, after in zip(*columns, strict=True)
    ]


def _drawn_rows(rows: int, block: int, generator: torch.Generator) -> NDArray[np.int64]:
    """At most 2500 rows, at random, or evenly spaced where rows in time go in blocks."""
    if rows <= MAX_ROWS:
        return np.arange(rows)
    if block > 1:
        return _spaced(rows, block)
    drawn: NDArray[np.int64] = torch.randperm(rows, generator=generator)[:MAX_ROWS].numpy()
    return np.sort(drawn)


def _taken(side: pd.DataFrame | Tensor, rows: NDArray[np.int64]) -> pd.DataFrame | Tensor:
    return side[rows] if isinstance(side, Tensor) else side.iloc[rows]


def _spaced(rows: int, block: int) -> NDArray[np.int64]:
    """Numbers of at most 2500 evenly spaced rows, in whole blocks."""
    numbers = np.linspace(0, rows - 1, MAX_ROWS // block * block)
    return numbers.astype(np.int64)


def _units(
    rows: Sequence[NDArray[np.int64]], block: int, groups: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """`[n + m]` block or group of each drawn row, and for each one whether it is production."""
    sides = [torch.arange(len(drawn)) // block for drawn in rows]
    if groups is not None:
        sides = [
            torch.unique(ids[drawn], return_inverse=True)[1]
            for ids, drawn in zip(groups, rows, strict=True)
        ]
    first = int(sides[0].max()) + 1
    units = torch.cat([sides[0], sides[1] + first])
    return units, torch.arange(int(units.max()) + 1) >= first


def _importance(
    built: Design, target: Tensor, folds: Tensor, auc: float, seed: int, deadline: Deadline
) -> tuple[dict[str, float], dict[str, float]]:
    """AUC lost without each of the ten features most correlated with the label, and of it alone."""
    names = list(built.names)
    if len(names) > _MAX_IMPORTANCE:
        centred = target - target.mean()
        strength = (built.values.T @ centred).abs().flatten() / built.values.norm(dim=0).clamp(
            min=1e-12
        )
        order = [int(built.owner[column]) for column in strength.argsort(descending=True)]
        names = [names[owner] for owner in dict.fromkeys(order)][:_MAX_IMPORTANCE]
    if len(built.names) < 2:
        return {names[0]: auc - 0.5}, {names[0]: auc}

    def area(without: Sequence[str]) -> float:
        deadline.check()
        part = built.without(without).values
        return float(cross_fit(part, target, folds=folds, seed=seed).auc.auc)

    losses = {name: auc - area([name]) for name in names}
    alone = {name: area([other for other in built.names if other != name]) for name in names}
    return dict(sorted(losses.items(), key=lambda entry: -entry[1])), alone


def _pairs(built: Design, targets: Tensor, categorical: Sequence[str]) -> pd.DataFrame:
    """Correlations of the quantities in both samples, most significant change first."""
    chosen = _paired_columns(built, categorical)
    pairs = list(combinations(range(len(chosen)), 2))
    if not pairs:
        return pd.DataFrame(columns=["one", "other", "before", "after", "p_holm"])
    x = built.values[:, chosen]
    targets = targets.to(x.device)
    left, right = (torch.tensor(side, device=x.device) for side in zip(*pairs, strict=True))
    z = [_fisher(x, weights, left, right) for weights in (1 - targets, targets)]
    change = z[1] - z[0]
    n, m = float((1 - targets[:, 0]).sum()), float(targets[:, 0].sum())
    theory = math.sqrt(1 / max(n - 3, 1) + 1 / max(m - 3, 1))
    error = change[1:].std(0).clamp(min=theory)
    p = holm_adjusted(torch.from_numpy(2 * ndtr(-(change[0].abs() / error).cpu().numpy())))
    names = [built.names[int(built.owner[column])] for column in chosen]
    before, after = (part[0].tanh().cpu().numpy() for part in z)
    frame = pd.DataFrame(
        {"one": [names[i] for i, _ in pairs], "other": [names[j] for _, j in pairs]}
    )
    frame = frame.assign(before=before, after=after, p_holm=p.numpy())
    return frame.iloc[np.argsort(p.numpy(), kind="stable")].reset_index(drop=True)


def _paired_columns(built: Design, categorical: Sequence[str]) -> list[int]:
    """The first column of each quantity with more than five distinct values, 60 at most."""
    quantities = [i for i in range(len(built.names)) if built.names[i] not in categorical]
    owned = [(built.owner == i).nonzero().flatten() for i in quantities]
    firsts = [int(columns[0]) for columns in owned if len(columns)]
    return [i for i in firsts if len(torch.unique(built.values[:, i])) > 5][:MAX_PAIRED]


def _fisher(x: Tensor, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`[r, pairs]` Fisher's z of the correlations under each of r weightings `[n, r]`."""
    share = weights / weights.sum(0)
    mean, square = share.T @ x, share.T @ x.square()
    spread = (square - mean.square()).clamp(min=1e-12).sqrt()
    # One weighting after another takes d^2 numbers each, all at once n d^2.
    crossed = torch.stack([((x * w[:, None]).T @ x)[left, right] for w in share.T])
    correlation = (crossed - mean[:, left] * mean[:, right]) / (spread[:, left] * spread[:, right])
    return correlation.clamp(-0.999999, 0.999999).atanh()
