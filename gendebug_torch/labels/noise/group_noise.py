"""Suspicious labels per group of rows: by labeler, batch, time, and pair of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import gammainc
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import InputError
from gendebug_torch.labels.noise.noise_model import LabelNoise
from gendebug_torch.stats.intervals import wilson_interval
from gendebug_torch.stats.multiple_testing import benjamini_hochberg_adjusted

_MIN_ROWS = 20
# Quantities with many values are cut into ranges; names with more values than this are left out.
_MAX_VALUES = 1000
_RANGES = 10


@dataclass(frozen=True, eq=False)
class GroupNoise:
    """Suspicious labels per value of some columns, and their expected number.

    Args:
        column: column of each group, `g`.
        value: value or range of values, `g`.
        rows: number of rows, `[g]` int64.
        suspicious: rows whose label is more likely wrong than right, `[g]` int64.
        expected: expected number of such rows, if the group were labeled like the whole, `[g]`
            float64.
        rate: estimated share of wrong labels, `[g]` float64.
        low: lower bound of its 95 % interval, `[g]`.
        high: upper bound of its 95 % interval, `[g]`.
        p_value: one-sided p-value of no more than expected, `[g]`.
        overall: estimated share of wrong labels of all rows.
        tests: number of groups tested, those without a suspicious row included.
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
    tests: int

    @property
    def adjusted(self) -> Tensor:
        """`[g]` p-values adjusted over all tests (Benjamini and Hochberg, 1995)."""
        others = self.p_value.new_ones(self.tests - len(self.p_value))
        return benjamini_hochberg_adjusted(torch.cat([self.p_value, others]))[: len(self.p_value)]

    def table(self) -> pd.DataFrame:
        """One row per group, most significant first."""
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

    def plot(self, ax: Any = None) -> Any:
        """Share of wrong labels of the most significant groups with intervals, and of all rows."""
        frame = self.table()
        names = frame["column"].str.cat(frame["value"], sep=" = ").str[:48]
        bars = BarEvidence(
            frame.assign(group=names),
            "group",
            "wrong_share",
            title=f"Wrong labels per group; all labels: {self.overall:.1%}",
            xlabel="estimated share of wrong labels (95 % interval)",
            interval=("low", "high"),
            marker=self.overall,
        )
        return bars.plot(ax)


def noise_by_group(noise: LabelNoise, columns: pd.DataFrame) -> GroupNoise:
    """Suspicious labels per value of each column, and their expected number.

    A group of ambiguous rows is expected to have more suspicious labels than one of clear rows: the
    expectation is the sum of its rows' own probabilities, so ambiguous is not mistaken for badly
    labeled. The count is compared with a Poisson distribution.

    Source: Le Cam (1960), Pacific J. Math. 10:1181, for the Poisson law of rare unequal events;
    Benjamini and Hochberg (1995), JRSS B 57:289.

    Args:
        noise: label noise of n rows.
        columns: labeler, batch, time and the like, `[n, c]`. Numbers and times with many values are
            cut into ten ranges of equal counts; names with over 1000 values and values with under
            20 rows are left out.

    Example:
        >>> from gendebug_torch.labels import label_noise
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 6.0 * torch.randn(1000, 2, generator=generator)
        >>> given = logits.argmax(1)
        >>> labeler = pd.DataFrame({"labeler": ["ann", "bob"] * 500})
        >>> given[1:400:2] = 1 - given[1:400:2]  # bob's mistakes
        >>> noise_by_group(label_noise(logits, given), labeler).table()["value"][0]
        'bob'
    """
    counts = noise.suspicious.double(), noise.expected_suspicious()
    parts = [_value_noise(noise, counts, columns[name]) for name in columns]
    named = zip(columns, parts, strict=True)
    pairs = [(str(name), value) for name, (values, _) in named for value in values]
    empty = torch.zeros(6, 0, dtype=torch.float64)
    rows, suspicious, expected, rate, low, high = torch.cat(
        [empty, *(part for _, part in parts)], 1
    )
    return GroupNoise(
        tuple(name for name, _ in pairs),
        tuple(value for _, value in pairs),
        rows.long(),
        suspicious.long(),
        expected,
        rate,
        low,
        high,
        _poisson_p_value(suspicious, expected),
        noise.rate,
        len(pairs),
    )


def _value_noise(
    noise: LabelNoise, counts: tuple[Tensor, Tensor], column: pd.Series[Any]
) -> tuple[list[str], Tensor]:
    """Values of a column, and `[6, v]` rows, suspicious, expected, rate and interval of each."""
    codes, labels = _coded(column)
    if not labels:
        return [], torch.zeros(6, 0, dtype=torch.float64)
    index = torch.from_numpy(codes).to(noise.error_probability.device)
    rows = torch.bincount(index, minlength=len(labels)).double()
    sums = [torch.zeros_like(rows).index_add(0, index, count) for count in counts]
    numbers = torch.stack([rows, *sums, *noise.rate_by(index, len(labels))]).cpu()
    large = (numbers[0] >= _MIN_ROWS).nonzero()[:, 0]
    return [labels[i] for i in large.tolist()], numbers[:, large]


def noise_by_class_pair(noise: LabelNoise) -> GroupNoise:
    """Suspicious labels per pair `given → suggested`, against noise that is uniform over the pairs.

    Rows of a pair are those of its given label; its rate is its suspicious rows over them.

    Source: as `noise_by_group`.

    Args:
        noise: label noise of n rows of at least three classes; of two, every pair is a class.
    """
    k = len(noise.class_counts)
    pair = noise.targets * k + noise.suggested
    cells = torch.bincount(pair[noise.suspicious], minlength=k * k).reshape(k, k).cpu()
    share = float(noise.suspicious.double().mean()) if len(noise.targets) else 0.0
    uniform = (noise.probs.sum(0).cpu() * share / (k - 1)).expand(k, k)
    given, other = (cells > 0).nonzero().T
    counts, expected = cells[given, other], uniform[given, other]
    rows = noise.class_counts.cpu()[given]
    low, high = wilson_interval(counts, rows)
    return GroupNoise(
        ("given → suggested",) * len(given),
        tuple(f"{a} → {b}" for a, b in zip(given.tolist(), other.tolist(), strict=True)),
        rows,
        counts,
        expected,
        counts.double() / rows.clamp(min=1),
        low,
        high,
        _poisson_p_value(counts, expected),
        noise.rate,
        k * (k - 1),
    )


def _poisson_p_value(counts: Tensor, expected: Tensor) -> Tensor:
    """`[g]` float64 probability of at least so many events."""
    k = counts.numpy()
    tail = np.where(k > 0, gammainc(np.maximum(k, 1), expected.numpy()), 1.0)
    return torch.from_numpy(tail)


def _as_times(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of date texts as moments; any other as it is."""
    try:
        times = parse_times(column, str(column.name))
    except InputError:
        return column
    if times.missing or not times.calendar:
        return column
    return pd.Series(pd.to_datetime(times.values.numpy(), unit="s"), index=column.index)


def _coded(column: pd.Series[Any]) -> tuple[Any, list[str]]:
    """`[n]` int64 codes and their names; no names where the column has too many values."""
    distinct = column.nunique()
    text = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
    if text and distinct > _MAX_VALUES:
        column = _as_times(column)
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
    elif distinct > _MAX_VALUES:
        return np.zeros(len(column), dtype=np.int64), []
    codes, values = pd.factorize(column, use_na_sentinel=False)
    return codes.astype(np.int64), [str(value) for value in values]
