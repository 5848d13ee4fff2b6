"""Shares of missing values of all columns in two samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.shift.columns.prepared import check_names
from gendebug_torch.shift.plots import paired_bars
from gendebug_torch.stats.dependence.effective_sample_size import effective_counts
from gendebug_torch.stats.intervals import difference_interval, two_share_p_value
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class MissingShift:
    """Numbers of missing values of d columns in two samples; adds over rows.

    Args:
        reference: numbers of missing values of the reference, `[d]` int64.
        live: numbers of missing values of the live sample, `[d]` int64.
        n: number of reference rows.
        m: number of live rows.
        names: column names, `d` of them.
        times: autocorrelation times of the two samples, `[2, d]`, or one number for all.
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
        """Shares of missing values in the reference and in production, `[d]` float64 each."""
        return self.reference.double() / max(self.n, 1), self.live.double() / max(self.m, 1)

    @property
    def difference(self) -> Tensor:
        """Share in production less share in the reference, `[d]` float64."""
        before, after = self.rates
        return after - before

    @property
    def effect(self) -> Tensor:
        """Cohen's h, `2 asin sqrt q - 2 asin sqrt p`, `[d]`: .2 small, .5 medium, .8 large."""
        before, after = self.rates
        return 2 * after.sqrt().asin() - 2 * before.sqrt().asin()

    @cached_property
    def p_value(self) -> Tensor:
        """P-values of equal shares, `[d]`, see `two_share_p_value`."""
        return two_share_p_value(*self._effective_counts())

    @property
    def adjusted(self) -> Tensor:
        """P-values adjusted for d tests (Holm, 1979), `[d]`."""
        return holm_adjusted(self.p_value)

    def interval(self, *, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Bounds of the difference (Newcombe, 1998), `[d]` each."""
        return difference_interval(*self._effective_counts(), level=level)

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
        """Missing shares in both samples as bars, the `top` largest changes."""
        frame = self.table().head(top).iloc[::-1]
        names = frame["feature"].tolist()
        ax = paired_bars(
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

    def _effective_counts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Events and trials of both samples at the effective sample size, `[d]` each."""
        times = self.times.expand(2, len(self.names))
        x, n = effective_counts(self.reference, torch.full_like(self.reference, self.n), times[0])
        y, m = effective_counts(self.live, torch.full_like(self.live, self.m), times[1])
        return x, n, y, m


def missing_shift(reference: Tensor, live: Tensor, *, names: Sequence[str] = ()) -> MissingShift:
    """Numbers of missing values of all columns in two samples.

    Args:
        reference: numbers, `[n, d]`, missing where NaN, or booleans, missing where True.
        live: values of the same kind, `[m, d]`.
        names: column names, `d` of them; default `column_0` and so on.

    Returns:
        The counts, with differences, intervals and p-values as properties.

    Raises:
        InputError: other shapes, another number of columns or names.

    Cost: one pass over both samples.

    Example:
        >>> reference = torch.ones(100, 2)
        >>> live = reference.clone()
        >>> live[:30, 1] = torch.nan
        >>> shift = missing_shift(reference, live, names=["age", "income"])
        >>> [round(share, 2) for share in shift.difference.tolist()]
        [0.0, 0.3]
    """
    pair = [
        _missing_mask(value, name) for value, name in ((reference, "reference"), (live, "live"))
    ]
    d = pair[0].shape[1]
    if pair[1].shape[1] != d:
        reject(
            "live",
            f"{d} columns like the reference",
            str(pair[1].shape[1]),
            "Select the same columns in the same order.",
        )
    check_names(names, d)
    before, after = (value.sum(0).cpu() for value in pair)
    return MissingShift(
        before,
        after,
        len(reference),
        len(live),
        tuple(map(str, names)) or tuple(f"column_{i}" for i in range(d)),
    )


def _missing_mask(value: Tensor, argument: str) -> Tensor:
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
