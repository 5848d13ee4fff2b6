"""Where suspicious labels crowd: by who labeled, batch, time, and pair of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import poisson
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.labels.noise.noise_model import LabelNoise
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

# Values with fewer rows are not asked about; columns with more values are cut into ranges, or left
# out if they are names.
_FEWEST_ROWS = 20
_MOST_VALUES = 1000
_RANGES = 10


@dataclass(frozen=True, eq=False)
class SuspicionGroups:
    """Suspicious labels per value of some columns, beside what the noise of the whole would give
    there.

    Args:
        column: `g` column of each group.
        value: `g` value, or range of values.
        rows: `[g]` int64.
        suspicious: `[g]` int64 rows whose label is more likely wrong than right.
        expected: `[g]` float64 such rows if the group were labeled as well as the whole.
        rate: `[g]` float64 estimated share of wrong labels.
        low: `[g]` lower bound of its 95 % interval.
        high: `[g]` upper bound.
        p_value: `[g]` one-sided, of no more than expected.
        overall: estimated share of wrong labels of the whole.
        asked: how many groups were asked about, those without a suspicious row included.
    """

    column: tuple[str, ...]
    value: tuple[str, ...]
    rows: Tensor
    suspicious: Tensor
    expected: Tensor
    rate: Tensor
    low: Tensor
    high: Tensor
    p_value: Tensor
    overall: float
    asked: int

    @property
    def adjusted(self) -> Tensor:
        """`[g]` p-values adjusted over all groups asked about (Benjamini and Hochberg, 1995)."""
        silent = self.p_value.new_ones(self.asked - len(self.p_value))
        return benjamini_hochberg_adjusted(torch.cat([self.p_value, silent]))[: len(self.p_value)]

    def table(self) -> pd.DataFrame:
        """One row per group, most surely crowded first."""
        frame = pd.DataFrame({"column": self.column, "value": self.value})
        columns = {
            "rows": self.rows,
            "suspicious": self.suspicious,
            "expected": self.expected,
            "wrong_share": self.rate,
        }
        columns |= {
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "p_bh": self.adjusted,
        }
        frame = frame.assign(**{name: value.cpu().numpy() for name, value in columns.items()})
        return frame.sort_values(
            ["p_value", "wrong_share"], ascending=[True, False], kind="stable"
        ).reset_index(drop=True)

    def plot(self, ax: Any = None, *, top: int = 15) -> Any:
        """Wrong share of the most surely crowded groups with their intervals, and of the whole."""
        frame = self.table().head(top).iloc[::-1]
        ax = axes(ax)
        names = [
            f"{column} = {value}"[:48]
            for column, value in zip(frame["column"], frame["value"], strict=True)
        ]
        rate = frame["wrong_share"].to_numpy()
        ax.errorbar(
            rate,
            names,
            xerr=[rate - frame["low"], frame["high"] - rate],
            fmt="o",
            color=REFERENCE,
            capsize=3,
        )
        ax.axvline(
            self.overall, color=LIVE, linestyle="--", label=f"all labels: {self.overall:.1%}"
        )
        ax.legend(loc="lower right")
        ax.set_xlabel("estimated share of wrong labels (95 % interval)")
        ax.set_ylabel("rows where")
        ax.set_title("Where suspicious labels crowd")
        return ax


def suspicion_groups(noise: LabelNoise, columns: pd.DataFrame) -> SuspicionGroups:
    """Suspicious labels per value of each column, beside what the fitted noise makes of these very
    rows.

    A group of hard rows is expected to look more suspicious than one of easy rows: the expectation
    is the sum of its rows' own chances, so hard is not mistaken for badly labeled. The count is
    compared with a Poisson count.

    Source: Le Cam (1960), Pacific J. Math. 10:1181, for the Poisson law of rare unequal events;
    Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        noise: of n rows.
        columns: `[n, c]` DataFrame: who labeled, batch, time and the like. Numbers and times with
            many values are cut into ten ranges of equal counts; names with over 1000 values and
            values with under 20 rows are left out.
    """
    suspicious, expected = noise.suspicious.cpu(), noise.expected_suspicious().cpu()
    parts: list[tuple[str, str, int, int, float, float, float, float]] = []
    for name in columns:
        codes, labels = _coded(columns[name])
        if not labels:
            continue
        index = torch.from_numpy(codes)
        rows = torch.bincount(index, minlength=len(labels))
        zero = torch.zeros(len(labels), dtype=torch.float64)
        counted, chance = (
            zero.index_add(0, index, value.double()) for value in (suspicious, expected)
        )
        rate, low, high = (
            value.cpu() for value in noise.rate_by(index.to(noise.wrong.device), len(labels))
        )
        for i in (rows >= _FEWEST_ROWS).nonzero()[:, 0].tolist():
            bounds = float(rate[i]), float(low[i]), float(high[i])
            parts.append(
                (str(name), labels[i], int(rows[i]), int(counted[i]), float(chance[i]), *bounds)
            )
    column, value, *numbers = zip(*parts, strict=True) if parts else ((),) * 8
    whole = [torch.tensor(entry, dtype=torch.int64) for entry in numbers[:2]]
    real = [torch.tensor(entry, dtype=torch.float64) for entry in numbers[2:]]
    p = torch.from_numpy(
        np.asarray(poisson.sf(whole[1].numpy() - 1, real[0].numpy()), dtype=np.float64)
    )
    return SuspicionGroups(
        tuple(column),
        tuple(value),
        whole[0],
        whole[1],
        real[0],
        real[1],
        real[2],
        real[3],
        p,
        noise.rate,
        len(p),
    )


def suspicion_pairs(noise: LabelNoise) -> SuspicionGroups:
    """Suspicious labels per pair `given → suggested`, beside what noise that spreads evenly over
    the pairs would give.

    Rows of a pair are those of its given label. The rate is its suspicious rows over them.

    Source: as `suspicion_groups`.

    Args:
        noise: of n rows, at least three classes; with two every pair is its given label.
    """
    k = len(noise.labeled)
    cells = (
        torch.bincount((noise.targets * k + noise.suggested)[noise.suspicious], minlength=k * k)
        .reshape(k, k)
        .cpu()
    )
    mass = noise.probs.sum(0).cpu()
    share = float(noise.suspicious.double().mean()) if len(noise.targets) else 0.0
    even = (mass * share / (k - 1)).expand(k, k)
    given, other = (cells > 0).nonzero().T
    counted, expected, rows = cells[given, other], even[given, other], noise.labeled.cpu()[given]
    p = torch.from_numpy(
        np.asarray(poisson.sf(counted.numpy() - 1, expected.numpy()), dtype=np.float64)
    )
    low, high = wilson_interval(counted, rows)
    names = tuple(f"{a} → {b}" for a, b in zip(given.tolist(), other.tolist(), strict=True))
    rate = counted / rows.clamp(min=1)
    columns = ("given → suggested",) * len(names)
    return SuspicionGroups(
        columns,
        names,
        rows,
        counted,
        expected,
        rate.double(),
        low,
        high,
        p,
        noise.rate,
        k * (k - 1),
    )


def _coded(column: pd.Series[Any]) -> tuple[Any, list[str]]:
    """`[n]` int64 codes and their names; empty names where the column cannot be asked about."""
    distinct = column.nunique()
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        moments = (
            pd.to_datetime(column, errors="coerce", format="ISO8601")
            if distinct > _MOST_VALUES
            else column
        )
        column = moments if moments.notna().all() else column
    ordered = column.dtype.kind in "iufM"
    if ordered and distinct > 5 * _RANGES:
        part = pd.qcut(column, _RANGES, labels=False, duplicates="drop")
        bounds = column.groupby(part).agg(["min", "max"])
        column = part.map(
            {
                code: f"{low} to {high}"
                for code, (low, high) in zip(bounds.index, bounds.to_numpy(), strict=True)
            }
        )
    elif distinct > _MOST_VALUES:
        return np.zeros(len(column), dtype=np.int64), []
    codes, values = pd.factorize(column, use_na_sentinel=False)
    return codes.astype(np.int64), [str(value) for value in values]
