"""All columns together: can a small network tell the two samples apart, and did columns change how
they go together?
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, NEUTRAL, axes
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.shift.two_sample.ks import shortened
from gendebug_torch.stats.effective_sample_size import autocorrelation_time
from gendebug_torch.stats.multiple_testing import holm_adjusted
from gendebug_torch.stats.probe_network import Design, cross_fit, design

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 2500
_LARGEST_BLOCK = MOST_ROWS // 10
# Blocks into which a side in the order of time is cut, so that rows near each other stay together.
_BLOCKS = 25
MOST_PAIRED = 60
_FEWEST = 40
_ASKED = 10


@dataclass(frozen=True, eq=False)
class JointShift:
    """How well production can be told from the reference by all columns together.

    Args:
        auc: out-of-fold AUC of a network that tells the samples apart; 0.5 where it cannot.
        low: lower 95 % bound of the AUC.
        high: upper bound.
        p_value: of no difference, by permuted labels with refits.
        importance: feature -> loss of AUC without it, largest first; empty where nothing was found.
        pairs: columns `one, other, before, after, p_holm`: correlation of normal scores, largest
            change first.
        rows: reference and production rows looked at.
        block: rows that were permuted together.
    """

    auc: float
    low: float
    high: float
    p_value: float
    importance: dict[str, float]
    pairs: pd.DataFrame
    rows: tuple[int, int]
    block: int = 1

    def table(self) -> pd.DataFrame:
        """One row per feature that gives the sample away, then one per pair whose correlation moved
        most.
        """
        rows = [
            ("AUC lost without it", name, value, math.nan, math.nan)
            for name, value in self.importance.items()
        ]
        rows += [("correlation", *pair) for pair in _told(self.pairs.head(20))]
        return pd.DataFrame(rows, columns=["what", "features", "change", "reference", "production"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """What the network loses without each feature; without importance, the pairs whose
        correlation moved most.
        """
        told = list(self.importance.items())[:12]
        label = "AUC lost without the feature"
        if not told:
            told = [(pair, abs(change)) for pair, change, _, _ in _told(self.pairs.head(12))]
            label = "change of the correlation"
        told = told[::-1]
        ax = axes(ax, size=(6.0, max(2.5, 0.3 * len(told) + 1.4)))
        counted = f"{self.rows[0]:,} reference against {self.rows[1]:,} production rows"
        ax.barh(range(len(told)), [value for _, value in told], color=LIVE, label=counted)
        ax.set_yticks(range(len(told)), [shortened(name) for name, _ in told])
        ax.axvline(0.0, color=NEUTRAL, linewidth=0.8)
        ax.set_xlabel(label)
        ax.set_ylabel("feature")
        ax.set_title(
            f"Telling the samples apart: AUC {self.auc:.3f} ({self.low:.3f} to {self.high:.3f})"
        )
        if told:
            ax.legend(loc="lower right", frameon=True)
        return ax


def joint_shift(
    reference: pd.DataFrame | Tensor,
    live: pd.DataFrame | Tensor,
    *,
    categorical: Sequence[str] = (),
    block: int = 1,
    permutations: int = 60,
    seed: int = 0,
) -> JointShift:
    """Adversarial validation with a permutation null, and a test of every pair of quantities for
    its correlation.

    A cross-fitted network (`probe.cross_fit`) is fitted to the true labels of the sample and to
    permuted ones at once. Correlations are those of normal scores; their change in Fisher's z is
    measured in the larger of its theoretical standard error and its spread over the permutations,
    Holm over the pairs.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545, for the classifier test; Fisher
    (1921), Metron 1:3; Carlstein (1986), Ann. Stat. 14:1171, for blocks.

    Args:
        reference: `[n, d]` table or tensor; of more than 2500 rows as many are drawn.
        live: `[m, d]`, with the same columns.
        categorical: numeric columns that hold codes.
        block: rows (of those drawn) next to each other that stay together when labels are permuted
            and folds drawn, for rows in time; at most 250.
        permutations: refits with permuted labels, at least 10.
        seed: of drawing and permuting.

    Raises:
        InputError: fewer than 40 rows on a side, fewer than 10 permutations, other columns.

    Cost: one `cross_fit` with `permutations + 1` targets; up to ten more for importance where
    something is found.
    """
    if min(len(reference), len(live)) < _FEWEST:
        reject(
            "live",
            f"at least {_FEWEST} rows on either side",
            f"{len(reference)} and {len(live)}",
            "Collect more rows first.",
        )
    if permutations < 10:
        reject("permutations", "at least 10", str(permutations), "The default is 60.")
    if not 1 <= block <= _LARGEST_BLOCK:
        reject(
            "block",
            f"1 to {_LARGEST_BLOCK} rows",
            str(block),
            "Fewer than ten blocks a side cannot be permuted.",
        )
    generator = torch.Generator().manual_seed(seed)
    sides = [_thinned(side, block, generator) for side in (reference, live)]
    built = design(*sides, categorical=categorical)
    n = len(sides[0])
    blocks, after = _blocks(n, len(built.values) - n, block)
    labels = [after] + [
        after[torch.randperm(len(after), generator=generator)] for _ in range(permutations)
    ]
    targets = torch.stack(labels, 1).double()[blocks]
    folds = (torch.randperm(len(after), generator=generator) % 5)[blocks]
    values = built.values
    probe = cross_fit(values, targets, folds=folds, seed=seed)
    area = probe.auc
    low, high = (float(bound) for bound in area.interval())
    auc, p = float(area.auc), probe.p_value()
    importance = (
        _importance(built, targets[:, :1], folds, auc, seed) if p < 0.01 and auc > 0.5 else {}
    )
    return JointShift(
        auc,
        low,
        high,
        p,
        importance,
        _pairs(built, targets, categorical),
        (n, len(values) - n),
        block,
    )


def mmd_two_sample(
    reference: Tensor, live: Tensor, *, permutations: int = 200, block: int = 1, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy of two samples and its p-value by permutation, all
    permutations in one product.

    Gaussian kernel with the median distance as its width; the biased estimate `w' K w` with
    `w = 1/n` or `-1/m`.

    Source: Gretton et al. (2012), JMLR 13:723.

    Args:
        reference: `[n, p]` columns of comparable scale, e.g. `design(...).values`, embeddings, or
            softmax outputs.
        live: `[m, p]`.
        permutations: how many; the smallest p-value is 1 / (permutations + 1).
        block: rows next to each other that stay together, for rows in time.
        seed: of the permutations.

    Raises:
        InputError: other numbers of columns, or no rows on a side.

    Cost: `(n + m)^2 (p + permutations)`; memory `(n + m)^2`, so pass a few thousand rows.
    """
    if (
        reference.ndim != 2
        or live.ndim != 2
        or reference.shape[1] != live.shape[1]
        or not len(reference)
        or not len(live)
    ):
        got = f"{list(reference.shape)} and {list(live.shape)}"
        reject(
            "live",
            "rows with the columns of the reference [n, p], [m, p]",
            got,
            "Build both with one `design`.",
        )
    n, m = len(reference), len(live)
    rows = torch.cat([reference, live]).double()
    distance = torch.cdist(rows, rows).square()
    width = (
        distance[~torch.eye(n + m, dtype=torch.bool, device=rows.device)].median().clamp(min=1e-12)
    )
    kernel = (-distance / width).exp()
    generator = torch.Generator().manual_seed(seed)
    blocks, after = _blocks(n, m, block)
    sides = torch.stack(
        [after]
        + [after[torch.randperm(len(after), generator=generator)] for _ in range(permutations)],
        1,
    )[blocks]
    there = sides.double().to(rows.device)
    weights = (1 - there) / (1 - there).sum(0) - there / there.sum(0)
    values = (weights * (kernel @ weights)).sum(0)
    return float(values[0]), float(
        (1 + (values[1:] >= values[0] * (1 - 1e-12)).sum()) / (permutations + 1)
    )


def time_block(reference: Records, production: Records) -> int:
    """Rows that `joint_shift` is to permute together: a 25th of the shorter side, or 1 where a side
    is not in the order of time.
    """
    if not all(_is_ordered(records) for records in (reference, production)):
        return 1
    return max(1, min(len(reference), len(production), MOST_ROWS) // _BLOCKS)


def outlasts(
    reference: pd.DataFrame, live: pd.DataFrame, block: int, *, categorical: Collection[str] = ()
) -> list[str]:
    """Numeric columns, slowest first, whose swings last longer than a block: blocks do not stand
    for independent times there.

    Args:
        reference: rows in the order of time.
        live: the same columns likewise.
        block: of `time_block`.
        categorical: columns to leave out.
    """
    names = [name for name in reference.columns if name not in categorical]
    blocks = torch.zeros(len(names), dtype=torch.float64)
    for side in (reference, live):
        values = torch.from_numpy(side[names].to_numpy(dtype=np.float64, copy=True))
        blocks = blocks.maximum(
            autocorrelation_time(values) * min(len(side), MOST_ROWS) / len(side) / block
        )
    return [names[at] for at in blocks.argsort(descending=True).tolist() if blocks[at] > 1]


def _is_ordered(records: Records) -> bool:
    column, metadata = records.schema.time, records.metadata
    return (
        column is not None
        and metadata is not None
        and column in metadata
        and bool(metadata[column].is_monotonic_increasing)
    )


def _told(pairs: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """Names, change, and correlation before and after."""
    columns = [pairs[name].tolist() for name in ("one", "other", "before", "after")]
    return [
        (f"{one} & {other}", after - before, before, after)
        for one, other, before, after in zip(*columns, strict=True)
    ]


def _thinned(
    side: pd.DataFrame | Tensor, block: int, generator: torch.Generator
) -> pd.DataFrame | Tensor:
    """At most 2500 rows: drawn at random, or, where rows in time go in blocks, spread evenly over
    the side.
    """
    if len(side) <= MOST_ROWS:
        return side
    if block == 1:
        rows = torch.randperm(len(side), generator=generator)[:MOST_ROWS].sort().values
    else:
        rows = torch.linspace(
            0, len(side) - 1, MOST_ROWS // block * block, dtype=torch.float64
        ).long()
    return side[rows] if isinstance(side, Tensor) else side.iloc[rows.numpy()]


def _blocks(n: int, m: int, block: int) -> tuple[Tensor, Tensor]:
    """`[n + m]` block of each row, and for each block whether it lies in production."""
    sides = [torch.arange(size) // block for size in (n, m)]
    first = int(sides[0][-1]) + 1
    return torch.cat([sides[0], sides[1] + first]), torch.arange(
        first + int(sides[1][-1]) + 1
    ) >= first


def _importance(
    built: Design, target: Tensor, folds: Tensor, auc: float, seed: int
) -> dict[str, float]:
    """AUC lost without each of the features that go most with the answer (all of them, if few)."""
    names = list(built.names)
    if len(names) > _ASKED:
        centred = target - target.mean()
        strength = (built.values.T @ centred).abs().flatten() / built.values.norm(dim=0).clamp(
            min=1e-12
        )
        order = [int(built.owner[place]) for place in strength.argsort(descending=True)]
        names = [names[place] for place in dict.fromkeys(order)][:_ASKED]
    if len(built.names) < 2:
        return {names[0]: auc - 0.5}
    lost = {
        name: auc
        - float(cross_fit(built.without([name]).values, target, folds=folds, seed=seed).auc.auc)
        for name in names
    }
    return dict(sorted(lost.items(), key=lambda entry: -entry[1]))


def _pairs(built: Design, targets: Tensor, categorical: Sequence[str]) -> pd.DataFrame:
    """Correlations of the quantities on both sides, largest change in standard errors first."""
    single = [place for place in range(len(built.names)) if built.names[place] not in categorical]
    firsts = [
        int((built.owner == place).nonzero()[0])
        for place in single
        if bool((built.owner == place).any())
    ]
    distinct = [place for place in firsts if len(torch.unique(built.values[:, place])) > 5][
        :MOST_PAIRED
    ]
    columns = ["one", "other", "before", "after", "p_holm"]
    places = list(combinations(range(len(distinct)), 2))
    if not places:
        return pd.DataFrame(columns=columns)
    x = built.values[:, distinct]
    left, right = (
        torch.tensor([pair[side] for pair in places], device=x.device) for side in (0, 1)
    )
    z = [_fisher(x, side, left, right) for side in (1 - targets, targets)]
    moved = z[1] - z[0]
    n, m = float((1 - targets[:, 0]).sum()), float(targets[:, 0].sum())
    theory = math.sqrt(1 / max(n - 3, 1) + 1 / max(m - 3, 1))
    error = moved[1:].std(0).clamp(min=theory)
    p = holm_adjusted(torch.from_numpy(2 * norm.sf((moved[0].abs() / error).cpu().numpy())))
    names = [built.names[int(built.owner[place])] for place in distinct]
    before, after = (part[0].tanh().cpu().numpy() for part in z)
    frame = pd.DataFrame(
        {"one": [names[i] for i, _ in places], "other": [names[j] for _, j in places]}
    )
    frame = frame.assign(before=before, after=after, p_holm=p.numpy())
    return frame.iloc[np.argsort(p.numpy(), kind="stable")].reset_index(drop=True)


def _fisher(x: Tensor, weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`[r, pairs]` Fisher's z of the correlations among the rows of each of r weightings
    `[n, r]`.
    """
    share = weights / weights.sum(0)
    mean, square = share.T @ x, share.T @ x.square()
    spread = (square - mean.square()).clamp(min=1e-12).sqrt()
    # One weighting after another: d^2 numbers each, rather than n d^2 for all of them.
    crossed = torch.stack([((x * w[:, None]).T @ x)[left, right] for w in share.T])
    correlation = (crossed - mean[:, left] * mean[:, right]) / (spread[:, left] * spread[:, right])
    return correlation.clamp(-0.999999, 0.999999).atanh()
