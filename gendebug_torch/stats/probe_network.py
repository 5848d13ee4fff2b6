"""Small networks, fitted on some rows and evaluated on others: how well a table predicts a target.

Two samples are compared in the same way: the target is the sample that a row belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtr
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.stats.auc import RankAUC, normal_scores, rank_auc, sorted_ranks

# Levels of a category that get a column of their own; the others share one.
MAX_LEVELS = 24
# Penalties tried, as shares of the mean squared length of a hidden unit.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Permuted targets from which a p-value is given.
_MIN_PERMUTATIONS = 10


@dataclass(frozen=True, eq=False)
class Design:
    """A table as columns of numbers, whatever its scales, tails, categories and missing values.

    Args:
        values: columns with mean 0, `[n, p]` float64.
        owner: feature that each column belongs to, `[p]` int64 in 0..d-1.
        names: d feature names.
    """

    values: Tensor
    owner: Tensor
    names: tuple[str, ...]

    def without(self, features: Sequence[str]) -> Design:
        """The same rows without the columns of some features."""
        mask = torch.tensor([self.names[i] not in features for i in self.owner.tolist()]).bool()
        return replace(
            self, values=self.values[:, mask.to(self.values.device)], owner=self.owner[mask]
        )


@dataclass(frozen=True, eq=False)
class Probe:
    """Out-of-fold predictions: each row is predicted by a network that was not fitted on it.

    Args:
        scores: predictions of each of r targets, `[n, r]` float64.
        targets: targets, `[n, r]` float64.
        folds: fold of each row, `[n]` int64.
    """

    scores: Tensor
    targets: Tensor
    folds: Tensor

    @property
    def auc(self) -> RankAUC:
        """AUC of the first target, with its sampling variance given the networks.

        Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837.
        """
        return rank_auc(self.scores[:, 0], self.targets[:, 0] > 0.5)

    @property
    def r_squared(self) -> Tensor:
        """`[r]` explained share of the variance; negative if worse than predicting the mean."""
        total = (self.targets - self.targets.mean(0)).square().sum(0)
        return 1 - (self.targets - self.scores).square().sum(0) / total.clamp(min=1e-300)

    def p_value(self) -> float:
        """One-sided p-value of the first target's AUC; the other targets are its permutations.

        `t = (AUC - mean) / (sd sqrt(1 + 1 / B))` with B - 1 degrees of freedom: the permutation
        distribution of an AUC is nearly normal, so that p-values below 1 / B are meaningful. NaN
        with fewer than 10 permutations.
        """
        aucs = _column_aucs(self.scores, self.targets > 0.5)
        null = aucs[1:]
        if len(null) < _MIN_PERMUTATIONS or not bool(aucs.isfinite().all()):
            return math.nan
        error = max(float(null.std()) * math.sqrt(1 + 1 / len(null)), 1e-12)
        return float(stdtr(len(null) - 1, (float(null.mean()) - float(aucs[0])) / error))


def design(*tables: pd.DataFrame | Tensor, categorical: Sequence[str] = ()) -> Design:
    """Rows of one or more tables, one below the other, as columns of numbers.

    Quantities become normal scores of their ranks over all tables, so that scale and tails do not
    matter; a column with missing values gets a second one that indicates them; categories get one
    column per frequent level.

    Args:
        tables: DataFrames `[n_i, d]` with the columns of the first, or tensors `[n_i, ...]`.
        categorical: numeric columns that hold codes.

    Raises:
        InputError: no tables, or one that lacks a column of the first.

    Cost: d sorts of all rows, on the host; `n p` float64.

    Example:
        >>> table = pd.DataFrame({"income": [1.0, 10.0, 1000.0], "city": ["Bonn", "Rome", "Bonn"]})
        >>> built = design(table)
        >>> built.names, built.owner.tolist()
        (('city', 'income'), [0, 0, 1])
        >>> [round(value, 2) for value in built.values[:, 2].tolist()]
        [-0.97, 0.0, 0.97]
    """
    if not tables:
        reject("tables", "at least one table", "none", "Pass the features.")
    first = tables[0]
    columns = _tensor_columns(tables) if isinstance(first, Tensor) else _table_columns(tables)
    device = first.device if isinstance(first, Tensor) else torch.device("cpu")
    n = sum(map(len, tables))
    parts, owner = [np.zeros((n, 0))], []
    for i, (name, column) in enumerate(columns.items()):
        quantity = column.dtype.kind in "iuf" and name not in categorical
        part = (
            _normal_scores(np.asarray(column, dtype=np.float64))
            if quantity
            else _level_indicators(column)
        )
        parts.append(part)
        owner += [i] * part.shape[1]
    values = np.concatenate(parts, axis=1)
    values -= values.mean(0) if n else 0.0
    return Design(
        torch.from_numpy(values).to(device), torch.tensor(owner, dtype=torch.int64), tuple(columns)
    )


def _tensor_columns(tables: Sequence[Any]) -> dict[str, Any]:
    flat = torch.cat([torch.as_tensor(t).reshape(len(t), -1).double() for t in tables])
    return {f"feature_{i}": column.cpu().numpy() for i, column in enumerate(flat.T)}


def _table_columns(tables: Sequence[Any]) -> dict[str, Any]:
    # Sorted, so that what is drawn at random depends on no order of columns.
    names = sorted(tables[0].columns, key=str)
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
    return {str(c): whole[c] for c in names}


def cross_fit(
    values: Tensor,
    targets: Tensor,
    *,
    folds: int | Tensor = 5,
    width: int = 96,
    seed: int = 0,
) -> Probe:
    """Out-of-fold predictions of a network with one random hidden layer, for all targets at once.

    `score = x A + relu(x W + b) B`, with W and b drawn once and A, B by ridge regression, whose
    penalty each fold chooses by generalised cross-validation. Half of the hidden units depend on
    all columns, half on two or three. One decomposition per fold serves every target, so that a
    thousand permuted ones cost little more than one.

    Source: Rahimi and Recht (2008), NeurIPS 21, for random hidden units; Golub, Heath and Wahba
    (1979), Technometrics 21:215, for the penalty.

    Args:
        values: columns of comparable scale, as `design` makes them, `[n, p]` float.
        targets: numbers, `[n]` or `[n, r]`; 0 and 1 for two classes.
        folds: number of random folds; or the fold of each row, `[n]` int64, if rows belong
            together.
        width: number of hidden units.
        seed: seed of the folds and the hidden layer.

    Raises:
        InputError: other shapes, fewer than 2 folds, values that are not finite.

    Cost: `n q^2 + folds q^3 + n q r` operations with `q = width + p`; memory `n (q + r)`.

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> probe = cross_fit(x, (x[:, 0] * x[:, 1] > 0).double())
        >>> bool(probe.auc.auc > 0.9)
        True
    """
    labels = (targets[:, None] if targets.ndim == 1 else targets).double().to(values.device)
    fold = fold_ids(len(values), folds, seed) if isinstance(folds, int) else folds
    _check_rows(values, labels, fold)
    hidden = hidden_units(values, width, seed)
    mean = labels.mean(0)
    order = fold.to(values.device).argsort(stable=True)
    sizes = fold.bincount()
    units, centred = (_padded_folds(part[order], sizes) for part in (hidden, labels - mean))
    rows = len(values) - sizes.to(values.device)
    scores = _scores_of_folds(units, centred, rows)
    prediction = torch.empty_like(labels)
    parts = [part[:size] for part, size in zip(scores, sizes.tolist(), strict=True)]
    prediction[order] = torch.cat(parts)
    return Probe(prediction + mean, labels, fold)


def fitted_network(
    values: Tensor, targets: Tensor, *, width: int = 96, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """Rows `[j, p]` -> scores `[j, r]` of the network of `cross_fit`, with an intercept.

    Args:
        values: columns as of `cross_fit`, `[n, p]`; rows without a target only scale the units.
        targets: numbers of the first m rows, which it is fitted to, `[m, r]` float64.
        width: number of hidden units.
        seed: seed of the hidden layer.
    """
    units_of, units = _scaled_units(values, width, seed)
    units = units[: len(targets)]
    middle, level = units.mean(0), targets.mean(0)
    units, wanted = units - middle, targets - level
    gram, moment, energy = units.T @ units, units.T @ wanted, wanted.square().sum(0)
    rows = torch.tensor([len(targets)], device=values.device)
    coefficients = _ridge_coefficients(gram[None], moment[None], energy[None], rows)[0]
    return lambda others: (units_of(others) - middle) @ coefficients + level


def _check_rows(values: Tensor, targets: Tensor, fold: Tensor) -> None:
    if values.ndim != 2 or len(targets) != len(values):
        expected, got = f"one for each of {len(values)} rows [n, p]", str(list(targets.shape))
        reject("targets", expected, got, "Align targets with rows.")
    if not bool(values.isfinite().all()) or not bool(targets.isfinite().all()):
        remedy = "Build the columns with `design`."
        reject("values", "finite values and targets", "NaN or infinity", remedy)
    count = int(fold.max()) + 1 if len(fold) else 0
    if count < 2 or len(fold) != len(values):
        reject(
            "folds",
            "at least 2 folds, each row in one",
            f"{count} for {len(values)} rows",
            "Use 5, or pass more rows.",
        )


def fold_ids(n: int, folds: int, seed: int = 0) -> Tensor:
    """`[n]` int64 random folds of equal size; one row each if there are fewer rows than folds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.arange(n)[torch.randperm(n, generator=generator)] % max(min(folds, n), 1)


def group_folds(groups: Any, folds: int, seed: int = 0) -> Tensor:
    """`[n]` int64 folds that keep equal values of `groups` `[n]` together."""
    codes, levels = pd.factorize(pd.Series(np.asarray(groups)), use_na_sentinel=False)
    return fold_ids(len(levels), folds, seed)[torch.from_numpy(codes.astype(np.int64))]


def hidden_units(values: Tensor, width: int, seed: int) -> Tensor:
    """`[n, p + width]` the columns and the hidden units, with mean 0 and deviation 1."""
    return _scaled_units(values, width, seed)[1]


def _scaled_units(
    values: Tensor, width: int, seed: int
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """What gives the units of any rows, scaled on these, and those of these."""
    weights, offset = _random_weights(values, width, seed)
    spread = values.double().square().mean().sqrt().clamp(min=1e-12) if len(values) else 1.0

    def unscaled(rows: Tensor) -> Tensor:
        x = rows.double() / spread
        return torch.cat([x, torch.addmm(offset, x, weights).relu_()], 1)

    units = unscaled(values)
    mean = units.mean(0)
    deviation = units.sub_(mean).square().mean(0).sqrt()
    deviation = torch.where(deviation > 1e-9, deviation, 1.0)
    return lambda rows: unscaled(rows).sub_(mean).div_(deviation), units.div_(deviation)


def _random_weights(values: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weights `[p, width]` of length 1, half of them of two or three columns, and offsets."""
    p, generator = values.shape[1], torch.Generator().manual_seed(seed)
    weights = torch.randn(p, width, generator=generator, dtype=torch.float64)
    if p > 3:
        order = torch.rand(p, width // 2, generator=generator).argsort(0)
        weights[:, : width // 2] *= order < torch.randint(2, 4, (width // 2,), generator=generator)
    weights /= weights.norm(dim=0).clamp(min=1e-12)
    offset = torch.randn(width, generator=generator, dtype=torch.float64)
    return weights.to(values.device), offset.to(values.device)


def _padded_folds(rows: Tensor, sizes: Tensor) -> Tensor:
    """Sorted rows as `[folds, largest size, ...]`, short folds filled with zeros."""
    return torch.nn.utils.rnn.pad_sequence(
        list(torch.split(rows, sizes.tolist())), batch_first=True
    )


def _scores_of_folds(units: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """`[f, s, r]` predictions of each fold by a fit to all other folds.

    Args:
        units: hidden units of each fold, `[f, s, q]`, short folds filled with zeros.
        targets: targets of each fold, `[f, s, r]` likewise.
        rows: numbers of rows of the other folds, `[f]`.
    """
    # Sums over all other folds: those over all rows less those over the fold.
    gram, moment = torch.bmm(units.mT, units), torch.bmm(units.mT, targets)
    gram, moment = gram.sum(0) - gram, moment.sum(0) - moment
    energy = targets.square().sum(1)
    energy = energy.sum(0) - energy
    return torch.bmm(units, _ridge_coefficients(gram, moment, energy, rows))


def _ridge_coefficients(gram: Tensor, moment: Tensor, energy: Tensor, rows: Tensor) -> Tensor:
    """`[f, q, r]` coefficients of f folds and r targets, each penalty by cross-validation.

    Args:
        gram: products of units, `[f, q, q]`.
        moment: products of units and targets, `[f, q, r]`.
        energy: squared length of the targets, `[f, r]`.
        rows: number of rows, `[f]`.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0.0)
    rotated = torch.bmm(vectors.mT, moment)
    n = rows.double()[:, None]
    best = torch.full_like(energy, math.inf)
    strength = torch.ones_like(energy)
    for penalty in _PENALTIES:
        tried = penalty * n
        shrunk = 1 / (values + tried)
        freedom = (values * shrunk).sum(1, keepdim=True)
        fitted = (2 * shrunk - values * shrunk.square())[:, :, None] * rotated.square()
        criterion = (energy - fitted.sum(1)).clamp(min=0.0) / (1 - freedom / n).clamp(
            min=1e-6
        ).square()
        strength = torch.where(criterion < best, tried.expand_as(energy), strength)
        best = torch.minimum(criterion, best)
    return torch.bmm(vectors, rotated / (values[:, :, None] + strength[:, None, :]))


def _column_aucs(scores: Tensor, positive: Tensor) -> Tensor:
    """`[r]` AUC of each column of scores with its own labels."""
    order, ranks = sorted_ranks(scores.T.contiguous())
    of_positive = ranks * positive.T.gather(1, order)
    m = positive.sum(0).double()
    n = len(scores) - m
    return (of_positive.sum(1).double() / 2 - m * (m + 1) / 2) / (m * n)


def _normal_scores(
    column: np.ndarray[Any, np.dtype[np.float64]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n, 1]`, or `[n, 2]` with an indicator of missing values.

    Ties share their mean rank; infinities count as extreme.
    """
    missing = np.isnan(column)
    scores = np.zeros((len(column), 2 if missing.any() else 1))
    present = column[~missing]
    if len(present):
        scores[~missing, 0] = normal_scores(torch.from_numpy(present)).numpy()
    if missing.any():
        scores[:, 1] = missing
    return scores


def _level_indicators(column: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n, L]` indicators of the frequent levels; missing values are a level of their own."""
    values = pd.Series(column)
    try:
        codes, levels = pd.factorize(values, use_na_sentinel=False)
    except TypeError:
        # Lists and dicts have no hash; their texts do.
        codes, levels = pd.factorize(values.map(str), use_na_sentinel=False)
    order = np.argsort(-np.bincount(codes, minlength=len(levels)), kind="stable")
    rank = np.empty(len(levels), dtype=np.int64)
    rank[order] = np.minimum(np.arange(len(levels)), MAX_LEVELS)
    indicators = np.zeros((len(codes), min(len(levels), MAX_LEVELS + 1)))
    indicators[np.arange(len(codes)), rank[codes]] = 1.0
    return indicators
