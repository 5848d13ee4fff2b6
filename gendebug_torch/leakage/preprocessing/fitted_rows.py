"""Which rows a transformation was fitted on, where the stored values betray it beyond doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import is_quantity, numbers
from gendebug_torch.leakage.preprocessing.encodings import frequency, listed, ranked, vocabulary
from gendebug_torch.leakage.preprocessing.fingerprint import Fingerprint, StoredColumn
from gendebug_torch.leakage.splits.row_hashes import Features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STANDARD, RANGE, FILLED, TARGET_MEAN = (
    "standardised",
    "scaled to a range",
    "filled with the mean",
    "encoded by target means",
)
# Fewer different values are codes or flags: a balanced column of -1 and 1 has mean 0 and deviation
# 1 by itself.
FEWEST_DISTINCT = 20
# Mean and deviation further than this from 0 and 1 are no rounding.
EXACT = 1e-4
_SMALLEST_P = 1e-300


@dataclass(frozen=True, eq=False)
class FittedRows:
    """What the stored values of each column say about the rows that they were fitted on.

    Args:
        found: columns that were decisively fitted beyond training.
        clean: columns that were decisively fitted on training alone, with what was done to them.
        undecidable: columns of which nothing can be said.
    """

    found: tuple[Fingerprint, ...]
    clean: tuple[tuple[str, str], ...]
    undecidable: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """One row per column: what was done, fitted on which rows, p-value and the two offsets."""
        rows = [
            [f.column, f.kind, " + ".join(f.fitted_on), f.p_value, f.offset, f.train_offset]
            for f in self.found
        ]
        rows += [[name, kind, "train", math.nan, math.nan, 0.0] for name, kind in self.clean]
        rows += [
            [name, "", "not decidable", math.nan, math.nan, math.nan] for name in self.undecidable
        ]
        return pd.DataFrame(
            rows, columns=["column", "done", "fitted on", "p_value", "offset", "train_offset"]
        )

    def plot(self, ax: Axes | None = None, *, most: int = 15) -> Axes:
        """How far each found column is from exact over the fitted rows and over training alone, on
        a log scale.
        """
        ax = axes(ax, size=(6.4, 4.0))
        shown = self.found[:most][::-1]
        for place, entry in enumerate(shown):
            inner, outer = max(entry.offset, 1e-17), max(entry.train_offset, 1e-17)
            ax.plot([inner, outer], [place, place], color="#CCCCCC", linewidth=1.2, zorder=1)
            ax.plot(
                [inner],
                [place],
                "o",
                color=LIVE,
                label=f"over {' + '.join(entry.fitted_on)}" if place == 0 else None,
            )
            ax.plot(
                [outer],
                [place],
                "o",
                color=REFERENCE,
                label="over train alone" if place == 0 else None,
            )
        ax.set_xscale("log")
        ax.set_ylim(-0.7, max(len(shown), 1) - 0.3)
        ax.set_yticks(range(len(shown)), [f"{entry.column[:24]}: {entry.kind}" for entry in shown])
        ax.set_xlabel("distance from the exact value, in deviations of the column")
        ax.set_title(
            "Fitted on rows that training must not see"
            if shown
            else "No column betrays the rows it was fitted on"
        )
        if shown:
            ax.legend(frameon=True)
        return ax


def fitted_rows(
    train: Features,
    validation: Features,
    *,
    targets: tuple[Tensor, Tensor] | None = None,
    alpha: float = 1e-4,
) -> FittedRows:
    """Columns whose stored values were computed from validation rows as well, found only where that
    is beyond doubt.

    A column standardised on a set of rows has there mean 0 and deviation 1 to rounding, one scaled
    to a range ends exactly at both ends, a gap filled with the mean holds the mean of the other
    values, an encoding by target means or frequencies holds them, ranks and quantiles are spread
    evenly, and a list of levels or terms made before the split has places that only validation
    fills. Each is tested over train with validation and over validation alone; what train alone
    explains is clean. With m validation rows of N the mean over all N strays by `sqrt(m) / N`
    deviations if the column was fitted on training, which gives the chance of a value as close to
    0; mean and deviation are combined.

    Source: own derivation; the fault is described by Kaufman, Rosset, Perlich and Stitelman (2012),
    ACM TKDD 6:15, and measured by Moscovich and Rosset (2022), JRSS B 84:1474.

    Args:
        train: `[n, d]` table or `[n, ...]` tensor.
        validation: `[m, d]` or `[m, ...]`.
        targets: of both sides, `[n]` and `[m]` numbers, for the encoding by target means.
        alpha: chance of any such verdict by accident, over all columns.

    Cost: sorting each column once.
    """
    found, clean, unknown = [], [], []
    columns = list(_columns(train, validation, targets))
    limit = alpha / max(len(columns), 1)
    for column in columns:
        tests = (
            (ranked, _standard, _target_mean, frequency, _range, _filled)
            if column.fractional
            else (frequency, listed)
        )
        verdicts = [verdict for test in tests if (verdict := test(column, limit)) is not None]
        beyond = [verdict for verdict in verdicts if isinstance(verdict, Fingerprint)]
        if beyond:
            found.append(beyond[0])
        elif verdicts:
            clean.append((column.name, str(verdicts[0])))
        else:
            unknown.append(column.name)
    terms = vocabulary(columns, limit)
    found += [terms] if terms is not None else []
    return FittedRows(tuple(sorted(found, key=lambda f: f.p_value)), tuple(clean), tuple(unknown))


def _columns(
    train: Features, validation: Features, targets: tuple[Tensor, Tensor] | None
) -> Iterator[StoredColumn]:
    """Shared columns of numbers with two values on either side at least."""
    pairs: Any
    if isinstance(train, Tensor) and isinstance(validation, Tensor):
        if train.shape[1:] != validation.shape[1:]:
            got = f"{list(validation.shape[1:])} against {list(train.shape[1:])}"
            reject(
                "validation",
                "rows of the shape that training has",
                got,
                "Build both sides with the same preprocessing.",
            )
        flat = (
            train.detach().reshape(len(train), -1).cpu(),
            validation.detach().reshape(len(validation), -1).cpu(),
        )
        pairs = (
            (f"feature_{i}", flat[0][:, i].double(), flat[1][:, i].double())
            for i in range(flat[0].shape[1])
        )
    elif isinstance(train, pd.DataFrame) and isinstance(validation, pd.DataFrame):
        names = [
            c
            for c in train.columns
            if c in validation.columns and is_quantity(train[c]) and is_quantity(validation[c])
        ]
        pairs = (
            (str(c), torch.from_numpy(numbers(train[c])), torch.from_numpy(numbers(validation[c])))
            for c in names
        )
    else:
        reject(
            "validation",
            "a table with a table, or a tensor with a tensor",
            "a mixture",
            "Build both sides in the same way.",
        )
    for name, before, after in pairs:
        known = before.isfinite(), after.isfinite()
        labels = (
            None
            if targets is None
            else (targets[0].cpu()[known[0]].double(), targets[1].cpu()[known[1]].double())
        )
        column = StoredColumn(name, before[known[0]], after[known[1]], labels)
        if min(map(len, (column.before, column.after))) >= 2:
            yield column


def _standard(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """Mean 0 and deviation 1 over both sides, or over validation alone; `standardised` if over
    training alone.
    """
    if len(column.runs[0]) < FEWEST_DISTINCT:
        return None
    train_offset, _ = _from_standard(column.before, 1.0)
    for sides, values, strays in (
        (("train", "validation"), column.both, column.strays),
        (("validation",), column.after, 1 / math.sqrt(len(column.after))),
    ):
        offset, p = _from_standard(values, strays)
        if p < limit and (len(sides) == 1 or train_offset > 100 * offset):
            return Fingerprint(column.name, STANDARD, sides, p, offset, train_offset)
    return STANDARD if train_offset < 1e-5 else None


def _from_standard(values: Tensor, strays: float) -> tuple[float, float]:
    """Largest distance of mean and deviation from 0 and 1, and the chance of both by accident."""
    n, mean = len(values), float(values.mean())
    square = (values - mean).square_()
    variance = float(square.mean())
    spread = min(abs(math.sqrt(variance * n / (n - d)) - 1) for d in (0, 1))
    if max(abs(mean), spread) > EXACT or variance <= 0:
        return max(abs(mean), spread), 1.0
    kurtosis = float(square.square_().mean()) / variance**2
    errors = (abs(mean) / strays, spread / (strays * math.sqrt(max(kurtosis - 1, 1e-6)) / 2))
    product = max(
        math.prod(min(error * math.sqrt(2 / math.pi), 1.0) for error in errors), _SMALLEST_P
    )
    return max(abs(mean), spread), product * (1 - math.log(product))


def _range(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """Both ends reached exactly once over both sides, one of them not in training; only for columns
    without ties.
    """
    values, counts = column.runs
    if len(values) < 0.9 * len(column.both) or int(counts[0]) > 1 or int(counts[-1]) > 1:
        return None
    low, high = float(values[0]), float(values[-1])
    # A sine crowds at its ends and comes arbitrarily near to 1 by itself; what was scaled by its
    # ends stands apart there.
    crowded = min(float(values[1]) - low, high - float(values[-2])) < 0.1 * (high - low) / len(
        column.both
    )
    rounding = 2.5e-7 if bool((values == values.float().double()).all()) else 1e-12
    for start in (0.0, -1.0):
        offset = max(abs(low - start), abs(high - 1.0))
        train_offset = max(
            abs(float(column.before.min()) - start), abs(float(column.before.max()) - 1.0)
        )
        if offset <= rounding and not crowded:
            fitted = Fingerprint(
                column.name, RANGE, ("train", "validation"), 0.0, offset, train_offset
            )
            return RANGE if train_offset <= rounding else fitted
    return None


def _filled(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """A value that piles up on both sides and is the mean of all other values of both."""
    values, counts = column.runs
    value = float(values[counts.argmax()])
    share = int(counts.max()) / len(column.both)
    # A mean of measurements has a long decimal part; a round value that happens to be the mean was
    # measured.
    long = abs(value * 1e6 - round(value * 1e6)) > 1e-4
    if share < 0.01 or int(counts.max()) < 5 or not long or not bool((column.after == value).any()):
        return None
    before, after = column.before[column.before != value], column.after[column.after != value]
    others = torch.cat([before, after])
    if len(before) < 2 or len(after) < 2 or float(others.std()) == 0:
        return None
    deviation = float(others.std())
    offset, train_offset = (
        abs(float(side.mean()) - value) / deviation for side in (others, before)
    )
    p = min(offset * math.sqrt(2 / math.pi) * len(others) / math.sqrt(len(after)), 1.0)
    if p < limit and train_offset > 100 * offset:
        return Fingerprint(column.name, FILLED, ("train", "validation"), p, offset, train_offset)
    return FILLED if train_offset < 1e-6 else None


def _target_mean(column: StoredColumn, limit: float) -> Fingerprint | str | None:
    """Levels that hold the mean target of their rows on both sides."""
    values, _ = column.runs
    if column.targets is None or len(values) < 3 or len(values) > len(column.both) / 5:
        return None
    spread = float(torch.cat(column.targets).std())
    if spread == 0:
        return None
    sums, rows = [], []
    for side, labels in zip((column.before, column.after), column.targets, strict=True):
        level = torch.searchsorted(values, side)
        rows.append(torch.bincount(level, minlength=len(values)).double())
        sums.append(torch.zeros(len(values), dtype=torch.float64).index_add_(0, level, labels))
    shared = (rows[0] > 0) & (rows[1] > 0)
    if int(shared.sum()) < 3:
        return None
    off = ((sums[0] + sums[1]) / (rows[0] + rows[1]) - values).abs()[shared] / spread
    train_off = (sums[0] / rows[0] - values).abs()[shared] / spread
    offset, train_offset = float(off.max()), float(train_off.median())
    if offset < 1e-5 and train_offset > 100 * offset:
        return Fingerprint(
            column.name, TARGET_MEAN, ("train", "validation"), 0.0, offset, train_offset
        )
    return TARGET_MEAN if float(train_off.max()) < 1e-5 else None
