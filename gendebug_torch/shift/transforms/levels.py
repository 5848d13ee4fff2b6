"""Levels of a category under other names, or codes that changed places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gendebug_torch.shift.transforms.distances import explains_shift
from gendebug_torch.shift.transforms.quantities import FeatureTransform
from gendebug_torch.shift.transforms.relations import Array, Relations, needed_excess

# Numbers of levels up to which any shares identify a renaming, and up to which uneven ones do, by
# this total variation distance from equal ones.
_FEW_LEVELS = 5
_MAX_LEVELS = 30
_MIN_UNEVEN = 0.2
# Codes of a column, and rows of one side that carry one, to judge it.
_MAX_CODES = 12
_MIN_CARRIERS = 20
# Differences of a mean, in standard deviations of its column, and of a share, that do not matter.
_TOLERANCE = 0.03
_SHARE_TOLERANCE = 0.02
# Most that one difference counts, in squared standard errors, and what noise gives most of the
# time.
_MOST = 30.0
_USUAL = 4.0
# Excess that needs a reason, what of it a reason may leave, and what speaks for the code as it is.
_MIN_EXCESS = 40.0
_MAX_COST_LEFT = 0.2
_AS_IT_IS = 10.0
# Share of the rows by which a scale is turned round; rare codes may stand anywhere.
_NEARLY_ALL = 0.95


@dataclass(frozen=True)
class LevelRenaming:
    """Levels of a category under other names, matched by their frequency.

    Args:
        kind: `renamed` where production has new levels, `recoded` where old ones changed places.
        levels: old name -> new name.
        statistic: total variation distance that is left after it.
    """

    kind: str
    levels: Mapping[str, str]
    statistic: float

    @property
    def implausible_as_drift(self) -> bool:
        """Whether drift is unlikely: new names, or four and more levels recoded."""
        return self.kind == "renamed" or len(self.levels) >= 4

    def apply(self, column: pd.Series[Any]) -> pd.Series[Any]:
        """A column of the reference under the new names, in its type."""
        return _renamed(column, self.levels)

    def undo(self, column: pd.Series[Any]) -> pd.Series[Any]:
        """A column of production under the old names, in its type."""
        return _renamed(column, {new: old for old, new in self.levels.items()})

    def __str__(self) -> str:
        changed = [f"{old} → {new}" for old, new in self.levels.items() if old != new]
        return f"levels {self.kind} ({', '.join(changed[:3])}{', …' if len(changed) > 3 else ''})"


def fit_level_renaming(
    reference: pd.Series[Any], live: pd.Series[Any], distance: float
) -> LevelRenaming | None:
    """The renaming of levels that explains how one category shifted, or None.

    Args:
        reference: levels, `[n]`.
        live: levels, `[m]`.
        distance: total variation distance between the two.
    """
    before, after = (side.value_counts(normalize=True) for side in (reference, live))
    if len(before) != len(after) or not len(before):
        return None
    candidates = [_matched_by_name(before, after)]
    if _identified_by_shares(before):
        candidates.append(dict(zip(before.index, after.index, strict=True)))
    for levels in candidates:
        left = sum(abs(before[old] - after[new]) for old, new in levels.items()) / 2
        if levels and explains_shift(float(left), distance, len(reference), len(live)):
            names = {str(old): str(new) for old, new in levels.items()}
            kind = "renamed" if set(names.values()) - set(names) else "recoded"
            return LevelRenaming(kind, names, float(left))
    return None


def _matched_by_name(before: pd.Series[Any], after: pd.Series[Any]) -> dict[Any, Any]:
    """Levels that have the same letters and digits, if that pairs them all; else none."""
    sides = [{_letters(str(level)): level for level in side.index} for side in (before, after)]
    if sides[0].keys() != sides[1].keys() or len(sides[0]) != len(before):
        return {}
    return {level: sides[1][letters] for letters, level in sides[0].items()}


def _identified_by_shares(shares: pd.Series[Any]) -> bool:
    """Whether shares tell levels apart: a few levels, or some that do not all have about the same.

    The levels of many dates or keys have similar shares in any two periods, whatever their names.
    """
    if len(shares) <= _FEW_LEVELS:
        return True
    uneven = float((shares - 1 / len(shares)).abs().sum()) / 2
    return len(shares) <= _MAX_LEVELS and uneven >= _MIN_UNEVEN


def _letters(level: str) -> str:
    return "".join(filter(str.isalnum, level.casefold()))


def _renamed(column: pd.Series[Any], levels: Mapping[str, str]) -> pd.Series[Any]:
    texts = column.map(lambda level: levels.get(level_name(level), level))
    return pd.to_numeric(texts) if column.dtype.kind in "iuf" else texts


def level_name(level: Any) -> str:
    """A level as text: whole numbers without a point, whatever type holds them."""
    whole = isinstance(level, float) and level.is_integer()
    return str(int(level)) if whole else str(level)


def recoded_columns(
    relations: Relations, names: Sequence[str]
) -> dict[str, LevelRenaming | FeatureTransform]:
    """Columns of a few codes of which two or more changed places.

    The rows that carry a code in production look, in all other columns, like those that carried
    another in the reference, and are as many; that must explain four fifths of what changed.

    Args:
        relations: columns on both sides.
        names: columns to judge; those with other than 2 to 12 codes, or with other codes in
            production, are left out.

    Returns:
        Column name -> old code to new code, of all codes that were judged; the map that turns a
        scale of numbers round where it is that.

    Cost: two means of all columns of numbers for each code.

    Example:
        >>> import numpy as np, pandas as pd
        >>> generator = np.random.default_rng(0)
        >>> tables = []
        >>> for _ in range(2):
        ...     school = generator.integers(0, 3, 2000)
        ...     pay, debt = school + generator.normal(size=(2, 2000))
        ...     tables.append(pd.DataFrame({"school": school, "pay": pay, "debt": debt}))
        >>> tables[1]["school"] = tables[1]["school"].map({0: 1, 1: 0, 2: 2})
        >>> found = recoded_columns(Relations.of(*tables), ["school"])
        >>> str(found["school"])
        'levels recoded (0 → 1, 1 → 0)'
    """
    found: dict[str, LevelRenaming | FeatureTransform] = {}
    for name in names:
        codes = _codes(relations, name)
        if codes is not None and (recoded := _recoded(relations, name, codes)) is not None:
            found[name] = recoded
    return found


def _codes(relations: Relations, name: str) -> list[Any] | None:
    """The codes of a column that enough rows of both sides carry; None of one that is not coded."""
    counts = [side[name].value_counts() for side in relations.tables]
    if any(not 2 <= len(count) <= _MAX_CODES for count in counts):
        return None
    if counts[0].index.inferred_type == "floating" and any((counts[0].index % 1) != 0):
        return None
    carried = {code: [count.get(code, 0) for count in counts] for code in counts[0].index}
    codes = [code for code, rows in carried.items() if min(rows) > 0 and max(rows) >= _MIN_CARRIERS]
    return codes if len(codes) > 1 else None


def _recoded(
    relations: Relations, name: str, codes: list[Any]
) -> LevelRenaming | FeatureTransform | None:
    from scipy.optimize import linear_sum_assignment

    others = relations.owner != relations.names.index(name)
    if others.sum() < 2:
        return None
    profiles = [
        _profiles(side[name], scores[:, others], codes)
        for side, scores in zip(relations.tables, relations.scores, strict=True)
    ]
    # Cost of each code of production [k, 1] if it stands for each of the reference [1, k].
    (before, errors, shares), (after, own_errors, own_shares) = profiles
    variance = errors + own_errors[:, None] + _TOLERANCE**2
    apart = _beyond((after[:, None] - before) ** 2 / variance).sum(2)
    mean = (shares + own_shares[:, None]) / 2
    variance = mean * (1 - mean) * relations.noise + _SHARE_TOLERANCE**2
    cost = apart + _beyond((own_shares[:, None] - shares) ** 2 / variance)
    place = linear_sum_assignment(cost - _AS_IT_IS * np.eye(len(codes)))[1]
    moved = np.flatnonzero(place != np.arange(len(codes)))
    excess = cost[moved, moved].sum()
    left = cost[moved, place[moved]].sum()
    of_rows = apart[moved, moved].sum()
    if of_rows < _MIN_EXCESS or left > _MAX_COST_LEFT * excess:
        return None
    if of_rows < _usual(relations, name, [codes[i] for i in moved], before[moved]):
        return None
    old_to_new = {codes[place[i]]: codes[i] for i in range(len(codes))}
    if (end := _turned_round(old_to_new, dict(zip(codes, own_shares, strict=True)))) is not None:
        return FeatureTransform("sign", -1.0, end, float(left / excess))
    levels = {level_name(old): level_name(old_to_new[old]) for old in sorted(old_to_new, key=str)}
    return LevelRenaming("recoded", levels, float(left / excess))


def _usual(relations: Relations, name: str, codes: list[Any], means: Array) -> float:
    """Excess of the means of some codes that a reason must beat.

    Args:
        relations: columns on both sides.
        name: column of the codes.
        codes: those that are looked at, m of them.
        means: their means in the reference, `[m, p]`.
    """
    others = relations.owner != relations.names.index(name)
    column, scores = relations.tables[0][name], relations.scores[0][:, others]
    excess = []
    for part in relations.parts:
        own, errors, shares = _profiles(column.iloc[part], scores[part], codes)
        squared = (own - means) ** 2 / (errors + _TOLERANCE**2)
        excess.append(float(_beyond(squared)[shares > 0].sum()))
    return needed_excess(excess)


def _turned_round(old_to_new: Mapping[Any, Any], shares: Mapping[Any, float]) -> float | None:
    """Sum of old and new code if it is the same for nearly all rows: a scale turned round.

    Args:
        old_to_new: codes of the reference and what stands for them in production.
        shares: code of production -> share of the rows.
    """
    if len(old_to_new) < 3 or not all(isinstance(code, float) for code in old_to_new):
        return None
    ends: dict[float, float] = {}
    for old, new in old_to_new.items():
        ends[old + new] = ends.get(old + new, 0.0) + float(shares[new])
    end = max(ends, key=ends.__getitem__)
    return end if ends[end] >= _NEARLY_ALL else None


def _profiles(
    column: pd.Series[Any], scores: Array, codes: list[Any]
) -> tuple[Array, Array, Array]:
    """Means `[k, p]` of the rows that carry each code, their variances `[k, p]`, shares `[k]`."""
    values = column.to_numpy()
    rows = [scores[values == code] for code in codes]
    counts = np.array([len(part) for part in rows], dtype=np.float64)
    means = np.stack([part.sum(0) / max(len(part), 1) for part in rows])
    # Rare levels of another column vary more among the rows of some codes than over all rows.
    spread = np.stack([part.var(0) if len(part) else np.ones(scores.shape[1]) for part in rows])
    errors = np.maximum(spread, 1.0) / np.maximum(counts, 1)[:, None]
    return means, errors, counts / len(values)


def _beyond(squared: Array) -> Array:
    """Squared standard errors beyond noise, each up to a limit."""
    return np.clip(squared - _USUAL, 0.0, _MOST)
