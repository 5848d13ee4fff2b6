"""Level shares of one categorical column in two samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import chdtrc
from torch import Tensor

from gendebug_torch.shift.plots import axis_label, paired_bars
from gendebug_torch.stats.dependence.effective_sample_size import effective_counts
from gendebug_torch.stats.intervals import (
    FEWEST_EXPECTED,
    wilson_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class CategoryShift:
    """Level counts of one categorical column in two samples; adds over rows.

    Args:
        name: name of the column.
        levels: names of the `L` levels, sorted; missing values are no level.
        reference: counts of the reference, `[L]` int64.
        live: counts of the live sample, `[L]` int64.
        times: autocorrelation times of the two samples.
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
        """Shares of the levels in the reference and in production, `[L]` float64 each."""
        return self.reference.double() / max(self.n, 1), self.live.double() / max(self.m, 1)

    @property
    def distance(self) -> float:
        """Total variation distance in [0, 1]; 0 where a sample is empty.

        The share of rows that would have to change their level.
        """
        before, after = self.shares
        return float((before - after).abs().sum()) / 2 if self.n and self.m else 0.0

    @property
    def effect(self) -> float:
        """Total variation distance, less its mean without a shift.

        Rare levels are pooled as in `chi_square`; the mean is
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
        """Pearson's statistic of the 2 x L table and its degrees of freedom.

        Levels with an expected count under 5 are pooled. Counts are divided by `times`: the
        correction of Rao and Scott (1981), J. Am. Stat. Assoc. 76:221, one design effect a sample.
        """
        if not self.n or not self.m:
            return 0.0, 0
        pooled = _pooled(self)
        expected = pooled.sum(1, keepdims=True) * pooled.sum(0, keepdims=True) / pooled.sum()
        return float(((pooled - expected) ** 2 / expected).sum()), pooled.shape[1] - 1

    @property
    def p_value(self) -> float:
        """P-value of equal level shares (Pearson, 1900): NaN without rows, 1 for a single level."""
        if not self.n or not self.m:
            return float("nan")
        statistic, freedom = self.chi_square
        return float(chdtrc(freedom, statistic)) if freedom else 1.0

    @property
    def cramers_v(self) -> float:
        """Bias-corrected association of level and sample, in [0, 1].

        `V = sqrt(max(0, phi2 - f / (N - 1)) / (min(2', L') - 1))` with
        `r' = r - (r - 1)^2 / (N - 1)`.

        Source: Bergsma (2013), J. Korean Stat. Soc. 42:323. Small where one sample is much larger
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
        """Number and share of production rows whose level the reference does not have."""
        count = int(self.live[self.reference == 0].sum())
        return count, count / max(self.m, 1)

    @property
    def expected_unseen(self) -> float:
        """Expected share of unseen levels without a shift: levels seen once / n (Good, 1953)."""
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
        ax = paired_bars(
            ax,
            names,
            frame["reference_share"].to_numpy(),
            frame["production_share"].to_numpy(),
            self.n,
            self.m,
        )
        ax.set_xlabel("share of rows")
        ax.set_ylabel("level")
        ax.set_title(f"{axis_label(self.name, 40)}: distance {self.distance:.3f}")
        return ax


def unseen_excess(shift: CategoryShift, *, level: float = 0.95) -> float:
    """Unseen share less its expectation, at the nearest bounds of both Wilson intervals.

    Over 0 only where the intervals do not overlap.

    Args:
        shift: level counts of two samples.
        level: coverage of the intervals.
    """
    seen_once = int((shift.reference == 1).sum())
    counts, rows = torch.tensor([shift.unseen[0], seen_once]), torch.tensor([shift.m, shift.n])
    bounds = wilson_interval(
        *effective_counts(counts, rows, torch.tensor([shift.times[1], shift.times[0]])),
        level=level,
    )
    return float(bounds[0][0] - bounds[1][1])


def category_shift(reference: Any, live: Any, *, name: str = "category") -> CategoryShift:
    """Level counts of one categorical column in two samples.

    Levels are compared as text, and whole numbers and booleans as integers, so that 3, 3.0 and
    True, 1 agree across files.

    Args:
        reference: values, `[n]` (sequence, array or column; None and NaN are missing), or a mapping
            of level to count.
        live: values, `[m]`, or a mapping.
        name: name of the column.

    Returns:
        The counts, with distance, p-value, Cramér's V and unseen levels as properties.

    Cost: one count of the values of either sample.

    Example:
        >>> shift = category_shift(["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["c"] * 70)
        >>> shift.distance, shift.unseen, shift.p_value < 0.001
        (0.7, (70, 0.7), True)
    """
    before, after = level_counts(reference), level_counts(live)
    levels = sorted(before.keys() | after.keys())
    counts = [
        torch.tensor([side.get(level, 0) for level in levels], dtype=torch.int64)
        for side in (before, after)
    ]
    return CategoryShift(name, tuple(levels), counts[0], counts[1])


def level_indicators(values: Any, levels: Sequence[str]) -> Tensor:
    """Indicators of levels, `[n, L]` float64: 1 where a row has the level, NaN where missing.

    Args:
        values: values, `[n]`, as for `category_shift`.
        levels: names of the `L` levels.
    """
    import pandas as pd

    codes, distinct = pd.factorize(pd.Series(values))
    number = {level: i for i, level in enumerate(levels)}
    numbers = np.array([number.get(level_text(value), -1) for value in distinct] + [-1])[codes]
    indicators = torch.from_numpy((numbers[:, None] == np.arange(len(levels))).astype(np.float64))
    return indicators.masked_fill(torch.from_numpy(codes < 0)[:, None], torch.nan)


def _pooled(shift: CategoryShift) -> Any:
    """`[2, L']` counts with the rare levels as one."""
    table = (
        torch.stack([shift.reference, shift.live]).double().numpy() / np.array(shift.times)[:, None]
    )
    rare = table.sum(0) * table.sum(1).min() / table.sum() < FEWEST_EXPECTED
    pooled = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
    return pooled[:, pooled.sum(0) > 0]


def level_counts(values: Any) -> Counter[str]:
    """Number of rows by level, as text.

    Args:
        values: values, `[n]`, missing ones left out, or a mapping of level to count.
    """
    import pandas as pd

    if isinstance(values, Tensor):
        values = values.cpu().numpy()
    counts = values if isinstance(values, Mapping) else pd.Series(values).value_counts().to_dict()
    merged: Counter[str] = Counter()
    for level, count in counts.items():
        merged[level_text(level)] += int(count)
    return merged


def level_text(value: Any) -> str:
    """A level as text: whole numbers of any type alike.

    Args:
        value: value of a column of names or codes.
    """
    whole = isinstance(value, (bool, int, np.bool_, np.integer)) or (
        isinstance(value, (float, np.floating)) and float(value).is_integer()
    )
    return str(int(value)) if whole else str(value)


def _sum(one: Counter[str], other: Counter[str]) -> dict[str, int]:
    return {level: one[level] + other[level] for level in one | other}
