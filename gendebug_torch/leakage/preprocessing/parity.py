"""Features recomputed one record at a time, as serving would, beside the stored ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pipeline = Callable[[Any], Any]
_KEPT = 20


@dataclass(frozen=True)
class ColumnParity:
    """One column: how often and by how much the recomputed value differs from the stored one.

    Args:
        column: its name.
        rows: compared.
        differing: of them beyond the tolerance.
        largest: largest absolute difference of numbers; NaN where none could be taken.
        first: up to 20 of (row, stored, recomputed), in order.
    """

    column: str
    rows: int
    differing: int
    largest: float
    first: tuple[tuple[int, Any, Any], ...] = ()

    @property
    def share(self) -> float:
        """Share of the compared rows that differ."""
        return self.differing / max(self.rows, 1)

    def interval(self) -> tuple[float, float]:
        """Wilson's (1927) 95 % bounds of that share."""
        low, high = wilson_interval(torch.tensor(self.differing), torch.tensor(self.rows))
        return float(low), float(high)


@dataclass(frozen=True)
class Parity:
    """What one-by-one recomputation says of the stored features.

    Args:
        columns: those that both sides have, most often differing first.
        rows: records that were recomputed.
        lacking: stored columns that the pipeline does not return.
        added: columns that the pipeline returns and that are not stored.
        broken: records on which the pipeline raised, with the error.
    """

    columns: tuple[ColumnParity, ...]
    rows: int
    lacking: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    broken: tuple[tuple[int, str], ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every stored value came back in every record."""
        return (
            not self.lacking
            and not self.broken
            and not any(column.differing for column in self.columns)
        )

    def table(self) -> pd.DataFrame:
        """One row per column: differing rows, their share with interval, largest difference, the
        first row that differs.
        """
        rows = []
        for c in self.columns:
            low, high = c.interval()
            first = c.first[0] if c.first else (None, None, None)
            rows.append([c.column, c.rows, c.differing, c.share, low, high, c.largest, *first])
        names = [
            "column",
            "rows",
            "differing",
            "share",
            "low",
            "high",
            "largest",
            "first_row",
            "stored",
            "recomputed",
        ]
        return pd.DataFrame(rows, columns=names)

    def differences(self) -> pd.DataFrame:
        """The first differing rows of every column: row, column, stored, recomputed."""
        rows = [
            [row, c.column, stored, again] for c in self.columns for row, stored, again in c.first
        ]
        return pd.DataFrame(rows, columns=["row", "column", "stored", "recomputed"]).sort_values(
            "row", kind="stable", ignore_index=True
        )

    def plot(self, ax: Axes | None = None, *, most: int = 15) -> Axes:
        """Share of rows that differ, for the columns that differ most, with intervals."""
        ax = axes(ax, size=(6.0, 4.0))
        shown = self.columns[:most][::-1]
        for place, column in enumerate(shown):
            low, high = column.interval()
            colour = LIVE if column.differing else REFERENCE
            ax.plot([low, high], [place, place], color=colour, linewidth=1.6)
            ax.plot([column.share], [place], "o", color=colour)
        ax.set_yticks(range(len(shown)), [column.column[:28] for column in shown])
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("share of records whose recomputed value differs from the stored one")
        ax.set_title(f"Parity of {len(self.columns)} features over {self.rows:,} records")
        return ax

    def __str__(self) -> str:
        differing = [c for c in self.columns if c.differing]
        return (
            f"{len(differing)} of {len(self.columns)} features differ over {self.rows:,} records"
            + "".join(
                f"\n  {c.column}: {c.share:.1%} of records, first row {c.first[0][0]}: stored "
                f"{c.first[0][1]}, recomputed {c.first[0][2]}"
                for c in differing[:10]
            )
        )


def parity(
    pipeline: Pipeline,
    raw_rows: pd.DataFrame | Sequence[Any],
    stored_features: pd.DataFrame | Tensor,
    *,
    tolerance: float | Mapping[str, float] = 1e-6,
    max_rows: int | None = None,
    progress: bool = False,
) -> Parity:
    """Recompute features one record at a time and compare them with the stored ones.

    A pipeline that, over a whole table, looks at later rows, at the batch or at the target, gives
    other values when it sees one record alone, as it does in serving. Numbers a and b are equal
    where `|a - b| <= tolerance (1 + |a|)`, missing values equal each other, anything else must be
    identical. A record on which the pipeline raises is listed, and the rest still runs.

    Source: Breck, Polyzotis, Roy, Whang and Zinkevich (2019), SysML, section 4, on training-serving
    skew.

    Args:
        pipeline: called with a one-row table of `raw_rows` (or with one of its elements, where it
            is a sequence); returns a one-row table, a Series, a mapping, or numbers in the order of
            the stored columns.
        raw_rows: `[n, ...]` records as they arrive.
        stored_features: `[n, d]` what was stored for them, row by row.
        tolerance: relative to `1 + |stored|`; one number, or column -> number.
        max_rows: recompute so many records, evenly spread; None for all.
        progress: show a bar.

    Raises:
        InputError: lengths differ, or the pipeline returns something that has no columns.

    Cost: one call of the pipeline per record.
    """
    stored = _as_table(stored_features)
    n = len(raw_rows)
    if n != len(stored):
        reject(
            "stored_features",
            f"one row for each of {n} raw rows",
            f"{len(stored)} rows",
            "Align both by the same key first.",
        )
    rows = (
        list(range(n))
        if max_rows is None or max_rows >= n
        else np.linspace(0, n - 1, max_rows).round().astype(int).tolist()
    )
    answers: dict[int, dict[str, Any]] = {}
    broken: list[tuple[int, str]] = []
    for row in _bar(rows, progress):
        record = raw_rows.iloc[[row]] if isinstance(raw_rows, pd.DataFrame) else raw_rows[row]
        try:
            answer = pipeline(record)
        except Exception as error:
            broken.append((row, f"{type(error).__name__}: {error}"))
            continue
        answers[row] = _one_row(answer, stored, row)
    seen = dict.fromkeys(name for answer in answers.values() for name in answer)
    columns = [
        _compared(
            name,
            stored[name],
            {row: answer[name] for row, answer in answers.items() if name in answer},
            tolerance,
        )
        for name in stored.columns
        if name in seen
    ]
    lacking = tuple(str(name) for name in stored.columns if name not in seen) if answers else ()
    added = tuple(name for name in seen if name not in stored.columns)
    ordered = tuple(sorted(columns, key=lambda column: -column.share))
    return Parity(ordered, len(rows), lacking, added, tuple(broken))


def _as_table(features: pd.DataFrame | Tensor) -> pd.DataFrame:
    if isinstance(features, Tensor):
        flat = features.detach().reshape(len(features), -1).cpu()
        return pd.DataFrame(flat.numpy(), columns=[f"feature_{i}" for i in range(flat.shape[1])])
    return features.rename(columns=str)


def _one_row(answer: Any, stored: pd.DataFrame, row: int) -> dict[str, Any]:
    """What the pipeline returned for one record, by column."""
    if isinstance(answer, pd.DataFrame):
        if len(answer) != 1:
            reject(
                "pipeline",
                "one row for one record",
                f"{len(answer)} rows for row {row}",
                "Return a single row.",
            )
        return {str(name): answer[name].iloc[0] for name in answer.columns}
    if isinstance(answer, (pd.Series, Mapping)):
        return {str(name): value for name, value in answer.items()}
    values = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else answer
    if isinstance(values, (str, bytes)) or not isinstance(values, (np.ndarray, Sequence)):
        remedy = (
            "Return a one-row table, a Series, a mapping, or the numbers in the order of the "
            "stored columns."
        )
        reject(
            "pipeline", "something with columns", f"{type(answer).__name__} for row {row}", remedy
        )
    flat = np.asarray(values).reshape(-1)
    if len(flat) != stored.shape[1]:
        reject(
            "pipeline",
            f"{stored.shape[1]} numbers",
            f"{len(flat)} for row {row}",
            "Return one value per stored column.",
        )
    return dict(zip(map(str, stored.columns), flat.tolist(), strict=True))


def _compared(
    name: str,
    stored: pd.Series[Any],
    again: Mapping[int, Any],
    tolerance: float | Mapping[str, float],
) -> ColumnParity:
    """One column of all recomputed records against the stored values."""
    allowed = tolerance.get(name, 1e-6) if isinstance(tolerance, Mapping) else tolerance
    rows = np.fromiter(again, dtype=np.int64, count=len(again))
    before, after = (
        stored.iloc[rows].reset_index(drop=True),
        pd.Series(list(again.values()), dtype=object),
    )
    gaps = before.isna().to_numpy(), after.isna().to_numpy()
    same = (before.astype(str).to_numpy() == after.astype(str).to_numpy()) | (gaps[0] & gaps[1])
    a, b = (_as_numbers(side) for side in (before, after))
    known = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(np.where(known, a, 0.0) - np.where(known, b, 0.0))
    same = np.where(known, difference <= allowed * (1 + np.abs(np.where(known, a, 0.0))), same)
    largest = float(difference[known].max()) if known.any() else math.nan
    places = np.flatnonzero(~same)
    first = tuple(
        (int(rows[i]), _plain(before.iloc[i]), _plain(after.iloc[i])) for i in places[:_KEPT]
    )
    return ColumnParity(name, len(rows), len(places), largest, first)


def _as_numbers(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n]` float64, NaN where a value is no number."""
    if values.dtype.kind in "mM" or any(
        isinstance(value, (pd.Timestamp, pd.Timedelta)) for value in values.head(5)
    ):
        return np.full(len(values), np.nan)
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _bar(rows: Sequence[int], show: bool) -> Iterable[int]:
    if not show:
        return rows
    from tqdm.auto import tqdm

    bar: Iterable[int] = tqdm(rows, desc="parity", unit="record", leave=False)
    return bar
