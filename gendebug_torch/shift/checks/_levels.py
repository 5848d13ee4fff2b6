"""Checks of what quantities do not show: missing values and levels of categories; and what checks of columns share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.registry import Cost
from gendebug_torch.data.records import Records
from gendebug_torch.shift.checks._kinds import CAUSES, FAIL_EFFECT, p_text
from gendebug_torch.shift.checks.categories import categories_keep_their_shares
from gendebug_torch.shift.checks.missing import values_are_missing_as_often
from gendebug_torch.shift.kinds.change_kinds import ChangeKinds
from gendebug_torch.shift.two_sample.categories import (
    CategoryShift,
    MissingShift,
    unseen_excess,
)
from gendebug_torch.stats.multiple_testing import holm_adjusted


def columns_cost(given: Mapping[str, Any]) -> Cost:
    """Of a check that looks at every value of both sides."""
    sizes = [_cells(given.get(name)) for name in ("validation", "train")]
    return Cost(elements=20.0 * ((sizes[0] or sizes[1]) + _cells(given.get("production"))))


def _cells(records: Records | None) -> float:
    if records is None or records.features is None:
        return 0.0
    shape = records.features.shape
    return float(math.prod(shape))


def nothing_to_compare(self_check: Any) -> Finding:
    """A check without a reference."""
    remedy = "Pass validation or train with features."
    found: Finding = self_check.finding(
        Severity.SKIPPED, "Skipped: needs validation.features or train.features.", numbers={"lacks": ["validation.features"]}, remedy=remedy
    )
    return found


def lost(self_check: Any, names: tuple[str, str], absent: Sequence[str], textual: Sequence[str] = ()) -> Iterator[Finding]:
    """A failure per column that production lacks, or holds as text where the reference has numbers."""
    for name, problem in [(n, "absent") for n in absent] + [(n, "no longer numeric") for n in textual]:
        yield self_check.finding(
            Severity.FAIL,
            f"The column {name} of {names[0]} is {problem} in {names[1]}.",
            cause=Cause.TRAIN_SERVE_SKEW,
            subject=name,
            numbers={"absent": problem == "absent"},
            remedy=f"Deliver {name} in production as it was in training, or retrain without it.",
        )


def by_kind(finding: Finding, kinds: ChangeKinds | None) -> Finding:
    """The finding about one column under the cause that its move is taken for; one that follows the classes is a note."""
    change = None if kinds is None else kinds.of(finding.subject)
    if change is None:
        return finding
    if change.kind == "classes":
        summary = f"{finding.summary[:-1]}; within the classes it kept its distribution."
        return replace(finding, severity=Severity.NOTE, cause=Cause.LABEL_SHIFT, summary=summary)
    return replace(finding, cause=CAUSES[change.kind])


def missing_findings(test: MissingShift, *, alpha: float, min_effect: float, limit: int) -> Iterator[Finding]:
    """What counts of missing values say; options as those of the check."""
    this = values_are_missing_as_often
    low, high = test.interval()
    before, after = test.rates
    found = ((test.adjusted < alpha) & (test.difference.abs() >= min_effect)).nonzero().flatten().tolist()
    for i in sorted(found, key=lambda i: -abs(float(test.difference[i])))[:limit]:
        name, change = test.names[i], float(test.difference[i])
        numbers = {"reference": float(before[i]), "production": float(after[i]), "difference": change, "p_holm": float(test.adjusted[i])}
        numbers |= {"low": float(low[i]), "high": float(high[i]), "effect_h": float(test.effect[i]), "n": test.n, "m": test.m}
        bounds = f"95 % interval {float(low[i]):+.1%} to {float(high[i]):+.1%}"
        summary = f"Missing values of {name} went from {float(before[i]):.1%} to {float(after[i]):.1%} ({change:+.1%}, {bounds})."
        gone = "Find the source that stopped delivering it" if change > 0 else "Find what fills it in production but did not in training"
        severity = Severity.FAIL if abs(change) >= FAIL_EFFECT else Severity.WARN
        remedy = f"{gone}; impute {name} in training as in production."
        yield this.finding(severity, summary, subject=name, numbers=numbers, remedy=remedy, evidence=test)
    if not found:
        d = len(test.names)
        largest = float(test.difference.abs().max()) if d else 0.0
        numbers = {"features": d, "largest": largest, "n": test.n, "m": test.m}
        text = f"None of {d} columns changed its share of missing values by {min_effect:.0%} or more; the largest change is {largest:.1%}."
        if not test.n or not test.m:
            yield this.finding(Severity.NOTE, f"No rows to compare: {test.n} against {test.m}.", numbers=numbers)
        else:
            yield this.finding(Severity.OK, text, numbers=numbers, evidence=test)


def category_findings(
    tests: Sequence[CategoryShift],
    rows: tuple[int, int],
    kinds: Callable[[], ChangeKinds | None],
    *,
    alpha: float,
    min_effect: float,
    min_unseen: float,
    limit: int,
) -> Iterator[Finding]:
    """What level counts of several columns say; options as those of the check. `kinds` is asked only where one moved."""
    adjusted = holm_adjusted(torch.tensor([test.p_value for test in tests], dtype=torch.float64)).tolist()
    level = 1.0 - alpha / max(len(tests), 1)
    found = []
    for test, p in zip(tests, adjusted, strict=True):
        new = test.unseen[1] >= min_unseen and unseen_excess(test, level=level) > 0.0
        if new or (p < alpha and test.effect >= min_effect):
            found.append((test, p, new))
    table = kinds() if found else None
    for test, p, new in sorted(found, key=lambda entry: -entry[0].effect)[:limit]:
        yield _category_finding(test, p, new) if new else by_kind(_category_finding(test, p, new), table)
    if not found:
        numbers = {"columns": len(tests), "n": rows[0], "m": rows[1]}
        empty = not tests or not min(numbers["n"], numbers["m"])
        text = "No categorical features to compare." if empty else f"None of {len(tests)} categorical features changed its levels."
        yield categories_keep_their_shares.finding(Severity.NOTE if empty else Severity.OK, text, numbers=numbers)


def _category_finding(test: CategoryShift, p: float, new: bool) -> Finding:
    count, share = test.unseen
    numbers = {"distance": test.distance, "effect": test.effect, "cramers_v": test.cramers_v, "p_holm": p, "n": test.n, "m": test.m}
    numbers |= {"unseen_rows": count, "unseen_share": share, "expected_unseen": test.expected_unseen, "levels": len(test.levels)}
    text = f"{test.name} changed its levels: distance {test.distance:.2f}, Cramér's V {test.cramers_v:.2f} (Holm {p_text(p)})"
    remedy = f"Compare how {test.name} is filled in production and in training; if the change is lasting, retrain on recent rows."
    if new:
        text += f"; {share:.1%} of production rows have levels never seen before ({test.expected_unseen:.1%} expected)"
        remedy = f"Decide what unseen levels of {test.name} become: a level `other` trained on rare ones, or a model without {test.name}."
    severity = Severity.FAIL if max(test.effect, share if new else 0.0) >= FAIL_EFFECT else Severity.WARN
    return categories_keep_their_shares.finding(
        severity, f"{text}.", subject=test.name, numbers=numbers, remedy=remedy, evidence=test
    )
