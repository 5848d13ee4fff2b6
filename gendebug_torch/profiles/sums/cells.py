"""Sums over slices: every level, and every pair of levels, of binnings frozen on a reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.errors import reject
from gendebug_torch.profiles.sums.sketch import Floats, Integers
from gendebug_torch.slices.checks._slicing import TRUE, class_names, class_outputs, row_losses
from gendebug_torch.slices.checks._slicing import slicing_columns as columns_of
from gendebug_torch.slices.levels.binning import Binning, class_binning, fit_binnings, level_codes
from gendebug_torch.slices.search.error_events import errors_by_class

# Levels beyond which no pairs are counted: 8 MB for a binary model.
MAX_LEVELS = 512
_TASKS = (Task.BINARY, Task.MULTICLASS, Task.REGRESSION)


@dataclass(frozen=True, eq=False)
class Cells:
    """Labeled and scored rows by pair of levels; adds over rows.

    Args:
        binnings: levels of the columns, L in all.
        task: question that the model answers; None before any labeled output.
        sums: sums by pair of levels, the earlier one first, `[w, L, L]` float64. Of two classes
            the numbers of rows by class and decision (`2 class + decision`), of more those of right
            and wrong answers, of a quantity rows, absolute errors and their squares.
    """

    binnings: tuple[Binning, ...]
    task: Task | None = None
    sums: Tensor | None = None

    def __add__(self, other: Cells) -> Cells:
        if self.binnings != other.binnings:
            remedy = "Profile all parts with one `reference`."
            reject("other", "slices frozen on the same reference", "others", remedy)
        if self.sums is None or other.sums is None:
            return other if self.sums is None else self
        if self.task is not other.task:
            remedy = "Declare it in the schema: `regression`, `multilabel` or `classes`."
            reject("other", f"{self.task} outcomes in all parts", f"{other.task}", remedy)
        return replace(self, sums=self.sums + other.sums)

    def header(self) -> dict[str, Any]:
        """What is no tensor, as JSON."""
        return {"binnings": list(map(asdict, self.binnings)), "task": self.task}

    @classmethod
    def from_header(cls, header: dict[str, Any] | None, sums: Tensor | None) -> Cells | None:
        """The inverse of `header`; None of nothing.

        Args:
            header: what `header` returned.
            sums: its sums.
        """
        if header is None:
            return None
        read = tuple(map(_binning, header["binnings"]))
        return cls(read, None if header["task"] is None else Task(header["task"]), sums)


def frozen_cells(reference: Records, known: Cells | None) -> Cells:
    """Slices without rows: those of a reference, or levels fitted to its rows.

    Args:
        reference: rows of the reference.
        known: slices that the reference counts itself.
    """
    if known is not None:
        return Cells(known.binnings)
    columns, schema, binnings = columns_of(reference), reference.schema, tuple[Binning, ...]()
    if columns is not None:
        binnings = fit_binnings(columns, categorical=schema.categorical)
    outputs = class_outputs(reference.labeled())
    if reference.task is Task.MULTICLASS and outputs is not None:
        names = pd.Series(class_names(reference, outputs[1]), name=TRUE)
        binnings = (class_binning(names), *(b for b in binnings if b.column != TRUE))
    levels = sum(len(binning.levels) for binning in binnings)
    if not 0 < levels <= MAX_LEVELS:
        remedy = "Declare what is not to be sliced as `ids`, or profile without a reference."
        reject("reference", f"columns of at most {MAX_LEVELS} levels", f"{levels:,}", remedy)
    return Cells(binnings)


def cells_of(records: Records, frozen: Cells) -> Cells:
    """The sums of some records.

    Args:
        records: rows, labeled or not.
        frozen: slices to count.
    """
    if records.task not in _TASKS or records.logits is None or records.targets is None:
        return frozen
    labeled, several = records.labeled(), records.logits.ndim > 1 and records.logits.shape[1] > 1
    if not len(labeled) or (several and records.task is Task.REGRESSION):
        return frozen
    tables = [p for p in (labeled.metadata, labeled.features) if isinstance(p, pd.DataFrame)]
    frame = pd.concat([table.reset_index(drop=True) for table in tables], axis=1)
    if frozen.binnings[0].column == TRUE:
        assert labeled.targets is not None
        frame[TRUE] = class_names(labeled, labeled.targets)
    codes = level_codes(frame, frozen.binnings)[1].numpy()
    sizes = [len(binning.levels) for binning in frozen.binnings]
    counts = _pair_sums(codes, sizes, *_kinds_and_weights(labeled))
    return replace(frozen, task=records.task, sums=torch.from_numpy(counts))


def event_sums(cells: Cells) -> dict[str, Tensor]:
    """Rows, sum and sum of squares of each kind of error, `[3, L, L]`, by its name.

    Args:
        cells: counted slices.
    """
    if cells.sums is None:
        return {}
    if cells.task is Task.REGRESSION:
        return {"mean absolute error": cells.sums}
    if cells.task is Task.MULTICLASS:
        return {"error": _of_events(cells.sums.sum(0), cells.sums[1])}
    negative, false_positive, false_negative, positive = cells.sums
    wrong = false_positive + false_negative
    return {
        "error": _of_events(negative + positive + wrong, wrong),
        "false negative": _of_events(false_negative + positive, false_negative),
        "false positive": _of_events(negative + false_positive, false_positive),
    }


def _binning(entry: dict[str, Any]) -> Binning:
    """A binning as JSON holds it."""
    edges = None if entry["edges"] is None else tuple(entry["edges"])
    return Binning(**entry | {"edges": edges, "names": tuple(entry["names"])})


def _of_events(rows: Tensor, events: Tensor) -> Tensor:
    return torch.stack([rows, events, events])


def _kinds_and_weights(labeled: Records) -> tuple[Integers, int, list[Floats | None]]:
    """Kind of each row, number of kinds, and what is summed of the rows of a kind."""
    if labeled.task is Task.REGRESSION:
        losses = row_losses(labeled)
        assert losses is not None
        loss = losses.mean.numpy()
        return np.zeros(len(loss), np.int64), 1, [None, loss, loss * loss]
    outputs = class_outputs(labeled)
    assert outputs is not None
    errors = errors_by_class(*outputs, threshold=labeled.schema.threshold or 0.5)
    wrong = errors["error"][1].long()
    if labeled.task is Task.MULTICLASS:
        return wrong.numpy(), 2, [None]
    true = errors["false negative"][0].long()
    return (2 * true + (true ^ wrong)).numpy(), 4, [None]


def _pair_sums(
    codes: Integers, sizes: list[int], kinds: Integers, k: int, weights: list[Floats | None]
) -> Floats:
    """`[w k, L, L]` sums by kind and pair of levels of two columns, on the diagonal by level."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    sums = np.zeros((len(weights) * k, starts[-1], starts[-1]))
    levels = [codes[:, i] - starts[i] for i in range(len(sizes))]
    keyed = [level * k + kinds for level in levels]

    def counted(keys: Integers, *shape: int) -> Floats:
        cells = int(np.prod(shape)) * k
        parts = [np.bincount(keys, weight, cells).reshape(*shape, k) for weight in weights]
        found: Floats = np.moveaxis(np.concatenate(parts, -1), -1, 0)
        return found

    for i, size in enumerate(sizes):
        own = np.arange(starts[i], starts[i + 1])
        sums[:, own, own] = counted(keyed[i], size)
        for j in range(i + 1, len(sizes)):
            pairs = counted(levels[i] * (sizes[j] * k) + keyed[j], size, sizes[j])
            sums[:, starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = pairs
    return sums
