"""Small networks fitted on some rows and asked about the others: what a table tells about a target,
or about two samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri
from scipy.stats import rankdata
from scipy.stats import t as student
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.stats.auc import RankAUC, rank_auc

# Levels of a category that get a column of their own; the rest shares one.
MOST_LEVELS = 24
# Penalties tried, as shares of the mean squared length of a hidden unit.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, eq=False)
class Design:
    """A table as numbers that a network can be fed, whatever its scales, tails, categories and
    gaps.

    Args:
        values: `[n, p]` float64 columns with mean 0.
        owner: `[p]` int64, which of the d features a column belongs to.
        names: `d` feature names.
    """

    values: Tensor
    owner: Tensor
    names: tuple[str, ...]

    def without(self, features: Sequence[str]) -> Design:
        """The same rows without the columns of some features."""
        kept = torch.tensor(
            [self.names[owner] not in features for owner in self.owner.tolist()], dtype=torch.bool
        )
        return replace(
            self, values=self.values[:, kept.to(self.values.device)], owner=self.owner[kept]
        )


@dataclass(frozen=True, eq=False)
class Probe:
    """Out-of-fold answers: each row is judged by a network that has not seen it.

    Args:
        scores: `[n, r]` float64, one column for each of r targets.
        targets: `[n, r]` float64.
        folds: `[n]` int64.
    """

    scores: Tensor
    targets: Tensor
    folds: Tensor

    @property
    def auc(self) -> RankAUC:
        """AUC of the first target, with its sampling variance given the networks (DeLong et al.,
        1988).
        """
        return rank_auc(self.scores[:, 0], self.targets[:, 0] > 0.5)

    @property
    def r_squared(self) -> Tensor:
        """`[r]` share of the variance of each target that the scores explain; negative where they
        are worse than its mean.
        """
        total = (self.targets - self.targets.mean(0)).square().sum(0)
        return 1 - (self.targets - self.scores).square().sum(0) / total.clamp(min=1e-300)

    def p_value(self) -> float:
        """One-sided p-value of the first target's AUC against those of the other targets, which are
        its permutations.

        `t = (AUC - mean) / (sd sqrt(1 + 1 / B))` with B - 1 degrees of freedom: the permutation
        distribution of an AUC is normal to good accuracy, and so p-values below 1 / B keep a
        meaning. NaN with fewer than 10 permutations.
        """
        aucs = _each_auc(self.scores, self.targets > 0.5)
        null = aucs[1:]
        if len(null) < 10 or not bool(aucs.isfinite().all()):
            return math.nan
        spread = float(null.std()) * math.sqrt(1 + 1 / len(null))
        return float(
            student.sf((float(aucs[0]) - float(null.mean())) / max(spread, 1e-12), len(null) - 1)
        )


def design(*tables: pd.DataFrame | Tensor, categorical: Sequence[str] = ()) -> Design:
    """Rows of one or more tables, one below the other, as columns of numbers.

    Quantities become normal scores of their ranks over all tables, so that scale and tails do not
    matter; a column with gaps gets a second one that marks them; categories get one column per
    frequent level.

    Args:
        tables: `[n_i, d]` DataFrames with the columns of the first, or tensors `[n_i, ...]`.
        categorical: numeric columns that hold codes.

    Raises:
        InputError: no tables, or one that lacks a column of the first.

    Cost: d sorts of all rows, on the host; `n p` float64.
    """
    if not tables:
        reject("tables", "at least one table", "none", "Pass the features.")
    if isinstance(tables[0], Tensor):
        flat = torch.cat([torch.as_tensor(t).reshape(len(t), -1).double() for t in tables])
        columns: dict[str, Any] = {
            f"feature_{i}": column.cpu().numpy() for i, column in enumerate(flat.T)
        }
        device = tables[0].device
    else:
        names = list(tables[0].columns)
        if absent := sorted({str(c) for c in names for table in tables[1:] if c not in table}):
            reject(
                "tables",
                "the columns of the first table in all",
                f"no {', '.join(absent)}",
                "Select shared columns.",
            )
        whole = pd.concat(
            [table[names] for table in tables if isinstance(table, pd.DataFrame)], ignore_index=True
        )
        columns, device = {str(c): whole[c] for c in names}, torch.device("cpu")
    n = sum(map(len, tables))
    parts, owner = [np.zeros((n, 0))], []
    for place, (name, column) in enumerate(columns.items()):
        quantity = (
            name not in categorical
            and getattr(column, "dtype", None) is not None
            and column.dtype.kind in "iuf"
        )
        block = (
            _normal_scores(np.asarray(column, dtype=np.float64)) if quantity else _levels(column)
        )
        parts.append(block)
        owner += [place] * block.shape[1]
    values = np.concatenate(parts, axis=1)
    values -= values.mean(0) if n else 0.0
    return Design(
        torch.from_numpy(values).to(device), torch.tensor(owner, dtype=torch.int64), tuple(columns)
    )


def cross_fit(
    values: Tensor, targets: Tensor, *, folds: int | Tensor = 5, width: int = 96, seed: int = 0
) -> Probe:
    """Out-of-fold answers of a network with one random hidden layer, for all folds and all targets
    at once.

    `score = x A + relu(x W + b) B`, with W and b drawn once and A, B by ridge regression, whose
    penalty each fold chooses by generalised cross-validation. Half of the hidden units look at all
    columns, half at two or three. One decomposition per fold serves every target, so that a
    thousand permuted ones cost little more than one.

    Source: Rahimi and Recht (2008), NeurIPS 21, for random hidden units; Golub, Heath and Wahba
    (1979), Technometrics 21:215, for the penalty.

    Args:
        values: `[n, p]` float columns of comparable scale, as `design` makes them.
        targets: `[n]` or `[n, r]` numbers; 0 and 1 for two classes.
        folds: how many, drawn at random; or `[n]` int64 fold of each row, where rows belong
            together.
        width: hidden units.
        seed: of the folds and the hidden layer.

    Raises:
        InputError: other shapes, fewer than 2 folds, values that are not finite.

    Cost: `n q^2 + folds q^3 + n q r` operations with `q = width + p`; memory `n (q + r)`.
    """
    wanted = (targets[:, None] if targets.ndim == 1 else targets).double().to(values.device)
    if values.ndim != 2 or len(wanted) != len(values):
        reject(
            "targets",
            f"one for each of {len(values)} rows [n, p]",
            str(list(targets.shape)),
            "Align targets with rows.",
        )
    if not bool(values.isfinite().all()) or not bool(wanted.isfinite().all()):
        reject(
            "values",
            "finite values and targets",
            "NaN or infinity",
            "Build the columns with `design`.",
        )
    fold = fold_ids(len(values), folds, seed) if isinstance(folds, int) else folds
    count = int(fold.max()) + 1 if len(fold) else 0
    if count < 2 or len(fold) != len(values):
        reject(
            "folds",
            "at least 2 folds, each row in one",
            f"{count} for {len(values)} rows",
            "Use 5, or pass more rows.",
        )
    hidden = _hidden(values, width, seed)
    mean = wanted.mean(0)
    place = fold.to(values.device).argsort(stable=True)
    sizes = fold.bincount(minlength=count)
    blocks, told = (_padded(part[place], sizes) for part in (hidden, wanted - mean))
    gram, moment = torch.bmm(blocks.mT, blocks), torch.bmm(blocks.mT, told)
    gram, moment = gram.sum(0) - gram, moment.sum(0) - moment
    energy = told.square().sum(1)
    scores = torch.bmm(
        blocks, _ridge(gram, moment, energy.sum(0) - energy, len(values) - sizes.to(values.device))
    )
    answer = torch.empty_like(wanted)
    answer[place] = torch.cat(
        [part[:size] for part, size in zip(scores, sizes.tolist(), strict=True)]
    )
    return Probe(answer + mean, wanted, fold)


def fold_ids(n: int, folds: int, seed: int = 0) -> Tensor:
    """`[n]` int64 folds of equal size, drawn at random; with fewer rows than folds, one row
    each.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.arange(n)[torch.randperm(n, generator=generator)] % max(min(folds, n), 1)


def group_folds(groups: Any, folds: int, seed: int = 0) -> Tensor:
    """`[n]` int64 folds that keep equal values of `groups` `[n]` together."""
    codes, levels = pd.factorize(pd.Series(np.asarray(groups)), use_na_sentinel=False)
    return fold_ids(len(levels), folds, seed)[torch.from_numpy(codes.astype(np.int64))]


def _hidden(values: Tensor, width: int, seed: int) -> Tensor:
    """`[n, p + width]` the columns and the hidden units, with mean 0 and no unit longer than
    another.
    """
    n, p = values.shape
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(p, width, generator=generator, dtype=torch.float64)
    if p > 3:
        sparse = torch.rand(p, width // 2, generator=generator).argsort(0) < torch.randint(
            2, 4, (width // 2,), generator=generator
        )
        weights[:, : width // 2] *= sparse
    weights /= weights.norm(dim=0).clamp(min=1e-12)
    offset = torch.randn(width, generator=generator, dtype=torch.float64)
    x = values.double()
    spread = x.square().mean().sqrt().clamp(min=1e-12) if n else 1.0
    units = torch.cat(
        [x / spread, (x / spread @ weights.to(x.device) + offset.to(x.device)).relu()], 1
    )
    units = units - units.mean(0)
    scale = units.square().mean(0).sqrt()
    return units / torch.where(scale > 1e-9, scale, torch.ones_like(scale))


def _padded(rows: Tensor, sizes: Tensor) -> Tensor:
    """Sorted rows as `[folds, largest, ...]`, short folds filled with zeros."""
    return torch.nn.utils.rnn.pad_sequence(
        list(torch.split(rows, sizes.tolist())), batch_first=True
    )


def _ridge(gram: Tensor, moment: Tensor, energy: Tensor, rows: Tensor) -> Tensor:
    """`[f, q, r]` coefficients of f folds and r targets, the penalty of each by generalised
    cross-validation.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0.0)
    turned = torch.bmm(vectors.mT, moment)
    n = rows.double()[:, None]
    best = torch.full_like(energy, math.inf)
    chosen = torch.ones_like(energy)
    for penalty in _PENALTIES:
        strength = penalty * n
        shrunk = 1 / (values + strength)
        freedom = (values * shrunk).sum(1, keepdim=True)
        fitted = (2 * shrunk - values * shrunk.square())[:, :, None] * turned.square()
        criterion = (energy - fitted.sum(1)).clamp(min=0.0) / (1 - freedom / n).clamp(
            min=1e-6
        ).square()
        chosen = torch.where(criterion < best, strength.expand_as(energy), chosen)
        best = torch.minimum(criterion, best)
    return torch.bmm(vectors, turned / (values[:, :, None] + chosen[:, None, :]))


def _each_auc(scores: Tensor, positive: Tensor) -> Tensor:
    """`[r]` AUC of each column of scores with its own labels."""
    columns = scores.T.contiguous()
    ordered = columns.sort(1).values
    ranks = (
        torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True) + 1
    ).double() / 2
    m = positive.sum(0).double()
    n = len(scores) - m
    return ((ranks * positive.T).sum(1) - m * (m + 1) / 2) / (m * n)


def _normal_scores(
    column: np.ndarray[Any, np.dtype[np.float64]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n, 1]`, or `[n, 2]` with a mark where values are missing; ties share their mean rank,
    infinities count as extreme.
    """
    missing = np.isnan(column)
    scores = np.zeros((len(column), 2 if missing.any() else 1))
    known = column[~missing]
    if len(known):
        scores[~missing, 0] = ndtri((rankdata(known) - 0.5) / len(known))
    if missing.any():
        scores[:, 1] = missing
    return scores


def _levels(column: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n, L]` marks of the frequent levels; missing values are a level of their own."""
    codes, levels = pd.factorize(pd.Series(column), use_na_sentinel=False)
    order = np.argsort(-np.bincount(codes, minlength=len(levels)), kind="stable")
    place = np.empty(len(levels), dtype=np.int64)
    place[order] = np.minimum(np.arange(len(levels)), MOST_LEVELS)
    marks = np.zeros((len(codes), min(len(levels), MOST_LEVELS + 1)))
    marks[np.arange(len(codes)), place[codes]] = 1.0
    return marks
