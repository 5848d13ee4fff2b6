"""Sums over windows of time in constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import reject
from gendebug_torch.profiles.sums.sketch import Integers
from gendebug_torch.shift.quality.outcomes import row_losses

# Windows of a profile; half as many at least once time has passed.
WINDOWS = 512
SUMS = ("rows", "labeled", "correct", "loss", "squared_loss")


@dataclass(frozen=True, eq=False)
class Windows:
    """Sums over windows of `2 ** level` seconds each, as fine as `WINDOWS` allow; adds over rows.

    Args:
        keys: ascending numbers of the windows that hold rows, `[w]` int64.
        sums: sums of `SUMS`, `[w, 5]` float64.
        level: logarithm of the length of a window, in seconds or in the unit of the column.
        calendar: whether the times are dates; None without times.
        undated: number of rows without a time.
    """

    keys: Integers
    sums: NDArray[np.float64]
    level: int = 0
    calendar: bool | None = None
    undated: int = 0

    def __add__(self, other: Windows) -> Windows:
        if self.calendar is None or other.calendar is None:
            known = other if self.calendar is None else self
            undated = self.undated + other.undated
            return Windows(known.keys, known.sums, known.level, known.calendar, undated)
        if self.calendar != other.calendar:
            remedy = "Write the time column of all partitions in one form."
            reject("rows", "dates in all parts, or numbers in all", "both", remedy)
        level = max(self.level, other.level)
        keys = np.concatenate([part.keys >> (level - part.level) for part in (self, other)])
        sums = np.concatenate([self.sums, other.sums])
        return _fitted(keys, sums, level, self.calendar, self.undated + other.undated)

    def table(self) -> Any:
        """One row per window: its start, rows, accuracy and mean loss; a DataFrame."""
        import pandas as pd

        start = self.keys.astype(np.float64) * 2.0**self.level
        frame = pd.DataFrame(self.sums, columns=list(SUMS))
        labeled = frame["labeled"].where(frame["labeled"] > 0)
        return pd.DataFrame(
            {
                "start": pd.to_datetime(start, unit="s", utc=True) if self.calendar else start,
                "rows": frame["rows"].astype("int64"),
                "labeled": frame["labeled"].astype("int64"),
                "accuracy": frame["correct"] / labeled,
                "loss": frame["loss"] / labeled,
            }
        )


NO_WINDOWS = Windows(np.empty(0, np.int64), np.empty((0, len(SUMS))))


def windows_of(times: Any, records: Records | None, name: str) -> Windows:
    """The sums of some rows.

    Args:
        times: values of the time column, `[n]`.
        records: labels and outputs of the same rows; None without either.
        name: name of the time column, for messages.
    """
    parsed = parse_times(times, name)
    values = parsed.values.numpy()
    dated = np.isfinite(values)
    if not dated.any():
        return Windows(NO_WINDOWS.keys, NO_WINDOWS.sums, undated=len(values))
    sums = np.zeros((len(values), len(SUMS)))
    sums[:, 0] = 1
    if records is not None and records.logits is not None and records.targets is not None:
        _add_outcomes(sums, records)
    keys = np.floor(values[dated]).astype(np.int64)
    undated = len(values) - int(dated.sum())
    return _fitted(keys, sums[dated], 0, parsed.calendar, undated)


def _add_outcomes(sums: NDArray[np.float64], records: Records) -> None:
    """Fill in what is known of the labeled rows."""
    assert records.targets is not None
    if records.task in (Task.DENSE, Task.MULTILABEL):
        return
    rows = (~missing_labels(records.targets)).cpu()
    labeled = records.select(rows)
    assert labeled.logits is not None
    assert labeled.targets is not None
    if records.task is Task.REGRESSION:
        loss = (labeled.logits.double() - labeled.targets.double()).square()
        loss, correct = loss.reshape(len(loss), -1).mean(1), torch.zeros(len(loss)).double()
    else:
        loss, correct = row_losses(labeled.logits, labeled.targets), labeled.correct.double()
    loss, correct = loss.cpu().double(), correct.cpu()
    known = torch.stack([torch.ones_like(loss), correct, loss, loss.square()], 1)
    sums[rows.numpy(), 1:] = known.numpy()


def _fitted(
    keys: Integers, sums: NDArray[np.float64], level: int, calendar: bool, undated: int
) -> Windows:
    """Sums by window, on the finest grid that fits."""
    unique, inverse = np.unique(keys, return_inverse=True)
    while len(unique) > WINDOWS:
        keys, level = keys >> np.int64(1), level + 1
        unique, inverse = np.unique(keys, return_inverse=True)
    total = np.zeros((len(unique), sums.shape[1]))
    np.add.at(total, inverse, sums)
    return Windows(unique, total, level, calendar, undated)
