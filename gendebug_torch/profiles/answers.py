"""What a profile says in place of all its rows: columns, classes, calibration, quality."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.calibration.checks._confidence import (
    BinaryRows,
    BinCounter,
    bins_of_rows,
    rows_of_binary,
)
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.profiles.sums.cells import Cells, cells_of, event_sums, score_counts
from gendebug_torch.profiles.sums.columns import EMPTY, LEVEL, QUANTITY, Column
from gendebug_torch.profiles.sums.outcomes import OutcomeSums
from gendebug_torch.profiles.sums.sketch import Sketch, coarser
from gendebug_torch.shift.checks._outputs import ConfidenceCounter, confidence_of_rows
from gendebug_torch.shift.columns.chunks import with_times
from gendebug_torch.shift.columns.prepared import PreparedReference
from gendebug_torch.shift.columns.prepared_table import PreparedTable
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.class_shares import counted_shares
from gendebug_torch.shift.quality.change import MetricChange, metric_changes
from gendebug_torch.shift.quality.dependence import design_effects
from gendebug_torch.shift.quality.metrics import AreaMetric, ErrorMetric, MeanMetric, Metric
from gendebug_torch.shift.quality.outcomes import MIN_CLASS_ROWS, class_names, outcomes
from gendebug_torch.shift.quality.quality_change import QualityChange, quality_change
from gendebug_torch.shift.scores.confidence import (
    POSITIVE,
    TOP,
    ConfidenceShift,
    shift_of_counts,
)
from gendebug_torch.slices.levels.slice_counts import ScoreCounts, SliceCounts

# Quantiles of a column that tests compare.
_QUANTILES = 8192
# Scores that stand for those of all rows where they are weighed one by one.
_SCORES = 1 << 17
Pair: TypeAlias = tuple[Metric, Metric]


def prepared_tables(before: Profile, after: Profile) -> tuple[PreparedTable, PreparedTable]:
    """The columns of two profiles as tests of distributions take them.

    Args:
        before: profile of the reference.
        after: profile of production.
    """
    return _prepared(before, after), _prepared(after, before)


def _prepared(found: Profile, other: Profile) -> PreparedTable:
    """The columns of one profile; those without any value count as what they are in the other."""
    kinds = {name: part.kind for name, part in found.columns.items()}
    for name, kind in kinds.items():
        if kind == EMPTY:
            kinds[name] = other.columns[name].kind if name in other.columns else QUANTITY
    names = tuple(name for name, kind in kinds.items() if kind in (QUANTITY, EMPTY))
    parts = {name: found.columns[name] for name in names}
    excluded = {n: k for n, k in kinds.items() if k not in (QUANTITY, EMPTY, LEVEL)}
    table = PreparedTable(
        quantities=_quantiles(parts),
        levels={
            name: found.columns[name].levels if found.columns[name].kind == LEVEL else {}
            for name, kind in kinds.items()
            if kind == LEVEL
        },
        missing={name: part.missing for name, part in found.columns.items()},
        rows=found.rows,
        identifiers=frozenset(name for name, part in parts.items() if part.numbers_rows),
        single_precision=frozenset(name for name, part in parts.items() if part.single),
        times=torch.ones(len(names), dtype=torch.float64),
        excluded=excluded,
        name=found.name,
    )
    return with_times(table, found.records) if found.records.features is not None else table


def _quantiles(parts: Mapping[str, Column]) -> PreparedReference:
    """Evenly spaced quantiles of quantities, as if each stood for as many rows."""
    values = [
        np.empty(0) if part.sketch is None else part.sketch.quantiles(_QUANTILES)
        for part in parts.values()
    ]
    width = max(map(len, values), default=0)
    columns = np.full((len(values), width), np.nan)
    for row, quantiles in zip(columns, values, strict=True):
        row[: len(quantiles)] = quantiles
    counts = [part.rows - part.missing for part in parts.values()]
    errors = [
        (part.sketch.error if part.sketch else 0.0) + (0.5 / _QUANTILES if n > _QUANTILES else 0.0)
        for part, n in zip(parts.values(), counts, strict=True)
    ]
    missing = [part.missing for part in parts.values()]
    return PreparedReference(
        torch.from_numpy(columns),
        torch.tensor(counts, dtype=torch.int64),
        torch.tensor(missing, dtype=torch.int64),
        torch.tensor(errors, dtype=torch.float64),
        tuple(parts),
        _QUANTILES,
    )


def bin_counter(profiles: Mapping[str, Profile]) -> BinCounter:
    """Counts of confidence in bins over all rows of the profiles, by the names of their samples.

    Args:
        profiles: profiles by the name of their records.
    """

    def count(records: Records, bins: int) -> ReliabilityBins:
        known = profiles.get(records.name)
        if known is None or known.outcomes.calibration is None:
            return bins_of_rows(records, bins)
        return known.outcomes.calibration.bins(bins)

    return count


def confidence_counter(before: Profile, after: Profile) -> ConfidenceCounter:
    """Counts probabilities over all rows of both, where their scores were summed up.

    Args:
        before: profile of validation.
        after: profile of production.
    """
    sides = before.outcomes, after.outcomes
    scores = [_probability_odds(side) for side in sides]
    binary = {side.scores is not None for side in sides}
    if None in scores or len(binary) > 1:
        return confidence_of_rows
    known = [part for part in scores if part is not None]
    quantity = POSITIVE if binary.pop() else TOP

    def count(validation: Records, production: Records, threshold: float) -> ConfidenceShift:
        middle = [torch.from_numpy((part.low + part.high) / 2).sigmoid() for part in known]
        rows = [torch.from_numpy(part.counts) for part in known]
        pairs = list(zip(middle, rows, strict=True))
        return shift_of_counts(pairs, quantity, threshold=threshold)

    return count


def _probability_odds(side: OutcomeSums) -> Sketch | None:
    """Log odds of class 1 of two, or of the largest probability; None where not summed up."""
    return side.top if side.scores is None else reduce(add, side.scores.values())


def binary_reader(profiles: Mapping[str, Profile]) -> BinaryRows:
    """Logits and classes of a binary model as quantiles of the scores of each class.

    Args:
        profiles: profiles by the name of their records.
    """

    def read(records: Records) -> tuple[Tensor, Tensor] | None:
        known = profiles.get(records.name)
        scores = None if known is None else known.outcomes.scores
        if known is None or scores is None or not known.sampled:
            return rows_of_binary(records)
        sides = [scores[name] for name in ("0", "1")]
        share = min(1.0, _SCORES / max(sum(side.n for side in sides), 1))
        parts = [torch.from_numpy(side.quantiles(math.ceil(share * side.n))) for side in sides]
        return torch.cat(parts), torch.arange(2).repeat_interleave(torch.tensor([*map(len, parts)]))

    return read


def slice_counts(before: Profile, after: Profile) -> SliceCounts | None:
    """Sums of slices over all rows of both; None where they were not counted by the same levels.

    Args:
        before: profile of the reference.
        after: profile of production.
    """
    known = next((side.cells for side in (before, after) if side.cells is not None), None)
    cells = [None if known is None else _counted(side, known) for side in (before, after)]
    one, other = cells
    if one is None or other is None or one.task is not other.task:
        return None
    pairs = zip(event_sums(one).items(), event_sums(other).values(), strict=True)
    sums = {name: torch.stack([mine, theirs]) for (name, mine), theirs in pairs}
    thresholds = {side.outcomes.threshold for side in (before, after)}
    return SliceCounts(one.binnings, sums, thresholds.pop()) if len(thresholds) == 1 else None


def slice_scores(side: Profile) -> ScoreCounts | None:
    """Sums of slices over all rows of one profile, by the score; None where not counted.

    Args:
        side: profile of validation.
    """
    # Rows of a group, as a patient, fail together, which sums over rows do not tell.
    if side.cells is None or side.schema.group is not None or not side.sampled:
        return None
    return score_counts(side.cells, side.outcomes.threshold)


def _counted(side: Profile, known: Cells) -> Cells | None:
    """The slices of a profile by the given levels, counted now where all its rows are there."""
    if side.cells is not None and side.cells.binnings == known.binnings:
        return side.cells if side.cells.sums is not None else None
    found = None if side.sampled else cells_of(side.records, known.frozen)
    return found if found is not None and found.sums is not None else None


def with_counted_classes(
    kinds: ChangeKinds | None, before: Profile, after: Profile
) -> ChangeKinds | None:
    """Kinds of change of the samples, with the shares of the classes counted on all rows.

    Args:
        kinds: kinds of change between both samples.
        before: profile of the reference.
        after: profile of production.
    """
    if kinds is None or kinds.classes is None or not kinds.classes.observed:
        return kinds
    labels = before.outcomes.labels, after.outcomes.labels
    if not all(len(side) for side in labels):
        return kinds
    sides = before.records.labeled(), after.records.labeled()
    return replace(kinds, classes=counted_shares(*sides, labels))


def outcome_changes(before: Profile, after: Profile, *, level: float) -> list[MetricChange]:
    """Changes of the metrics of a task by the sums alone, rows taken as independent.

    Args:
        before: profile of validation.
        after: profile of production.
        level: coverage of all intervals together.
    """
    sides = before.outcomes, after.outcomes
    pairs, rows = _metrics(*sides), (sides[0].labeled, sides[1].labeled)
    return metric_changes(pairs, (1.0, 1.0), level, [rows] * len(pairs)) if pairs else []


class WholeQuality:
    """Compares quality by the sums over all rows of two profiles.

    Remedies and trends, which need rows, are those of the samples.

    Args:
        before: profile of validation.
        after: profile of production.
    """

    def __init__(self, before: Profile, after: Profile) -> None:
        self.sides = (before, after)

    def __call__(
        self, validation: Records | None, production: Records | None, *, level: float = 0.99
    ) -> QualityChange | None:
        """The change of quality, as `quality_change` of these records gives it for them."""
        found = quality_change(validation, production, level=level)
        before, after = (side.outcomes for side in self.sides)
        pairs = _metrics(before, after)
        if found is None or validation is None or production is None or not pairs:
            return found
        effects = self._effects(validation.labeled(), production.labeled())
        rows = (before.labeled, after.labeled)
        changes = metric_changes(pairs, effects, level, [rows] * len(pairs))
        parts = _recalls(before, after, class_names(validation, len(before.confusion)))
        counts = [(int(one.rows), int(other.rows)) for one, other in parts]
        by_class = metric_changes(parts, effects, level, counts)
        loss = tuple((s.loss.mean, s.loss.spread / s.loss.n**0.5) for s in (before, after))
        return replace(found, metrics=tuple(changes), parts=tuple(by_class), loss=loss)

    def _effects(self, validation: Records, production: Records) -> tuple[float, float]:
        """Design effects of all rows: those of the samples, whose rows are further apart."""
        known = outcomes(validation, production)
        assert known is not None
        before, after = (metric.influence for metric in known.metrics[0])
        found = design_effects(before, after, validation, production)
        effects = []
        for effect, side, rows in zip(found, self.sides, (validation, production), strict=True):
            spacing = max(side.outcomes.labeled / max(len(rows), 1), 1.0)
            dependent = effect > 1 or side.schema.group is not None
            effects.append(effect * spacing if dependent else 1.0)
        return effects[0], effects[1]


def _metrics(before: OutcomeSums, after: OutcomeSums) -> list[Pair]:
    """The metrics of a task on both sides; none where the sums do not say."""
    sides = (before, after)
    if before.task is not after.task or not all(side.labeled for side in sides):
        return []
    if before.task is Task.REGRESSION:
        return [(_error(before), _error(after))]
    if not all(len(side.confusion) for side in sides):
        return []
    pairs: list[Pair] = []
    if all(side.scores and min(side.labels.tolist()) >= MIN_CLASS_ROWS for side in sides):
        pairs.append((_area(before), _area(after)))
    name = "accuracy"
    if before.task is Task.BINARY and after.threshold != 0.5:
        name = f"weighted accuracy (threshold {after.threshold:.3g})"
    decided = [mean_of_counts(name, *_decisions(side)) for side in sides]
    return [*pairs, (decided[0], decided[1])]


def _decisions(side: OutcomeSums) -> tuple[Tensor, Tensor]:
    """Scores of decisions and their numbers, one per cell of the confusion, as float64."""
    counts = side.confusion.double().flatten()
    scores = torch.eye(len(side.confusion), dtype=torch.float64)
    if side.task is Task.BINARY:
        # False positives and false negatives cost as the threshold says.
        scores[0, 1], scores[1, 0] = 1 - 2 * side.threshold, 2 * side.threshold - 1
    return scores.flatten(), counts


def _recalls(before: OutcomeSums, after: OutcomeSums, names: list[str]) -> list[Pair]:
    """Recall of each class with enough rows on both sides."""
    pairs: list[Pair] = []
    for i, name in enumerate(names):
        rows = [side.confusion[i].double() for side in (before, after)]
        if min(float(row.sum()) for row in rows) < MIN_CLASS_ROWS:
            continue
        right = (torch.arange(len(rows[0])) == i).double()
        one, other = (mean_of_counts(f"recall of {name}", right, row) for row in rows)
        pairs.append((one, other))
    return pairs


def mean_of_counts(name: str, values: Tensor, counts: Tensor) -> MeanMetric:
    """Mean of a score whose values were counted.

    Args:
        name: name of the metric.
        values: scores, `[c]`, 1 at best.
        counts: numbers of rows with each, `[c]` float64.
    """
    mean = float((values * counts).sum() / counts.sum())
    return MeanMetric(name, mean, values - mean, counts=counts)


def _area(side: OutcomeSums) -> AreaMetric:
    """Area under the ROC curve from the scores of both classes, counted in the same cells."""
    assert side.scores is not None
    counts = _counted_alike(side.scores["0"], side.scores["1"])
    below = counts.cumsum(1) - counts / 2
    totals = counts.sum(1)
    placements = below[0] / totals[0], 1 - below[1] / totals[1]
    area = float((placements[0] * counts[1]).sum() / totals[1])
    influence = torch.cat([(placements[1] - area), (placements[0] - area)])
    weights = torch.repeat_interleave(totals.sum() / totals, counts.shape[1])
    classes = totals.flip(0)[None].double()
    return AreaMetric("AUC", area, influence * weights, classes, counts=counts.flatten())


def _counted_alike(one: Sketch, other: Sketch) -> Tensor:
    """Counts of two sketches over the same ascending cells, `[2, c]` float64."""
    level = max(one.level, other.level)
    parts = [coarser(part, level) for part in (one, other)]
    keys = np.unique(np.concatenate([part.keys for part in parts]))
    counts = np.zeros((2, len(keys)))
    for row, part in zip(counts, parts, strict=True):
        row[np.searchsorted(keys, part.keys)] = part.counts
    return torch.from_numpy(counts)


def _error(side: OutcomeSums) -> ErrorMetric:
    """Root mean squared error from the moments of the squared errors."""
    value = max(side.loss.mean, 0.0) ** 0.5
    spread = side.loss.spread / (2 * max(value, 1e-150))
    two = torch.tensor([-spread, spread], dtype=torch.float64)
    return ErrorMetric("RMSE", value, two, counts=torch.full((2,), side.loss.n / 2.0))
