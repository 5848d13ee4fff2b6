"""Columns that hold the values of others, or their own in reverse, by how they relate to others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import ClassVar

import numpy as np

from gendebug_torch.shift.columns.shared_columns import Column
from gendebug_torch.shift.transforms.distances import SAME, explains_shift, ks_distance
from gendebug_torch.shift.transforms.quantities import FeatureTransform
from gendebug_torch.shift.transforms.relations import MAX_COLUMNS, Array, Relations

# Relations that must have changed; one alone could be that of either of its columns.
_MIN_RELATIONS = 2
# Excess beyond noise that needs a reason, and the share of it that a reason may leave.
_MIN_EXCESS = 60.0
_MAX_LEFT = 0.2
# Rounds of improvement, and best sources whose distribution is looked at in each.
_SWEEPS = 5
_TRIED = 4
# Distance of a column that left its distribution far behind, how many must have, and the share of
# a family that must fit; values of a column that are enough.
_FAR, MIN_FAR, _NEARLY_ALL = 0.15, 3, 0.9
_MOST_VALUES = 5000
# Rows that differ from the commonest value of a column which says what it is.
_MIN_VARIED = 10
# Columns that are exchanged two by two, and the share of the excess within which explanations are
# about as good.
_MOST_EXCHANGED = 20
_ABOUT = 0.03


@dataclass(frozen=True)
class OtherColumn:
    """Columns that hold the values of others: two exchanged, or each moved by one place.

    Args:
        sources: column -> the column whose values it holds, for all columns of the change.
        statistic: share of the change of the correlations that is left.
    """

    sources: Mapping[str, str]
    statistic: float = 0.0

    kind: ClassVar[str] = "other column"
    implausible_as_drift: ClassVar[bool] = True

    @property
    def holders(self) -> Mapping[str, str] | None:
        """Column -> the column that holds its values now; None where some are lost."""
        held = {source: name for name, source in self.sources.items()}
        return held if held.keys() == self.sources.keys() else None

    def text(self, name: str) -> str:
        """What happened to one of the columns, as part of a sentence."""
        source = self.sources[name]
        exchanged = self.sources.get(source) == name
        return f"exchanged with {source}" if exchanged else f"it holds the values of {source}"


def role_changes(
    relations: Relations, values: Mapping[str, tuple[Column, Column]]
) -> dict[str, OtherColumn | FeatureTransform]:
    """Quantities that hold the values of another column, or their own in reverse.

    Each keeps a distribution that it, or another column, had; what gives it away are its
    correlations with all other columns, which must be those of the other column (of the other sign
    for a reversed scale) and explain four fifths of what changed. Columns that are numbered are
    also tried together: moved by one place, rotated, in reverse order.

    Args:
        relations: correlations on both sides.
        values: finite values on both sides of each quantity that is judged.

    Returns:
        Column name -> what happened to it; empty where nothing did.

    Cost: `p` comparisons for each of the `q` quantities, for each whose correlations changed.

    Example:
        >>> import pandas as pd
        >>> normal = np.random.default_rng(0).normal(size=(2, 5, 2000))
        >>> tables = [pd.DataFrame({c: w * s[0] + s[1 + i] for i, (c, w) in
        ...                         enumerate(zip("abcd", (1.0, 0.0, 0.7, 0.4)))}) for s in normal]
        >>> tables[1][["a", "b"]] = tables[1][["b", "a"]].to_numpy()
        >>> values = {c: tuple(side[c].to_numpy() for side in tables) for c in "abcd"}
        >>> found = role_changes(Relations.of(*tables), values)
        >>> {name: change.text(name) for name, change in found.items()}
        {'a': 'exchanged with b', 'b': 'exchanged with a'}
    """
    roles = _Roles.of(relations, values)
    suspects, same = roles.suspects(), list(range(len(values)))
    if not suspects:
        return {}
    tried = [_improved(roles, suspects), *_exchanges(same, suspects), *_of_numbered(roles.names)]
    left, sources = _best(roles, suspects, tried)
    moved = [i for i in same if sources[i] != i]
    names = roles.names
    held = {names[i]: names[sources[i]] for i in moved if sources[i] != roles.reversed}
    changes: dict[str, OtherColumn | FeatureTransform] = dict.fromkeys(
        held, OtherColumn(held, left)
    )
    for i in moved:
        if sources[i] == roles.reversed:
            changes[names[i]] = FeatureTransform("sign", -1.0, *roles.turned(i))
    return changes


def _best(
    roles: _Roles, suspects: Sequence[int], tried: Sequence[list[int]]
) -> tuple[float, list[int]]:
    """Share of the excess that the best explanation leaves, and its sources; 1 and no move else.

    Of what explains about as much, that which moves the fewest columns; none where as few others
    would do.
    """
    same = list(range(len(roles.names)))
    good: list[tuple[int, float, list[int]]] = []
    for sources in tried:
        moved = [i for i in same if sources[i] != i]
        rows = sorted({*suspects, *moved})
        before, after = (sum(roles.excess(held, rows)) for held in (same, sources))
        needed = max(_MIN_EXCESS, roles.usual(rows))
        if not moved or before < needed or after > _MAX_LEFT * before:
            continue
        if all(roles.fits(i, sources[i]) for i in moved):
            good.append((len(moved), after / before, sources))
    least = min((left for _, left, _ in good), default=0.0)
    good = sorted(one for one in good if one[1] <= least + _ABOUT)
    if not good:
        return 1.0, same
    fewest, left, sources = good[0]
    moved = [i for i in same if sources[i] != i]
    rivals = [other for count, _, other in good if count == fewest]
    if any(all(other[i] == i for i in moved) for other in rivals):
        return 1.0, same
    return left, sources


def _improved(roles: _Roles, suspects: Sequence[int]) -> list[int]:
    """What each quantity holds, improved one by one until nothing changes."""
    same = list(range(len(roles.names)))
    sources = same.copy()
    for _ in range(_SWEEPS):
        previous = sources.copy()
        for i in suspects:
            costs = roles.costs(i, sources)
            best = np.argsort(costs, kind="stable")[:_TRIED].tolist()
            better = (c for c in best if c == i or 2 * costs[c] < costs[i])
            sources[i] = next((c for c in better if c == i or roles.fits(i, c)), i)
        if sources == previous:
            break
    for i in suspects:
        if roles.costs(i, sources)[sources[i]] > _MAX_LEFT * roles.costs(i, same)[i]:
            sources[i] = i
    return sources


def _exchanges(same: Sequence[int], suspects: Sequence[int]) -> Iterator[list[int]]:
    """Sources where two columns are exchanged, of those that changed most."""
    for i, j in combinations(suspects[:_MOST_EXCHANGED], 2):
        sources = list(same)
        sources[i], sources[j] = j, i
        yield sources


def _of_numbered(names: Sequence[str]) -> Iterator[list[int]]:
    """Sources of columns that are numbered, moved together: by one place, rotated, turned round."""
    families: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if re.search(r"\d", name):
            families.setdefault(re.sub(r"\d+", "#", name), []).append(i)
    for one in families.values():
        if len(one) > 2:
            for moved in (
                [*one[1:], one[-1]],
                [one[0], *one[:-1]],
                [*one[1:], one[0]],
                [one[-1], *one[:-1]],
                one[::-1],
            ):
                sources = list(range(len(names)))
                for i, source in zip(one, moved, strict=True):
                    sources[i] = source
                yield sources


def moved_family(values: Mapping[str, tuple[Column, Column]]) -> dict[str, OtherColumn]:
    """Numbered columns that all moved together, by their distributions alone.

    Three or more must have left their own distribution far behind, and nine of ten must have that
    of the column whose values they hold. Families of more than 300 columns are left out.

    Args:
        values: finite values on both sides of each quantity.

    Returns:
        Column name -> what happened to it; empty where no family moved.
    """
    names, sides = list(values), [(_some(a), _some(b)) for a, b in values.values()]
    best: dict[str, OtherColumn] = {}
    least = _MAX_LEFT
    distance = cache(lambda i: ks_distance(*sides[i]))
    for sources in _of_numbered(names):
        moved = [i for i in range(len(names)) if sources[i] != i]
        if len(moved) > MAX_COLUMNS:
            continue
        if any(not min(map(len, sides[i])) for i in {*moved, *(sources[i] for i in moved)}):
            continue
        own = [distance(i) for i in moved]
        far = [at for at, left in enumerate(own) if left >= _FAR]
        if len(far) < MIN_FAR:
            continue
        held = [ks_distance(sides[sources[i]][0], sides[i][1]) for i in moved]
        noise = [1.63 * math.sqrt(1 / len(sides[i][0]) + 1 / len(sides[i][1])) for i in moved]
        fits = [left <= SAME + limit for left, limit in zip(held, noise, strict=True)]
        left = sum(held[at] for at in far) / sum(own[at] for at in far)
        if np.mean(fits) >= _NEARLY_ALL and left < least:
            least, roles = left, {names[i]: names[sources[i]] for i in moved}
            best = dict.fromkeys(roles, OtherColumn(roles, left))
    return best


def _varies(values: Column) -> bool:
    """Whether some rows differ from the commonest value."""
    counts = np.unique(values, return_counts=True)[1]
    return len(values) - int(counts.max(initial=0)) >= _MIN_VARIED


def _some(values: Column) -> Column:
    """Values evenly spread over the rows, as many as are enough."""
    return values[:: max(1, len(values) // _MOST_VALUES)]


@dataclass(frozen=True, eq=False)
class _Roles:
    """Relations of q quantities, and what each may hold: a quantity's number, or `reversed`.

    Args:
        relations: correlations on both sides.
        names: names of the quantities.
        place: column of numbers of each quantity, `[q]`.
        others: whether a column of numbers belongs to another feature, `[q, p]`.
        values: finite values of each quantity on both sides.
    """

    relations: Relations
    names: tuple[str, ...]
    place: np.ndarray
    others: np.ndarray
    values: tuple[tuple[Column, Column], ...]

    @staticmethod
    def of(relations: Relations, values: Mapping[str, tuple[Column, Column]]) -> _Roles:
        owner = relations.owner
        features = [relations.names.index(name) for name in values]
        place = np.array([int(np.flatnonzero(owner == f)[0]) for f in features], dtype=np.int64)
        others = np.array(features, dtype=np.int64)[:, None] != owner
        return _Roles(relations, tuple(values), place, others, tuple(values.values()))

    @property
    def reversed(self) -> int:
        """Number that stands for the own values in reverse order."""
        return len(self.names)

    def suspects(self) -> list[int]:
        """Quantities with a changed correlation, those that changed most first; none if one is all.

        A single pair may be of either of its columns.
        """
        changed = self.relations.changed()
        owner = self.relations.owner
        one, other = changed.nonzero()
        pairs = {
            frozenset(pair) for pair in zip(owner[one].tolist(), owner[other].tolist(), strict=True)
        }
        if sum(len(pair) == 2 for pair in pairs) < _MIN_RELATIONS:
            return []
        suspected = (changed[self.place] & self.others).any(1)
        excess = np.array(self.excess(range(len(self.names)), range(len(self.names))))
        return [i for i in np.argsort(-excess, kind="stable").tolist() if suspected[i]]

    def costs(self, i: int, sources: Sequence[int]) -> list[float]:
        """Excess of the correlations of one quantity under all that it may hold, `q + 1`.

        Args:
            i: the quantity.
            sources: what each of the others holds.
        """
        columns = self._columns(sources)
        found = self.relations.after[self.place[i]]
        expected = np.concatenate([columns, -columns[i : i + 1]])
        weight = self.relations.weight[self.place[i]]
        excess = self.relations.excess(expected, found, weight) * self.others[i]
        # The column whose values this one holds may hold them too, or those of this one.
        every = np.arange(len(self.names))
        exchanged = self.relations.excess(
            columns[every, self.place[i]], found[self.place], weight[self.place]
        )
        kept = excess[every, self.place]
        excess[every, self.place] = np.where(every == i, kept, np.minimum(kept, exchanged))
        costs: list[float] = excess.sum(1).tolist()
        return costs

    def excess(self, sources: Sequence[int], chosen: Sequence[int]) -> list[float]:
        """Excess of the correlations of some quantities if all held these sources."""
        columns = self._columns(sources)
        sign = np.array([-1.0 if sources[i] == self.reversed else 1.0 for i in chosen])
        rows = [i if sources[i] == self.reversed else sources[i] for i in chosen]
        expected, place = sign[:, None] * columns[rows], self.place[[*chosen]]
        found, weight = self.relations.after[place], self.relations.weight[place]
        excess = self.relations.excess(expected, found, weight) * self.others[[*chosen]]
        sums: list[float] = excess.sum(1).tolist()
        return sums

    def usual(self, chosen: Sequence[int]) -> float:
        """Excess of the correlations of some quantities that a reason must beat."""
        pairs = np.zeros(self.relations.before.shape, dtype=bool)
        pairs[self.place[[*chosen]]] = self.others[[*chosen]]
        return self.relations.usual(pairs)

    def _columns(self, sources: Sequence[int]) -> Array:
        """Correlations of the quantities with all columns if these hold the sources, `[q, p]`."""
        before = self.relations.before[self.place]
        columns: Array = before.copy()
        for j, source in enumerate(sources):
            if source == self.reversed:
                columns[:, self.place[j]] *= -1
            elif source != j:
                columns[:, self.place[j]] = before[:, self.place[source]]
        return columns

    def fits(self, i: int, source: int) -> bool:
        """Whether the distribution of a quantity is that of what it may hold.

        Where hardly any row of the reference differs from the others, any column looks like it.
        """
        before, after = self.values[i]
        held = before if source == self.reversed else self.values[source][0]
        if not (_varies(before) and _varies(held)):
            return False
        if source == self.reversed:
            distance = self.turned(i)[1] if len(np.unique(before)) > 2 else 1.0
        else:
            distance = ks_distance(self.values[source][0], after)
        return distance <= SAME + 1.63 * math.sqrt(self.relations.noise)

    def turned(self, i: int) -> tuple[float, float]:
        """Sum of both ends of a reversed scale (0: a sign), and the distance that is left."""
        before, after = self.values[i]
        end = float(np.median(before) + np.median(after))
        sign, turned = ks_distance(-before, after), ks_distance(end - before, after)
        return (0.0, sign) if sign <= turned + math.sqrt(self.relations.noise) else (end, turned)


def exchanged_columns(
    reference: list[Column], live: list[Column], distances: list[float]
) -> dict[int, int]:
    """Columns that each hold the values of the other: `{i: j, j: i}`.

    Args:
        reference: finite values of each column.
        live: the same of production.
        distances: Kolmogorov-Smirnov distance of each column.
    """
    found: dict[int, int] = {}
    for i in range(len(reference)):
        for j in range(i):
            limit = min(distances[i], distances[j])
            if i in found or j in found:
                continue
            crossed = [(reference[j], live[i]), (reference[i], live[j])]
            if all(explains_shift(ks_distance(a, b), limit, len(a), len(b)) for a, b in crossed):
                found |= {i: j, j: i}
    return found
