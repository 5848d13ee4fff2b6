"""What a column is worth: how far small networks, or the model itself, come with it and without
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.leakage.columns.column_codes import numbers
from gendebug_torch.leakage.splits.row_hashes import Features
from gendebug_torch.stats.auc import rank_auc
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.probe_network import cross_fit, design

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 10_000
MOST_COLUMNS = 60


@dataclass(frozen=True)
class Skill:
    """How well a target is foretold on rows that were not used for fitting.

    Args:
        explained: share of the variance of the target (Brier skill for classes); NaN where it has
            none.
        auc: for class 1 of 2; NaN otherwise.
        error: standard error of `auc`, or of `explained` where there is no AUC.
        rows: that were judged.
    """

    explained: float
    auc: float
    error: float
    rows: int

    @property
    def metric(self) -> str:
        """`AUC` for two classes, else `R²`."""
        return "AUC" if math.isfinite(self.auc) else "R²"

    @property
    def value(self) -> float:
        """The AUC for two classes, else the explained share."""
        return self.auc if math.isfinite(self.auc) else self.explained


@dataclass(frozen=True)
class LeakCost:
    """What validation and production say with some columns and without them.

    Args:
        columns: their names; columns that are one leak in other words go together.
        how: `permuted through the model`, or `small networks fitted on train`.
        sides: side -> skill with the columns and without them.
    """

    columns: tuple[str, ...]
    how: str
    sides: Mapping[str, tuple[Skill, Skill]]

    def error(self, side: str) -> float:
        """Standard error of the difference on one side, as if the two were independent: an upper
        bound.
        """
        a, b = self.sides[side]
        return math.hypot(a.error, b.error)

    def table(self) -> pd.DataFrame:
        """One row per side: the metric with and without the columns, the difference and its
        standard error.
        """
        rows = [
            [side, a.metric, a.value, b.value, a.value - b.value, self.error(side), a.rows]
            for side, (a, b) in self.sides.items()
        ]
        return pd.DataFrame(
            rows,
            columns=["side", "metric", "with", "without", "difference", "standard_error", "rows"],
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The metric of each side with and without the columns, with 95 % intervals."""
        ax = axes(ax, size=(5.6, 3.8))
        z = normal_quantile(0.975)
        for place, (_, pair) in enumerate(self.sides.items()):
            for skill, offset, colour, label in zip(
                pair, (-0.12, 0.12), (LIVE, REFERENCE), ("with", "without"), strict=True
            ):
                half = z * skill.error if math.isfinite(skill.error) else 0.0
                ax.errorbar(
                    [place + offset],
                    [skill.value],
                    yerr=[half],
                    fmt="o",
                    color=colour,
                    capsize=3,
                    label=label if not place else None,
                )
        metric = next(iter(self.sides.values()))[0].metric if self.sides else "metric"
        ax.set_xticks(range(len(self.sides)), list(self.sides))
        ax.set_xlim(-0.5, max(len(self.sides), 1) - 0.5)
        ax.set_ylim(top=1.03)
        ax.set_ylabel(metric)
        ax.set_xlabel(f"side ({self.how})")
        ax.set_title(f"What {', '.join(self.columns)[:40]} tells")
        ax.legend(frameon=True, title=", ".join(self.columns)[:24])
        return ax


def skill(scores: Tensor, targets: Tensor) -> Skill:
    """Skill of `[n, r]` scores for the r indicators of `target_columns`, or for one real target.

    The standard error is DeLong's (1988) for an AUC and Olkin and Finn's (1995) for R².

    Args:
        scores: `[n, r]` float64 estimates of the columns of `targets`.
        targets: `[n, r]` float64.
    """
    n = len(targets)
    spread = float((targets - targets.mean(0)).square().sum()) if n else 0.0
    if n < 2 or spread <= 0:
        return Skill(math.nan, math.nan, math.nan, n)
    explained = 1 - float((targets - scores).square().sum()) / spread
    if targets.shape[1] == 1 and bool(((targets == 0) | (targets == 1)).all()):
        found = rank_auc(scores[:, 0], targets[:, 0] > 0.5)
        return Skill(explained, float(found.auc[0]), float(found.variance[0]) ** 0.5, n)
    r = min(max(explained, 0.0), 1.0)
    return Skill(explained, math.nan, 2 * math.sqrt(r / n) * (1 - r), n)


def target_columns(targets: Tensor, k: int) -> Tensor:
    """`[n, r]` float64: one column for a real target or two classes, an indicator per class
    otherwise.
    """
    if targets.is_floating_point() or k <= 2:
        return targets.double()[:, None]
    return torch.nn.functional.one_hot(targets, k).double()


def skill_without(
    features: Features,
    targets: Tensor,
    drops: Sequence[Collection[str]],
    *,
    keep: Sequence[str],
    categorical: Sequence[str] = (),
    seed: int = 0,
) -> list[Skill]:
    """How far small networks come, out of fold, without each of some sets of columns.

    Args:
        features: `[n, d]` table or `[n, ...]` tensor; at most 10,000 rows, drawn at random, are
            used.
        targets: `[n]` int64 class ids or float values.
        drops: sets of columns to leave out, one after the other.
        keep: columns by falling interest; the first 60 are used.
        categorical: columns that hold codes although they are numbers.
        seed: of the rows and the networks.

    Cost: one decomposition of the columns for each set, see `probe.cross_fit`.
    """
    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:MOST_ROWS]
    y = targets.cpu()[rows]
    wanted = target_columns(y, int(y.max()) + 1 if not y.is_floating_point() and len(y) else 0)
    whole = design(plain_table(features, rows, keep[:MOST_COLUMNS]), categorical=categorical)
    found = []
    for drop in drops:
        part = whole.without(list(drop))
        nothing = not part.values.shape[1] or len(y) < 10
        scores = (
            wanted.mean(0).expand_as(wanted)
            if nothing
            else cross_fit(part.values, wanted, seed=seed).scores
        )
        found.append(skill(scores, wanted))
    return found


def probe_cost(
    columns: Collection[str],
    train: tuple[Features, Tensor],
    sides: Mapping[str, tuple[Features, Tensor]],
    *,
    keep: Sequence[str],
    categorical: Sequence[str] = (),
) -> LeakCost:
    """Small networks fitted on training rows with and without some columns, judged on every other
    side.

    Args:
        columns: to leave out.
        train: features and targets to fit on.
        sides: name -> features and targets to judge on; a side that lacks one of the columns is
            left out.
        keep: columns by falling interest; the first 60 are used.
        categorical: columns that hold codes although they are numbers.
    """
    used = list(dict.fromkeys([*columns, *keep]))[:MOST_COLUMNS]
    costs = {}
    for name, (features, targets) in sides.items():
        parts = [(train[0], train[1]), (features, targets)]
        tables, labels = [], []
        for part, values in parts:
            rows = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[
                :MOST_ROWS
            ]
            tables.append(plain_table(part, rows, used))
            labels.append(values.cpu()[rows])
        shared = [c for c in tables[0].columns if c in tables[1].columns]
        if not set(columns) <= set(shared) or min(map(len, labels)) < 20:
            continue
        whole = design(*(table[shared] for table in tables), categorical=categorical)
        y = torch.cat(labels)
        wanted = target_columns(y, int(y.max()) + 1 if not y.is_floating_point() else 0)
        judged = torch.arange(len(y)) >= len(labels[0])
        pair = [
            skill(
                cross_fit(part.values, wanted, folds=(~judged).long()).scores[judged],
                wanted[judged],
            )
            for part in (whole, whole.without(list(columns)))
        ]
        costs[name] = (pair[0], pair[1])
    return LeakCost(tuple(columns), "small networks fitted on train", costs)


def permuted_cost(
    columns: Collection[str],
    sides: Mapping[str, tuple[Features, Tensor]],
    judge: Callable[[Features], Tensor],
    *,
    seed: int = 0,
) -> LeakCost:
    """What the model's own answers are worth with some columns and with their values permuted over
    the rows.

    Source: Breiman (2001), Mach. Learn. 45:5, section 10.

    Args:
        columns: to permute, all in the same order.
        sides: name -> features and targets.
        judge: features -> `[n, r]` estimates of the columns of `target_columns`.
        seed: of the permutation.
    """
    costs = {}
    for name, (features, targets) in sides.items():
        scores = judge(features)
        wanted = target_columns(targets.cpu(), scores.shape[1] if scores.shape[1] > 1 else 2)
        order = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(seed))
        costs[name] = (
            skill(scores, wanted),
            skill(judge(permuted(features, columns, order)), wanted),
        )
    return LeakCost(tuple(columns), "permuted through the model", costs)


def permuted(features: Features, columns: Collection[str], order: Tensor) -> Features:
    """The same features with some columns in another order of rows."""
    if isinstance(features, Tensor):
        changed = features.detach().clone()
        flat = changed.view(len(changed), -1)
        places = [int(column.removeprefix("feature_")) for column in columns]
        flat[:, places] = flat[order.to(flat.device)][:, places]
        return changed
    table = features.copy(deep=False)
    for name in [c for c in features.columns if str(c) in columns]:
        table[name] = features[name].iloc[order.numpy()].array
    return table


def plain_table(features: Features, rows: Tensor, columns: Sequence[str]) -> pd.DataFrame:
    """Chosen rows and columns as a table of numbers and names; times become numbers."""
    if isinstance(features, Tensor):
        flat = features.detach().reshape(len(features), -1)
        known = [name for name in columns if int(name.removeprefix("feature_")) < flat.shape[1]]
        places = [int(name.removeprefix("feature_")) for name in known]
        return pd.DataFrame(
            flat[rows.to(flat.device)][:, places].double().cpu().numpy(), columns=known
        )
    by_name = {str(c): c for c in features.columns}
    chosen = {
        name: features[by_name[name]].iloc[rows.numpy()].reset_index(drop=True)
        for name in columns
        if name in by_name
    }
    times = {
        name: pd.Series(numbers(values))
        for name, values in chosen.items()
        if values.dtype.kind in "mM"
    }
    return pd.DataFrame(chosen | times, index=pd.RangeIndex(len(rows)))
