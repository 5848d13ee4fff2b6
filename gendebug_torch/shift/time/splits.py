"""Harder check sets than a random split: by time, by group, and shifted, so that validation stops
being an oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.time.split_moments import moments_of
from gendebug_torch.stats.auc import rank_auc
from gendebug_torch.stats.probe_network import cross_fit, design, group_folds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Judges a model: (train rows, test rows) -> (metric, standard error).
Judge = Callable[[Tensor, Tensor], tuple[float, float]]


@dataclass(frozen=True)
class Split:
    """Rows to fit on and rows to judge on; as indices they serve DataFrames (`iloc`), tensors and
    `torch.utils.data.Subset`.

    Args:
        name: what is special about it.
        train: `[n]` int64 positions.
        test: `[m]` int64 positions, none of them in `train`.
    """

    name: str
    train: Tensor
    test: Tensor

    def of(self, rows: Any) -> tuple[Any, Any]:
        """Both parts of a table, a tensor or a map-style data set."""
        return _part(rows, self.train), _part(rows, self.test)


def _part(rows: Any, places: Tensor) -> Any:
    if isinstance(rows, (pd.DataFrame, pd.Series)):
        return rows.iloc[places.numpy()]
    return (
        rows[places] if isinstance(rows, Tensor) else torch.utils.data.Subset(rows, places.tolist())
    )


@dataclass(frozen=True, eq=False)
class SplitComparison:
    """One model judged on several splits.

    Args:
        frame: columns `split, train, test, metric, standard_error`.
    """

    frame: pd.DataFrame

    @property
    def flattery(self) -> float:
        """Metric of the first split less the worst of the others: by how much a random split
        flatters.
        """
        metric = self.frame["metric"].to_numpy()
        return float(metric[0] - metric[1:].min()) if len(metric) > 1 else 0.0

    def table(self) -> pd.DataFrame:
        """One row per split, with the 95 % interval of the metric."""
        half = 1.96 * self.frame["standard_error"]
        return self.frame.assign(low=self.frame["metric"] - half, high=self.frame["metric"] + half)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The metric of each split with its 95 % interval; the first as a line."""
        frame = self.frame.iloc[::-1]
        ax = axes(ax, size=(6.0, max(2.2, 0.4 * len(frame) + 1.2)))
        places = range(len(frame))
        ax.errorbar(
            frame["metric"],
            list(places),
            xerr=1.96 * frame["standard_error"],
            fmt="o",
            color=REFERENCE,
            capsize=3,
        )
        first = self.frame.iloc[0]
        ax.axvline(
            float(first["metric"]),
            color=NEUTRAL,
            linestyle="--",
            linewidth=1.0,
            label=str(first["split"]),
        )
        ax.set_yticks(list(places), frame["split"].tolist())
        ax.set_ylim(-0.6, len(frame) - 0.4)
        ax.set_xlabel("metric on the rows left out")
        ax.set_ylabel("split")
        ax.set_title(f"The first split flatters by up to {self.flattery:.3f}")
        ax.legend(frameon=True)
        return ax


def random_split(n: int, *, share: float = 0.2, seed: int = 0) -> Split:
    """The split that most people use: `share` of the rows at random."""
    _check_share(share)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    cut = round(n * share)
    return Split("random", order[cut:].sort().values, order[:cut].sort().values)


def time_blocks(time: Any, *, blocks: int = 5, gap: int = 0) -> list[Split]:
    """Growing windows: each block is judged by what came before it.

    Rows of one moment stay together.

    Args:
        time: `[n]` numbers or timestamps, in any order.
        blocks: how many; the first is only fitted on.
        gap: rows before each block that are left out of training, as for labels that arrive late.

    Raises:
        InputError: fewer than 2 blocks, missing moments, time zones mixed, or fewer distinct
            moments than blocks.
    """
    moments = moments_of(time)
    if blocks < 2:
        reject("blocks", "at least 2", str(blocks), "Use 5.")
    order = torch.from_numpy(np.argsort(moments, kind="stable"))
    # The first row of each moment, and of those the first one at or after each even cut.
    edges = np.append(np.searchsorted(moments[order.numpy()], np.unique(moments)), len(moments))
    cuts = np.searchsorted(edges, [len(moments) * block // blocks for block in range(1, blocks)])
    starts = [int(edge) for edge in edges[cuts] if 0 < edge < len(moments)]
    if len(set(starts)) < blocks - 1:
        reject(
            "time",
            f"at least {blocks} distinct moments, spread over the rows",
            f"{len(edges) - 1}",
            "Use fewer blocks.",
        )
    bounds = [*starts, len(moments)]
    return [
        Split(
            f"time block {place + 2} of {blocks}", order[: max(0, start - gap)], order[start:stop]
        )
        for place, (start, stop) in enumerate(pairwise(bounds))
    ]


def group_split(groups: Any, *, share: float = 0.2, seed: int = 0) -> Split:
    """`share` of the groups (customers, patients) left out as a whole.

    Args:
        groups: `[n]` values; rows with a missing one are one group.
        share: of the groups.
        seed: of the drawing.

    Raises:
        InputError: one group only, or a share outside (0, 1).
    """
    _check_share(share)
    folds = group_folds(groups, max(2, round(1 / share)), seed)
    if not len(folds) or int(folds.max()) == 0:
        reject("groups", "at least two groups", "one", "Use `time_blocks` or `shifted_split`.")
    return Split("unseen groups", (folds > 0).nonzero()[:, 0], (folds == 0).nonzero()[:, 0])


def shifted_split(
    features: pd.DataFrame | Tensor,
    *,
    like: pd.DataFrame | Tensor | None = None,
    source: Any = None,
    time: Any = None,
    season: Any = None,
    share: float = 0.2,
    categorical: tuple[str, ...] = (),
) -> Split:
    """Rows to judge on that differ from those to fit on, as production will.

    Args:
        features: `[n, d]` rows to split.
        like: `[m, d]` rows of production: the `share` of rows most like them is judged on
            (adversarial classifier).
        source: `[n]` hospital, shop, sensor: the one whose rows are told apart best from the others
            is left out.
        time: `[n]`: the oldest `share` is left out.
        season: `[n]` dates: of winter (December to February), spring, summer and autumn the one
            told apart best is left out.
        share: of the rows, for `like` and `time`.
        categorical: numeric columns that hold codes.

    Raises:
        InputError: none or more than one of `like`, `source`, `time` and `season`, or a single
            source or season.

    Cost: one `cross_fit`, for `source` and `season` with one target for each.
    """
    _check_share(share)
    given = [
        name
        for name, value in (("like", like), ("source", source), ("time", time), ("season", season))
        if value is not None
    ]
    if len(given) != 1:
        reject(
            "like, source, time, season",
            "exactly one of them",
            str(given or "none"),
            "Say in which way the rows should differ.",
        )
    n = len(features)
    cut = max(1, round(n * share))
    if time is not None:
        order = torch.from_numpy(np.argsort(moments_of(time), kind="stable"))
        return Split("oldest rows", order[cut:], order[:cut])
    if source is not None:
        return _furthest("source", np.asarray(source, dtype=object), features, categorical)
    if season is not None:
        return _furthest("season", _seasons(season), features, categorical)
    assert like is not None
    built = design(features, like, categorical=categorical).values
    scores = cross_fit(built, (torch.arange(len(built)) >= n).double()).scores[:n, 0]
    order = scores.argsort(descending=True, stable=True).cpu()
    return Split("rows most like production", order[cut:].sort().values, order[:cut].sort().values)


def _furthest(
    what: str, values: Any, features: pd.DataFrame | Tensor, categorical: tuple[str, ...]
) -> Split:
    """The rows of one value of `[n]` left out: that which a network tells apart best from the
    others.
    """
    codes, names = pd.factorize(values, use_na_sentinel=False)
    if len(names) < 2:
        reject(what, f"at least two {what}s", str(len(names)), "Split by time or by group.")
    member = torch.from_numpy(codes)[:, None] == torch.arange(len(names))
    told = cross_fit(design(features, categorical=categorical).values, member.double()).r_squared
    left_out = member[:, int(told.argmax())]
    return Split(
        f"{what} {names[int(told.argmax())]}", (~left_out).nonzero()[:, 0], left_out.nonzero()[:, 0]
    )


def _seasons(dates: Any) -> Any:
    """`[n]` names of the meteorological seasons."""
    moments = pd.Series(moments_of(dates))
    if moments.dtype.kind != "M":
        reject(
            "season",
            "dates",
            "numbers",
            "Convert with pandas.to_datetime, or pass the seasons as `source`.",
        )
    return np.array(["winter", "spring", "summer", "autumn"], dtype=object)[
        moments.dt.month.to_numpy() % 12 // 3
    ]


def compare_splits(splits: Mapping[str, Split] | list[Split], judge: Judge) -> SplitComparison:
    """A model fitted and judged on each split; the first one, usually a random split, is what the
    others are compared with.

    Args:
        splits: to compare.
        judge: `(train, test) -> (metric, standard error)`, which fits anew; `probe_judge` makes one
            from a table.
    """
    named = list(splits.values()) if isinstance(splits, Mapping) else splits
    rows = [
        (split.name, len(split.train), len(split.test), *judge(split.train, split.test))
        for split in named
    ]
    return SplitComparison(
        pd.DataFrame(rows, columns=["split", "train", "test", "metric", "standard_error"])
    )


def probe_judge(
    features: pd.DataFrame | Tensor, targets: Tensor, *, categorical: tuple[str, ...] = ()
) -> Judge:
    """A judge that fits the small network of `probe` and judges the rows left out.

    Two classes by their AUC (DeLong et al., 1988), more by the accuracy, numbers by the explained
    share R², with its standard error by the delta method. Standard errors take rows as independent:
    of a series they are too small.

    Args:
        features: `[n, d]`.
        targets: `[n]` int64 class ids, or numbers.
        categorical: numeric columns that hold codes.
    """
    values = design(features, categorical=categorical).values
    classes = 0 if targets.is_floating_point() else int(targets.max()) + 1
    wanted = (
        torch.nn.functional.one_hot(targets, classes).double()
        if classes > 2
        else targets.double()[:, None]
    )

    def judge(train: Tensor, test: Tensor) -> tuple[float, float]:
        rows = torch.cat([train, test])
        sides = (torch.arange(len(rows)) < len(train)).long()
        scores = cross_fit(values[rows], wanted[rows], folds=sides).scores[len(train) :]
        told = wanted[test]
        if classes == 2:
            area = rank_auc(scores[:, 0], told[:, 0] > 0.5)
            return float(area.auc), float(area.variance) ** 0.5
        if classes:
            rate = float((scores.argmax(1) == told.argmax(1)).double().mean())
            return rate, (rate * (1 - rate) / len(test)) ** 0.5
        error, spread = (told - scores)[:, 0].square(), (told - told.mean())[:, 0].square()
        left = float(error.mean() / spread.mean())
        return 1 - left, float((error - left * spread).std() / spread.mean() / len(test) ** 0.5)

    return judge


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        reject("share", "a number in (0, 1)", str(share), "The default is 0.2.")
