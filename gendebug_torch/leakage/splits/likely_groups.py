"""Columns that look like a group (a customer, a patient, a session) although nobody said so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

# Fewer values are levels; fewer pairs of rows say nothing.
FEWEST_VALUES, FEWEST_PAIRS = 20, 30
MOST_ROWS = 200_000
# Agreement of two rows of one value that counts as fixed, agreement of any two rows up to which it
# means something, and how many of the other columns have to be fixed.
FIXED, BY_CHANCE = 0.95, 0.5
FEWEST_FIXED, LEAST_SHARE = 2, 0.3


@dataclass(frozen=True)
class LikelyGroup:
    """One column whose values tie rows together.

    Args:
        column: its name.
        values: how many it has in training.
        pairs: neighbouring rows of one value that were compared.
        fixed: the columns that hold still within a value.
    """

    column: str
    values: int
    pairs: int
    fixed: tuple[str, ...]


def likely_groups(table: pd.DataFrame) -> list[LikelyGroup]:
    """Columns of names or whole numbers that repeat, and within whose values many other columns
    hold still.

    Rows of one value are compared pairwise with their neighbour of the same value. A column is
    fixed if 95 % of the pairs agree in it while at most half of any two rows do (`sum p^2`); 30 %
    of the other columns have to be fixed, and two at least. Two columns that say the same (a code
    and its name) are counted once.

    Args:
        table: `[n, d]`; of more than 200,000 rows the first ones are looked at.

    Cost: a sort for each column that repeats, and one pass over the table for each of those.
    """
    part = table.iloc[:MOST_ROWS]
    codes = {str(name): pd.factorize(part[name])[0] for name in part.columns}
    kinds = {str(name): part[name].dtype.kind for name in part.columns}
    sizes = {name: np.bincount(code[code >= 0]) for name, code in codes.items()}
    chance = {name: float(((size / max(size.sum(), 1)) ** 2).sum()) for name, size in sizes.items()}
    telling = [name for name in codes if chance[name] <= BY_CHANCE]
    found = []
    for name, code in codes.items():
        if kinds[name] == "f" or len(sizes[name]) < FEWEST_VALUES:
            continue
        order = np.argsort(code, kind="stable")
        same = (code[order][1:] == code[order][:-1]) & (code[order][1:] >= 0)
        left, right = order[:-1][same], order[1:][same]
        others = [
            other for other in telling if other != name and not _renames(sizes[other], sizes[name])
        ]
        if len(left) < FEWEST_PAIRS or not others:
            continue
        fixed = tuple(
            other
            for other in others
            if float((codes[other][left] == codes[other][right]).mean()) >= FIXED
        )
        if len(fixed) >= max(FEWEST_FIXED, LEAST_SHARE * len(others)):
            found.append(LikelyGroup(name, len(sizes[name]), len(left), fixed))
    return sorted(found, key=lambda group: -len(group.fixed))


def _renames(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two columns have the same sizes of values, as a code and its name do."""
    return len(one) == len(other) and bool((np.sort(one) == np.sort(other)).all())
