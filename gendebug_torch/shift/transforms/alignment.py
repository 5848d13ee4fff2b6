"""Columns whose values stand beside other rows, as after a join on the wrong key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gendebug_torch.shift.transforms.distances import SAME, ks_distance
from gendebug_torch.shift.transforms.relations import MIN_CHANGE, MIN_Z, Relations

# Lost relations, and the excess beyond noise, that need a reason, and what of it may be left.
_MIN_LOST = 2
_MIN_EXCESS = 60.0
_MAX_LEFT = 0.2


@dataclass(frozen=True)
class OtherRows:
    """Values that stand beside other rows, as after a join on the wrong key.

    Args:
        columns: columns that kept their relations to each other, and lost those to all others.
        statistic: share of the change of the correlations that is left.
    """

    columns: tuple[str, ...]
    statistic: float = 0.0

    kind: ClassVar[str] = "other rows"
    implausible_as_drift: ClassVar[bool] = True

    def __str__(self) -> str:
        if len(self.columns) == 1:
            return "relates to no other column any more"
        return "relate to each other as before, and to no other column any more"


def columns_beside_other_rows(relations: Relations) -> list[OtherRows]:
    """Groups of columns that relate to no column outside any more, although they did.

    The groups are the connected parts of the graph of all significant correlations in production;
    the largest is what the others no longer belong to. A group counts where two or more of its
    relations to others are gone and its distributions are as before; together, the groups must
    explain four fifths of what changed in the correlations of all columns. A group that is related
    to others through the targets alone is left to the checks of leaks and shortcuts: such a
    relation ends where the group no longer goes with the targets, without any join.

    Args:
        relations: correlations on both sides.

    Example:
        >>> import numpy as np, pandas as pd
        >>> normal = np.random.default_rng(0).normal(size=(2, 5, 1000))
        >>> tables = [pd.DataFrame({c: s[0] + s[1 + i] for i, c in enumerate("abcd")})
        ...           for s in normal]
        >>> tables[1]["c"] = tables[1]["c"].to_numpy()[::-1]
        >>> [found.columns for found in columns_beside_other_rows(Relations.of(*tables))]
        [('c',)]
    """
    owner, part = relations.owner, _parts(relations)
    largest = int(np.bincount(part).argmax())
    lost = relations.changed() & (np.abs(relations.before) >= MIN_CHANGE)
    groups, expected = {}, relations.before.copy()
    for number in set(part.tolist()) - {largest}:
        inside = (part == number)[owner]
        across = inside[:, None] & ~inside
        names = tuple(n for n, at in zip(relations.names, part, strict=True) if at == number)
        if relations.only_through_targets(inside):
            continue
        if _features(lost & across, owner) >= _MIN_LOST and all(_as_before(relations, names)):
            groups[number] = names
            expected[across | across.T] = 0.0
    # Whatever else changed the correlations, such as other customers, changes them elsewhere too.
    others = owner[:, None] != owner
    before, left = (
        float(relations.excess(side, relations.after)[others].sum())
        for side in (relations.before, expected)
    )
    if before < max(_MIN_EXCESS, relations.usual(others)) or left > _MAX_LEFT * before:
        return []
    return [OtherRows(names, left / before) for names in groups.values()]


def _parts(relations: Relations) -> NDArray[np.int64]:
    """The connected part of the graph of significant correlations of each feature, `[d]`."""
    from scipy.sparse.csgraph import connected_components

    d, owner = len(relations.names), relations.owner
    significant = np.abs(relations.after) >= MIN_Z / np.sqrt(relations.rows[1])
    one, other = significant.nonzero()
    graph = np.zeros((d, d), dtype=bool)
    graph[owner[one], owner[other]] = True
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _as_before(relations: Relations, names: Sequence[str]) -> Iterator[bool]:
    """Whether each column has the distribution that it had."""
    noise = 1.63 * np.sqrt(relations.noise)
    for name in names:
        before, after = (side[name].dropna() for side in relations.tables)
        if before.dtype.kind in "iuf" and after.dtype.kind in "iuf":
            yield ks_distance(before.to_numpy(float), after.to_numpy(float)) <= SAME + noise
        else:
            shares = (side.value_counts(normalize=True) for side in (before, after))
            apart = pd.concat(shares, axis=1).fillna(0.0).diff(axis=1).iloc[:, -1]
            yield float(apart.abs().sum()) / 2 <= SAME + noise


def _features(pairs: NDArray[np.bool_], owner: NDArray[np.int64]) -> int:
    """Pairs of features among pairs of their columns of numbers."""
    one, other = pairs.nonzero()
    return len(set(zip(owner[one].tolist(), owner[other].tolist(), strict=True)))
