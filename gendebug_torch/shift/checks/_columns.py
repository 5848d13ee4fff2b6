"""The columns of two samples as an input that checks share, from records or prepared tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import DerivedInput
from gendebug_torch.checks.registry import Check
from gendebug_torch.data.records import Records
from gendebug_torch.shift.columns.exclusions import IDENTIFIER, WRITTEN
from gendebug_torch.shift.columns.prepared_table import TableComparison
from gendebug_torch.shift.columns.shared_columns import (
    QuantityComparison,
    SharedColumns,
    all_feature_names,
    category_names,
    column_values,
    design_effects,
    missing_mask,
    quantity_comparison,
    quantity_names,
    shared_columns,
)
from gendebug_torch.shift.columns.shared_tables import excluded_by_type
from gendebug_torch.shift.two_sample.categories import (
    CategoryShift,
    category_shift,
    level_indicators,
)
from gendebug_torch.shift.two_sample.missing import MissingShift, missing_shift
from gendebug_torch.stats.dependence.effective_sample_size import MAX_LEVELS

# Size of an effect, in [0, 1], from which a shifted column is a failure.
_FAIL_EFFECT = 0.3


@dataclass(frozen=True)
class Quantities:
    """The numeric columns of two samples.

    Args:
        sides: both samples, and the tests between them.
        absent: columns that production lacks.
        textual: columns that hold text in production.
        excluded: columns that are not compared, each with the reason.
    """

    sides: QuantityComparison
    absent: tuple[str, ...] = ()
    textual: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Categories:
    """The categorical columns of two samples.

    Args:
        names: names of the samples, the reference first.
        rows: numbers of their rows.
        tests: one test per column.
        absent: columns that production lacks.
        uncounted: columns of too many levels, which are not compared.
    """

    names: tuple[str, str]
    rows: tuple[int, int]
    tests: tuple[CategoryShift, ...]
    absent: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


class ColumnPair(Protocol):
    """The columns of two samples; `alpha` is the level below which rows may depend."""

    def quantities(self, alpha: float) -> Quantities:
        """The numeric columns."""

    def missing(self, alpha: float) -> MissingShift:
        """Missing values of all columns."""

    def categories(self, alpha: float) -> Categories:
        """The categorical columns."""


@dataclass(frozen=True)
class RecordPair:
    """The columns of two records.

    Args:
        production: records with features.
        reference: records with features.
    """

    production: Records
    reference: Records

    def quantities(self, alpha: float) -> Quantities:
        """The numeric columns."""
        pair = shared_columns(self.production, self.reference, None, quantity_names)
        assert pair is not None
        excluded = excluded_by_type(self.reference, self.production)
        pair = replace(pair, names=tuple(name for name in pair.names if name not in excluded))
        sides, textual = quantity_comparison(pair, alpha)
        return Quantities(sides, pair.absent, textual, excluded)

    def missing(self, alpha: float) -> MissingShift:
        """Missing values of all columns."""
        pair = shared_columns(self.production, self.reference, None, all_feature_names)
        assert pair is not None
        before, after = (
            missing_mask(side, pair.names) for side in (pair.reference, pair.production)
        )
        test = missing_shift(before, after, names=pair.names)
        significant = (test.adjusted < alpha).nonzero().flatten()
        times = design_effects(
            self.reference, self.production, before.double(), after.double(), significant
        )
        return replace(test, times=torch.stack(times))

    def categories(self, alpha: float) -> Categories:
        """The categorical columns."""
        pair = shared_columns(self.production, self.reference, None, category_names)
        assert pair is not None
        tests = []
        excluded = excluded_by_type(self.reference, self.production)
        for name in (name for name in pair.names if name not in excluded):
            levels = column_values(pair.reference, name), column_values(pair.production, name)
            test = category_shift(*levels, name=name)
            suspicious = test.p_value < alpha or test.unseen[0]
            tests.append(_with_dependence(test, pair) if suspicious else test)
        names = (self.reference.name, self.production.name)
        rows = (len(self.reference), len(self.production))
        return Categories(names, rows, tuple(tests), pair.absent)


@dataclass(frozen=True)
class PreparedPair:
    """The columns of two prepared tables.

    Args:
        pair: both tables, compared.
    """

    pair: TableComparison

    def quantities(self, alpha: float) -> Quantities:
        """The numeric columns, with all columns that production lacks."""
        pair = self.pair
        return Quantities(pair.quantities, pair.absent, pair.non_numeric, pair.excluded)

    def missing(self, alpha: float) -> MissingShift:
        """Missing values of all columns."""
        return self.pair.missing

    def categories(self, alpha: float) -> Categories:
        """The categorical columns."""
        sides = self.pair.quantities
        return Categories(
            sides.names, sides.rows, self.pair.categories, uncounted=self.pair.not_counted
        )


def _record_pair(
    production: Records | None, validation: Records | None, train: Records | None
) -> ColumnPair | None:
    for reference in (validation, train):
        if reference is not None and reference.features is not None and production is not None:
            return RecordPair(production, reference)
    return None


COLUMN_PAIR = DerivedInput("column_pair", _record_pair)


def _with_dependence(test: CategoryShift, pair: SharedColumns) -> CategoryShift:
    """The test with the effective sample size of dependent rows, by its commonest levels."""
    counts = test.reference + test.live
    common = counts.argsort(descending=True, stable=True)[:MAX_LEVELS].tolist()
    levels = [test.levels[place] for place in common]
    before, after = (
        level_indicators(column_values(side, test.name), levels)
        for side in (pair.reference, pair.production)
    )
    times = design_effects(
        pair.reference, pair.production, before, after, torch.arange(len(levels))
    )
    return replace(test, times=(float(times[0].amax()), float(times[1].amax())))


def severity_of(effect: float) -> Severity:
    """Failure or warning, by the size of an effect in [0, 1]."""
    return Severity.FAIL if effect >= _FAIL_EFFECT else Severity.WARN


def no_reference(check: Check) -> Finding:
    """A check without a reference is skipped."""
    return check.finding(
        Severity.SKIPPED,
        "Skipped: needs validation.features or train.features.",
        numbers={"lacks": ["validation.features"]},
        remedy="Pass validation or train with features.",
    )


def excluded_finding(check: Check, name: str, reason: str) -> Finding:
    """A column that changes by itself is not compared.

    Args:
        check: check that would compare it.
        name: feature name.
        reason: reason as part of a sentence.
    """
    if reason == WRITTEN:
        return check.finding(
            Severity.NOTE,
            f"{name} is not compared: {reason}, as levels that seldom repeat.",
            subject=name,
            numbers={"excluded": reason},
            remedy=f"Convert {name} to numbers in one unit in training and in production: cut off "
            "the unit and the separators of thousands, then `pandas.to_numeric`.",
        )
    place = "`ids`" if reason == IDENTIFIER else "`metadata`, or as `time`,"
    return check.finding(
        Severity.NOTE,
        f"{name} is not compared: {reason}, so its values differ between any two periods.",
        subject=name,
        numbers={"excluded": reason},
        remedy=f"Declare {name} in {place} and do not feed it to the model as it is.",
    )


def lost_columns(
    check: Check, names: tuple[str, str], absent: Sequence[str], textual: Sequence[str] = ()
) -> Iterator[Finding]:
    """A failure per column that production lacks, or holds as text instead of numbers.

    Args:
        check: check that reports it.
        names: names of the reference and of production.
        absent: columns that production lacks.
        textual: columns that hold text in production.
    """
    problems = [(name, "absent") for name in absent]
    problems += [(name, "no longer numeric") for name in textual]
    for name, problem in problems:
        yield check.finding(
            Severity.FAIL,
            f"The column {name} of {names[0]} is {problem} in {names[1]}.",
            cause=Cause.TRAIN_SERVE_SKEW,
            subject=name,
            numbers={"absent": problem == "absent"},
            remedy=f"Deliver {name} in production as it was in training, or retrain without it.",
        )
