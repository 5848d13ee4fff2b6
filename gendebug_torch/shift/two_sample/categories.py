"""What quantities do not show: shares of missing values per column, and levels of categorical
columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.shift.two_sample.ks import shortened
from gendebug_torch.stats.effective_sample_size import independent_shares
from gendebug_torch.stats.intervals import (
    FEWEST_EXPECTED,
    difference_interval,
    two_share_p_value,
    wilson_interval,
)
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class MissingShift:
    """Missing values per column, before and after. Adds over rows.

    Args:
        reference: `[d]` int64 missing values.
        live: `[d]` int64 missing values.
        n: reference rows.
        m: live rows.
        names: `d` column names.
        times: `[2, d]` rows of either side that are worth one independent row, or a single number
            for all.
    """

    reference: Tensor
    live: Tensor
    n: int
    m: int
    names: tuple[str, ...]
    times: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))

    def __add__(self, other: MissingShift) -> MissingShift:
        if self.names != other.names:
            reject(
                "other",
                f"the columns {list(self.names)}",
                str(list(other.names)),
                "Add pieces of one table.",
            )
        return replace(
            self,
            reference=self.reference + other.reference,
            live=self.live + other.live,
            n=self.n + other.n,
            m=self.m + other.m,
        )

    @property
    def rates(self) -> tuple[Tensor, Tensor]:
        """`[d]` shares of missing values, of reference and production."""
        return self.reference.double() / max(self.n, 1), self.live.double() / max(self.m, 1)

    @property
    def difference(self) -> Tensor:
        """`[d]` float64 production minus reference share."""
        before, after = self.rates
        return after - before

    @property
    def effect(self) -> Tensor:
        """`[d]` Cohen's h, `2 asin sqrt q - 2 asin sqrt p` (Cohen, 1988): .2 small, .5 medium, .8
        large.
        """
        before, after = self.rates
        return 2 * after.sqrt().asin() - 2 * before.sqrt().asin()

    @cached_property
    def p_value(self) -> Tensor:
        """`[d]` p-values for equal shares, see `two_share_p_value`."""
        return two_share_p_value(*self._independent())

    @property
    def adjusted(self) -> Tensor:
        """`[d]` p-values adjusted for d questions (Holm, 1979)."""
        return holm_adjusted(self.p_value)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """`[d]` bounds of the difference (Newcombe, 1998)."""
        return difference_interval(*self._independent(), level=level)

    def table(self) -> DataFrame:
        """One row per column, largest change first."""
        import pandas as pd

        low, high = self.interval()
        before, after = self.rates
        columns = {
            "reference_share": before,
            "production_share": after,
            "difference": self.difference,
            "low": low,
            "high": high,
            "effect_h": self.effect,
            "p_value": self.p_value,
            "p_holm": self.adjusted,
        }
        frame = pd.DataFrame(
            {"feature": list(self.names), **{key: value.numpy() for key, value in columns.items()}}
        )
        order = frame["difference"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order].reset_index(drop=True)

    def plot(self, ax: Axes | None = None, *, top: int = 20) -> Axes:
        """Missing shares before and after as bars, the `top` largest changes."""
        frame = self.table().head(top).iloc[::-1]
        names = frame["feature"].tolist()
        ax = _paired_bars(
            ax,
            names,
            frame["reference_share"].to_numpy(),
            frame["production_share"].to_numpy(),
            self.n,
            self.m,
        )
        ax.set_xlabel("share of missing values")
        ax.set_ylabel("feature")
        ax.set_title("Missing values: reference against production")
        return ax

    def _independent(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`[d]` events and trials of both sides, dependent rows counted as what they are worth."""
        times = self.times.expand(2, len(self.names))
        x, n = independent_shares(self.reference, torch.full_like(self.reference, self.n), times[0])
        y, m = independent_shares(self.live, torch.full_like(self.live, self.m), times[1])
        return x, n, y, m


@dataclass(frozen=True, eq=False)
class CategoryShift:
    """Level counts of one categorical column, before and after; missing values are left out. Adds
    over rows.

    Args:
        name: of the column.
        levels: `L` level names, sorted.
        reference: `[L]` int64 counts.
        live: `[L]` int64 counts.
        times: rows of either side that are worth one independent row.
    """

    name: str
    levels: tuple[str, ...]
    reference: Tensor
    live: Tensor
    times: tuple[float, float] = (1.0, 1.0)

    def __add__(self, other: CategoryShift) -> CategoryShift:
        counts = [
            Counter(dict(zip(side.levels, values.tolist(), strict=True)))
            for side, values in (
                (self, self.reference),
                (other, other.reference),
                (self, self.live),
                (other, other.live),
            )
        ]
        total = category_shift(
            _sum(counts[0], counts[1]), _sum(counts[2], counts[3]), name=self.name
        )
        return replace(total, times=self.times)

    @property
    def n(self) -> int:
        """Reference values that are not missing."""
        return int(self.reference.sum())

    @property
    def m(self) -> int:
        """Production values that are not missing."""
        return int(self.live.sum())

    @property
    def shares(self) -> tuple[Tensor, Tensor]:
        """`[L]` float64 shares of the levels, of reference and production."""
        return self.reference.double() / max(self.n, 1), self.live.double() / max(self.m, 1)

    @property
    def distance(self) -> float:
        """Total variation distance in [0, 1]: the share of rows that would have to change level. 0
        where a side is empty.
        """
        before, after = self.shares
        return float((before - after).abs().sum()) / 2 if self.n and self.m else 0.0

    @property
    def effect(self) -> float:
        """`distance`, rare levels pooled as in `chi_square`, less what sampling gives:
        `sum_l sqrt(p (1 - p) (1 / n + 1 / m) / 2 pi)`.
        """
        if not self.n or not self.m:
            return 0.0
        table = _pooled(self)
        rows = table.sum(1, keepdims=True)
        shares = table / rows
        p = table.sum(0) / table.sum()
        noise = np.sqrt(p * (1 - p) * (1 / rows).sum() / (2 * np.pi)).sum()
        return max(0.0, float(np.abs(shares[0] - shares[1]).sum() / 2 - noise))

    @cached_property
    def chi_square(self) -> tuple[float, int]:
        """Pearson's statistic of the 2 x L table and its degrees of freedom; levels expected under
        5 times are pooled.

        Counts are divided by `times`: the correction of Rao and Scott (1981), J. Am. Stat. Assoc.
        76:221, by one design effect a side.
        """
        if not self.n or not self.m:
            return 0.0, 0
        pooled = _pooled(self)
        expected = pooled.sum(1, keepdims=True) * pooled.sum(0, keepdims=True) / pooled.sum()
        return float(((pooled - expected) ** 2 / expected).sum()), pooled.shape[1] - 1

    @property
    def p_value(self) -> float:
        """P-value for equal level shares: chi-square (Pearson, 1900); NaN where a side is empty, 1
        for a single level.
        """
        if not self.n or not self.m:
            return float("nan")
        statistic, freedom = self.chi_square
        return float(chi2.sf(statistic, freedom)) if freedom else 1.0

    @property
    def cramers_v(self) -> float:
        """Association of level and side in [0, 1], without its bias.

        `V = sqrt(max(0, phi2 - f / (N - 1)) / (min(2', L') - 1))` with
        `r' = r - (r - 1)^2 / (N - 1)`.

        Source: Bergsma (2013), J. Korean Stat. Soc. 42:323. Small where one side is much larger
        than the other: compare `distance` then.
        """
        statistic, freedom = self.chi_square
        total = self.n / self.times[0] + self.m / self.times[1]
        if not freedom or total < 2:
            return 0.0
        rows, columns = 2 - 1 / (total - 1), freedom + 1 - freedom**2 / (total - 1)
        scale = min(rows, columns) - 1
        excess = max(0.0, statistic / total - freedom / (total - 1))
        return min(1.0, (excess / scale) ** 0.5) if scale > 0 else 0.0

    @property
    def unseen(self) -> tuple[int, float]:
        """Production rows, and their share, whose level the reference does not have."""
        count = int(self.live[self.reference == 0].sum())
        return count, count / max(self.m, 1)

    @property
    def expected_unseen(self) -> float:
        """Share of unseen levels that a fresh sample of the same source would have: levels seen
        once / n (Good, 1953).
        """
        return int((self.reference == 1).sum()) / max(self.n, 1)

    def table(self) -> DataFrame:
        """One row per level, largest change of share first."""
        import pandas as pd

        before, after = self.shares
        columns = {
            "reference": self.reference,
            "production": self.live,
            "reference_share": before,
            "production_share": after,
        }
        frame = pd.DataFrame(
            {"level": list(self.levels), **{key: value.numpy() for key, value in columns.items()}}
        )
        frame["unseen"] = frame["reference"] == 0
        order = (
            (frame["production_share"] - frame["reference_share"])
            .abs()
            .sort_values(ascending=False, kind="stable")
            .index
        )
        return frame.loc[order].reset_index(drop=True)

    def plot(self, ax: Axes | None = None, *, top: int = 15) -> Axes:
        """Level shares before and after as bars, the `top` largest changes."""
        frame = self.table().head(top).iloc[::-1]
        names = [
            f"{level} (unseen)" if unseen else level
            for level, unseen in zip(frame["level"], frame["unseen"], strict=True)
        ]
        ax = _paired_bars(
            ax,
            names,
            frame["reference_share"].to_numpy(),
            frame["production_share"].to_numpy(),
            self.n,
            self.m,
        )
        ax.set_xlabel("share of rows")
        ax.set_ylabel("level")
        ax.set_title(f"{shortened(self.name, 40)}: distance {self.distance:.3f}")
        return ax


def unseen_excess(shift: CategoryShift, *, level: float = 0.95) -> float:
    """How far the unseen share lies above what a fresh sample would bring; over 0 only where both
    Wilson intervals part.
    """
    seen_once = int((shift.reference == 1).sum())
    counts, rows = torch.tensor([shift.unseen[0], seen_once]), torch.tensor([shift.m, shift.n])
    bounds = wilson_interval(
        *independent_shares(counts, rows, torch.tensor([shift.times[1], shift.times[0]])),
        level=level,
    )
    return float(bounds[0][0] - bounds[1][1])


def missing_shift(reference: Tensor, live: Tensor, *, names: Sequence[str] = ()) -> MissingShift:
    """Missing values per column, compared.

    Args:
        reference: `[n, d]` numbers, missing where NaN, or booleans, missing where True.
        live: `[m, d]` of the same kind.
        names: `d` column names.

    Raises:
        InputError: other shapes, another number of columns or names.
    """
    pair = [_missing(value, name) for value, name in ((reference, "reference"), (live, "live"))]
    d = pair[0].shape[1]
    if pair[1].shape[1] != d:
        reject(
            "live",
            f"{d} columns like the reference",
            str(pair[1].shape[1]),
            "Select the same columns in the same order.",
        )
    if names and len(names) != d:
        reject(
            "names",
            f"one name for each of {d} columns",
            f"{len(names)} names",
            "Pass one per column, or none.",
        )
    before, after = (value.sum(0).cpu() for value in pair)
    return MissingShift(
        before,
        after,
        len(reference),
        len(live),
        tuple(map(str, names)) or tuple(f"column_{i}" for i in range(d)),
    )


def category_shift(reference: Any, live: Any, *, name: str = "category") -> CategoryShift:
    """Level counts of one categorical column, compared.

    Levels are compared as text, and whole numbers and booleans as integers, so that 3, 3.0 and
    True, 1 agree across files.

    Args:
        reference: `[n]` values (sequence, array or column; None and NaN are missing), or a mapping
            of level to count.
        live: `[m]` values, or a mapping.
        name: of the column.
    """
    before, after = level_counts(reference), level_counts(live)
    levels = sorted(before.keys() | after.keys())
    counts = [
        torch.tensor([side.get(level, 0) for level in levels], dtype=torch.int64)
        for side in (before, after)
    ]
    return CategoryShift(name, tuple(levels), counts[0], counts[1])


def level_indicators(values: Any, levels: Sequence[str]) -> Tensor:
    """`[n, L]` float64, 1 where a row has a level, NaN where its value is missing.

    Args:
        values: `[n]`, as for `category_shift`.
        levels: `L` names of levels.
    """
    import pandas as pd

    codes, found = pd.factorize(pd.Series(values))
    place = {level: i for i, level in enumerate(levels)}
    known = np.array([place.get(_level(value), -1) for value in found] + [-1])[codes]
    indicators = torch.from_numpy((known[:, None] == np.arange(len(levels))).astype(np.float64))
    return indicators.masked_fill(torch.from_numpy(codes < 0)[:, None], torch.nan)


def _pooled(shift: CategoryShift) -> Any:
    """`[2, L']` counts with the rare levels as one."""
    table = (
        torch.stack([shift.reference, shift.live]).double().numpy() / np.array(shift.times)[:, None]
    )
    rare = table.sum(0) * table.sum(1).min() / table.sum() < FEWEST_EXPECTED
    pooled = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return pooled[:, pooled.sum(0) > 0]


def _missing(value: Tensor, argument: str) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 2 or value.is_complex():
        got = (
            f"{value.dtype} {list(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        reject(
            argument,
            "a tensor [n, d]",
            got,
            "Pass numbers with NaN, or booleans that are True where missing.",
        )
    return value if value.dtype == torch.bool else value.isnan()


def level_counts(values: Any) -> Counter[str]:
    """Rows per level, as text: of `[n]` values, of which missing ones are left out, or of a mapping
    of level to count.
    """
    import pandas as pd

    if isinstance(values, Tensor):
        values = values.cpu().numpy()
    counts = values if isinstance(values, Mapping) else pd.Series(values).value_counts().to_dict()
    merged: Counter[str] = Counter()
    for level, count in counts.items():
        merged[_level(level)] += int(count)
    return merged


def _level(value: Any) -> str:
    whole = isinstance(value, (bool, int, np.bool_, np.integer)) or (
        isinstance(value, (float, np.floating)) and float(value).is_integer()
    )
    return str(int(value)) if whole else str(value)


def _sum(one: Counter[str], other: Counter[str]) -> dict[str, int]:
    return {level: one[level] + other[level] for level in one | other}


def _paired_bars(
    ax: Axes | None, names: Sequence[str], before: Any, after: Any, n: int, m: int
) -> Axes:
    ax = axes(ax, size=(6.0, max(2.5, 0.36 * len(names) + 1.2)))
    places = np.arange(len(names))
    ax.barh(places + 0.2, before, 0.4, color=REFERENCE, label=f"reference (n = {n:,})")
    ax.barh(places - 0.2, after, 0.4, color=LIVE, label=f"production (n = {m:,})")
    ax.set_yticks(places, [shortened(str(name)) for name in names])
    ax.set_xlim(left=0.0)
    ax.legend(loc="lower right", frameon=True)
    return ax
