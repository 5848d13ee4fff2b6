"""`shift.joint`: all columns together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import NOTHING, Cost, Deferred
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline, InputError
from gendebug_torch.shift.checks._change_kinds import CHANGE_KINDS, kinds_in_time, root_cause
from gendebug_torch.shift.checks._columns import no_reference
from gendebug_torch.shift.checks._embedding import embedding_findings
from gendebug_torch.shift.columns.shared_columns import column_count
from gendebug_torch.shift.columns.shared_tables import SharedTables, shared_tables
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.kinds.moved_columns import random_rows
from gendebug_torch.shift.two_sample.joint import (
    JointShift,
    joint_shift,
    permutation_block,
    slow_columns,
)
from gendebug_torch.stats.dependence.effective_sample_size import two_sample_group_effects
from gendebug_torch.stats.intervals import p_value_text
from gendebug_torch.stats.multiple_testing import holm_adjusted

_FAIL_AUC = 0.7
_MOST_NAMED = 4
# Rows of each side that are looked at.
_MAX_ROWS = 20_000


def _cost(given: Mapping[str, Any]) -> Cost:
    """By the squared columns, of which more than most are not judged, and the first rows."""
    production = given.get("production")
    count, rows = column_count(production), 0 if production is None else len(production)
    columns = 4.0 * min(rows, 6000) * (96.0 + count) ** 2 if count <= 300 else 3e6
    has_embedding = production is not None and production.embedding is not None
    return Cost(elements=columns + has_embedding * 1.2e8)


@check(
    "shift.joint",
    cause=Cause.COVARIATE_SHIFT,
    needs=("production.features",),
    cost=_cost,
    deferred=(CHANGE_KINDS,),
)
def columns_relate_as_before(
    production: Records,
    validation: Records | None = None,
    train: Records | None = None,
    change_kinds: Deferred[ChangeKinds | None] = NOTHING,
    deadline: Deadline = NO_DEADLINE,
    *,
    alpha: float = 0.002,
    min_auc: float = 0.55,
    min_correlation: float = 0.15,
    most_columns: int = 300,
) -> Iterator[Finding]:
    """No classifier can distinguish production from validation, and no correlation changed.

    Training is the reference without validation. Rows in time (`schema.time`) are permuted in
    blocks, so that autocorrelated rows fake no shift, and so are groups (`schema.group`) whose rows
    are alike. Where a column fluctuates more slowly than a
    block lasts, production differs, but maybe only because of this fluctuation: that warns. Where
    the records have an embedding, its principal components are tested as well, of rows with the
    class shares of production where labels are there, and the most telling rows are listed.

    Source: Lopez-Paz and Oquab (2017), ICLR, arXiv:1610.06545; Fisher (1921), Metron 1:3; Carlstein
    (1986), Ann. Stat. 14:1171; Holm (1979) over both tests.

    Args:
        production: records with features.
        validation: reference, if it has features.
        train: reference otherwise.
        change_kinds: kinds of change, derived; used where production differs.
        deadline: end of the time.
        alpha: chance of any false alarm over both tests of the columns, and of the embedding.
        min_auc: smallest AUC that matters.
        min_correlation: smallest change of a correlation that matters.
        most_columns: number of features beyond which nothing is judged.
    """
    this = columns_relate_as_before
    reference = validation if validation is not None and validation.features is not None else train
    if reference is None or reference.features is None:
        yield no_reference(this)
        return
    block = permutation_block(reference, production)
    limits = {"alpha": alpha, "min_auc": min_auc}
    yield from embedding_findings(
        this, production, reference, block=block, fail_auc=_FAIL_AUC, **limits
    )
    least = alpha, min_auc, min_correlation
    deadline.check()
    sides = production, reference
    yield _column_finding(sides, change_kinds, block, least, most_columns, deadline)


def _groups(columns: SharedTables) -> tuple[Tensor, Tensor] | None:
    """Groups whose rows have to stay together: where rows of one group are alike in a column."""
    groups, names = columns.dependence.groups, list(columns.quantities)
    if groups is None:
        return None
    series = []
    for side in (columns.reference, columns.production):
        codes = [pd.Series(side[name].factorize()[0]) for name in columns.categorical]
        series.append(torch.from_numpy(np.column_stack([side[names], *codes]).astype(np.float64)))
    effects = two_sample_group_effects(series[0], series[1], *groups)
    return groups if bool((effects > 1).any()) else None


def _column_finding(
    sides: tuple[Records, Records],
    change_kinds: Deferred[ChangeKinds | None],
    block: int,
    least: tuple[float, float, float],
    most_columns: int,
    deadline: Deadline,
) -> Finding:
    """Whether the columns differ together, or how they relate, in production and its reference."""
    production, reference = sides
    this, d = columns_relate_as_before, column_count(production)
    columns = None
    if d <= most_columns:
        live, before = (_thinned(side, block, i) for i, side in enumerate((production, reference)))
        columns = shared_tables(live, before)
    if columns is None or not len(columns.reference.columns):
        reason = f"more than {most_columns} columns" if d > most_columns else "no shared columns"
        return this.finding(Severity.NOTE, f"Not judged: {reason}.", numbers={"columns": d})
    tables, coded = (columns.reference, columns.production), columns.categorical
    try:
        shift = joint_shift(
            *tables, categorical=coded, block=block, groups=_groups(columns), deadline=deadline
        )
    except InputError as error:
        numbers = {"n": len(tables[0]), "m": len(tables[1])}
        return this.finding(Severity.NOTE, f"Not judged: {error}", numbers=numbers)
    result = _Result.of(shift)
    classifier, pair = result.differences(*least)
    text = result.text(classifier=classifier, pair=pair)
    if classifier or pair:
        concerned = result.concerned(classifier=classifier, pair=pair)
        slow = [] if block == 1 else slow_columns(*tables, block, categorical=coded)
        slow = [name for name in slow if name in concerned]
        return _difference_finding(result, text, slow, kinds_in_time(change_kinds))
    text = f"Columns relate as before: {text}."
    return this.finding(Severity.OK, text, numbers=result.numbers, evidence=shift)


def _thinned(records: Records, block: int, seed: int) -> Records:
    """At most 20,000 rows, of which the test draws its own: evenly spaced where in time."""
    if len(records) <= _MAX_ROWS:
        return records
    if block == 1:
        return records.select(random_rows(len(records), _MAX_ROWS, seed))
    return records.select(
        torch.linspace(0, len(records) - 1, _MAX_ROWS, dtype=torch.float64).long()
    )


@dataclass(frozen=True)
class _Result:
    """A test of all columns with its corrected p-values, those of the classifier and of the pairs.

    Args:
        shift: the test.
        p_holm: p-values of the classifier and of the pair that changed most.
    """

    shift: JointShift
    p_holm: tuple[float, float]

    @classmethod
    def of(cls, shift: JointShift) -> _Result:
        pair_p = float(shift.pairs["p_holm"].iloc[0]) if len(shift.pairs) else 1.0
        adjusted = holm_adjusted(torch.tensor([shift.p_value, pair_p], dtype=torch.float64))
        return cls(shift, (float(adjusted[0]), float(adjusted[1])))

    @property
    def pair(self) -> tuple[str, str, float, float] | None:
        """The two columns whose correlation changed most, and it before and after."""
        if not len(self.shift.pairs):
            return None
        first = self.shift.pairs.iloc[0]
        return str(first["one"]), str(first["other"]), float(first["before"]), float(first["after"])

    def differences(
        self, alpha: float, min_auc: float, min_correlation: float
    ) -> tuple[bool, bool]:
        """Whether the classifier, and whether a correlation, differs enough to matter."""
        change = 0.0 if self.pair is None else abs(self.pair[3] - self.pair[2])
        return (
            self.p_holm[0] < alpha and self.shift.auc >= min_auc,
            self.p_holm[1] < alpha and change >= min_correlation,
        )

    def text(self, *, classifier: bool, pair: bool) -> str:
        """AUC of the classifier and the correlation that changed most, as part of a sentence.

        Args:
            classifier: whether the classifier distinguishes the two.
            pair: whether the correlation changed.
        """
        shift = self.shift
        verb = "distinguishes" if classifier else "does not distinguish"
        text = (
            f"a classifier {verb} production from the reference, AUC {shift.auc:.3f} "
            f"({shift.low:.3f} to {shift.high:.3f}, {p_value_text(self.p_holm[0])})"
        )
        if self.pair is None:
            return text
        one, other, before, after = self.pair
        changed = (
            f"the correlation of {one} and {other} changed"
            if pair
            else f"no correlation changed; the most different one is that of {one} and {other}"
        )
        changed += f", {before:+.2f} → {after:+.2f} (Holm {p_value_text(self.p_holm[1])})"
        return f"{changed}; {text}" if pair and not classifier else f"{text}; {changed}"

    def concerned(self, *, classifier: bool, pair: bool) -> set[str]:
        """The columns that the difference rests on."""
        names = {name for name, loss in self.shift.importance.items() if classifier and loss > 0}
        return names | (set(self.pair[:2]) if pair and self.pair is not None else set())

    @property
    def numbers(self) -> dict[str, Any]:
        """Numbers of a finding."""
        shift = self.shift
        numbers: dict[str, Any] = {"auc": shift.auc, "low": shift.low, "high": shift.high}
        numbers |= {"p_holm": self.p_holm[0], "p_holm_pairs": self.p_holm[1]}
        numbers |= {"n": shift.rows[0], "m": shift.rows[1], "block": shift.block}
        if self.pair is not None:
            one, other, before, after = self.pair
            numbers |= {"pair": f"{one} & {other}", "correlation_reference": before}
            numbers |= {"correlation_production": after}
        return numbers


def _leading_text(shift: JointShift) -> str:
    """The columns that tell the two apart, alone and in what is lost without them."""
    names = shift.leading[:_MOST_NAMED]
    shown = [
        f"{name} (AUC {shift.alone[name]:.3f} alone, {-shift.importance[name]:+.3f} without it)"
        for name in names
    ]
    if len(shown) == 1:
        return f"the most important column is {shown[0]}"
    more = len(shift.leading) - len(names)
    others = f" and {more} more" if more else ""
    return f"{', '.join(shown)}{others} are about as important as each other"


def _difference_finding(
    result: _Result, text: str, slow: list[str], change_kinds: ChangeKinds | None
) -> Finding:
    shift, numbers = result.shift, result.numbers
    if shift.importance:
        text += f"; {_leading_text(shift)}"
        numbers |= {"leading": list(shift.leading)}
    cause = root_cause(change_kinds)
    if cause not in (Cause.TRAIN_SERVE_SKEW, Cause.LABEL_SHIFT):
        cause = Cause.COVARIATE_SHIFT
    severity = Severity.FAIL if shift.auc >= _FAIL_AUC and not slow else Severity.WARN
    if cause is Cause.LABEL_SHIFT:
        severity = Severity.NOTE
    if slow:
        verb = "fluctuates" if len(slow) == 1 else "fluctuate"
        text += (
            f"; {', '.join(slow[:3])} {verb} about as slowly as these records last, so this may be "
            "a fluctuation and not a lasting change"
        )
        numbers |= {"slow": slow}
    whole = text.startswith("a classifier")
    start = "Production differs as a whole" if whole else "Columns relate in another way"
    end = "retrain on such rows if the change is real and lasting"
    if cause is Cause.TRAIN_SERVE_SKEW:
        end = "correct the column that is computed differently, and run this again"
    return columns_relate_as_before.finding(
        severity,
        f"{start}: {text}.",
        cause=cause,
        numbers=numbers,
        remedy=(
            "Look at the features named here one by one (shift.ks), then at how they depend on "
            f"each other; {end}."
        ),
        evidence=shift,
    )
