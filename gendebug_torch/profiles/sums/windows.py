"""Sums over windows of time in constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task, missing_labels
from gendebug_torch.data.times import parse_times
from gendebug_torch.errors import reject
from gendebug_torch.profiles.sums.sketch import Integers
from gendebug_torch.shift.quality.outcomes import row_losses
from gendebug_torch.shift.time.time_sums import TimeSums

# Windows of a profile; half as many at least once time has passed.
WINDOWS = 512
# Of all rows the confidence, or the prediction of one quantity, and its square; of labeled rows of
# a quantity the error and its size.
SUMS = (
    "rows",
    "labeled",
    "correct",
    "loss",
    "squared_loss",
    "level",
    "squared_level",
    "error",
    "size",
)


@dataclass(frozen=True, eq=False)
class Windows:
    """Sums over windows of `2 ** level` seconds each, as fine as `WINDOWS` allow; adds over rows.

    Args:
        keys: ascending numbers of the windows that hold rows, `[w]` int64.
        sums: sums of `SUMS`, `[w, 9]` float64.
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

    @classmethod
    def from_tensors(cls, keys: Tensor, sums: Tensor, *rest: Any) -> Windows:
        """What was saved; sums that files of earlier versions lack are 0."""
        given = sums.numpy()
        missing = np.zeros((len(given), len(SUMS) - given.shape[1]))
        return cls(keys.numpy(), np.concatenate([given, missing], axis=1), *rest)

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

    def time_sums(self) -> TimeSums | None:
        """The sums as checks over time take them; None where no answers were summed."""
        part = {name: torch.from_numpy(self.sums[:, i]) for i, name in enumerate(SUMS)}
        if not bool(part["squared_level"].any()):
            return None
        chosen = ("rows", "labeled", "level", "squared_level", "correct", "error", "size")
        return TimeSums(
            starts=self.table()["start"],
            squared_error=part["loss"],
            undated=self.undated,
            **{name: part[name] for name in chosen},
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
    if records is not None and records.logits is not None:
        _add_outcomes(sums, records)
    keys = np.floor(values[dated]).astype(np.int64)
    undated = len(values) - int(dated.sum())
    return _fitted(keys, sums[dated], 0, parsed.calendar, undated)


def _add_outcomes(sums: NDArray[np.float64], records: Records) -> None:
    """Fill in what is known of the rows, and of the labeled ones."""
    assert records.logits is not None
    if records.task in (Task.DENSE, Task.MULTILABEL):
        return
    level = _level(records)
    if level is not None:
        sums[:, 5:7] = torch.stack([level, level.square()], 1).numpy()
    if records.targets is not None:
        rows = (~missing_labels(records.targets)).cpu()
        sums[rows.numpy(), 1:5], sums[rows.numpy(), 7:] = _answers(records.select(rows))


def _answers(labeled: Records) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`[n, 4]` of labels, right answers, losses and their squares, and `[n, 2]` of errors."""
    assert labeled.logits is not None
    assert labeled.targets is not None
    error = torch.zeros(len(labeled), dtype=torch.float64)
    if labeled.task is Task.REGRESSION:
        errors = (labeled.targets.double() - labeled.logits.double()).reshape(len(labeled), -1)
        loss, correct = errors.square().mean(1), torch.zeros(len(labeled))
        error = errors[:, 0].cpu() if errors.shape[1] == 1 else error
    else:
        loss, correct = row_losses(labeled.logits, labeled.targets), labeled.correct
    parts = (torch.ones(len(labeled)), correct, loss, loss.square())
    known = torch.stack([part.cpu().double() for part in parts], 1)
    return known.numpy(), torch.stack([error, error.abs()], 1).numpy()


def _level(records: Records) -> Tensor | None:
    """`[n]` float64 confidence, or the prediction of one quantity; None of several quantities."""
    if records.task is not Task.REGRESSION:
        return records.confidence.double().cpu()
    assert records.logits is not None
    outputs = records.logits.double().cpu().reshape(len(records), -1)
    return outputs[:, 0] if outputs.shape[1] == 1 else None


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
