"""How columns relate to each other on two sides, and what the relations would be otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.data.task import missing_labels
from gendebug_torch.stats.probe_network import design

Array = NDArray[np.float64]

# Rows of either side that are enough, and that are needed.
_MAX_ROWS = 5000
MIN_ROWS = 200
# Columns, and columns of numbers that stand for them, beyond which nothing is judged.
MAX_COLUMNS = 300
_MAX_NUMBERS = 1000
# A correlation has changed from this difference, and this many standard errors, on.
MIN_CHANGE = 0.1
MIN_Z = 5.0
# Differences of a correlation that do not matter, as a standard error.
_TOLERANCE = 0.015
# Most that one pair counts, in squared standard errors: a pair whose other column changed too.
_MOST = 100.0
# What noise alone gives a pair, most of the time.
_NOISE = 4.0
# Parts of the reference that are compared with the whole of it; and how many times what they differ
# by a change must be, to need a reason.
_PARTS = 4
_TIMES_THE_USUAL = 4.0
# Share of a column that the targets tell, from which it follows them.
_FOLLOWS = 0.5


@dataclass(frozen=True, eq=False)
class Relations:
    """Correlations of all columns on two sides, by the p columns of numbers that stand for them.

    Args:
        names: names of the d features.
        owner: feature of each column of numbers, `[p]`.
        before: correlations of normal scores in the reference, `[p, p]`.
        after: the same in production, `[p, p]`.
        tables: the rows of either side that were looked at.
        scores: the same as columns of numbers of variance 1 over both, `[n, p]` and `[m, p]`.
        parts: rows of the reference: random quarters of them, then quarters in the order of time.
        rest: the scores of the reference less what its target tells of them, `[n, p]`; None where
            no target is known.
    """

    names: tuple[str, ...]
    owner: NDArray[np.int64]
    before: Array
    after: Array
    tables: tuple[pd.DataFrame, pd.DataFrame]
    scores: tuple[Array, Array]
    parts: tuple[NDArray[np.int64], ...]
    rest: Array | None = None

    @staticmethod
    def of(
        reference: pd.DataFrame,
        live: pd.DataFrame,
        *,
        categorical: Sequence[str] = (),
        order: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Relations | None:
        """Relations of the columns of two tables; None where they are too few rows or too many.

        Args:
            reference: columns, `[n, d]`; of more than 5,000 rows as many are drawn.
            live: the same columns, `[m, d]`.
            categorical: numeric columns that hold codes.
            order: rows of the reference in the order of time, `[n]` int64; default: as they come.
            targets: classes or quantities of the reference, `[n]`.

        Cost: a sort of each column, and `2 n p^2` operations on 5,000 rows.
        """
        if min(len(reference), len(live)) < MIN_ROWS or reference.shape[1] > MAX_COLUMNS:
            return None
        rows = [_drawn(len(side), seed) for seed, side in enumerate((reference, live))]
        sides = [side.iloc[drawn] for side, drawn in zip((reference, live), rows, strict=True)]
        built = design(*sides, categorical=categorical)
        if not 0 < built.values.shape[1] <= _MAX_NUMBERS:
            return None
        values = built.values.numpy()
        values = values / np.maximum(values.std(0), 1e-9)
        first, second = np.split(values, [len(sides[0])])
        return Relations(
            built.names,
            built.owner.numpy(),
            _correlations(first),
            _correlations(second),
            (sides[0], sides[1]),
            (first, second),
            _quarters(rows[0], order),
            _rest(first, targets, rows[0]),
        )

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of either side."""
        return len(self.tables[0]), len(self.tables[1])

    @property
    def noise(self) -> float:
        """Variance of the difference of two correlations of 0."""
        return 1 / self.rows[0] + 1 / self.rows[1]

    @cached_property
    def weight(self) -> Array:
        """Share of the rows that count for the correlation of two columns, `[p, p]`.

        Rows at the commonest value of a column say little, and those without a value nothing: with
        7 rows in 500 at another value, the correlation with a like column is that of 7 rows.
        """
        scores, own = np.concatenate(self.scores), np.ones(len(self.owner))
        for i, feature in enumerate(self.owner):
            first = i == 0 or self.owner[i - 1] != feature
            raw = pd.concat([side[self.names[feature]] for side in self.tables])
            values = raw.dropna().to_numpy() if first and raw.dtype.kind in "iuf" else scores[:, i]
            common = np.unique(values, return_counts=True)[1].max(initial=0) / max(len(values), 1)
            varied = 1.0 if 0 < common <= 0.5 else 4 * common * (1 - common)
            own[i] = max(varied * len(values) / len(raw), 1e-6)
        return np.minimum(own[:, None], own)

    def squared(self, expected: Array, found: Array, weight: Array | None = None) -> Array:
        """Squared standard errors between correlations.

        Args:
            expected: correlations, of all columns with all by default.
            found: the same.
            weight: `weight` of each of them, where they are others.
        """
        noise = self.noise / (self.weight if weight is None else weight)
        return (found - expected) ** 2 / ((1 - expected**2) ** 2 * noise + _TOLERANCE**2)

    def excess(self, expected: Array, found: Array, weight: Array | None = None) -> Array:
        """Squared standard errors beyond noise, each up to a limit; arguments as of `squared`."""
        return np.clip(self.squared(expected, found, weight) - _NOISE, 0.0, _MOST)

    def usual(self, pairs: NDArray[np.bool_]) -> float:
        """Excess over some pairs that a reason must beat.

        Args:
            pairs: the correlations that are looked at, `[p, p]`.
        """
        return needed_excess([float(part[pairs].sum()) for part in self._of_parts])

    @cached_property
    def _of_parts(self) -> list[Array]:
        """Excess of the correlations of each part of the reference, `[p, p]` each."""
        found = []
        for part in self.parts:
            noise = (1 / len(part) - 1 / self.rows[0]) / self.weight
            squared = (_correlations(self.scores[0][part]) - self.before) ** 2
            squared /= (1 - self.before**2) ** 2 * noise + _TOLERANCE**2
            found.append(np.clip(squared - _NOISE, 0.0, _MOST))
        return found

    def changed(self) -> NDArray[np.bool_]:
        """Whether each correlation changed, `[p, p]`."""
        large = np.abs(self.after - self.before) >= MIN_CHANGE
        return np.asarray((self.squared(self.before, self.after) >= MIN_Z**2) & large)

    def only_through_targets(self, columns: NDArray[np.bool_]) -> bool:
        """Whether some columns follow the targets, and others no more than that brings about.

        So does a record of the outcome, and what went with it where the data was collected.

        Args:
            columns: columns of numbers, `[p]`.
        """
        if self.rest is None:
            return False
        left = self.rest[:, columns].var(0) / np.maximum(self.scores[0][:, columns].var(0), 1e-9)
        if left.max(initial=1.0 - _FOLLOWS) > 1 - _FOLLOWS:
            return False
        noise = 4 / np.sqrt(len(self.rest))
        others = np.abs(_correlations(self.rest)[columns][:, ~columns])
        return bool(others.max(initial=0.0) <= max(MIN_CHANGE, noise))


def needed_excess(of_parts: Sequence[float]) -> float:
    """Excess that a reason must beat, since relations change by themselves.

    That of the weekday to the day of the month changes from month to month: the quarter of the
    reference that differs most from all of it shows how much, beyond what random quarters do.

    Args:
        of_parts: excess of each of `Relations.parts` against the whole reference.
    """
    return _TIMES_THE_USUAL * (max(of_parts) - max(of_parts[:_PARTS]))


def _drawn(rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of all rows, or of as many as are enough, in their order."""
    if rows <= _MAX_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, _MAX_ROWS, replace=False))


def _quarters(drawn: NDArray[np.int64], order: Tensor | None) -> tuple[NDArray[np.int64], ...]:
    """Quarters of the drawn rows at random, and in the order of time where it is known."""
    rank = drawn if order is None else order.argsort().cpu().numpy()[drawn]
    in_time = np.argsort(rank, kind="stable")
    at_random = np.random.default_rng(2).permutation(len(drawn))
    return tuple(part for one in (at_random, in_time) for part in np.array_split(one, _PARTS))


def _correlations(scores: Array) -> Array:
    """Correlations of all columns, `[p, p]`; 0 with constants."""
    centred = scores - scores.mean(0)
    scaled = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-9)
    return np.asarray(scaled.T @ scaled)


def _rest(scores: Array, targets: Tensor | None, drawn: NDArray[np.int64]) -> Array | None:
    """What classes, or a quantity and its square, do not tell of each column."""
    if targets is None or targets.ndim != 1:
        return None
    values = targets.cpu().double().numpy()[drawn]
    known = ~missing_labels(targets).cpu().numpy()[drawn]
    if known.sum() < MIN_ROWS:
        return None
    scores, values = scores[known], values[known]
    if targets.is_floating_point():
        order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        ranked = order / len(values) - 0.5
        spread = (values - values.mean()) / max(values.std(), 1e-9)
        told = np.stack([np.ones_like(ranked), ranked, ranked**2, ranked**3, spread], 1)
    else:
        told = (values[:, None] == np.unique(values)).astype(np.float64)
    return np.asarray(scores - told @ np.linalg.lstsq(told, scores, rcond=None)[0])
