"""Every question that two profiles answer: what changed, how much, and with which p-value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from gendebug_torch.checks.finding import Cause
from gendebug_torch.profiles.answers import outcome_changes, prepared_tables
from gendebug_torch.profiles.profile import Profile
from gendebug_torch.shift.columns.exclusions import level_reason, number_reason
from gendebug_torch.shift.columns.prepared_table import TableComparison, table_comparison
from gendebug_torch.shift.two_sample.categories import CategoryShift
from gendebug_torch.stats.multiple_testing import holm_adjusted

# Smallest effects that matter, as those of the checks of shift.
_DISTANCE, _MISSING, _SHARES, _QUALITY = 0.1, 0.05, 0.05, 0.01


@dataclass(frozen=True)
class Question:
    """One question about two profiles.

    Args:
        name: what may have changed.
        effect: how much it did, from 0.
        p_value: p-value of no change.
        least: smallest effect that matters.
        cause: what a change of it points at.
    """

    name: str
    effect: float
    p_value: float
    least: float
    cause: Cause

    @property
    def matters(self) -> bool:
        """Whether the effect is large enough."""
        return self.effect >= self.least


def drift_questions(before: Profile, after: Profile) -> list[Question]:
    """Distributions, levels and missing values of the columns, class shares and quality.

    Columns that change by themselves, as dates and identifiers do, are left out.

    Args:
        before: profile of the reference.
        after: profile of later rows.
    """
    found = table_comparison(*prepared_tables(before, after))
    return [*_columns(found), *_classes(before, after), *_quality(before, after)]


def most_significant(questions: Sequence[Question], level: float) -> Question | None:
    """The question with the smallest p-value by Holm, among those that matter if one is below.

    Args:
        questions: all questions that were asked.
        level: level of the step.
    """
    if not questions:
        return None
    p_values = torch.tensor([question.p_value for question in questions], dtype=torch.float64)
    adjusted = holm_adjusted(p_values.nan_to_num(1.0)).tolist()
    judged = [replace(q, p_value=p) for q, p in zip(questions, adjusted, strict=True)]
    alarming = [q for q in judged if q.matters and q.p_value <= level]
    return min(alarming or judged, key=lambda question: (question.p_value, -question.effect))


def _columns(found: TableComparison) -> Iterator[Question]:
    sides = found.quantities
    for i, name in enumerate(sides.test.labels):
        values = [side.values(i).numpy() for side in (sides.before, sides.after)]
        if name not in sides.identifiers and number_reason(name, *values) is None:
            size, p = float(sides.test.statistic[i]), float(sides.test.p_value[i])
            yield Question(name, size, p, _DISTANCE, Cause.COVARIATE_SHIFT)
    for test in found.categories:
        counts = [
            dict(zip(test.levels, side.tolist(), strict=True))
            for side in (test.reference, test.live)
        ]
        if level_reason(test.name, *counts) is None:
            yield Question(test.name, test.effect, test.p_value, _DISTANCE, Cause.COVARIATE_SHIFT)
    missing = found.missing
    for i, name in enumerate(missing.names):
        size, p = abs(float(missing.difference[i])), float(missing.p_value[i])
        name = f"missing values of {name}"
        yield Question(name, size, p, _MISSING, Cause.TRAIN_SERVE_SKEW)


def _classes(before: Profile, after: Profile) -> Iterator[Question]:
    sides = [side.outcomes.labels for side in (before, after)]
    if not all(int(side.sum()) for side in sides):
        return
    k = max(map(len, sides))
    counts = [torch.nn.functional.pad(side, (0, k - len(side))) for side in sides]
    names = tuple(map(str, range(k)))
    test = CategoryShift("class", names, counts[0], counts[1])
    yield Question("class shares", test.effect, test.p_value, _SHARES, Cause.LABEL_SHIFT)


def _quality(before: Profile, after: Profile) -> Iterator[Question]:
    for change in outcome_changes(before, after, level=0.95):
        share = change.relative_fall if change.lower_is_better else change.fall
        yield Question(change.name, max(share, 0.0), change.p_value, _QUALITY, Cause.UNKNOWN)
