"""Features recomputed one record at a time, as in serving, compared with the stored ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.errors import reject
from gendebug_torch.leakage.columns.column_codes import Features, feature_table
from gendebug_torch.progress import progress_bar
from gendebug_torch.stats.intervals import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_EXAMPLES = 20
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ColumnParity:
    """How often and by how much one recomputed column differs from the stored one.

    Args:
        column: column name.
        rows: number of rows compared.
        differing: number of them that differ by more than the tolerance.
        largest: largest absolute difference of numbers; NaN if there are none.
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
        """Wilson's (1927) 95 % bounds of `share`."""
        low, high = wilson_interval(torch.tensor(self.differing), torch.tensor(self.rows))
        return float(low), float(high)


@dataclass(frozen=True)
class FeatureParity:
    """Stored features compared with their recomputation one record at a time.

    Args:
        columns: columns that both have, those that differ most often first.
        rows: number of records that were recomputed.
        absent: stored columns that the pipeline does not return.
        added: columns that the pipeline returns and that are not stored.
        failed: (row, error) of the records on which the pipeline raised.
    """

    columns: tuple[ColumnParity, ...]
    rows: int
    absent: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    failed: tuple[tuple[int, str], ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every stored value was reproduced in every record."""
        differing = any(column.differing for column in self.columns)
        return not (self.absent or self.failed or differing)

    def table(self) -> pd.DataFrame:
        """One row per column: number and share of differing rows, and the first of them."""
        rows = [
            [c.column, c.rows, c.differing, c.share, *c.interval(), c.largest, *_first(c)]
            for c in self.columns
        ]
        names = ["column", "rows", "differing", "share", "low", "high", "largest"]
        return pd.DataFrame(rows, columns=[*names, "first_row", "stored", "recomputed"])

    def differences(self) -> pd.DataFrame:
        """The first differing rows of every column: row, column, stored, recomputed."""
        rows = [
            [row, c.column, stored, again] for c in self.columns for row, stored, again in c.first
        ]
        frame = pd.DataFrame(rows, columns=["row", "column", "stored", "recomputed"])
        return frame.sort_values("row", kind="stable", ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of records that differ, for the columns that differ most, with intervals."""
        return BarEvidence(
            self.table(),
            "column",
            "share",
            f"Parity of {len(self.columns)} features over {self.rows:,} records",
            "share of records whose recomputed value differs from the stored one",
            interval=("low", "high"),
            limit=15,
        ).plot(ax)

    def __str__(self) -> str:
        differing = [c for c in self.columns if c.differing]
        lines = [
            f"{len(differing)} of {len(self.columns)} features differ over {self.rows:,} records"
        ]
        for c in differing[:10]:
            row, stored, again = c.first[0]
            lines.append(
                f"  {c.column}: {c.share:.1%} of records, first row {row}: stored {stored}, "
                f"recomputed {again}"
            )
        return "\n".join(lines)


def feature_parity(
    pipeline: Callable[[Any], Any],
    raw_rows: pd.DataFrame | Sequence[Any],
    stored_features: Features,
    *,
    tolerance: float | Mapping[str, float] = _TOLERANCE,
    max_rows: int | None = None,
    progress: bool = False,
) -> FeatureParity:
    """Features recomputed one record at a time, compared with the stored ones.

    A pipeline that uses later rows, the batch or the target when it is applied to a whole table
    gives other values for one record alone, as in serving. Numbers a and b are equal if
    `|a - b| <= tolerance (1 + |a|)`, missing values equal each other, anything else must be
    identical. A record on which the pipeline raises is listed, and the rest is still compared.

    Source: Breck, Polyzotis, Roy, Whang and Zinkevich (2019), SysML, section 4, on training-serving
    skew.

    Args:
        pipeline: function called with a one-row table of `raw_rows` (or with one element of a
            sequence); returns a one-row table, a Series, a mapping, or numbers in the order of the
            stored columns.
        raw_rows: records as they arrive, `[n, ...]`.
        stored_features: features stored for them, row by row, `[n, d]`.
        tolerance: largest difference, relative to `1 + |stored|`; one number, or column -> number.
        max_rows: number of records to recompute, evenly spaced; None for all.
        progress: whether to show a progress bar.

    Raises:
        InputError: lengths differ, or the pipeline returns something that has no columns.

    Cost: one call of the pipeline per record.

    Example:
        >>> import pandas as pd
        >>> raw = pd.DataFrame({"amount": [1.0, 2.0, 6.0]})
        >>> def pipeline(table):
        ...     return pd.DataFrame({"relative": table["amount"] / table["amount"].mean()})
        >>> print(feature_parity(pipeline, raw, pipeline(raw)))
        1 of 1 features differ over 3 records
          relative: 100.0% of records, first row 0: stored 0.3333333333333333, recomputed 1.0
    """
    stored, n = feature_table(stored_features), len(raw_rows)
    if n != len(stored):
        reject(
            "stored_features",
            f"one row for each of {n} raw rows",
            f"{len(stored)} rows",
            "Align both by the same key first.",
        )
    count = n if max_rows is None else min(max_rows, n)
    rows = np.linspace(0, n - 1, count).round().astype(int).tolist()
    answers, failed = _recomputed(pipeline, raw_rows, stored, rows, progress)
    returned = dict.fromkeys(name for answer in answers.values() for name in answer)
    columns = []
    for name in [name for name in stored.columns if name in returned]:
        again = {row: answer[name] for row, answer in answers.items() if name in answer}
        limit = tolerance.get(name, _TOLERANCE) if isinstance(tolerance, Mapping) else tolerance
        columns.append(_column_parity(name, stored[name], again, limit))
    absent = tuple(name for name in stored.columns if name not in returned) if answers else ()
    added = tuple(name for name in returned if name not in stored.columns)
    columns.sort(key=lambda column: -column.share)
    return FeatureParity(tuple(columns), len(rows), absent, added, tuple(failed))


def _recomputed(
    pipeline: Callable[[Any], Any],
    raw_rows: pd.DataFrame | Sequence[Any],
    stored: pd.DataFrame,
    rows: Sequence[int],
    progress: bool,
) -> tuple[dict[int, dict[str, Any]], list[tuple[int, str]]]:
    """Row -> values by column, and (row, error) where the pipeline raised."""
    answers: dict[int, dict[str, Any]] = {}
    failed: list[tuple[int, str]] = []
    with progress_bar(len(rows), "records", show=progress) as count:
        for row in rows:
            record = raw_rows.iloc[[row]] if isinstance(raw_rows, pd.DataFrame) else raw_rows[row]
            try:
                answer = pipeline(record)
            except Exception as error:
                failed.append((row, f"{type(error).__name__}: {error}"))
            else:
                answers[row] = _by_column(answer, stored, row)
            count(1)
    return answers, failed


def _by_column(answer: Any, stored: pd.DataFrame, row: int) -> dict[str, Any]:
    """What the pipeline returned for one record, by column name."""
    if isinstance(answer, pd.DataFrame):
        if len(answer) != 1:
            got = f"{len(answer)} rows for row {row}"
            reject("pipeline", "one row for one record", got, "Return a single row.")
        return {str(name): answer[name].iloc[0] for name in answer.columns}
    if isinstance(answer, (pd.Series, Mapping)):
        return {str(name): value for name, value in answer.items()}
    values = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else answer
    if isinstance(values, (str, bytes)) or not isinstance(values, (np.ndarray, Sequence)):
        reject(
            "pipeline",
            "something with columns",
            f"{type(answer).__name__} for row {row}",
            "Return a one-row table, a Series, a mapping, or the numbers in the order of the "
            "stored columns.",
        )
    flat = np.asarray(values).reshape(-1)
    if len(flat) != stored.shape[1]:
        reject(
            "pipeline",
            f"{stored.shape[1]} numbers",
            f"{len(flat)} for row {row}",
            "Return one value per stored column.",
        )
    return dict(zip(stored.columns, flat.tolist(), strict=True))


def _column_parity(
    name: str, stored: pd.Series[Any], again: Mapping[int, Any], tolerance: float
) -> ColumnParity:
    rows = np.fromiter(again, dtype=np.int64, count=len(again))
    before = stored.iloc[rows].reset_index(drop=True)
    after = pd.Series(list(again.values()), dtype=object)
    missing = before.isna().to_numpy() & after.isna().to_numpy()
    same = missing | (before.astype(str).to_numpy() == after.astype(str).to_numpy())
    a, b = _as_numbers(before), _as_numbers(after)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    difference = np.abs(a - b)
    same = np.where(finite, difference <= tolerance * (1 + np.abs(a)), same)
    positions = np.flatnonzero(~same)
    first = tuple(
        (int(rows[i]), _scalar(before.iloc[i]), _scalar(after.iloc[i]))
        for i in positions[:_MAX_EXAMPLES]
    )
    largest = float(difference[finite].max()) if finite.any() else math.nan
    return ColumnParity(name, len(rows), len(positions), largest, first)


def _as_numbers(values: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`[n]` float64, NaN where a value is no number."""
    times = any(isinstance(value, (pd.Timestamp, pd.Timedelta)) for value in values.head(5))
    if values.dtype.kind in "mM" or times:
        return np.full(len(values), np.nan)
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def _first(column: ColumnParity) -> tuple[Any, Any, Any]:
    return column.first[0] if column.first else (None, None, None)


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
