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
from gendebug_torch.slices.levels.slice_counts import ScoreCounts
from gendebug_torch.slices.search.error_events import errors_by_class, errors_by_prediction

# Levels beyond which no pairs are counted: 8 MB for a binary model.
MAX_LEVELS = 512
# Bins of the score of each decision, and most numbers with them: 8 MB.
_BINS, _MOST = (16, 8), 1 << 20
_TASKS = (Task.BINARY, Task.MULTICLASS, Task.REGRESSION)


@dataclass(frozen=True, eq=False)
class Cells:
    """Labeled and scored rows by pair of levels; adds over rows.

    Args:
        binnings: levels of the columns, L in all.
        task: question that the model answers; None before any labeled output.
        sums: sums by pair of levels, the earlier one first, `[w b, L, L]` float64, in b bins of the
            score. Of two classes the numbers of rows by class and decision (`2 class + decision`),
            of more those of right and wrong answers, of a quantity rows, absolute errors and their
            squares.
        cuts: inner cuts of the score, b - 1: of negative and of positive decisions, where it rises
            as errors become likelier, or of predicted quantities; empty where it is not counted.
    """

    binnings: tuple[Binning, ...]
    task: Task | None = None
    sums: Tensor | None = None
    cuts: tuple[tuple[float, ...], ...] = ()

    @property
    def frozen(self) -> Cells:
        """The same without rows."""
        return Cells(self.binnings, cuts=self.cuts)

    @property
    def bins(self) -> int:
        """Number of bins of the score."""
        return 1 + max(map(len, self.cuts), default=0)

    def __add__(self, other: Cells) -> Cells:
        if (self.binnings, self.cuts) != (other.binnings, other.cuts):
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
        binnings = list(map(asdict, self.binnings))
        return {"binnings": binnings, "task": self.task, "cuts": self.cuts}

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
        # Absent in files of earlier versions.
        cuts = tuple(map(tuple, header.get("cuts", ())))
        return cls(read, None if header["task"] is None else Task(header["task"]), sums, cuts)


def frozen_cells(reference: Records, known: Cells | None) -> Cells:
    """Slices without rows: those of a reference, or levels fitted to its rows.

    Args:
        reference: rows of the reference.
        known: slices that the reference counts itself.
    """
    if known is not None:
        return known.frozen
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
    return Cells(binnings, cuts=_score_cuts(reference.labeled(), levels))


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
    kinds, k, weights = _kinds_and_weights(labeled)
    if frozen.cuts:
        kinds, k = kinds * frozen.bins + _bins_of(labeled, frozen.cuts), k * frozen.bins
    counts = _pair_sums(codes, sizes, kinds, k, weights)
    return replace(frozen, task=records.task, sums=torch.from_numpy(counts))


def event_sums(cells: Cells) -> dict[str, Tensor]:
    """Rows, sum and sum of squares of each kind of error, `[3, L, L]`, by its name.

    Args:
        cells: counted slices.
    """
    if cells.sums is None:
        return {}
    sums = _by_bin(cells).sum(1)
    if cells.task is Task.REGRESSION:
        return {"mean absolute error": sums}
    if cells.task is Task.MULTICLASS:
        return {"error": _of_events(sums.sum(0), sums[1])}
    negative, false_positive, false_negative, positive = sums
    wrong = false_positive + false_negative
    return {
        "error": _of_events(negative + positive + wrong, wrong),
        "false negative": _of_events(false_negative + positive, false_negative),
        "false positive": _of_events(negative + false_positive, false_positive),
    }


def score_counts(cells: Cells, threshold: float) -> ScoreCounts | None:
    """The sums in bins of the score; None where they were not counted by it.

    Args:
        cells: counted slices.
        threshold: threshold on the probability by which a binary model was judged.
    """
    if cells.sums is None or not cells.cuts or cells.task is Task.MULTICLASS:
        return None
    sums, b = _by_bin(cells), cells.bins
    if cells.task is Task.REGRESSION:
        return ScoreCounts(cells.binnings, {"mean absolute error": sums}, {}, threshold)
    negative, false_positive, false_negative, positive = sums
    omission = _of_events(negative + false_negative, false_negative)
    discovery = _of_events(positive + false_positive, false_positive)
    events = {"false omission": omission, "false discovery": discovery}
    known = {"error": torch.cat([omission, discovery], 1)} | events
    parts = {"error": (b, b), "false omission": (b,), "false discovery": (b,)}
    return ScoreCounts(cells.binnings, known, parts, threshold)


def _by_bin(cells: Cells) -> Tensor:
    """`[w, b, L, L]` sums of each kind in each bin of the score."""
    assert cells.sums is not None
    return cells.sums.reshape(-1, cells.bins, *cells.sums.shape[1:])


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


def _score_cuts(reference: Records, levels: int) -> tuple[tuple[float, ...], ...]:
    """Inner cuts of the score that the reference gives; empty where it has none, or no room."""
    bins = next((b for b in _BINS if 4 * b * levels**2 <= _MOST), 0)
    if not bins or not len(reference) or reference.logits is None or reference.targets is None:
        return ()
    outputs = class_outputs(reference)
    if reference.task is Task.REGRESSION and reference.logits.numel() == len(reference):
        predictions = reference.logits.double().flatten().cpu()
        return (_cuts(predictions, torch.ones_like(predictions), bins),)
    if reference.task is not Task.BINARY or outputs is None:
        return ()
    events = errors_by_prediction(*outputs, threshold=reference.schema.threshold or 0.5)
    parts = []
    for event in events[1:]:
        rate = event.expected_rate()
        # Half of the bins by rows, half by expected errors, which are few where most rows are.
        weights = 1 / max(len(rate), 1) + rate / rate.sum().clamp(min=1e-300)
        parts.append(_cuts(event.score, weights, bins))
    return tuple(parts)


def _cuts(scores: Tensor, weights: Tensor, bins: int) -> tuple[float, ...]:
    """Distinct weighted quantiles of the scores, `bins - 1` at most."""
    if not len(scores):
        return ()
    order = scores.argsort(stable=True)
    total = weights[order].cumsum(0)
    shares = torch.arange(1, bins, dtype=torch.float64) / bins
    places = torch.searchsorted(total, shares * total[-1]).clamp(max=len(scores) - 1)
    cuts = torch.unique(scores[order][places])
    return tuple(map(float, cuts[cuts.isfinite()]))


def _bins_of(labeled: Records, cuts: tuple[tuple[float, ...], ...]) -> Integers:
    """`[n]` bin of the score of each row."""
    if labeled.task is Task.REGRESSION:
        assert labeled.logits is not None
        return np.searchsorted(cuts[0], labeled.logits.double().flatten().cpu().numpy())
    outputs = class_outputs(labeled)
    assert outputs is not None
    bins = np.zeros(len(labeled), np.int64)
    events = errors_by_prediction(*outputs, threshold=labeled.schema.threshold or 0.5)
    for event, inner in zip(events[1:], cuts, strict=True):
        bins[event.rows.numpy()] = np.searchsorted(inner, event.score.numpy())
    return bins


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
